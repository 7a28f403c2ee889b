"""What a method of LyCORIS' must tell of a module to have it rewritten as a LoRA, and when that is possible."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ingest.errors import Refusal
from ingest.formats.options import Conversion
from ingest.formats.pairing import FACTOR_DTYPES
from ingest.reasons import Reason
from ingest.safetensors_file import TensorRef, numpy_dtype

if TYPE_CHECKING:
    from numpy.typing import NDArray

# One factor is held in memory whole, twice; LoHa of rank 16 on the widest layers published has 44 MiB.
_MAX_FACTOR = 128 << 20
_MAX_ADAPTER = 8 << 30
# A LoHa grows by its rank. A LoKr grows most by rank 16 and factors 32 × 40 of a layer 1280 wide: by 800.
_MAX_GROWTH = 1024


class Shape(NamedTuple):
    """A factor that will be: its shape as a matrix and its data type."""

    rows: int
    columns: int
    dtype: str

    @property
    def nbytes(self) -> int:
        return self.rows * self.columns * numpy_dtype(self.dtype).itemsize


class Pair(NamedTuple):
    """The factors of one module: A (rank × in, kernel included) and B (out × rank).

    `rank` is the method's own, by which alpha is divided, None if it has none; `kernel` is what the file tells of it.
    """

    a: Shape
    b: Shape
    rank: int | None
    kernel: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Method:
    """One of LyCORIS' methods.

    Attributes
    ----------
    name, title
        "loha" and "LoHa".
    part
        Matches the end of a key, after the module's name; its group is the part's name.
    shapes
        (module, parts) → the factors' shapes; refuses what has no exact low-rank form.
    factors
        (parts' values, their shapes as from `shapes`) → A and B as matrices.
    """

    name: Conversion
    title: str
    part: re.Pattern[str]
    shapes: Callable[[str, Mapping[str, TensorRef]], Pair]
    factors: Callable[[Mapping[str, NDArray[Any]], Pair], tuple[NDArray[Any], NDArray[Any]]]


def exact_dtype(key: str, *dtypes: str) -> str:
    """The narrowest type that holds products of one number of each type.

    Two 11- or 8-bit significands make at most 22 bits, two of 24 at most 48; float32 has 24, float64 has 53.
    """
    if bad := set(dtypes) - FACTOR_DTYPES:
        raise Refusal(Reason.UNSUPPORTED_DTYPE, f"{key!r} is {min(bad)}, expected one of {', '.join(FACTOR_DTYPES)}")
    if len(dtypes) == 1:
        return dtypes[0]
    if "float64" in dtypes:
        raise Refusal(Reason.UNSUPPORTED_DTYPE, f"{key!r} is float64, and no type holds products of those exactly")
    return "float64" if "float32" in dtypes else "float32"


def check_rank(module: str, title: str, rank: int, pair_shape: tuple[int, int]) -> None:
    """Refuse a rank at which factors are no smaller than the matrix itself."""
    if rank >= min(pair_shape):
        raise Refusal(
            Reason.NOT_LORA,
            f"{module!r}: this {title} has rank {rank} as a LoRA, not below its matrix of {pair_shape[0]} × "
            f"{pair_shape[1]}",
        )


def check_growth(title: str, pairs: Iterable[Pair], size: int, where: str) -> None:
    """Refuse a file of a few bytes that stands for a multitude.

    Parameters
    ----------
    title
        The method's.
    pairs
        What every module of the file becomes.
    size, where
        Bytes of the file, and its name.

    Raises
    ------
    Refusal
        `bad-shape` if one factor or all of them together are too large for any adapter, or for this file.
    """
    total = 0
    for pair in pairs:
        largest = max(pair.a.nbytes, pair.b.nbytes)
        if largest > _MAX_FACTOR:
            raise Refusal(
                Reason.BAD_SHAPE,
                f"{where}: as a LoRA, a factor of this {title} has {largest >> 20} MiB, at most {_MAX_FACTOR >> 20}",
            )
        total += pair.a.nbytes + pair.b.nbytes
    if total > min(_MAX_ADAPTER, _MAX_GROWTH * size):
        raise Refusal(
            Reason.BAD_SHAPE,
            f"{where} has {size} bytes, and this {title} has {total} as a LoRA: at most {_MAX_GROWTH} times as many "
            f"and {_MAX_ADAPTER >> 30} GiB",
        )

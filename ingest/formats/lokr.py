r"""LoKr: \(\Delta W = s\,W_1 \otimes W_2\), rewritten as a LoRA on request.

With W1 = B1·A1 and W2 = B2·A2, W1 ⊗ W2 = (B1 ⊗ B2)(A1 ⊗ A2). A matrix that is saved whole is its own factor, times
the identity on its smaller side, so the rank is the product of both ranks. A convolution's W2 is flat (in · kernel).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ingest.errors import Refusal
from ingest.formats import products
from ingest.formats.adapter import LoraAdapter
from ingest.formats.low_rank import Method, Pair, Shape, check_rank, exact_dtype
from ingest.formats.opened import Opened
from ingest.reasons import Reason
from ingest.safetensors_file import TensorRef, numpy_dtype

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAME: Final = "lokr"


def claims(keys: Iterable[str], has_config: bool) -> bool:
    """Whether any key is a LoKr factor."""
    del has_config
    return products.claims(METHOD, keys)


def parse(opened: Opened) -> LoraAdapter:
    """Read one LoKr; see `ingest.formats.parse` for what it raises."""
    return products.parse(METHOD, opened)


class _Side(NamedTuple):
    """W1 or W2 as a product of B (out × rank) and A (rank × width).

    `a` and `b` are the file's data types, None where the factor is the identity; `saved` is the rank that it was
    trained with, None if it was saved whole; `kernel` that of a convolution saved whole.
    """

    out: int
    rank: int
    width: int
    a: TensorRef | None
    b: TensorRef | None
    saved: int | None
    kernel: tuple[int, ...]


def _side(module: str, parts: Mapping[str, TensorRef], name: str) -> _Side:
    whole, a, b = parts.get(name), parts.get(f"{name}_a"), parts.get(f"{name}_b")
    if (whole is None) == (a is None or b is None) or (a is None) != (b is None):
        raise Refusal(Reason.UNPAIRED, f"{module!r} needs lokr_{name} or both lokr_{name}_a and lokr_{name}_b")
    if whole is not None:
        if not 2 <= len(whole.shape) <= 5 or 0 in whole.shape or (name == "w1" and len(whole.shape) != 2):
            raise Refusal(Reason.BAD_SHAPE, f"{whole.key!r} has shape {whole.shape}, no matrix or convolution")
        out, width = whole.shape[0], math.prod(whole.shape[1:])
        if out <= width:
            return _Side(out, out, width, whole, None, None, whole.shape[2:])
        return _Side(out, width, width, None, whole, None, whole.shape[2:])
    if a is None or b is None or len(a.shape) != 2 or len(b.shape) != 2 or 0 in (*a.shape, *b.shape):
        raise Refusal(Reason.BAD_SHAPE, f"{module!r}: lokr_{name}_a and lokr_{name}_b must be matrices")
    if a.shape[1] != b.shape[0]:
        raise Refusal(Reason.BAD_SHAPE, f"{module!r}: lokr_{name}_a {a.shape} and lokr_{name}_b {b.shape} do not fit")
    # LyCORIS' a is the left one, a LoRA's B.
    return _Side(a.shape[0], a.shape[1], b.shape[1], b, a, a.shape[1], ())


def shapes(module: str, parts: Mapping[str, TensorRef]) -> Pair:
    """The factors of one module; refuses cores, contradictions, and ranks that are too high."""
    if core := parts.keys() & {"t1", "t2"}:
        raise Refusal(
            Reason.NOT_LORA, f"{parts[min(core)].key!r} is a Tucker core: products of those have no such factors"
        )
    one, two = _side(module, parts, "w1"), _side(module, parts, "w2")
    if one.saved is not None and two.saved is not None and one.saved != two.saved:
        raise Refusal(Reason.BAD_SHAPE, f"{module!r}: W1 has rank {one.saved} and W2 {two.saved}")
    rank, out, width = one.rank * two.rank, one.out * two.out, one.width * two.width
    check_rank(module, "LoKr", rank, (out, width))
    return Pair(
        Shape(rank, width, _dtype(one.a, two.a)),
        Shape(out, rank, _dtype(one.b, two.b)),
        one.saved or two.saved,
        two.kernel,
    )


def _dtype(one: TensorRef | None, two: TensorRef | None) -> str:
    present = [ref for ref in (one, two) if ref is not None]
    # Two identities would be the whole matrix, whose rank was refused.
    return exact_dtype(present[0].key, *(ref.dtype for ref in present))


def factors(values: Mapping[str, NDArray[Any]], pair: Pair) -> tuple[NDArray[Any], NDArray[Any]]:
    """A and B, each entry one exact product."""
    import numpy as np

    (b1, a1), (b2, a2) = (_parted(values, name) for name in ("w1", "w2"))
    made = []
    for one, two, dtype in ((a1, a2, pair.a.dtype), (b1, b2, pair.b.dtype)):
        work = "float32" if dtype in ("float16", "bfloat16") else dtype  # with an identity: no product needs more
        made.append(np.kron(one.astype(work), two.astype(work)).astype(numpy_dtype(dtype), copy=False))
    return made[0], made[1]


def _parted(values: Mapping[str, NDArray[Any]], name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """B and A of W1 or W2."""
    import numpy as np

    if name not in values:
        return values[f"{name}_a"], values[f"{name}_b"]
    whole = values[name].reshape(values[name].shape[0], -1)
    out, width = whole.shape
    return (np.eye(out), whole) if out <= width else (whole, np.eye(width))


METHOD: Final = Method(NAME, "LoKr", re.compile(r"[._]lokr_(w[12](?:_[ab])?|t[12])$"), shapes, factors)

"""What only the values can show: NaN, an adapter that was never trained, the same content twice.

An adapter is read once, tensor by tensor.  Each factor leaves two digests: of its raw bytes (did the file change
before its rows were written?) and of its canonical bytes (is it a twin, is the store intact?).
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingest.errors import Refusal
from ingest.reasons import Reason
from ingest.safetensors_file import read_tensor
from ingest.store import catalog
from ingest.store.schema import FACTOR_DTYPES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ingest.formats.adapter import LoraAdapter


# The bits of the exponent; all of them set means infinite or NaN.
_EXPONENTS = {"bfloat16": 0x7F80, "float16": 0x7C00, "float32": 0x7F800000, "float64": 0x7FF0000000000000}


@dataclass(frozen=True, slots=True)
class Screened:
    """What screening found: digests per module, and the digest of the whole content."""

    raw: NDArray[Any]
    canonical: NDArray[Any]
    content: str


def screen(adapter: LoraAdapter) -> Screened:
    """Read an adapter's factors and judge them.

    Parameters
    ----------
    adapter : LoraAdapter
        As parsed from its headers.

    Returns
    -------
    Screened
        ``raw`` uint64 (modules × 2), ``canonical`` uint8 (modules × 2 × 16), sides in the order A, B.

    Raises
    ------
    Refusal
        For NaN or infinite values, for an adapter whose every product BA is zero, and for a file that cannot be read.

    Notes
    -----
    Memory: one tensor at a time.
    """
    import numpy as np
    import xxhash

    count = len(adapter.modules)
    raw = np.empty((count, 2), np.uint64)
    canonical = np.empty((count, 2, 16), np.uint8)
    trained = False
    try:
        with open(adapter.files.weights, "rb", buffering=0) as file:
            for i, module in enumerate(adapter.modules):
                for side, ref in enumerate((module.a, module.b)):
                    values = read_tensor(file, ref, adapter.data_start)
                    if not is_finite(values):
                        raise Refusal(Reason.NON_FINITE, f"{ref.key} holds NaN or infinite values")
                    # The factor that training moves away from zero is B, and A in an embedding.
                    if not trained and side == (0 if module.kind == "embedding" else 1):
                        trained = bool(values.any())
                    raw[i, side] = xxhash.xxh3_64_intdigest(values.reshape(-1).view(np.uint8).data)
                    canonical[i, side] = np.frombuffer(canonical_digest(values), np.uint8)
    except OSError as error:
        raise Refusal(Reason.UNREADABLE, f"{os.path.basename(adapter.files.weights)}: {error.strerror}") from error
    if not trained:
        raise Refusal(Reason.UNTRAINED, "B is zero in every module: the adapter was never trained")
    return Screened(raw, canonical, content_digest(adapter, canonical))


def is_finite(values: NDArray[Any]) -> bool:
    """Whether all values are finite, by their exponent bits (no temporary wider than the data)."""
    import numpy as np

    if not values.size:
        return True
    mask = _EXPONENTS[values.dtype.name]
    bits = values.view(np.dtype(f"u{values.dtype.itemsize}"))
    return int(np.bitwise_and(bits, bits.dtype.type(mask)).max()) != mask


def canonical_digest(values: NDArray[Any]) -> bytes:
    """128-bit xxh3 of the values in the narrowest factor dtype that holds all of them exactly.

    The same numbers give the same digest whether a file keeps them as bfloat16 or widened to float32.  (Not a
    cryptographic digest: it tells accidents apart, not attacks.)
    """
    import ml_dtypes
    import numpy as np
    import xxhash

    flat = values.reshape(-1)
    for narrow in (ml_dtypes.bfloat16, np.float16, np.float32):
        dtype = np.dtype(narrow)
        if dtype == flat.dtype:
            break
        if dtype.itemsize <= flat.dtype.itemsize and (cast := _narrowed(flat, dtype)) is not None:
            flat = cast
            break
    # The seed tells equal bits of different dtypes apart.
    return xxhash.xxh3_128_digest(flat.view(np.uint8).data, seed=FACTOR_DTYPES.index(flat.dtype.name))


def _narrowed(flat: NDArray[Any], dtype: Any) -> NDArray[Any] | None:
    """The values in a narrower dtype where that loses nothing; None elsewhere."""
    import numpy as np

    with np.errstate(over="ignore", under="ignore"):
        for part in (flat[:64], flat):  # the first few nearly always settle it
            narrow = part.astype(dtype)
            if not np.array_equal(narrow.astype(np.float64), part.astype(np.float64)):
                return None
    return narrow


def content_digest(adapter: LoraAdapter, canonical: NDArray[Any]) -> str:
    """Hex digest of an adapter's content: layers, shapes, scales and values, in whichever dialect they were written."""
    digest = hashlib.sha256()
    for module, digests in zip(adapter.modules, canonical, strict=True):
        shape = f"{module.layer}\0{module.kind}\0{module.rank}\0{module.a_shape}\0{module.out}\0{module.scale.hex()}\0"
        digest.update(shape.encode("utf-8", "surrogatepass"))
        digest.update(digests.tobytes())
    return digest.hexdigest()


def known_contents(records: list[catalog.AdapterRecord]) -> dict[str, str]:
    """Content digests of accepted adapters, with their names."""
    return {r.content: r.name for r in records if r.status == "ok"}

"""What only the values can show: NaN, an adapter that was never trained, the same content twice.

An adapter is read once, a few MiB at a time.  Each factor leaves two digests: of its raw bytes (did the file change
before its rows were written?) and of its canonical bytes (is it a twin, is the store intact?).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingest.errors import Refusal
from ingest.reasons import Reason
from ingest.spans import read_parts, read_spans, whole
from ingest.store.schema import FACTOR_DTYPES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ingest.formats.adapter import LoraAdapter


_SEEDS = {name: i for i, name in enumerate(FACTOR_DTYPES)}
_BLOCK_BYTES = 128 << 10
# The bits of the exponent; all of them set means infinite or NaN.
_EXPONENTS = {"bfloat16": 0x7F80, "float16": 0x7C00, "float32": 0x7F800000, "float64": 0x7FF0000000000000}


@dataclass(frozen=True, slots=True)
class Screened:
    """What screening found.

    Attributes
    ----------
    raw : tuple of (bytes, bytes)
        `raw_digest` of A and B per module.
    canonical : ndarray of uint8, (modules, 2, 16)
        `canonical_digest` of the same.
    content : str
        `content_digest` of the whole.
    extras : str
        `extras_digest`.
    """

    raw: tuple[tuple[bytes, bytes], ...]
    canonical: NDArray[Any]
    content: str
    extras: str


def screen(adapter: LoraAdapter) -> Screened:
    """Read an adapter's factors and judge them.

    Parameters
    ----------
    adapter : LoraAdapter
        As parsed from its headers.

    Returns
    -------
    Screened

    Raises
    ------
    Refusal
        For NaN or infinite values, for an adapter whose every product BA is zero, and for a file that cannot be read.

    Notes
    -----
    Memory: that of `read_spans`, and as much again to look at the bits.
    """
    import numpy as np

    raw: list[list[bytes]] = [[b"", b""] for _ in adapter.modules]
    canonical = np.empty((len(adapter.modules), 2, 16), np.uint8)
    places = {
        ref.key: (i, side) for i, module in enumerate(adapter.modules) for side, ref in enumerate((module.a, module.b))
    }
    zero = np.ones((len(adapter.modules), 2), bool)
    trained = False
    for span in read_spans(adapter, (ref for m in adapter.modules for ref in (m.a, m.b))):
        if not is_finite(whole(span)):
            key = next(ref.key for ref, values in span if not is_finite(values))
            raise Refusal(Reason.NON_FINITE, f"{key} holds NaN or infinite values")
        for ref, values in span:
            i, side = places[ref.key]
            if not trained:
                zero[i, side] = not values.any()
                trained = not zero[i].any()
            raw[i][side] = raw_digest(values)
            canonical[i, side] = np.frombuffer(canonical_digest(values, raw[i][side]), np.uint8)
    extras = extras_digest(read_parts(adapter.factors, adapter.extras, adapter.data_start))
    if not trained:
        raise Refusal(Reason.UNTRAINED, "A or B is zero in every module: the adapter was never trained")
    content = content_digest(adapter, canonical)
    return Screened(tuple((a, b) for a, b in raw), canonical, content, extras)


def is_finite(values: NDArray[Any]) -> bool:
    """Whether all values are finite, by their exponent bits, block by block so that the temporary stays in cache."""
    import numpy as np

    mask = _EXPONENTS[values.dtype.name]
    bits = values.reshape(-1).view(np.dtype(f"u{values.dtype.itemsize}"))
    scratch = np.empty(min(bits.size, _BLOCK_BYTES // bits.itemsize), bits.dtype)
    for start in range(0, bits.size, len(scratch) or 1):
        block = bits[start : start + len(scratch)]
        if int(np.bitwise_and(block, bits.dtype.type(mask), out=scratch[: len(block)]).max()) == mask:
            return False
    return True


def canonical_digest(values: NDArray[Any], raw: bytes | None = None) -> bytes:
    """The `raw_digest` of the values in the narrowest factor dtype that holds all of them exactly.

    The same numbers give the same digest whether a file keeps them as bfloat16 or widened to float32.

    Parameters
    ----------
    values : ndarray
    raw : bytes, optional
        Their own `raw_digest`, where it is known already.
    """
    import ml_dtypes
    import numpy as np

    flat = values.reshape(-1)
    for narrow in (ml_dtypes.bfloat16, np.float16, np.float32):
        dtype = np.dtype(narrow)
        if dtype == flat.dtype:
            break
        if dtype.itemsize <= flat.dtype.itemsize and (cast := _narrowed(flat, dtype)) is not None:
            return raw_digest(cast)
    return raw or raw_digest(flat)


def raw_digest(values: NDArray[Any]) -> bytes:
    """128-bit xxh3 of the values' bytes; the seed tells equal bits of different dtypes apart.

    Not a cryptographic digest: it tells accidents apart, not attacks.
    """
    import numpy as np
    import xxhash

    # A view as bytes, since the buffer protocol knows no bfloat16.
    return xxhash.xxh3_128_digest(values.reshape(-1).view(np.uint8).data, _SEEDS[values.dtype.name])


def _narrowed(flat: NDArray[Any], dtype: Any) -> NDArray[Any] | None:
    """The values in a narrower dtype where that loses nothing; None elsewhere."""
    import numpy as np

    narrow: NDArray[Any] = np.empty(0, dtype)
    step = 64  # the first few nearly always settle it
    start = 0
    with np.errstate(over="ignore", under="ignore"):
        while start < flat.size:
            part = flat[start : start + step]
            cast = part.astype(dtype)
            if not np.array_equal(cast.astype(np.float64), part.astype(np.float64)):
                return None
            if start == 0:
                narrow = np.empty(flat.shape, dtype)
            narrow[start : start + step] = cast
            start, step = start + step, _BLOCK_BYTES
    return narrow


def extras_digest(parts: Iterable[bytes]) -> str:
    """Hex xxh3 (128 bits) of the tensors that are no factors, by key; empty where there is none."""
    import xxhash

    digest, some = xxhash.xxh3_128(), False
    for part in parts:
        digest.update(part)
        some = True
    return str(digest.hexdigest()) if some else ""


def content_digest(adapter: LoraAdapter, canonical: NDArray[Any]) -> str:
    """Hex digest of an adapter's content: layers, shapes, scales and values, in whichever dialect they were written."""
    digest = hashlib.sha256()
    for module, digests in zip(adapter.modules, canonical, strict=True):
        shape = f"{module.layer}\0{module.kind}\0{module.rank}\0{module.a_shape}\0{module.out}\0{module.scale.hex()}\0"
        digest.update(shape.encode("utf-8", "surrogatepass"))
        digest.update(digests.tobytes())
    return digest.hexdigest()

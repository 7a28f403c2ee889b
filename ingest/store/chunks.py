"""Chunks as bytes: raw rows, or lz4 with bitshuffle just as zarr's blosc codec writes it.

A raw chunk is read in the part that is wanted; a compressed one whole.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ingest.errors import EigenzooError
from ingest.storage import Buffer, Storage
from ingest.store import schema
from ingest.store.catalog import ArrayRecord

if TYPE_CHECKING:
    from numpy.typing import NDArray

CODECS = ("", "lz4")
Part = tuple[int, int, int]  # rows of a chunk: the first one, how many, and the row of the output that they begin at


def check_codec(codec: str) -> None:
    """Raises `EigenzooError` for a codec that there is not."""
    if codec not in CODECS:
        raise EigenzooError(f"codec {codec!r}: give 'lz4', or nothing for raw rows")


def encode(rows: NDArray[Any], codec: str) -> Buffer:
    """The bytes of a chunk, given as all its rows."""
    import numpy as np

    little = rows if sys.byteorder == "little" else rows.byteswap()
    if not codec:
        return little.reshape(-1).view(np.uint8).data
    from numcodecs.blosc import BITSHUFFLE, Blosc

    # Blosc takes the size of a value from the buffer; the buffer protocol knows no bfloat16.
    values = little.reshape(-1).view(np.dtype(f"u{rows.dtype.itemsize}"))
    encoded: bytes = Blosc("lz4", clevel=5, shuffle=BITSHUFFLE).encode(values)
    return encoded


def decode(data: bytes, array: ArrayRecord, codec: str) -> NDArray[Any]:
    """All rows of a chunk from its bytes, read-only.

    Raises
    ------
    ValueError
        If they are not a chunk's.
    """
    import numpy as np

    if codec:
        from numcodecs.blosc import decompress

        # Bytes 4 to 8 and 12 to 16 of a blosc buffer are its sizes before and after compression.
        sizes = np.frombuffer(data[:16], "<u4")
        if len(sizes) < 4 or int(sizes[1]) != array.chunk_bytes or int(sizes[3]) != len(data):
            raise ValueError(f"a chunk is no blosc buffer of {array.chunk_bytes} bytes")
        try:
            data = decompress(data)
        except RuntimeError as error:
            raise ValueError(f"a chunk cannot be decompressed ({error})") from error
    if len(data) != array.chunk_bytes:
        raise ValueError(f"a chunk has {len(data)} bytes of {array.chunk_bytes}")
    values: NDArray[Any] = np.frombuffer(data, schema.numpy_dtype(array.dtype)).reshape(array.chunk, array.width)
    return values if sys.byteorder == "little" else values.byteswap()


def read_chunk(
    storage: Storage, array: ArrayRecord, codec: str, index: int, parts: Sequence[Part], out: NDArray[Any]
) -> None:
    """Read parts of one chunk, in ascending order, to where they belong in `out`.  Raises OSError or ValueError."""
    import numpy as np

    if codec:
        block = decode(storage.read(array.chunk_name(index)), array, codec)
        for at, rows, to in parts:
            out[to : to + rows] = block[at : at + rows]
        return
    first, last = parts[0][0], parts[-1][0] + parts[-1][1]
    dtype = schema.numpy_dtype(array.dtype)
    if len(parts) == 1 and out.dtype == dtype:
        at, rows, to = parts[0]
        _read(storage, array, index, first, out[to : to + rows])
    elif last - first <= 2 * sum(rows for _, rows, _ in parts):
        block = np.empty((last - first, array.width), dtype)
        _read(storage, array, index, first, block)
        for at, rows, to in parts:
            out[to : to + rows] = block[at - first : at - first + rows]
    else:  # mostly rows of adapters that are not asked for
        half = len(parts) // 2
        read_chunk(storage, array, codec, index, parts[:half], out)
        read_chunk(storage, array, codec, index, parts[half:], out)


def _read(storage: Storage, array: ArrayRecord, index: int, first: int, rows: NDArray[Any]) -> None:
    import numpy as np

    storage.read_into(array.chunk_name(index), first * array.row_bytes, rows.reshape(-1).view(np.uint8).data)
    if sys.byteorder != "little":
        rows.byteswap(inplace=True)

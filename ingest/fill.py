"""One whole chunk of one array, filled from the adapters' files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest.errors import EigenzooError, Refusal
from ingest.plan import PlannedAdapter
from ingest.safetensors_file import TensorRef, read_into
from ingest.store import schema
from ingest.store.catalog import ArrayRecord
from ingest.store.writer import ZooWriter

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class Piece:
    """One factor's rows in an array: where they start, and which tensor they are (transposed for side B)."""

    start: int
    rank: int
    planned: PlannedAdapter
    ref: TensorRef
    transposed: bool
    raw: int


class SourceChanged(EigenzooError):
    """A file is not what it was when it was screened."""

    def __init__(self, planned: PlannedAdapter, detail: str) -> None:
        super().__init__(detail)
        self.planned = planned


def fill_chunk(writer: ZooWriter, array: ArrayRecord, chunk: int, committed: int, pieces: Sequence[Piece]) -> int:
    """Fill and write one chunk.

    Parameters
    ----------
    writer : ZooWriter
    array : ArrayRecord
    chunk : int
        Its number.
    committed : int
        Rows of the array that are committed; those in this chunk are written again unchanged.
    pieces : sequence of Piece
        All new pieces that reach into the chunk.

    Returns
    -------
    int
        Bytes of new rows.

    Raises
    ------
    SourceChanged
        If a file no longer has the bytes that were screened.
    """
    import numpy as np

    low, high = chunk * array.chunk, (chunk + 1) * array.chunk
    rows: np.ndarray[tuple[int, ...], np.dtype[np.generic]] = np.zeros(
        (array.chunk, array.width), schema.numpy_dtype(array.dtype)
    )
    if low < committed:
        old = next(a for a in writer.commit.arrays if a.path == array.path)
        rows[: min(committed, high) - low] = writer.committed_rows(old, low, min(committed, high))
    count = 0
    scratch = np.empty(max(p.rank for p in pieces) * array.width, rows.dtype)
    for piece in pieces:
        first, last = max(piece.start, low), min(piece.start + piece.rank, high)
        target = rows[first - low : last - low]
        if not piece.transposed and last - first == piece.rank:
            _read(piece, target)  # straight into place
        else:
            values = scratch[: piece.rank * array.width]
            _read(piece, values)
            whole = values.reshape(array.width, piece.rank).T if piece.transposed else values.reshape(piece.rank, -1)
            target[:] = whole[first - piece.start : last - piece.start]
        count += last - first
    writer.write_chunk(array, chunk, rows)
    return count * array.width * rows.itemsize


def _read(piece: Piece, out: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> None:
    """The piece's tensor, as its file has it, checked against what was screened."""
    import numpy as np
    import xxhash

    try:
        handle = os.open(piece.planned.adapter.files.weights, os.O_RDONLY)
        try:
            read_into(handle, piece.ref, piece.planned.adapter.data_start, out)
        finally:
            os.close(handle)
    except (OSError, Refusal) as error:
        raise SourceChanged(piece.planned, f"its file changed while it was read ({error}); run again") from error
    if xxhash.xxh3_64_intdigest(out.reshape(-1).view(np.uint8).data) != piece.raw:
        raise SourceChanged(piece.planned, "its file changed while it was read; run again when it is whole")

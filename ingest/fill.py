"""From adapters' files to whole chunks: one sweep over the adapters fills a group of arrays side by side.

Rows arrive in the order in which they are stored, so every array needs one open chunk at a time; a chunk that is full
is written and the next one begins.  Which arrays go together is a matter of memory only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingest.errors import EigenzooError, Refusal
from ingest.planned import PlannedAdapter
from ingest.safetensors_file import TensorRef
from ingest.screen import raw_digest
from ingest.spans import read_spans
from ingest.store import schema
from ingest.store.catalog import ArrayRecord
from ingest.store.writer import ZooWriter

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Piece:
    """One factor's rows: in which array, from which row on, which tensor (transposed for side B), its digest."""

    array: int
    start: int
    rank: int
    ref: TensorRef
    transposed: bool
    digest: bytes


class SourceChanged(EigenzooError):
    """A file is not what it was when it was screened."""

    def __init__(self, planned: PlannedAdapter, detail: str) -> None:
        super().__init__(detail)
        self.planned = planned


@dataclass(frozen=True, slots=True)
class Work:
    """A batch to be stored: every adapter's pieces, and each array with the rows it held before."""

    adapters: Sequence[tuple[PlannedAdapter, Sequence[Piece]]]
    arrays: Sequence[ArrayRecord]
    committed: Sequence[int]

    def groups(self, limit: int) -> Iterator[frozenset[int]]:
        """Arrays to be filled side by side: as many as have room for their open chunks in `limit` bytes."""
        touched = sorted({piece.array for _, pieces in self.adapters for piece in pieces})
        group: list[int] = []
        held = 0
        for index in touched:
            if group and held + self.arrays[index].chunk_bytes > limit:
                yield frozenset(group)
                group, held = [], 0
            group.append(index)
            held += self.arrays[index].chunk_bytes
        if group:
            yield frozenset(group)


def fill(writer: ZooWriter, work: Work, group: frozenset[int], tell: Callable[[int], None]) -> int:
    """Write the rows of one group of arrays, chunk by chunk.

    Parameters
    ----------
    writer : ZooWriter
    work : Work
    group : frozenset of int
        Indices of the arrays.
    tell : callable
        Called with the bytes of every adapter that is through.

    Returns
    -------
    int
        Bytes of rows stored.

    Raises
    ------
    SourceChanged
        If a file no longer has the bytes that were screened.
    """
    open_chunks = {i: _OpenChunk(writer, work.arrays[i], work.committed[i]) for i in group}
    total = 0
    for planned, pieces in work.adapters:
        wanted = {piece.ref.key: piece for piece in pieces if piece.array in group}
        nbytes = 0
        for ref, values in _read(planned, [piece.ref for piece in wanted.values()]):
            piece = wanted[ref.key]
            if raw_digest(values) != piece.digest:
                raise SourceChanged(planned, "its file changed while it was read; run again when it is whole")
            rows = values.reshape(-1, piece.rank).T if piece.transposed else values.reshape(piece.rank, -1)
            open_chunks[piece.array].put(piece.start, rows)
            nbytes += ref.nbytes
        total += nbytes
        tell(nbytes)
    for chunk in open_chunks.values():
        chunk.close()
    return total


def _read(planned: PlannedAdapter, refs: Iterable[TensorRef]) -> Iterator[tuple[TensorRef, NDArray[Any]]]:
    try:
        for span in read_spans(planned.adapter, refs):
            yield from span
    except Refusal as error:
        raise SourceChanged(planned, f"its file changed while it was read ({error}); run again") from error


class _OpenChunk:
    """The chunk of one array that is being filled."""

    def __init__(self, writer: ZooWriter, array: ArrayRecord, committed: int) -> None:
        self._writer, self._array = writer, array
        self._index, held = divmod(committed, array.chunk)
        self._rows = self._empty()
        if held:  # rows of earlier commits are written again unchanged
            old = next(a for a in writer.commit.arrays if a.path == array.path)
            self._rows[:held] = writer.committed_rows(old, committed - held, committed)
        self._end = committed

    def put(self, start: int, rows: NDArray[Any]) -> None:
        """Place rows, which begin where the last ones ended."""
        while len(rows):
            at = start - self._index * self._array.chunk
            part = rows[: self._array.chunk - at]
            self._rows[at : at + len(part)] = part
            start += len(part)
            rows = rows[len(part) :]
            self._end = start
            if at + len(part) == self._array.chunk:
                self._writer.write_chunk(self._array, self._index, self._rows)
                self._index += 1
                self._rows = self._empty()

    def close(self) -> None:
        """Write the last chunk, if any row is in it."""
        if self._end > self._index * self._array.chunk:
            self._writer.write_chunk(self._array, self._index, self._rows)

    def _empty(self) -> NDArray[Any]:
        import numpy as np

        return np.zeros((self._array.chunk, self._array.width), schema.numpy_dtype(self._array.dtype))

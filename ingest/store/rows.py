"""The rows of one matrix, read from the store block by block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ingest.errors import EigenzooError
from ingest.storage import Storage, open_storage
from ingest.store import schema
from ingest.store.behind import side_by_side
from ingest.store.catalog import ArrayRecord
from ingest.store.chunks import Part, read_chunk
from ingest.store.root import check_same, lost

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Run:
    """A run of committed rows ``start:stop`` of one array."""

    array: ArrayRecord
    start: int
    stop: int


@dataclass(frozen=True)
class ZooRows:
    """The rows of one matrix, adapter after adapter, read from the store block by block.

    Attributes
    ----------
    shape : (int, int)
        Rows × width.
    dtype : numpy.dtype
        Holds every stored value exactly; bfloat16 as ``ml_dtypes.bfloat16``.
    offsets : ndarray of int64, shape (n_adapters + 1,)
        Where each adapter's rows begin.
    block_rows : int
        Rows per stored chunk.
    identity : str
        Digest of the values and their order.
    zoo : str
        The zoo's uuid.  Another zoo that was made at the same path since is told apart: in a folder at once, in an
        object store within `ingest.store.root.LOOK_SECONDS`.
    """

    path: str
    layer: str
    side: str
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    offsets: NDArray[np.int64] = field(repr=False)
    block_rows: int
    identity: str
    runs: tuple[Run, ...] = field(repr=False)
    codec: str = ""
    zoo: str = ""

    @property
    def location(self) -> str:
        """Where the rows are, in words for a message."""
        return f"{self.layer} {self.side} of {self.path}"

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start:stop`` in `dtype`, as a new array (stop − start) × width.

        Raises
        ------
        EigenzooError
            If the range is not within the matrix, a chunk of it is missing or damaged, or the zoo was compacted since
            it was opened, or is no longer there.
        """
        import numpy as np

        if not 0 <= start <= stop <= self.shape[0]:
            raise EigenzooError(f"rows {start}:{stop} of {self.layer} {self.side}: there are {self.shape[0]} rows")
        out = np.empty((stop - start, self.shape[1]), self.dtype)
        pieces: dict[ArrayRecord, list[Part]] = {}
        begin = 0
        for run in self.runs:
            lo, hi = max(start, begin), min(stop, begin + run.stop - run.start)
            if lo < hi:
                pieces.setdefault(run.array, []).append((run.start + lo - begin, hi - lo, lo - start))
            begin += run.stop - run.start
        storage = open_storage(self.path)
        for array, parts in pieces.items():  # a chunk is read once, however its rows alternate with another array's
            fill_rows(storage, array, self.codec, parts, out)
        check_same(storage, self.zoo)  # after it: what was read before another zoo had a root is caught too
        return out


def runs_of(
    arrays: Sequence[ArrayRecord], indices: NDArray[Any], starts: NDArray[Any], ranks: NDArray[Any]
) -> tuple[Run, ...]:
    """Row ranges of arrays, those that follow one another joined."""
    runs: list[Run] = []
    for index, start, rank in zip(indices.tolist(), starts.tolist(), ranks.tolist(), strict=True):
        if runs and runs[-1].array is arrays[index] and runs[-1].stop == start:
            runs[-1] = Run(arrays[index], runs[-1].start, start + rank)
        else:
            runs.append(Run(arrays[index], start, start + rank))
    return tuple(runs)


def read_array(storage: Storage, array: ArrayRecord, codec: str, start: int, stop: int) -> NDArray[Any]:
    """Rows ``start:stop`` of one array, in its own dtype.

    Raises
    ------
    Compacted
        If the zoo was compacted since the array was looked up.
    EigenzooError
        If a chunk is missing, or damaged as far as it is read.
    """
    import numpy as np

    out = np.empty((stop - start, array.width), schema.numpy_dtype(array.dtype))
    fill_rows(storage, array, codec, [(start, stop - start, 0)], out)
    return out


def fill_rows(storage: Storage, array: ArrayRecord, codec: str, parts: Sequence[Part], out: NDArray[Any]) -> None:
    """Read parts of one array, in ascending order, to where they belong in `out`; errors as for `read_array`."""
    jobs = list(_by_chunk(array, parts))

    def read(job: tuple[int, list[Part]]) -> None:
        read_chunk(storage, array, codec, *job, out)

    try:
        side_by_side(storage.url, read, jobs)
    except (OSError, ValueError) as error:
        rows = f"{parts[0][0]}:{parts[-1][0] + parts[-1][1]}"
        raise lost(storage, array.path, f"cannot read rows {rows} of {array.path}", error) from error


def _by_chunk(array: ArrayRecord, parts: Iterable[Part]) -> Iterator[tuple[int, list[Part]]]:
    """Each chunk's number, and its share of the parts by rows of the chunk."""
    current: tuple[int, list[Part]] | None = None
    for at, count, to in parts:
        while count:
            index, first = divmod(at, array.chunk)
            rows = min(count, array.chunk - first)
            if current is None or current[0] != index:
                if current is not None:
                    yield current
                current = index, []
            current[1].append((first, rows, to))
            at, count, to = at + rows, count - rows, to + rows
    if current is not None:
        yield current

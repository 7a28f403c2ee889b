"""Row sources made of other ones: adapters read whole, and some of the adapters alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.rows import RowSource


class ChosenRows:
    """The rows of some adapters: a `RowSource`.

    Parameters
    ----------
    rows : RowSource
    adapters : places among those of `rows`, each once; they are read in this order.

    Raises
    ------
    EigenzooError
        For a place that there is not, or one that is given twice.
    """

    def __init__(self, rows: RowSource, adapters: Sequence[int]) -> None:
        n_adapters = len(rows.offsets) - 1
        chosen = np.asarray(adapters, dtype=np.int64)
        if len(chosen) == 0 or len(np.unique(chosen)) < len(chosen) or chosen.min() < 0 or chosen.max() >= n_adapters:
            raise EigenzooError(f"adapters: give some of the places 0 … {n_adapters - 1}, each once")
        self._rows, self._begin = rows, rows.offsets[chosen]
        sizes = rows.offsets[chosen + 1] - self._begin
        self.offsets: NDArray[np.int64] = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self.shape: tuple[int, int] = (int(self.offsets[-1]), rows.shape[1])
        self.dtype: np.dtype[Any] = rows.dtype
        self.block_rows = rows.block_rows
        self.identity = ""
        self.in_memory = bool(getattr(rows, "in_memory", False))
        self.location = str(getattr(rows, "location", "") or rows.identity)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows start … stop − 1, of what was chosen."""
        out = np.empty((stop - start, self.shape[1]), self.dtype)
        for first, last, wanted in self._spans(start, stop):
            block = self._rows.read(first, last)
            for at, row, size in wanted:
                out[at - start : at - start + size] = block[row - first : row - first + size]
            del block  # before the next is read
        return out

    def _spans(self, start: int, stop: int) -> Iterator[tuple[int, int, list[tuple[int, int, int]]]]:
        """What is read at once: rows first … last − 1, and what is wanted of them (place, row, how many rows).

        Neighbours; and adapters with others between them that lie in the same chunk, which a compressed store decodes
        whole for each read. What is read in vain is less than a chunk.
        """
        chunk, in_vain, first, last = max(1, self.block_rows), 0, 0, 0
        wanted: list[tuple[int, int, int]] = []
        i, at = int(np.searchsorted(self.offsets, start, side="right")) - 1, start
        while at < stop:
            row, size = int(self._begin[i] + at - self.offsets[i]), min(stop, int(self.offsets[i + 1])) - at
            gap = row - last
            if wanted and gap == 0:
                wanted[-1] = (*wanted[-1][:2], wanted[-1][2] + size)
            else:
                if wanted and not (0 < gap < chunk - in_vain and row // chunk == (last - 1) // chunk):
                    yield first, last, wanted
                    wanted = []
                first, in_vain = (first, in_vain + gap) if wanted else (row, 0)
                wanted.append((at, row, size))
            i, at, last = i + 1, at + size, row + size
        if wanted:
            yield first, last, wanted


class WholeAdapters:
    """A `RowSource` whose "rows" are adapters, so that whoever folds its blocks never sees a part of one.

    A block is an array of objects, (n_adapters,), each the rows of one adapter, (rank, width), as stored.

    Parameters
    ----------
    rows : RowSource
    """

    def __init__(self, rows: RowSource) -> None:
        n_adapters = len(rows.offsets) - 1
        self._rows = rows
        most = int(np.diff(rows.offsets).max(initial=1))
        self.shape: tuple[int, int] = (n_adapters, most * rows.shape[1])  # what a read at once is reckoned by
        self.dtype: np.dtype[Any] = rows.dtype
        self.offsets: NDArray[np.int64] = np.arange(n_adapters + 1, dtype=np.int64)
        self.block_rows = max(1, min(n_adapters, rows.block_rows // most))
        self.identity = rows.identity
        self.in_memory = bool(getattr(rows, "in_memory", False))
        self.location = str(getattr(rows, "location", "") or rows.identity)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Adapters start … stop − 1."""
        offsets = self._rows.offsets[start : stop + 1]
        block = self._rows.read(int(offsets[0]), int(offsets[-1]))
        out = np.empty(stop - start, dtype=object)
        for i, (first, last) in enumerate(zip(offsets[:-1] - offsets[0], offsets[1:] - offsets[0], strict=True)):
            out[i] = block[first:last]
        return out

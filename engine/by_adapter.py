"""Adapters as rows: a source that holds one row per adapter, made of the adapter's own rows where they are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.rows import RowSource

PIECE_BYTES = 16 * 2**20  # float64 bytes of the rows that are in work at once, and of what is made of them


class AdapterMap(Protocol):
    """Adapters' rows → one row each. Small and picklable."""

    @property
    def width(self) -> int:
        """Numbers that are made of an adapter."""

    @property
    def dtype(self) -> str:
        """numpy's name of their type."""

    def __call__(self, block: NDArray[Any], offsets: NDArray[np.int64], /) -> NDArray[Any]:
        """(n_adapters, width), of the rows of adapters that follow one another; `offsets` is where each begins."""


@dataclass(frozen=True, eq=False)
class ByAdapter:
    """A `RowSource` of as many rows as `rows` has adapters: a runner maps them on the worker that reads them.

    Attributes
    ----------
    rows : what is read.
    map : what is made of it.
    """

    rows: RowSource
    map: AdapterMap

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows.offsets) - 1, self.map.width

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.map.dtype)

    @property
    def offsets(self) -> NDArray[np.int64]:
        return np.arange(self.shape[0] + 1, dtype=np.int64)

    @property
    def block_rows(self) -> int:
        """Adapters of a chunk, about; but no more than make `PIECE_BYTES`, however much is made of one of few rows."""
        n_adapters = max(1, self.shape[0])
        of_chunk = self.rows.block_rows * n_adapters // max(1, self.rows.shape[0])
        return max(1, min(n_adapters, of_chunk, PIECE_BYTES // (8 * self.map.width)))

    @property
    def identity(self) -> str:
        return ""

    @property
    def location(self) -> str:
        """Where the rows are, in words for a message."""
        return str(getattr(self.rows, "location", "") or self.rows.identity)

    @property
    def in_memory(self) -> bool:
        """Whether the rows travel inside this object."""
        return bool(getattr(self.rows, "in_memory", False))

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Adapters start … stop − 1, (stop − start, width)."""
        out = np.empty((stop - start, self.map.width), self.dtype)
        for first, last in pieces(self.rows, start, stop):
            offsets = self.rows.offsets[first : last + 1]
            block = self.rows.read(int(offsets[0]), int(offsets[-1]))
            out[first - start : last - start] = self.map(block, offsets - offsets[0])
        return out


def pieces(rows: RowSource, start: int, stop: int, nbytes: int | None = None) -> Iterator[tuple[int, int]]:
    """Adapters start … stop − 1 as ranges, of one adapter at least, whose rows take about `nbytes` in float64.

    By default `PIECE_BYTES`.
    """
    most = max(1, (PIECE_BYTES if nbytes is None else nbytes) // (8 * rows.shape[1]))
    offsets = rows.offsets
    while start < stop:
        last = int(np.searchsorted(offsets, offsets[start] + most, side="right")) - 1
        last = min(max(last, start + 1), stop)
        yield start, last
        start = last

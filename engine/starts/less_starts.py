"""Rows less the start that their adapters share."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.by_adapter import pieces

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.rows import RowSource


@dataclass(frozen=True, eq=False)
class LessStarts:
    """A `RowSource` in float64: rows, from which those of a set have their mean over the set subtracted.

    A set's mean is its start and what training has done to all of its adapters alike. It takes the worth of one adapter
    from every set: of n adapters n − 1 remain independent.

    Attributes
    ----------
    rows : RowSource
        (n_rows, width)
    sets : tuple of RowSource
        The rows of each set's adapters, all of one rank.
    which : (n_adapters,) int64
        The set of each adapter of `rows`; −1 for none.

    Notes
    -----
    The means are worked out where rows are read first, by one more read of the sets, and not sent about.
    """

    rows: RowSource
    sets: tuple[RowSource, ...]
    which: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float64)

    @property
    def offsets(self) -> NDArray[np.int64]:
        return self.rows.offsets

    @property
    def block_rows(self) -> int:
        return self.rows.block_rows

    @property
    def identity(self) -> str:
        """A digest of the rows and of who is in which set; "" where the rows have none."""
        if not self.rows.identity:
            return ""
        digest = hashlib.sha256(f"less starts\0{self.rows.identity}\0".encode())
        digest.update(np.ascontiguousarray(self.which, "<i8").tobytes())
        return digest.hexdigest()[:32]

    @property
    def read_bytes(self) -> int:
        """Bytes that a read holds beside its result: the rows as stored, the starts, and once a piece of a set."""
        stored = self.rows.block_rows * self.shape[1] * self.rows.dtype.itemsize
        return stored + sum(8 * int(s.offsets[1]) * s.shape[1] for s in self.sets) + 2 * _PIECE_BYTES

    @property
    def in_memory(self) -> bool:
        """Whether the rows travel inside this object."""
        return bool(getattr(self.rows, "in_memory", False))

    @property
    def location(self) -> str:
        """Where the rows are, in words for a message."""
        return str(getattr(self.rows, "location", ""))

    def read(self, start: int, stop: int) -> NDArray[np.float64]:
        """Rows start … stop − 1, (stop − start, width)."""
        out = self.rows.read(start, stop).astype(np.float64)
        offsets = self.offsets
        first = int(np.searchsorted(offsets, start, side="right")) - 1
        last = int(np.searchsorted(offsets, stop, side="left"))
        for adapter in (first + np.flatnonzero(self.which[first:last] >= 0)).tolist():
            begin = int(offsets[adapter])
            lo, hi = max(start, begin), min(stop, int(offsets[adapter + 1]))
            out[lo - start : hi - start] -= self._starts[int(self.which[adapter])][lo - begin : hi - begin]
        return out

    @functools.cached_property
    def _starts(self) -> list[NDArray[np.float64]]:
        return [_mean(each) for each in self.sets]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_starts"}


_PIECE_BYTES = 8 * 2**20


def _mean(rows: RowSource) -> NDArray[np.float64]:
    """The mean of adapters of one rank, (rank, width)."""
    rank, width = int(rows.offsets[1]), rows.shape[1]
    n_adapters = len(rows.offsets) - 1
    total = np.zeros((rank, width))
    for first, last in pieces(rows, 0, n_adapters, _PIECE_BYTES):
        block = rows.read(first * rank, last * rank).astype(np.float64)
        total += block.reshape(last - first, rank, width).sum(axis=0)
    return total / n_adapters

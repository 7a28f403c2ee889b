r"""Sketches of adapters, a few thousand numbers each, that keep the cosines of their leading rows.

torch fills a matrix row by row, so two starts from one seed agree in the leading rows that both have: as many as the
lower rank. Every row i is projected on the first p columns of one random orthonormal basis, where p · (i + 1) is about
`NUMBERS`: pairs whose lower rank is r are compared by their leading r rows with p = `NUMBERS` / r columns each. The
cosine of two sketches misses that of the rows by about (1 − cos²)/√(p · r) (Johnson and Lindenstrauss, 1984), or
√(p · D) where rows keep to D < r directions, and by nothing where p is the whole width.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUMBERS = 1024  # that a pair of adapters is compared by, at least
SIGMAS = 6.0  # how far a sketch's cosine may be off before a pair is missed


@dataclass(frozen=True, slots=True)
class LeadingRows:
    """An `AdapterMap`: the leading rows of adapters, projected.

    Attributes
    ----------
    row_width : columns of the rows.
    levels : the ranks that occur, ascending.
    seed : of the basis.
    numbers : that pairs are compared by.
    """

    row_width: int
    levels: tuple[int, ...]
    seed: int = 0
    numbers: int = NUMBERS

    @property
    def width(self) -> int:
        """Numbers of a sketch."""
        return sum((level - before) * self.columns(level) for before, level in self._bands)

    @property
    def dtype(self) -> str:
        return "float32"

    def columns(self, level: int) -> int:
        """Columns of each row by which pairs of that rank are compared."""
        return min(self.row_width, -(-self.numbers // level))

    def slack(self, level: int, cosine: float, dimensions: float = math.inf) -> float:
        """How far the sketches' cosine may lie from that of rows that keep to so many dimensions."""
        columns = self.columns(level)
        if columns == self.row_width:
            return 1e-4  # of float32
        return SIGMAS * (1.0 - cosine * cosine) / math.sqrt(columns * min(level, dimensions)) + 1e-4

    def at(self, level: int) -> NDArray[np.int64]:
        """Which numbers of a sketch are those of a level."""
        found, begin = [], 0
        for before, band in self._bands:
            wide = self.columns(band)
            if band <= level:
                rows = begin + wide * np.arange(band - before)
                found.append((rows[:, None] + np.arange(self.columns(level))).ravel())
            begin += (band - before) * wide
        return np.concatenate(found)

    def __call__(self, block: NDArray[Any], offsets: NDArray[np.int64], /) -> NDArray[Any]:
        ranks, out, begin = np.diff(offsets), np.zeros((len(offsets) - 1, self.width), np.float32), 0
        for before, level in self._bands:
            columns, here = self.columns(level), ranks >= level
            numbers = (level - before) * columns
            if here.any():
                rows = (offsets[:-1][here][:, None] + np.arange(before, level)).ravel()
                x = block[rows].astype(np.float32)
                if self.columns(self.levels[-1]) < self.row_width:
                    x = x @ _basis(self.row_width, self.columns(self.levels[0]), self.seed)[:, :columns]
                out[here, begin : begin + numbers] = x.reshape(-1, numbers)
            begin += numbers
        return out

    @property
    def _bands(self) -> list[tuple[int, int]]:
        return list(zip((0, *self.levels[:-1]), self.levels, strict=True))


@functools.lru_cache(maxsize=2)
def _basis(width: int, columns: int, seed: int) -> NDArray[np.float32]:
    """Random orthonormal columns, (width, columns)."""
    drawn = np.random.default_rng(seed).standard_normal((width, columns))
    return np.ascontiguousarray(np.linalg.qr(drawn)[0], np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Sketches:
    """All adapters' sketches: what is asked of them.

    Attributes
    ----------
    made : LeadingRows
    ranks : (n,) int64
    numbers : (n, made.width) float32
    """

    made: LeadingRows
    ranks: NDArray[np.int64]
    numbers: NDArray[np.float32]

    def units(self, level: int, members: NDArray[np.int64]) -> NDArray[np.float32]:
        """The leading `level` rows of members, which have as many, as vectors of length 1 (or 0), (m, q)."""
        at = self.made.at(level)
        found = self.numbers[members] if len(at) == self.numbers.shape[1] else self.numbers[np.ix_(members, at)]
        norms = np.sqrt(np.einsum("ij,ij->i", found, found, dtype=np.float64))
        return np.asarray(found / np.where(norms > 0, norms, 1.0).astype(np.float32)[:, None])

    def cosines(self, one: int, others: NDArray[np.int64]) -> NDArray[np.float32]:
        """Cosines of one adapter and others of no higher rank, by the leading rows that both have."""
        out = np.zeros(len(others), np.float32)
        for level in np.unique(self.ranks[others]).tolist():
            here = np.flatnonzero(self.ranks[others] == level)
            mine = self.units(level, np.array([one]))[0]
            for start in range(0, len(here), 4096):
                some = here[start : start + 4096]
                out[some] = self.units(level, others[some]) @ mine
        return out

"""The dual: fewer rows than columns, so XXᵀ (n × n) is solved instead of XᵀX (width × width).

The state is the rows themselves, gathered in their stored dtype: n · width · itemsize bytes, which while
n < width is less than the 8 · width² of a scatter. A tiled product over pairs of blocks would hold less, but
reads every block many times and is no reduction; the bound above is why the simpler way was taken.

Centring is exact per column and happens tile by tile, so no centred float64 copy of all rows exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.backends.protocol import Array, Backend

TILE_BYTES = 32 * 2**20  # float64 bytes of a tile of columns


@dataclass(slots=True)
class GatheredRows:
    """All rows in order, as the blocks they were read in, in their stored dtype."""

    blocks: list[NDArray[Any]]

    @property
    def n(self) -> int:
        return sum(len(block) for block in self.blocks)


@dataclass(frozen=True, slots=True)
class Tile:
    """Columns start … stop − 1 of all rows, less their mean when centred."""

    start: int
    stop: int
    mean: Array  # (stop − start,), the columns' mean whether subtracted or not
    x: Array  # (n, stop − start)


@dataclass(frozen=True, slots=True)
class Dual:
    """Rows → `GatheredRows`; for n < width. O(n · width) bytes."""

    width: int
    backend: Backend

    def start(self) -> GatheredRows:
        self.backend.load()
        return GatheredRows([])

    def step(self, state: GatheredRows, block: NDArray[Any], /) -> GatheredRows:
        if len(block):
            state.blocks.append(block)
        return state

    def combine(self, left: GatheredRows, right: GatheredRows) -> GatheredRows:
        left.blocks.extend(right.blocks)
        return left

    def finish(self, state: GatheredRows) -> GatheredRows:
        return state

    def tiles(self, state: GatheredRows, *, centred: bool) -> Iterator[Tile]:
        """The matrix in float64, tile of columns by tile of columns."""
        b = self.backend
        columns = tile_columns(state.n, self.width)
        for start in range(0, self.width, columns):
            stop = min(start + columns, self.width)
            x = b.matrix(np.concatenate([block[:, start:stop] for block in state.blocks]))
            shift = x[0] * float(centred)  # as in moments: a constant column becomes exactly 0
            b.subtract_row(x, shift)
            rest = b.column_mean(x)
            if centred:
                b.subtract_row(x, rest)
            yield Tile(start, stop, shift + rest, x)

    def gram(self, state: GatheredRows, *, centred: bool) -> tuple[Array, Array, NDArray[np.float64]]:
        """XXᵀ (n, n) of the (centred) rows; on the host their mean and each column's Σx², both (width,)."""
        b = self.backend
        gram = b.square(state.n)
        mean, squares = np.empty(self.width), np.empty(self.width)
        for tile in self.tiles(state, centred=centred):
            b.add_gram(gram, tile.x.T)
            mean[tile.start : tile.stop] = b.to_host(tile.mean)
            squares[tile.start : tile.stop] = b.to_host(b.column_mean(tile.x * tile.x)) * state.n
        if not np.isfinite(squares).all():
            raise EigenzooError("rows hold NaN, Inf or values beyond 1e154; remove the rows that do")
        return gram, mean, squares


def tile_columns(n_rows: int, width: int) -> int:
    """Columns of a tile, so that a tile in float64 stays near `TILE_BYTES`."""
    return max(1, min(width, TILE_BYTES // (8 * n_rows)))

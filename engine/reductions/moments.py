r"""Exact moments of a matrix of rows: the additive state from which spectra follow.

The scatter is kept about the running mean and merged by the pairwise update of Chan, Golub and LeVeque,
"Updating formulae and a pairwise algorithm for computing sample variances" (1979):

.. math:: M_2 = M_2^a + M_2^b + \delta\delta^\top \frac{n_a n_b}{n_a + n_b}, \qquad \delta = \mu_b - \mu_a.

Raw moments (XᵀX − nμμᵀ) lose the spread once the mean exceeds it: at mean/std = 1e6 everything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.backends.protocol import Array, Backend

PIECE_BYTES = 32 * 2**20  # float64 bytes of the rows multiplied at once


@dataclass(slots=True)
class MomentsState:
    """Moments of `n` rows, float64, on the backend's device.

    Attributes
    ----------
    n : number of rows.
    mean : (width,).
    scatter : (width, width), Σ (x − mean)ᵀ(x − mean); only the lower triangle is meaningful.
    sumsq : Σ ‖x‖², about zero.
    """

    n: int
    mean: Array
    scatter: Array
    sumsq: float


@dataclass(frozen=True, slots=True)
class Moments:
    """Rows → `MomentsState`. One width × width scatter per state, updated in place; O(n · width²) time."""

    width: int
    backend: Backend

    def start(self) -> MomentsState:
        self.backend.load()
        return MomentsState(0, self.backend.vector(self.width), self.backend.square(self.width), 0.0)

    def step(self, state: MomentsState, block: NDArray[Any], /) -> MomentsState:
        rows = piece_rows(self.width)
        for start in range(0, len(block), rows):
            self._fold(state, block[start : start + rows])
        return state

    def combine(self, left: MomentsState, right: MomentsState) -> MomentsState:
        self.backend.add(left.scatter, right.scatter)
        self._move_mean(left, right.n, right.mean)
        left.sumsq += right.sumsq
        return left

    def finish(self, state: MomentsState) -> MomentsState:
        if not math.isfinite(state.sumsq):
            raise EigenzooError("rows hold NaN, Inf or values beyond 1e154; remove the rows that do")
        return state

    def gram(self, state: MomentsState) -> Array:
        """The uncentred Σ xᵀx = scatter + n · meanᵀmean, in place of the scatter."""
        self.backend.add_outer(state.scatter, state.mean, float(state.n))
        return state.scatter

    def _fold(self, state: MomentsState, piece: NDArray[Any]) -> None:
        b = self.backend
        x = b.matrix(piece)
        state.sumsq += b.square_sum(x)
        # By its own first row, then by the mean of what remains: a constant column becomes exactly 0, which
        # no rounded sum of equal values promises, and the second mean is small, hence accurate.
        first = x[0] + 0.0
        b.subtract_row(x, first)
        rest = b.column_mean(x)
        b.subtract_row(x, rest)
        b.add_gram(state.scatter, x)
        self._move_mean(state, len(piece), first + rest)

    def _move_mean(self, state: MomentsState, n: int, mean: Array) -> None:
        """Chan's update of a state whose scatter already holds both sums."""
        total = state.n + n
        if n == 0:
            return
        delta = mean - state.mean
        if state.n:
            self.backend.add_outer(state.scatter, delta, state.n * n / total)
        state.mean = state.mean + delta * (n / total)
        state.n = total


def piece_rows(width: int) -> int:
    """Rows multiplied at once, so that a piece in float64 stays near `PIECE_BYTES`."""
    return max(1, PIECE_BYTES // (8 * width))

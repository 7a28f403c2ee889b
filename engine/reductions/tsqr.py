r"""Tall-skinny QR: rows → the R of the centred rows, with no Gram and so no loss of small singular values.

J. Demmel, L. Grigori, M. Hoemmen and J. Langou, "Communication-optimal parallel and sequential QR and LU
factorizations" (2012). A block's rows are put under the R so far, and two states' R under each other:

.. math:: \begin{pmatrix} R_a \\ R_b \\ \sqrt{n_a n_b/(n_a+n_b)}\,(\mu_b - \mu_a) \end{pmatrix} = Q R,
          \qquad R^\top R = M_2,

the last row as in `engine.reductions.centring`. Householder QR is backward stable column by column, and a constant
column stays exactly 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.reductions.centring import Centre, centred, check_finite, joined, piece_rows, pieces

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.backends.protocol import Array, Backend


@dataclass(slots=True)
class TriangleState:
    """Number of rows and their mean, and `r` (width, width), upper triangular with rᵀr = M₂; on the device."""

    centre: Centre
    r: Array


@dataclass(frozen=True, slots=True)
class Tsqr:
    """Rows → `TriangleState`; O(n · width²) time, twice the flops of a scatter."""

    width: int
    backend: Backend

    def start(self) -> TriangleState:
        self.backend.load()
        return TriangleState(Centre(0, self.backend.vector(self.width)), self.backend.square(self.width))

    def step(self, state: TriangleState, block: NDArray[Any], /) -> TriangleState:
        b = self.backend
        for piece in pieces(block, piece_rows(self.width)):
            x, centre = centred(b, piece, twice=True)
            check_finite(b.square_sum(x))
            self._append(state, x, centre)
        return state

    def combine(self, left: TriangleState, right: TriangleState) -> TriangleState:
        copy = right.r + 0.0  # qr_append uses up what it is given
        if not left.centre.n:
            return TriangleState(right.centre, copy)
        if right.centre.n:
            self._append(left, copy, right.centre)
        return left

    def finish(self, state: TriangleState) -> TriangleState:
        return state

    def _append(self, state: TriangleState, rows: Array, centre: Centre) -> None:
        b = self.backend
        state.centre, row = joined(state.centre, centre)
        state.r = b.qr_append(state.r, rows)
        if row is not None:
            state.r = b.qr_append(state.r, row[None, :] + 0.0)

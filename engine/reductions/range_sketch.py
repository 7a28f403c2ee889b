r"""One application of the scatter to a block of vectors: rows → M₂ Q without M₂.

.. math:: M_2 Q = \sum_{blocks} X_c^\top (X_c Q) + \text{mean corrections},

which is linear in M₂, so the state adds up as the moments' does, at O(l · width) instead of O(width²) bytes. Rows are
centred piece by piece about their own mean and pieces are joined by the pairwise update (see
`engine.reductions.centring`), so a mean far above the spread costs no digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.reductions.centring import Centre, centred, joined, piece_rows, pieces

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.backends.protocol import Array, Backend


@dataclass(slots=True)
class SketchState:
    """What rows did to a block of l vectors, float64, on the backend's device.

    Attributes
    ----------
    centre : number of rows, and their mean (width,).
    product : (width, l), M₂ Q.
    squares : (width,), Σ (x − mean)² of each column; zeros where it was not asked for.
    """

    centre: Centre
    product: Array
    squares: Array


@dataclass(frozen=True, slots=True)
class Drawn:
    """Orthonormal vectors by their recipe: the Q of a Gaussian matrix (width, columns) of a seed."""

    seed: int
    width: int
    columns: int


@lru_cache(maxsize=1)
def drawn(recipe: Drawn) -> NDArray[np.float64]:
    """(width, columns), orthonormal; kept, because every block of rows is multiplied with them. Not to be changed."""
    x = np.random.default_rng(recipe.seed).standard_normal((recipe.width, recipe.columns))
    q = np.linalg.qr(np.linalg.qr(x)[0])[0]
    q.flags.writeable = False
    return q


@dataclass(frozen=True, slots=True, eq=False)
class RangeSketch:
    """Rows → `SketchState`; O(n · width · l) time.

    Attributes
    ----------
    width : of the rows.
    backend : where it is done.
    block : (width, l) host float64, the vectors Q; or what draws them where they are needed, so that they need not be
        sent.
    with_squares : whether each column's squares are summed too.
    """

    width: int
    backend: Backend
    block: NDArray[np.float64] | Drawn
    with_squares: bool

    @property
    def vectors(self) -> NDArray[np.float64]:
        """Q on the host."""
        return drawn(self.block) if isinstance(self.block, Drawn) else self.block

    def start(self) -> SketchState:
        b = self.backend
        b.load()
        zero = b.matrix(self.vectors) * 0.0
        return SketchState(Centre(0, b.vector(self.width)), zero, b.vector(self.width))

    def step(self, state: SketchState, block: NDArray[Any], /) -> SketchState:
        b, vectors = self.backend, self.backend.matrix(self.vectors)
        for piece in pieces(block, piece_rows(self.width)):
            x, centre = centred(b, piece)
            state.product = state.product + b.matmul(x.T, b.matmul(x, vectors))
            if self.with_squares:
                state.squares = state.squares + b.column_mean(x * x) * float(centre.n)
            self._move(state, centre, vectors)
        return state

    def combine(self, left: SketchState, right: SketchState) -> SketchState:
        left.product = left.product + right.product
        left.squares = left.squares + right.squares
        self._move(left, right.centre, self.backend.matrix(self.vectors))
        return left

    def finish(self, state: SketchState) -> SketchState:
        return state

    def gram_product(self, state: SketchState) -> Array:
        """The uncentred XᵀX Q = M₂ Q + n · meanᵀ(mean Q)."""
        row = state.centre.mean * state.centre.n**0.5
        return state.product + self._row_product(row, self.backend.matrix(self.vectors))

    def _move(self, state: SketchState, centre: Centre, vectors: Array) -> None:
        state.centre, row = joined(state.centre, centre)
        if row is not None:
            state.product = state.product + self._row_product(row, vectors)
            if self.with_squares:
                state.squares = state.squares + row * row

    def _row_product(self, row: Array, vectors: Array) -> Array:
        """rowᵀ(row · vectors), (width, l)."""
        b = self.backend
        return b.matmul(row[:, None], b.matmul(row[None, :], vectors))

r"""Merge and truncate: rows → the few rows that stand for them, with a rigorous bound on what was left out.

C. Himpe, T. Leibner and S. Rave, "Hierarchical approximate proper orthogonal decomposition" (2018): local
decompositions whose truncated results are stacked and decomposed again, in a chain (each block joins what is kept) or a
tree (states are combined), the mean carried by the correction row of `engine.reductions.centring`, as in scikit-learn's
IncrementalPCA. With S the stacked rows and U_m the first m left singular vectors of S, U_mᵀS = Σ_m V_mᵀ is kept.

The bound
---------
A truncation replaces S by S′ = U_mᵀS, so SᵀS − S′ᵀS′ = Sᵀ(I − U_mU_mᵀ)S = D is positive semidefinite and of norm
σ_{m+1}(S)². Stacking adds Gram matrices, so whatever the order and the tree, after all truncations t

.. math:: M_2 - R^\top R = \sum_t D_t =: D \succeq 0, \qquad
          \|D\| \le b = \min\Bigl(\sum_t \sigma_{m+1}(S_t)^2,\; \operatorname{tr} M_2 - \|R\|_F^2\Bigr),

the second because a norm is no more than the trace, which is exact here. By Weyl's inequalities every singular value
σᵢ of the centred rows has, with σ̂ᵢ that of R,

.. math:: 0 \le \sigma_i^2 - \hat\sigma_i^2 \le b,

and the first k right singular vectors V of R leave ‖X − XVᵀV‖² ≤ tr M₂ − Σ_{i ≤ k} σ̂ᵢ². The rounding of float64 adds
about 2⁻⁵² · σ₁² a truncation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.reductions.centring import Centre, centred, check_finite, joined, piece_rows, pieces

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.backends.protocol import Array, Backend

# Rows stacked at once, in units of max_rank: more make fewer truncations, a tighter bound and a larger Gram.
PIECE_RANKS = 4


@dataclass(slots=True)
class KeptRows:
    """The rows that stand for all rows, float64, on the backend's device. No array is ever changed in place.

    Attributes
    ----------
    centre : number of rows, and their mean (width,).
    rows : (m, width) with rowsᵀ rows = M₂ − D, m ≤ max_rank.
    squares : (width,), Σ (x − mean)² of each column, exact.
    dropped : Σ σ_{m+1}² of all truncations.
    truncations : how many dropped anything.
    """

    centre: Centre
    rows: Array
    squares: Array
    dropped: float = 0.0
    truncations: int = 0


@dataclass(frozen=True, slots=True)
class MergeTruncate:
    """Rows → `KeptRows`; O(n · width · max_rank) time, O(max_rank · width) bytes a state.

    Nothing is dropped while rows and corrections are no more than max_rank, or when that is at least the width.
    """

    width: int
    backend: Backend
    max_rank: int

    def start(self) -> KeptRows:
        b = self.backend
        b.load()
        zero = b.vector(self.width)
        return KeptRows(Centre(0, zero), zero[None, :][:0], zero)

    def step(self, state: KeptRows, block: NDArray[Any], /) -> KeptRows:
        b = self.backend
        for piece in pieces(block, stacked_rows(self.width, self.max_rank)):
            x, centre = centred(b, piece)
            check_finite(b.square_sum(x))
            squares = b.column_mean(x * x) * float(centre.n)
            state = self._stacked(state, KeptRows(centre, x, squares))
        return state

    def combine(self, left: KeptRows, right: KeptRows) -> KeptRows:
        return self._stacked(left, right)

    def finish(self, state: KeptRows) -> KeptRows:
        return state

    def _stacked(self, left: KeptRows, right: KeptRows) -> KeptRows:
        b = self.backend
        centre, row = joined(left.centre, right.centre)
        parts, squares = [part.rows for part in (left, right) if len(part.rows)], left.squares + right.squares
        if row is not None:
            parts.append(row[None, :])
            squares = squares + row * row
        rows = b.stack(parts) if len(parts) > 1 else (parts or [left.rows])[0]
        dropped, truncations = left.dropped + right.dropped, left.truncations + right.truncations
        if len(rows) > self.max_rank:
            rows, lost = self._truncated(rows)
            # Rows of that width have no more directions than columns: then what is lost is rounding.
            if self.max_rank < self.width:
                dropped, truncations = dropped + lost, truncations + 1
        return KeptRows(centre, rows, squares, dropped, truncations)

    def _truncated(self, rows: Array) -> tuple[Array, float]:
        """U_mᵀS and σ_{m+1}², by the eigenproblem of SSᵀ: U is orthonormal whatever the size of σ, so D stays PSD."""
        b = self.backend
        gram = b.square(len(rows))
        b.add_gram(gram, rows.T)
        eigen = b.eigen(gram)
        lost = max(0.0, float(eigen.values[self.max_rank]))
        return b.matmul(eigen.vectors(self.max_rank).T, rows), lost


def stacked_rows(width: int, max_rank: int) -> int:
    """Fresh rows stacked at once: `PIECE_RANKS` · max_rank, but no more bytes than a piece, nor fewer than max_rank."""
    return max(max_rank, min(PIECE_RANKS * max_rank, piece_rows(width)))

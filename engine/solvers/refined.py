r"""One more pass for components whose singular values a Gram matrix cannot see: below about 1e-6 of the largest.

The rows are projected on the components found, Y = X_c Vᵀ, which brings every direction to its own size before
anything is squared. With d the norms of Y's columns,

.. math:: G = (Y/d)^\top (Y/d) = R^\top R, \qquad R \,\mathrm{diag}(d) = W \Sigma Z^\top,

the Gram matrix G of the scaled columns is well conditioned however far apart d are, and Σ are the singular values of
Y, with Z the turn that makes V their right singular vectors. Y's moments are gathered by the same kernel as X's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.exact import MomentsSolver
from engine.reductions.moments import Moments, MomentsState, piece_rows
from engine.spectrum import Solution, signed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.backends.protocol import Backend
    from engine.spectrum import Spectrum

COARSE_SHARE = 1e-3  # of σ², from which its possible error calls for the pass: σ is then off by up to 5e-4
_EPS = float(np.finfo(np.float64).eps)


def finer(solver: Any, solution: Solution, *, centred: bool) -> MomentsSolver | Refinement:
    """The solver of a pass that gives small singular values back what the rounding of the last one took.

    Products that were coarse are made in float64; where they were, the rows are projected on all components: those
    that are wanted are mixed with their neighbours, so the wanted ones alone would not do. That takes every
    eigenvector, and a basis of n_components · width numbers goes to the workers.
    """
    if isinstance(solver, MomentsSolver) and solution.products != "float64":
        return replace(solver, products="float64", passes=solver.passes + 1)
    if isinstance(solver, MomentsSolver) and solution.spectrum.kind == "top":
        # A few of all directions are not enough to tell small ones apart by.
        return replace(solver, kind="full", passes=solver.passes + 1)
    known = min(*solution.spectrum.effective_shape, len(solution.spectrum.singular_values))
    return Refinement(
        solver.backend,
        solution.components(known),
        solution.mean,
        centred,
        solution.spectrum,
        solution.products,
        solution.passes,
        solution.note,
    )


def wants_refining(spectrum: Spectrum, k: int) -> bool:
    """Whether the k-th singular value may be off by more than `COARSE_SHARE` of its square."""
    if not 0 < k <= min(spectrum.effective_shape):
        return False
    return spectrum.eigenvalue_error > COARSE_SHARE * float(spectrum.singular_values[k - 1]) ** 2


@dataclass(frozen=True, slots=True, eq=False)
class Refinement:
    """Rows → moments of their coefficients on a basis → the solution with the basis's values and components renewed.

    Attributes
    ----------
    backend : who computes.
    basis : (k, width) float64, orthonormal rows: the components of the pass before.
    mean : (width,) float64.
    spectrum, products, passes, note : of the pass before.
    """

    backend: Backend
    basis: NDArray[np.float64]
    mean: NDArray[np.float64]
    centred: bool
    spectrum: Spectrum
    products: str
    passes: int
    note: str

    def start(self) -> MomentsState:
        return self._inner.start()

    def step(self, state: MomentsState, block: NDArray[Any], /) -> MomentsState:
        b = self.backend
        v, mean = b.matrix(self.basis.T), b.matrix(self.mean[None])[0]
        rows = piece_rows(len(self.mean))
        for first in range(0, len(block), rows):
            x = b.matrix(block[first : first + rows])
            if self.centred:
                b.subtract_row(x, mean)
            state = self._inner.step(state, b.to_host(b.matmul(x, v)))
        return state

    def combine(self, left: MomentsState, right: MomentsState) -> MomentsState:
        return self._inner.combine(left, right)

    def solve(self, state: MomentsState, *, centred: bool) -> Solution:
        b, inner, k = self.backend, self._inner, len(self.basis)
        state = inner.finish(state)
        scatter = state.scatter if centred else inner.gram(state)
        b.mirror(scatter)
        sigma, turn = _of_scatter(np.array(b.to_host(scatter)))
        largest = max(float(sigma[0]), float(self.spectrum.singular_values[0]))
        moved = np.sqrt(state.n) * float(np.linalg.norm(self.mean)) if centred else 0.0
        floor = _EPS * (64 * largest + 2 * moved)
        sigma[sigma <= floor] = 0.0
        values = np.sort(np.concatenate([sigma, self.spectrum.singular_values[k:]]))[::-1].copy()
        components = signed(turn @ self.basis)
        note = "small singular values were refined in one more pass"
        # The basis is orthonormal to about ε · k.
        error = 2 * largest * floor + 4 * _EPS * k * largest**2
        spectrum = replace(self.spectrum, singular_values=values, floor=floor, eigenvalue_error=error)
        return Solution(
            spectrum,
            self.mean,
            lambda wanted: components[:wanted],
            passes=self.passes + 1,
            products=self.products,
            note="; ".join(part for part in (self.note, note) if part),
        )

    @property
    def _inner(self) -> Moments:
        return Moments(len(self.basis), self.backend)


def _of_scatter(g: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Singular values (k,) falling and the turn Zᵀ (k, k) of a matrix Y with YᵀY = g."""
    d = np.sqrt(np.maximum(np.diagonal(g), 0.0))
    safe = np.where(d > 0, d, 1.0)
    scaled = g / safe / safe[:, None]
    scaled[np.diag_indices_from(scaled)] = 1.0
    values, vectors = np.linalg.eigh(scaled)
    # A square root of the scaled Gram; its eigenvectors serve where rounding keeps Cholesky from going through.
    root = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
    _, sigma, turn = np.linalg.svd(root * d)
    return sigma, turn

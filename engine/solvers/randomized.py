r"""Randomized block Krylov: the top of a spectrum from a handful of passes, at O(l · width) bytes a task.

C. Musco and C. Musco, "Randomized block Krylov methods for stronger and faster approximate singular value
decomposition" (2015), Algorithm 2, with the normalisation between passes of N. Halko, P. G. Martinsson and J. A. Tropp,
"Finding structure with randomness" (2011), Algorithm 4.4. With A = X_cᵀX_c and a Gaussian block Ω (width × l), a pass
applies A once to the block Q_j, and q passes give the best approximations (Rayleigh–Ritz) in

.. math:: \mathcal K = \operatorname{range}[\Omega, A\Omega, \dots, A^{q-1}\Omega],

which holds what q − 1 power iterations would have ended in, and all they went through: the error falls with the gap's
square root where theirs falls with the gap. Each new block is made orthonormal against all before it, twice.

The error, measured
-------------------
Of a Ritz pair (θ, v) the residual r = ‖Av − θv‖ is known from the products themselves. A is symmetric, so

* an eigenvalue λ lies within r of θ: |σ² − θ| ≤ r, hence |σ − √θ| ≤ min(r/√θ, √r). `sigma_error` is the largest of
  these over the values told, rounding included.
* θᵢ ≤ λᵢ for every i (Cauchy): values are never too large, but by rounding.

What this does not say is that the eigenvalue near θᵢ is the i-th: a direction the random start has next to no part in
could be passed over. Halko et al. bound the chance of that; no measurement can rule it out. And the bound is wide: the
error of θ is about r² divided by the gap that sets its eigenvalue apart, so usually far less than r.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.reductions.centring import check_finite
from engine.reductions.protocol import Again
from engine.reductions.range_sketch import Drawn, RangeSketch, SketchState
from engine.solvers.measured import Directions, Measured
from engine.spectrum import Solution
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.backends.protocol import Backend

KNOWN = 64  # singular values sought where a rule decides K
N_OVERSAMPLES = 10
MIN_PASSES = 5  # four applications of A beyond the first product
MAX_PASSES = 8
# Stop when every residual is below this share of its θ; the error of σ is then about half the square of it.
TOLERANCE = 1e-3
_ROUNDING = 64 * float(np.finfo(np.float64).eps)  # of θ₁: what products and orthogonality cost
_NOTHING_NEW = 1e-13  # of θ₁: what a block must add to count as a direction


@dataclass(frozen=True, slots=True, eq=False)
class Krylov:
    """Orthonormal blocks side by side, and A between them.

    Attributes
    ----------
    basis : (width, d), orthonormal columns; every block but the next one has been multiplied.
    compressed : (d, d), basisᵀ A basis.
    """

    basis: NDArray[np.float64]
    compressed: NDArray[np.float64]

    @staticmethod
    def empty(width: int) -> Krylov:
        return Krylov(np.zeros((width, 0)), np.zeros((0, 0)))

    def extended(self, block: NDArray[np.float64], product: NDArray[np.float64]) -> tuple[Krylov, NDArray[np.float64]]:
        """With `block` and what A made of it; and the part of the product outside the new basis, (width, l)."""
        old, basis = self.basis.shape[1], np.hstack([self.basis, block])
        inside = basis.T @ product
        compressed = np.empty((basis.shape[1],) * 2)
        compressed[:old, :old] = self.compressed
        compressed[:, old:] = inside
        compressed[old:, :old] = inside[:old].T
        compressed[old:, old:] = (inside[old:] + inside[old:].T) / 2
        outside = product - basis @ inside
        outside -= basis @ (basis.T @ outside)
        return Krylov(basis, compressed), outside


@dataclass(frozen=True, slots=True, eq=False)
class BlockKrylov(RangeSketch):
    """`RangeSketch` with its solve step; every pass has the next block.

    Attributes
    ----------
    known : how many singular values to tell.
    note : what to add to the result's note.
    passes : before this one.
    krylov, measured : what they found.
    """

    known: int
    note: str
    passes: int
    krylov: Krylov
    measured: Measured | None

    def solve(self, state: SketchState, *, centred: bool) -> Solution | Again[Solution]:
        b, first = self.backend, self.measured
        measured = first or Measured(state.centre.n, b.to_host(state.centre.mean), b.to_host(state.squares), centred)
        check_finite(measured.energy)
        product = b.to_host(state.product if centred else self.gram_product(state))
        krylov, outside = self.krylov.extended(self.vectors, product)
        theta, y = np.linalg.eigh(krylov.compressed)
        theta, y = np.maximum(theta[::-1], 0.0), y[:, ::-1][:, : self.known]
        directions, sizes, mixing = np.linalg.svd(outside, full_matrices=False)
        residual = np.linalg.norm(sizes[:, None] * (mixing @ y[-self.vectors.shape[1] :]), axis=0)
        residual += _ROUNDING * theta[0]

        passes, new = self.passes + 1, sizes > _NOTHING_NEW * theta[0]
        new[krylov.basis.shape[0] - krylov.basis.shape[1] :] = False
        close = (residual <= TOLERANCE * theta[: self.known] + 2 * _ROUNDING * theta[0]).all()
        if new.any() and passes < MAX_PASSES and not (close and passes >= MIN_PASSES):
            block = _orthonormal(directions[:, new], krylov.basis)
            again: Any = replace(self, block=block, with_squares=False, passes=passes, krylov=krylov, measured=measured)
            return Again(again)
        spectrum = measured.top(np.sqrt(theta), self.known, "randomized", float(residual.max()))
        return Solution(
            spectrum,
            measured.mean,
            Directions((krylov.basis @ y).T),
            passes=passes,
            exact=False,
            sigma_error=sigma_error(spectrum.singular_values, residual),
            note=f"block Krylov, {passes} passes; {self.note}",
        )


def begin(n_rows: int, width: int, backend: Backend, components: int | None, seed: int) -> BlockKrylov:
    """The solver of the first pass.

    Parameters
    ----------
    n_rows, width : the matrix's shape.
    components : how many are wanted; None where a rule decides, which may then choose up to `KNOWN`.
    seed : of the random start, on which results depend, and on nothing else.

    Raises
    ------
    EigenzooError
        For a negative seed.

    Notes
    -----
    At most `MAX_PASSES` passes of O(n_rows · width · l), l = components + `N_OVERSAMPLES`; a task holds O(l · width),
    the solve step O(passes · l · width) bytes and O(passes² · l² · width) time.
    """
    if seed < 0:
        raise EigenzooError(f"seed: got {seed}; it must be 0 or more")
    known = known_values(n_rows, width, components)
    block = Drawn(seed, width, block_columns(n_rows, width, components))
    drawn = f"{block.columns} vectors drawn with seed {seed}"
    capped = "" if components is not None else f"; only the {known} largest singular values were sought"
    return BlockKrylov(width, backend, block, True, known, drawn + capped, 0, Krylov.empty(width), None)


def known_values(n_rows: int, width: int, components: int | None) -> int:
    """How many singular values will be told."""
    return max(1, min(KNOWN if components is None else components, n_rows, width))


def block_columns(n_rows: int, width: int, components: int | None) -> int:
    """l, the vectors multiplied in a pass."""
    return min(width, known_values(n_rows, width, components) + N_OVERSAMPLES)


def sigma_error(sigma: NDArray[np.float64], eigenvalue_error: NDArray[np.float64]) -> float:
    """Largest min(e/σ, √e): how far a non-zero σ may be off when σ² is off by at most e, each (k,)."""
    told = sigma > 0
    e = eigenvalue_error[told]
    return float(np.minimum(e / sigma[told], np.sqrt(e)).max(initial=0.0))


def _orthonormal(x: NDArray[np.float64], against: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns of x made orthonormal, and orthogonal to those of `against`."""
    for _ in range(2):
        x = np.linalg.qr(x - against @ (against.T @ x))[0]
    return np.ascontiguousarray(x)

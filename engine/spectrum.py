r"""Eigenproblem of a moments state, or of gathered rows → the whole spectrum.

Conventions
-----------
* `singular_values` are all min(n_rows, width) of the matrix decomposed: rows less their mean when centred.
* `explained_variance` is σ²/(n − 1), whether centred or not, and `total_variance` the sum over everything — from the
  exact trace of the scatter, not by adding eigenvalues.
* `n_effective`, the number of rows that noise could fill, is n − 1 when centred (a mean was fitted) and n when not.
* What a float64 Gram cannot tell from zero is reported as exactly 0: σ ≤ `NULL_RATIO` · σ₁, and past
  n_effective, where centring leaves nothing by construction. The state's rounding puts eigenvalues of
  true nulls at 0.3 … 4 × 2⁻⁵²·λ₁, measured on duplicated rows at widths 256 … 4096, up to 60000 rows, on
  either backend: null σ at 1e-8 … 3e-8 σ₁. 1e-7 leaves a factor of three, and keeps a genuine 2e-7.
* A zero-variance column contributes nothing: its Σ(x − mean)² is 0 up to the rounding of its mean (Σx² when
  not centred). It takes no part in the noise a rank rule measures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.backends.protocol import Eigen
    from engine.reductions.dual import Dual, GatheredRows
    from engine.reductions.moments import Moments, MomentsState

NULL_RATIO = 1e-7


@dataclass(frozen=True, slots=True)
class Spectrum:
    """The singular values of one matrix, with what a rank rule needs to judge them.

    Attributes
    ----------
    singular_values : all min(n_rows, width) of them, float64, descending, numerical nulls as 0; where `kind` is
        "top" only the largest.
    total_variance : Σ of all explained variances, from the exact trace.
    n_rows, width : the matrix's shape.
    n_effective : n_rows − 1 when centred, n_rows when not.
    n_zero_variance_columns : columns that contribute nothing.
    floor : σ at or below this is reported as 0.
    method : name in `engine.methods.METHODS`.
    kind : "full" or "top".
    eigenvalue_error : how far a λ = σ² may be off, absolute; 0 where nobody has said.
    noise : standard deviation of the noise in one entry, where it had to be estimated because the median is not
        known; None otherwise.
    noise_from : by which estimate; "" where there is none.
    """

    singular_values: NDArray[np.float64]
    total_variance: float
    n_rows: int
    width: int
    n_effective: int
    n_zero_variance_columns: int
    floor: float
    method: str
    kind: str = "full"
    eigenvalue_error: float = 0.0
    noise: float | None = None
    noise_from: str = ""

    @property
    def explained_variance(self) -> NDArray[np.float64]:
        """σ²/(n_rows − 1), as many as there are singular values."""
        return self.singular_values**2 / max(self.n_rows - 1, 1)

    @property
    def rank(self) -> int:
        """How many singular values are not 0."""
        return int(np.count_nonzero(self.singular_values))

    @property
    def effective_shape(self) -> tuple[int, int]:
        """(n_effective, width without zero-variance columns): the shape noise would have filled."""
        return self.n_effective, self.width - self.n_zero_variance_columns


@dataclass(frozen=True, slots=True)
class Solution:
    """A solved matrix.

    Attributes
    ----------
    spectrum, mean : mean is (width,) float64.
    components : k → (k, width) float64, orthonormal rows, k ≤ `spectrum.rank`.
    passes : times the rows were read.
    exact : whether all is the matrix's own up to rounding.
    sigma_error : for an approximation, how far the singular values given may be off, absolute (a bound, or as
        measured in the last pass); None where `spectrum.eigenvalue_error` says it.
    products : what rows were multiplied in: "float64", "float32" or "bfloat16" (the latter two summed in float64).
    note : what the reader should know of how it was found; "" for nothing.
    """

    spectrum: Spectrum
    mean: NDArray[np.float64]
    components: Callable[[int], NDArray[np.float64]]
    passes: int = 1
    exact: bool = True
    sigma_error: float | None = None
    products: str = "float64"
    note: str = ""


def solve_moments(reduction: Moments, state: MomentsState, *, centred: bool) -> Solution:
    """Eigenproblem of the scatter (or Gram) in place: O(width³) time, the state is used up."""
    b = reduction.backend
    mean = b.to_host(state.mean)
    scatter = state.scatter if centred else reduction.gram(state)
    squares = b.diagonal(scatter)
    n, eigen = state.n, b.eigen(scatter)

    def components(k: int) -> NDArray[np.float64]:
        return _signed(b.to_host(eigen.vectors(k)).T)

    return Solution(_spectrum(eigen, squares, mean, n, centred, "moments"), mean, components)


def solve_dual(reduction: Dual, state: GatheredRows, *, centred: bool) -> Solution:
    """Eigenproblem of the rows' Gram: O(n² · width + n³) time. Components are V = UᵀX/σ, tile by tile."""
    b = reduction.backend
    gram, mean, squares = reduction.gram(state, centred=centred)
    eigen = b.eigen(gram)
    spectrum = _spectrum(eigen, squares, mean, state.n, centred, "dual")

    def components(k: int) -> NDArray[np.float64]:
        if k == 0:
            return np.zeros((0, reduction.width))
        scaled = eigen.vectors(k).T
        v = np.empty((reduction.width, k))
        for tile in reduction.tiles(state, centred=centred):
            v[tile.start : tile.stop] = b.to_host(b.matmul(scaled, tile.x)).T
        v /= spectrum.singular_values[:k]
        # The division magnifies rounding by σ₁/σ, so small components are made orthonormal again, in order.
        return _signed(b.to_host(b.orthonormalise(b.matrix(v))).T)

    return Solution(spectrum, mean, components)


def _spectrum(
    eigen: Eigen, squares: NDArray[np.float64], mean: NDArray[np.float64], n: int, centred: bool, method: str
) -> Spectrum:
    width = len(squares)
    n_effective = n - 1 if centred else n
    sigma = np.sqrt(np.maximum(eigen.values[: min(n, width)], 0.0))
    floor = NULL_RATIO * float(sigma[0])
    sigma[sigma <= floor] = 0.0
    sigma[n_effective:] = 0.0
    # The mean of equal values may be off by an ulp when blocks met in another order of magnitude.
    rounding = n * (4 * np.finfo(np.float64).eps * mean) ** 2 if centred else np.zeros(width)
    return Spectrum(
        singular_values=sigma,
        total_variance=float(squares.sum()) / max(n - 1, 1),
        n_rows=n,
        width=width,
        n_effective=n_effective,
        n_zero_variance_columns=int(np.count_nonzero(squares <= rounding)),
        floor=floor,
        method=method,
    )


def _signed(components: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each row with its entry of largest magnitude made positive: the sign LAPACK leaves open."""
    rows = np.arange(len(components))
    largest = components[rows, np.argmax(np.abs(components), axis=1)] if len(components) else np.ones(0)
    return np.ascontiguousarray(components * np.where(largest < 0, -1.0, 1.0)[:, None])

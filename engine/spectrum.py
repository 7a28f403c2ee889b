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

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.eigen import SMALLEST, Pairs, solve_apart, top_pairs
from engine.rank.estimate import Estimate
from engine.rank.gavish_donoho import optimal_ratio
from engine.rank.noise import noise_estimate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.backends.protocol import Array, Backend, Eigen
    from engine.rank.choice import RankRule
    from engine.reductions.dual import Dual, GatheredRows
    from engine.reductions.moments import Moments, MomentsState

NULL_RATIO = 1e-7
# How far an eigenvalue may be off by the rounding of products and sums: over λ₁ for float64 (measured at most 9e-16).
FINE_ROUNDING = 2e-15
# For float32 sums, in units of 2⁻²⁴: an entry of the diagonal is off by up to 19 of itself, to one side (sums of
# products of few bits are rounded half-way, and to even, again and again); the others by a few, to either side, so
# that together their norm is about twice the largest norm of a row, which is at most √(λ₁ · max G_ii).
COARSE_DIAGONAL, COARSE_REST = 24 * 2.0**-24, 6 * 2.0**-24
NOISE_FROM_TRACE = "the exact trace, less what stands above the Marchenko–Pastur edge"


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
    noise_from : by which estimate, and how far it may be off; "" where there is none.
    following : where `kind` is "top", about the first singular value that is not given, from below; 0 if not known.
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
    following: float = 0.0

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

    def plot(self) -> Any:
        """Scree plot and cumulative variance, as `Subspace.plot`: an altair.HConcatChart."""
        from engine.plots import both

        return both(self)

    def _repr_html_(self) -> str:
        from engine.html import spectrum_html

        return spectrum_html(self)


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


def solve_moments(
    reduction: Moments,
    state: MomentsState,
    *,
    centred: bool,
    kind: str = "full",
    wanted: int | None = None,
    rule: RankRule | None = None,
) -> Solution:
    """Eigenproblem of the scatter (or Gram) in place: O(width³) time, the state is used up.

    Parameters
    ----------
    reduction, state : `state` as `finish` left it.
    centred : whether the mean is subtracted.
    kind : "full": all singular values; "top": `wanted` of them, or as many as stand above the noise.
    wanted : how many components will be wanted, where that is known.
    rule : who will judge the values of "top": it is given as many as it counts, or all.

    Notes
    -----
    Scatters of float64 products are solved in float64. Where products were coarser, eigenvalues below the few largest
    are found in float32 if the backend has values alone cheaper than vectors: what that costs is in
    `Spectrum.eigenvalue_error`.
    """
    b = reduction.backend
    mean = b.to_host(state.mean)
    scatter = state.scatter if centred else reduction.gram(state)
    squares = b.diagonal(scatter)
    products = reduction.products if state.coarse else "float64"
    whole = _whole(state, squares, mean, centred)
    eigen: Eigen
    if kind == "top" and reduction.width >= SMALLEST:
        b.mirror(scatter)

        def told(found: _Found) -> Spectrum:
            error = rounding(state, squares, mean, found.pairs.values) + found.pairs.residual
            return whole.top(found.pairs, error, found.noise)

        def enough(found: _Found) -> bool:
            spectrum = told(found)
            return rule is None or (rule(spectrum).k or 0) <= len(spectrum.singular_values)

        found = _top(b, scatter, whole, wanted, enough)
        if found is not None:
            top = found.pairs.vectors
            return Solution(told(found), mean, lambda k: signed(b.to_host(top[:, :k]).T), products=products)
    if b.values_alone and reduction.width >= SMALLEST:
        apart = solve_apart(b, scatter, dtype="float32" if state.coarse else "float64")
        eigen, error, null = apart, apart.error, apart.null_error
    else:
        eigen, error, null = b.eigen(scatter), 0.0, 0.0
    lost = rounding(state, squares, mean, eigen.values)
    floor = max(NULL_RATIO * math.sqrt(max(float(eigen.values[0]), 0.0)), math.sqrt(null))
    if state.coarse:
        floor = max(floor, math.sqrt(lost))
    spectrum = whole.full(eigen.values, error + lost, floor)
    return Solution(spectrum, mean, lambda k: signed(b.to_host(eigen.vectors(k)).T), products=products)


def filled_shape(
    state: MomentsState, squares: NDArray[np.float64], mean: NDArray[np.float64], *, centred: bool
) -> tuple[int, int]:
    """The effective shape of a finished state; `squares` is the diagonal of its scatter, of its Gram if not centred."""
    return _whole(state, squares, mean, centred).shape


def _whole(state: MomentsState, squares: NDArray[np.float64], mean: NDArray[np.float64], centred: bool) -> _Whole:
    offset = state.offset if state.coarse else None
    constant = None
    if state.coarse == state.n and state.constant is not None and centred:
        constant = len(state.constant)
    return _Whole(squares, mean, state.n, centred, "moments", offset, constant)


def rounding(
    state: MomentsState, squares: NDArray[np.float64], mean: NDArray[np.float64], values: NDArray[np.float64]
) -> float:
    """How far an eigenvalue of a finished state may be off by products and sums; `squares` is the diagonal.

    Rows about a mean m are rounded to half an ulp of m where they are less than it: an n × d matrix of such errors has
    a norm of about ε/2 · max m · (√n + √d), by which σ may be off.
    """
    largest = max(float(values[0]), 0.0)
    if not state.coarse:
        about = 1.1e-16 * float(np.abs(mean).max()) * (math.sqrt(state.n) + math.sqrt(len(mean)))
        return FINE_ROUNDING * largest + 2 * math.sqrt(largest) * about
    offset = state.offset
    diagonal = float((squares + offset).max())
    return COARSE_DIAGONAL * diagonal + COARSE_REST * math.sqrt((largest + float(offset.sum())) * diagonal)


@dataclass(frozen=True, slots=True)
class _Found:
    pairs: Pairs
    noise: Estimate


def _top(
    b: Backend, scatter: Array, whole: _Whole, wanted: int | None, enough: Callable[[_Found], bool]
) -> _Found | None:
    """The wanted largest pairs, and all above the noise; None where they do not come apart, or are not `enough`."""
    most = min(whole.n_effective, whole.width) // 8
    while wanted is None or wanted <= most:
        pairs = top_pairs(b, scatter, wanted)
        if wanted is not None and len(pairs.values) < wanted:
            return None
        sigma = np.sqrt(np.maximum(pairs.values, 0.0))
        noise = noise_estimate(sigma, float(whole.squares.sum()), whole.shape)
        short, long = sorted(whole.shape)
        if short < 1:
            return None
        threshold = optimal_ratio(short / long) * math.sqrt(long) * noise.value
        # `following` is from below: the next value may be larger, but then the search that takes it in says so.
        known = len(sigma) > 0 and pairs.following is not None
        if known and math.sqrt(max(pairs.following or 0.0, 0.0)) <= threshold:
            # What a rule counts beyond these lies in the bulk, whose values come apart more slowly than all at once.
            found = _Found(pairs, noise)
            return found if enough(found) else None
        wanted = len(sigma) + max(8, len(sigma) // 2) if len(sigma) else 1
    return None


def solve_dual(reduction: Dual, state: GatheredRows, *, centred: bool) -> Solution:
    """Eigenproblem of the rows' Gram: O(n² · width + n³) time. Components are V = UᵀX/σ, tile by tile."""
    b = reduction.backend
    gram, mean, squares = reduction.gram(state, centred=centred)
    eigen = b.eigen(gram)
    size = max(float(eigen.values[0]), 0.0)
    whole = _Whole(squares, mean, state.n, centred, "dual")
    spectrum = whole.full(eigen.values, FINE_ROUNDING * size, NULL_RATIO * math.sqrt(size))

    def components(k: int) -> NDArray[np.float64]:
        if k == 0:
            return np.zeros((0, reduction.width))
        scaled = eigen.vectors(k).T
        v = np.empty((reduction.width, k))
        for tile in reduction.tiles(state, centred=centred):
            v[tile.start : tile.stop] = b.to_host(b.matmul(scaled, tile.x)).T
        v /= spectrum.singular_values[:k]
        # The division magnifies rounding by σ₁/σ, so small components are made orthonormal again, in order.
        return signed(b.to_host(b.orthonormalise(b.matrix(v))).T)

    return Solution(spectrum, mean, components)


@dataclass(frozen=True, slots=True)
class _Whole:
    """What is known of a matrix before its eigenvalues: column squares (width,), mean, rows, centring, method."""

    squares: NDArray[np.float64]
    mean: NDArray[np.float64]
    n: int
    centred: bool
    method: str
    offset: NDArray[np.float64] | None = None  # (width,), see `MomentsState`; None where all sums were float64
    constant: int | None = None  # columns known to be constant; None where sums have to tell

    @property
    def width(self) -> int:
        return len(self.squares)

    @property
    def n_effective(self) -> int:
        return self.n - 1 if self.centred else self.n

    @property
    def zero_columns(self) -> int:
        if not self.centred:
            return int(np.count_nonzero(self.squares <= 0.0))
        if self.constant is not None:
            return self.constant
        if self.offset is not None:  # what float32 sums of a constant column may leave of it
            return int(np.count_nonzero(self.squares <= COARSE_DIAGONAL * (np.abs(self.squares) + self.offset)))
        # The mean of equal values may be off by an ulp when blocks met in another order of magnitude.
        return int(np.count_nonzero(self.squares <= self.n * (4 * float(np.finfo(np.float64).eps) * self.mean) ** 2))

    @property
    def shape(self) -> tuple[int, int]:
        """The effective shape, without columns that hold nothing."""
        return self.n_effective, self.width - self.zero_columns

    def full(self, values: NDArray[np.float64], error: float, floor: float) -> Spectrum:
        sigma = np.sqrt(np.maximum(values[: min(self.n, self.width)], 0.0))
        sigma[sigma <= floor] = 0.0
        sigma[self.n_effective :] = 0.0
        return self._spectrum(sigma, error, floor, "full")

    def top(self, pairs: Pairs, error: float, noise: Estimate) -> Spectrum:
        sigma = np.sqrt(np.maximum(pairs.values, 0.0))
        sigma = sigma[: min(self.n, self.width)]
        floor = max(NULL_RATIO * float(sigma[0]), 0.0 if self.offset is None else math.sqrt(error))
        sigma[sigma <= floor] = 0.0
        sigma[self.n_effective :] = 0.0
        following = math.sqrt(max(pairs.following or 0.0, 0.0))
        return self._spectrum(sigma, error, floor, "top", noise.value, from_trace(noise), following)

    def _spectrum(
        self,
        sigma: NDArray[np.float64],
        error: float,
        floor: float,
        kind: str,
        noise: float | None = None,
        noise_from: str = "",
        following: float = 0.0,
    ) -> Spectrum:
        return Spectrum(
            singular_values=sigma,
            total_variance=float(self.squares.sum()) / max(self.n - 1, 1),
            n_rows=self.n,
            width=self.width,
            n_effective=self.n_effective,
            n_zero_variance_columns=self.zero_columns,
            floor=floor,
            method=self.method,
            kind=kind,
            eigenvalue_error=error,
            noise=noise,
            noise_from=noise_from,
            following=following,
        )


def signed(components: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each row with its entry of largest magnitude made positive: the sign LAPACK leaves open."""
    rows = np.arange(len(components))
    largest = components[rows, np.argmax(np.abs(components), axis=1)] if len(components) else np.ones(0)
    return np.ascontiguousarray(components * np.where(largest < 0, -1.0, 1.0)[:, None])


def from_trace(noise: Estimate) -> str:
    """`Spectrum.noise_from` of a level that the exact trace gives."""
    return f"{NOISE_FROM_TRACE}, {noise.within}" if noise.value > 0 else NOISE_FROM_TRACE

r"""Errors of adapters that the subspace has not seen, each against the subspace of all others, without refitting.

The rows of an adapter about the mean of all n, X (r × d), leave with (Chan's update backwards, see `engine.kept.held`)

.. math:: M_2' = M_2 - Z^\top Z, \qquad Z = (I + \tfrac{1}{n'} 11^\top)^{1/2} X, \qquad n' = n - r,

a matrix of rank r, and the mean of the others makes of them :math:`Y = (I + \tfrac{1}{n'} 11^\top)^{1/2} Z`. Without
centring X = Z = Y. In the eigenbasis of M₂ that is a diagonal matrix less one of rank r (`engine.analysis.downdate`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.analysis.downdate import largest
from engine.reductions.dual import Dual, GatheredRows
from engine.reductions.moments import Moments, MomentsState
from engine.reductions.protocol import Again
from engine.spectrum import NULL_RATIO

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.backends.protocol import Array, Backend

# Where less than this share of the squares is left, the eigendecomposition has not the digits of what is left.
OUTWEIGHED = 0.03
# The Gram of all rows is rounded to 1e-15 of its largest value, beside which what is smaller than this is not accurate.
DROWNED = 2e-5


@dataclass(frozen=True, slots=True, eq=False)
class LeftOut:
    """Squares of one adapter, held out.

    Attributes
    ----------
    total : Σ‖x‖².
    deviation : Σ‖x − mean of the others‖²; `total` where nothing is subtracted.
    errors : (number of K,) Σ‖x − x̂‖², by the mean and the first K components of the others.
    whole : whether the others' matrix had to be solved whole.
    outweighed : whether it was so large, or so small, beside the others that its errors are not to be trusted: fit the
        others anew.
    """

    total: float
    deviation: float
    errors: NDArray[np.float64]
    whole: bool = False
    outweighed: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a pass over a matrix found.

    Attributes
    ----------
    adapters : in the order of their rows.
    trace : Σ‖x − mean‖² of all rows; without centring Σ‖x‖².
    values : (d,) eigenvalues of all rows, falling.
    mean : (width,) what was subtracted.
    """

    adapters: tuple[LeftOut, ...]
    trace: float
    values: NDArray[np.float64]
    mean: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """The eigenvalues of all rows, and what is asked.

    Attributes
    ----------
    values : (d,) falling, none negative.
    n_rows, centred : of the matrix.
    ks : numbers of components, ascending.
    """

    values: NDArray[np.float64]
    n_rows: int
    centred: bool
    ks: tuple[int, ...]

    def leave_out(self, x: NDArray[np.float64], totals: NDArray[np.float64], sizes: Sequence[int]) -> list[LeftOut]:
        """Adapters that are held out together.

        Parameters
        ----------
        x : (rows, d), theirs about the mean of all, in the eigenbasis, which holds all of them.
        totals : (n_adapters,) Σ‖x‖² about zero.
        sizes : (n_adapters,) rows of each.
        """
        others = self.n_rows - len(x)
        z = y = x
        if self.centred and len(x):
            # (I + 11ᵀ/n')^½ = I + (√(n/n') − 1)·11ᵀ/r
            middle = x.mean(axis=0)
            z = x + (math.sqrt(self.n_rows / others) - 1.0) * middle
            y = x + (len(x) / others) * middle
        floor = NULL_RATIO**2 * float(self.values[0])
        k = min(self.ks[-1], int(np.count_nonzero(self.values > floor)))
        top = largest(self.values, z, k)
        # What the others do not span is rounding, however well it would suit the one held out.
        kept = np.square(y @ top.vectors) * (top.values > floor)
        at = np.cumsum([0, *sizes])
        deviations = np.square(y).sum(axis=1)
        trace = float(self.values.sum())
        outweighed = trace - float(np.square(z).sum()) < OUTWEIGHED * trace
        found = []
        for first, last, total in zip(at[:-1], at[1:], totals.tolist(), strict=True):
            deviation = float(deviations[first:last].sum())
            errors = remaining(deviation, kept[first:last].sum(axis=0), self.ks)
            found.append(LeftOut(total, deviation, errors, top.whole, outweighed))
        return found


def remaining(deviation: float, kept: NDArray[np.float64], ks: Sequence[int]) -> NDArray[np.float64]:
    """What is left of a sum of squares when the first K components take theirs, for every K of `ks`."""
    sums = deviation - np.concatenate([[0.0], np.cumsum(kept)])
    return np.maximum(sums[np.minimum(ks, len(kept))], 0.0)


@dataclass(frozen=True, slots=True)
class LeaveOneOut:
    """`WholeAdapters` → `Outcome` in two passes, for as many rows as columns or more: O(width²) memory.

    Attributes
    ----------
    width, backend : of the rows, and who computes the scatter and its eigenvectors.
    centred : whether the mean is subtracted.
    ks : numbers of components, ascending.
    """

    width: int
    backend: Backend
    centred: bool
    ks: tuple[int, ...]

    def start(self) -> MomentsState:
        return self._moments.start()

    def step(self, state: MomentsState, block: NDArray[Any], /) -> MomentsState:
        return self._moments.step(state, np.concatenate(list(block)))

    def combine(self, left: MomentsState, right: MomentsState) -> MomentsState:
        return self._moments.combine(left, right)

    def finish(self, state: MomentsState) -> Again[Outcome]:
        b, moments = self.backend, self._moments
        state = moments.finish(state)
        mean = b.to_host(state.mean) if self.centred else np.zeros(self.width)
        scatter = state.scatter if self.centred else moments.gram(state)
        trace = float(b.diagonal(scatter).sum())
        values, vectors = _solved(b, scatter)
        basis = Basis(values, state.n, self.centred, self.ks)
        return Again(Projection(basis, vectors, mean, trace))

    @property
    def _moments(self) -> Moments:
        return Moments(self.width, self.backend)


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """The second pass of `LeaveOneOut`: every adapter in the eigenbasis `vectors` (width, width) and left out alone."""

    basis: Basis
    vectors: NDArray[np.float64]
    mean: NDArray[np.float64]
    trace: float

    def start(self) -> list[LeftOut]:
        return []

    def step(self, state: list[LeftOut], block: NDArray[Any], /) -> list[LeftOut]:
        rows = np.concatenate(list(block)).astype(np.float64)
        squares = np.square(rows).sum(axis=1)
        rows -= self.mean
        x = rows @ self.vectors
        for first, last in _ranges([len(each) for each in block]):
            totals = squares[first:last].sum(keepdims=True)
            state.extend(self.basis.leave_out(x[first:last], totals, [last - first]))
        return state

    def combine(self, left: list[LeftOut], right: list[LeftOut]) -> list[LeftOut]:
        return left + right

    def finish(self, state: list[LeftOut]) -> Outcome:
        return Outcome(tuple(state), self.trace, self.basis.values, self.mean)


@dataclass(slots=True)
class Gathered:
    """All rows as stored, and how many each adapter has."""

    rows: GatheredRows
    sizes: list[int]


@dataclass(frozen=True, slots=True)
class GatheredLeaveOut:
    """`WholeAdapters` → `Outcome` in one pass, in the rows' own space: O(n · width + n²) memory, for n < width.

    Attributes
    ----------
    width, backend, centred, ks : as in `LeaveOneOut`.
    together : places of adapters that are held out together, each adapter once.
    """

    width: int
    backend: Backend
    centred: bool
    ks: tuple[int, ...]
    together: tuple[tuple[int, ...], ...]

    def start(self) -> Gathered:
        return Gathered(self._dual.start(), [])

    def step(self, state: Gathered, block: NDArray[Any], /) -> Gathered:
        self._dual.step(state.rows, np.concatenate(list(block)))
        state.sizes.extend(len(each) for each in block)
        return state

    def combine(self, left: Gathered, right: Gathered) -> Gathered:
        self._dual.combine(left.rows, right.rows)
        left.sizes.extend(right.sizes)
        return left

    def finish(self, state: Gathered) -> Outcome:
        b, n = self.backend, state.rows.n
        gram, mean, squares = self._dual.gram(state.rows, centred=self.centred)
        values, vectors = _solved(b, gram)
        # X = UΣVᵀ: in the basis V the rows are UΣ, so V itself is not needed.
        x = vectors * np.sqrt(values)
        totals = np.concatenate([np.square(part.astype(np.float64)).sum(axis=1) for part in state.rows.blocks])
        basis = Basis(values, n, self.centred, self.ks)
        where = list(_ranges(state.sizes))
        found: dict[int, LeftOut] = {}
        for adapters in self.together:
            rows = np.concatenate([np.arange(*where[i]) for i in adapters])
            sums = np.array([totals[slice(*where[i])].sum() for i in adapters])
            left = basis.leave_out(x[rows], sums, [state.sizes[i] for i in adapters])
            if any(0 < each.total < DROWNED * float(values[0]) for each in left):
                left = [replace(each, outweighed=True) for each in left]
            found.update(zip(adapters, left, strict=True))
        mean = mean if self.centred else np.zeros(self.width)
        return Outcome(tuple(found[i] for i in sorted(found)), float(squares.sum()), values, mean)

    @property
    def _dual(self) -> Dual:
        return Dual(self.width, self.backend)


@dataclass(frozen=True, slots=True, eq=False)
class Residuals:
    """`WholeAdapters` → what a given subspace leaves of every adapter: one pass, O(width · K) memory.

    Attributes
    ----------
    offset : (width,) what is subtracted first.
    components : (K, width), orthonormal rows.
    ks : numbers of components, ascending.
    """

    offset: NDArray[np.float64]
    components: NDArray[np.float64]
    ks: tuple[int, ...]

    def start(self) -> list[LeftOut]:
        return []

    def step(self, state: list[LeftOut], block: NDArray[Any], /) -> list[LeftOut]:
        for each in block:
            rows = each.astype(np.float64)
            total = float(np.square(rows).sum())
            rows -= self.offset
            kept = np.square(rows @ self.components.T).sum(axis=0)
            deviation = float(np.square(rows).sum())
            state.append(LeftOut(total, deviation, remaining(deviation, kept, self.ks)))
        return state

    def combine(self, left: list[LeftOut], right: list[LeftOut]) -> list[LeftOut]:
        return left + right

    def finish(self, state: list[LeftOut]) -> tuple[LeftOut, ...]:
        return tuple(state)


def _solved(b: Backend, c: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues (n,) of a lower triangle, falling and none negative, and all vectors (n, n); c is used up."""
    if b.name == "numpy":  # of all vectors, divide and conquer is twice as fast as its solver for a few
        values, vectors = np.linalg.eigh(c, UPLO="L")
        return np.maximum(values[::-1], 0.0), np.ascontiguousarray(vectors[:, ::-1])
    eigen = b.eigen(c)
    return np.maximum(eigen.values, 0.0), np.ascontiguousarray(b.to_host(eigen.vectors(len(eigen.values))))


def _ranges(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where each adapter's rows begin and end."""
    first = 0
    for size in sizes:
        yield first, first + size
        first += size

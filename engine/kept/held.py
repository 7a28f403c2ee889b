r"""Moments that outlive the pass that made them: merged, taken apart again, with a running bound on their rounding.

Taking rows out solves Chan's update (see `engine.reductions.moments`) backwards. Of :math:`n_{ab}` rows held,
:math:`n_b` go:

.. math::
    \delta = \mu_b - \mu_{ab}, \qquad \mu_a = \mu_{ab} - \delta\, n_b / n_a, \qquad
    M_2^a = M_2^{ab} - M_2^b - \delta\delta^\top n_{ab} n_b / n_a.

What rounding did to a scatter stays in it when the rows that made it large are gone, so every operation adds to a bound
per column: `FOLDED` · u · Σ(x − mean)² for the products of the rows, `FACTOR` · u · Σ(x − mean)² of the larger scatter
for a merge or its reverse, and what the means' own rounding moves. Operations round independently, so their shares are
added in squares. Measured against extended precision: products lose up to 81 u of a column's sum where all entries are
as large, 2 … 15 u of normal ones, whatever their number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.exact import MomentsSolver
from engine.reductions.protocol import Again
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.backends.protocol import Backend
    from engine.fit_reduction import Fit
    from engine.reductions.moments import Moments, MomentsState
    from engine.spectrum import Solution
    from engine.subspace import Subspace

UNIT = 2.0**-53
COARSE_UNIT = 2.0**-24  # of rows summed in float32 first
FACTOR = 4.0
FOLDED = 100.0
# Past this share of the trace a state has lost too much of what a fresh fit would have. With float64 products that is
# three digits: what is left must be a thousandth of the largest scatter ever held, or more. With coarse ones, of which
# there are few to lose, it must be a sixteenth.
REBUILD_SHARE = 1e-11
COARSE_SHARE = 16 * FOLDED * COARSE_UNIT
_NEGATIVE = 16.0  # times the bound: a diagonal below minus this is not rounding
_SLAB = 256  # columns subtracted at once


@dataclass(slots=True)
class Held:
    """A finished moments state with what is known of its rounding.

    Attributes
    ----------
    state : MomentsState
        Never with anything pending.
    error : (width,)
        Bound on the error of the scatter's diagonal; its sum bounds that of the whole matrix (Frobenius norm).
    mean_error : (width,)
        Bound on the error of the mean.
    largest : float
        The largest trace of a scatter that went into this one.
    unit : float
        Unit roundoff of the least precise products that went into it.
    """

    state: MomentsState
    error: NDArray[np.float64]
    mean_error: NDArray[np.float64]
    largest: float
    unit: float

    def trace(self, backend: Backend) -> float:
        """Σ of all Σ(x − mean)²."""
        return float(backend.diagonal(self.state.scatter).sum())

    def share(self, backend: Backend) -> float:
        """The bound on the scatter's error, as a share of its trace; 0 where both are 0."""
        bound, trace = float(self.error.sum()), self.trace(backend)
        return 0.0 if bound == 0.0 else bound / trace if trace > 0 else math.inf

    def growth(self, backend: Backend) -> float:
        """How many times larger the trace once was; 1 where nothing, or next to nothing, was taken out."""
        trace = self.trace(backend)
        if trace <= 0:
            return 1.0
        return self.largest / trace if self.largest > trace * (1 + 1e-9) else 1.0

    def rebuild_reason(self, backend: Backend) -> str:
        """Why the rows that are left should be read afresh; "" where they need not."""
        share = self.share(backend)
        allowed = REBUILD_SHARE if self.unit == UNIT else COARSE_SHARE
        if share > allowed:
            return (
                f"rounding may have reached {share:.1e} of the variance that is left, at most {allowed:.1e} is let "
                f"stand: what was taken out outweighed it"
            )
        squares, mean = backend.diagonal(self.state.scatter), backend.to_host(self.state.mean)
        # A column that varied in the rows taken out alone: a fresh pass finds an exact 0, a state only rounding.
        rounding = self.state.n * (64 * UNIT * mean) ** 2
        emptied = int(np.count_nonzero((squares <= self.error) & (self.error > rounding)))
        if emptied and self.growth(backend) > 1.0:
            return f"{emptied} columns varied in the rows that were taken out alone"
        return ""


def hold(reduction: Moments, state: MomentsState) -> Held:
    """A state that a pass has made; finished here, so that nothing is pending.

    Raises
    ------
    EigenzooError
        If the rows held NaN or Inf.
    """
    state = reduction.finish(state)
    squares, mean = reduction.backend.diagonal(state.scatter), reduction.backend.to_host(state.mean)
    unit, trace = COARSE_UNIT if state.coarse else UNIT, float(squares.sum())
    spread = np.sqrt(np.maximum(squares, 0.0) / max(state.n, 1))
    mean_error = np.where(squares > 0, 2 * UNIT * (np.abs(mean) + 16 * spread), 0.0)
    # Float32 sums about a shift that is not the mean are larger than the scatter by `offset`.
    return Held(state, FOLDED * unit * (np.abs(squares) + state.offset), mean_error, trace, unit)


def copy(reduction: Moments, held: Held) -> Held:
    """Another state with the same content, which may be used up."""
    state = reduction.finish(reduction.combine(reduction.start(), held.state))
    return replace(held, state=state, error=held.error.copy(), mean_error=held.mean_error.copy())


def merge(reduction: Moments, held: Held, more: Held) -> Held:
    """The rows of both; updates `held`'s scatter, leaves `more` as it is."""
    if more.state.n == 0:
        return held
    if held.state.n == 0:
        return copy(reduction, more)
    b = reduction.backend
    n, m, before = held.state.n, more.state.n, b.to_host(held.state.mean)
    delta = b.to_host(more.state.mean) - before
    drift = _drift(delta, held.mean_error + more.mean_error, n * m / (n + m))
    state = reduction.finish(reduction.combine(held.state, more.state))
    squares = b.diagonal(state.scatter)
    mean_error = (n * held.mean_error + m * more.mean_error) / (n + m) + _rounded(b.to_host(state.mean), delta)
    return Held(
        state,
        _in_squares(held.error, more.error, FACTOR * UNIT * np.abs(squares) + drift),
        mean_error,
        max(held.largest, more.largest, float(squares.sum())),
        max(held.unit, more.unit),
    )


def subtract(reduction: Moments, held: Held, less: Held) -> Held:
    """The rows of `held` without those of `less`; updates `held`'s scatter, leaves `less` as it is.

    Raises
    ------
    EigenzooError
        If no row would be left, or the rows cannot have been among those held; nothing is changed then. That others
        than were put in are taken out shows only where a column's variance would become negative.
    """
    if less.state.n == 0:
        return held
    b = reduction.backend
    total, gone = held.state.n, less.state.n
    left = total - gone
    if left <= 0:
        what = "no row would be left" if left == 0 else f"only {total} are held"
        raise EigenzooError(f"subtract: {gone} rows to be taken out, but {what}; begin anew with the rows wanted")
    delta = b.to_host(less.state.mean) - b.to_host(held.state.mean)
    weight = total * gone / left
    was = b.diagonal(held.state.scatter)
    squares = was - b.diagonal(less.state.scatter) - weight * delta**2
    error = _in_squares(
        held.error,
        less.error,
        FACTOR * UNIT * np.abs(was) + _drift(delta, held.mean_error + less.mean_error, weight),
    )
    if (below := squares < -_NEGATIVE * error).any():
        raise EigenzooError(
            f"subtract: {np.count_nonzero(below)} columns would be left with a negative variance; these rows are not "
            "among those held: take out what was put in"
        )
    for i in range(0, reduction.width, _SLAB):
        b.add(held.state.scatter[i:, i : i + _SLAB], less.state.scatter[i:, i : i + _SLAB] * -1.0)
    device_delta = less.state.mean - held.state.mean
    b.add_outer(held.state.scatter, device_delta, -weight)
    state = held.state
    state.mean = state.mean - device_delta * (gone / left)
    state.n = left
    state.offset = state.offset + less.state.offset
    state.coarse = min(left, state.coarse)
    mean = b.to_host(state.mean)
    squares = b.diagonal(state.scatter)
    # Σ‖x‖² of what is left follows from its moments, with no cancellation.
    state.sumsq = max(float(squares.sum()), 0.0) + left * float(mean @ mean)
    mean_error = held.mean_error + (held.mean_error + less.mean_error) * (gone / left) + _rounded(mean, delta)
    return Held(state, error, mean_error, held.largest, max(held.unit, less.unit))


def finish(fit: Fit[Any], held: Held) -> Subspace | Again[Subspace]:
    """The fit's result of a held state, which is used up; as of a fresh one, with its own floor where rows left it."""
    growth, bound = held.growth(fit.solver.backend), float(held.error.sum())
    if growth == 1.0:
        return fit.finish(held.state)
    solver: Any = _Reduced(**_fields(fit.solver), growth=growth, bound=bound)
    result = replace(fit, solver=solver).finish(held.state)
    if not isinstance(result, Again):
        return result
    further: Any = result.reduction
    if isinstance(further.solver, _Reduced):  # of a pass over all rows, which have lost nothing
        further = replace(further, solver=MomentsSolver(**_fields(further.solver)))
    return Again(further)


@dataclass(frozen=True, slots=True)
class _Reduced(MomentsSolver):
    """Solves a scatter that was `growth` times larger, and off by up to `bound`: what that drowned is 0, as always."""

    growth: float = 1.0
    bound: float = 0.0

    def solve(self, state: MomentsState, *, centred: bool) -> Solution:
        solution = MomentsSolver.solve(self, state, centred=centred)
        spectrum = solution.spectrum
        floor = spectrum.floor * math.sqrt(self.growth)
        sigma = spectrum.singular_values.copy()
        sigma[sigma <= floor] = 0.0
        error = max(spectrum.eigenvalue_error * self.growth, self.bound)
        return replace(solution, spectrum=replace(spectrum, singular_values=sigma, floor=floor, eigenvalue_error=error))


def _fields(solver: Any) -> dict[str, Any]:
    return {field.name: getattr(solver, field.name) for field in fields(MomentsSolver)}


def _drift(delta: NDArray[np.float64], mean_error: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
    """How far weight · δ² is off for an error of δ."""
    error = mean_error + UNIT * np.abs(delta)
    return np.asarray(weight * (2 * np.abs(delta) * error + error**2))


def _rounded(mean: NDArray[np.float64], delta: NDArray[np.float64]) -> NDArray[np.float64]:
    """What moving the mean by a share of δ rounds: nothing where it stays."""
    return np.where(delta != 0, 2 * UNIT * (np.abs(mean) + np.abs(delta)), 0.0)


def _in_squares(*shares: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(sum(share**2 for share in shares)))

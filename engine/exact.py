"""From rows to a `Subspace` in one reduction, so that only the small result leaves the worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from engine.rank.choice import RankChoice, RankRule
from engine.rank.explained_variance import ExplainedVariance
from engine.rank.gavish_donoho import GavishDonoho
from engine.reductions.dual import Dual, GatheredRows
from engine.reductions.moments import Moments, MomentsState
from engine.spectrum import Solution, Spectrum, solve_dual, solve_moments
from engine.subspace import Subspace

if TYPE_CHECKING:
    from numpy.typing import NDArray

S = TypeVar("S")

# Always computed beside the rule that was asked for, so that results can be read side by side.
COMPANIONS: tuple[RankRule, ...] = (GavishDonoho(), ExplainedVariance(0.8))


class _Solver(Protocol[S]):
    """A state's own half of the work: fold, combine, solve."""

    def start(self) -> S: ...

    def step(self, state: S, block: NDArray[Any], /) -> S: ...

    def combine(self, left: S, right: S) -> S: ...

    def solve(self, state: S, *, centred: bool) -> Solution: ...


@dataclass(frozen=True, slots=True)
class MomentsSolver(Moments):
    """Rows ≥ width: the scatter's eigenproblem."""

    def solve(self, state: MomentsState, *, centred: bool) -> Solution:
        return solve_moments(self, self.finish(state), centred=centred)


@dataclass(frozen=True, slots=True)
class DualSolver(Dual):
    """Rows < width: the eigenproblem of the rows' Gram."""

    def solve(self, state: GatheredRows, *, centred: bool) -> Solution:
        return solve_dual(self, self.finish(state), centred=centred)


@dataclass(frozen=True, slots=True)
class ExactFit(Generic[S]):
    """A `Reduction` from rows to `Subspace`: moments or dual, spectrum, rule for K, components.

    Attributes
    ----------
    solver : `MomentsSolver` or `DualSolver`.
    rule : the rule that sets K.
    center : "feature" or "none".
    n_adapters, source, settings : handed on to the result.
    """

    solver: _Solver[S]
    rule: RankRule
    center: str
    n_adapters: int
    source: str
    settings: Mapping[str, Any]

    def start(self) -> S:
        return self.solver.start()

    def step(self, state: S, block: NDArray[Any], /) -> S:
        return self.solver.step(state, block)

    def combine(self, left: S, right: S) -> S:
        return self.solver.combine(left, right)

    def finish(self, state: S) -> Subspace:
        solution = self.solver.solve(state, centred=self.center == "feature")
        spectrum = solution.spectrum
        choices = choose_ranks(spectrum, self.rule)
        chosen = choices[self.rule.name]
        return Subspace(
            mean=solution.mean,
            components=solution.components(chosen.k or 0),
            singular_values=spectrum.singular_values,
            total_variance=spectrum.total_variance,
            n_rows=spectrum.n_rows,
            n_adapters=self.n_adapters,
            center=self.center,
            k_choice=chosen,
            choices=choices,
            method=spectrum.method,
            exact=True,
            floor=spectrum.floor,
            n_zero_variance_columns=spectrum.n_zero_variance_columns,
            passes=1,
            source=self.source,
            settings=self.settings,
        )


def choose_ranks(spectrum: Spectrum, rule: RankRule) -> dict[str, RankChoice]:
    """What `rule` and its companions say, by name."""
    return {each.name: each(spectrum) for each in (*COMPANIONS, rule)}

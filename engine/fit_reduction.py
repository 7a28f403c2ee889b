"""From rows to a `Subspace` in one reduction, so that only the small result leaves the worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from engine.rank.choice import RankChoice, RankRule
from engine.rank.explained_variance import ExplainedVariance
from engine.rank.fixed import Fixed
from engine.rank.gavish_donoho import GavishDonoho
from engine.reductions.protocol import Again
from engine.solvers.refined import Refinement, finer, wants_refining
from engine.subspace import Subspace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.backends.protocol import Backend
    from engine.methods import Solver
    from engine.spectrum import Solution, Spectrum

S = TypeVar("S")

# Always computed beside the rule that was asked for, so that results can be read side by side.
COMPANIONS: tuple[RankRule, ...] = (GavishDonoho(), ExplainedVariance(0.8))


@dataclass(frozen=True, slots=True)
class Fit(Generic[S]):
    """A `Reduction` from rows to `Subspace`: a solver's passes, spectrum, rule for K, components.

    Attributes
    ----------
    solver : of a method in `engine.methods.METHODS`.
    rule : the rule that sets K.
    center : "feature" or "none".
    n_adapters, source, settings : handed on to the result.
    refine : one more pass for small singular values: True, False, or None where one that is wanted calls for it.
    """

    solver: Solver[S]
    rule: RankRule
    center: str
    n_adapters: int
    source: str
    settings: Mapping[str, Any]
    refine: bool | None = False

    @property
    def backend(self) -> Backend:
        """Who computes."""
        return self.solver.backend

    def start(self) -> S:
        return self.solver.start()

    def step(self, state: S, block: NDArray[Any], /) -> S:
        return self.solver.step(state, block)

    def combine(self, left: S, right: S) -> S:
        return self.solver.combine(left, right)

    def finish(self, state: S) -> Subspace | Again[Subspace]:
        outcome = self.solver.solve(state, centred=self.center == "feature")
        if isinstance(outcome, Again):
            solver: Any = outcome.reduction
            return Again(replace(self, solver=solver))
        if self._calls_for_another(outcome.spectrum):
            next_solver: Any = finer(self.solver, outcome, centred=self.center == "feature")
            return Again(replace(self, solver=next_solver))
        return self.result(outcome)

    def _calls_for_another(self, spectrum: Spectrum) -> bool:
        """Whether one more pass should renew what rounding took."""
        last: Any = self.solver
        if self.refine is False or spectrum.method != "moments" or isinstance(last, Refinement):
            return False
        # A number that is given may lie beyond what the first pass can tell from zero.
        k = self.rule.k if isinstance(self.rule, Fixed) else self.rule(spectrum).k or 0
        if not 0 < k <= min(*spectrum.effective_shape, len(spectrum.singular_values)):
            return False
        return self.refine is True or wants_refining(spectrum, k)

    def result(self, solution: Solution) -> Subspace:
        """K by the rule, and the result."""
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
            exact=solution.exact,
            floor=spectrum.floor,
            n_zero_variance_columns=spectrum.n_zero_variance_columns,
            passes=solution.passes,
            source=self.source,
            settings=self.settings,
            spectrum=spectrum.kind,
            eigenvalue_error=spectrum.eigenvalue_error,
            sigma_error=solution.sigma_error,
            noise=spectrum.noise,
            noise_from=spectrum.noise_from,
            products=solution.products,
            note=solution.note,
            following=spectrum.following,
        )


def choose_ranks(spectrum: Spectrum, rule: RankRule) -> dict[str, RankChoice]:
    """What `rule` and its companions say, by name."""
    return {each.name: each(spectrum) for each in (*COMPANIONS, rule)}

"""The exact solvers: a reduction's state and its eigenproblem."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from engine.reductions.dual import Dual, GatheredRows
from engine.reductions.moments import Moments, MomentsState
from engine.spectrum import Solution, solve_dual, solve_moments

if TYPE_CHECKING:
    from engine.rank.choice import RankRule


@dataclass(frozen=True, slots=True)
class MomentsSolver(Moments):
    """Rows ≥ width: the scatter's eigenproblem.

    Attributes
    ----------
    kind : "full" or "top".
    wanted : how many components will be wanted, where that is known.
    passes : made before this one.
    rule : who will judge the values of "top"; None where a number is wanted.
    """

    kind: str = "full"
    wanted: int | None = None
    passes: int = 0
    rule: RankRule | None = None

    def solve(self, state: MomentsState, *, centred: bool) -> Solution:
        state = self.finish(state)
        solution = solve_moments(self, state, centred=centred, kind=self.kind, wanted=self.wanted, rule=self.rule)
        return replace(solution, passes=self.passes + 1)


@dataclass(frozen=True, slots=True)
class DualSolver(Dual):
    """Rows < width: the eigenproblem of the rows' Gram."""

    def solve(self, state: GatheredRows, *, centred: bool) -> Solution:
        return solve_dual(self, self.finish(state), centred=centred)

"""The exact solvers: a reduction's state and its eigenproblem."""

from __future__ import annotations

from dataclasses import dataclass

from engine.reductions.dual import Dual, GatheredRows
from engine.reductions.moments import Moments, MomentsState
from engine.spectrum import Solution, solve_dual, solve_moments


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

"""The solve step of merge-and-truncate: the SVD of the rows kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.reductions.centring import check_finite
from engine.reductions.incremental import KeptRows, MergeTruncate
from engine.solvers.measured import Directions, Measured
from engine.spectrum import NULL_RATIO, Solution

if TYPE_CHECKING:
    from engine.backends.protocol import Backend

KNOWN = 64  # singular values told where a rule decides K
RANKS = 4  # rows kept, in units of those told
_ROUNDING = 64 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class MergeTruncateSolver(MergeTruncate):
    """`MergeTruncate` with its solve step; `known` is how many singular values to tell, of the max_rank there are."""

    known: int

    def solve(self, state: KeptRows, *, centred: bool) -> Solution:
        """O(max_rank² · width) time. The state stays as it is.

        Exact, with the whole spectrum, when nothing was dropped; else approximate, with the bound of
        `engine.reductions.incremental` as `eigenvalue_error` and what follows from it as `sigma_error`.
        """
        b = self.backend
        mean, rows = b.to_host(state.centre.mean), b.to_host(state.rows)
        measured = Measured(state.centre.n, mean, b.to_host(state.squares), centred)
        check_finite(measured.energy)
        if not centred:
            rows = np.concatenate([rows, mean[None] * np.sqrt(state.centre.n)])
        _, sigma, directions = np.linalg.svd(rows, full_matrices=False)
        rounding = _ROUNDING * (1 + state.truncations) * float(sigma[0]) ** 2
        components = Directions(directions)
        if not state.truncations:
            floor = NULL_RATIO * float(sigma[0])
            return Solution(measured.full(sigma, floor, "incremental", rounding), mean, components)
        bound = min(state.dropped, max(measured.energy - float((sigma**2).sum()), 0.0)) + rounding
        spectrum = measured.top(sigma, self.known, "incremental", bound)
        told = spectrum.singular_values
        smallest = float(told[told > 0].min(initial=sigma[0]))
        return Solution(
            spectrum,
            mean,
            components,
            exact=False,
            sigma_error=bound / (np.sqrt(smallest**2 + bound) + smallest) if bound else 0.0,
            note=f"merged and truncated to {self.max_rank} rows {state.truncations} times; no value is too large",
        )


def begin(width: int, backend: Backend, components: int | None, max_rank: int | None = None) -> MergeTruncateSolver:
    """The solver.

    Parameters
    ----------
    width : of the rows.
    components : how many are wanted; None where a rule decides, which may then choose up to `KNOWN`.
    max_rank : rows kept at most; by default `RANKS` times the components.
    """
    known, kept = begin_rank(width, components, max_rank)
    return MergeTruncateSolver(width, backend, kept, known)


def begin_rank(width: int, components: int | None, max_rank: int | None = None) -> tuple[int, int]:
    """Singular values told, and rows kept."""
    known = max(1, min(KNOWN if components is None else components, width))
    kept = RANKS * known if max_rank is None else max(max_rank, known)
    return known, min(kept, width)

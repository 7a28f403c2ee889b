r"""How many components of each matrix a byte budget buys, so that ΔW is hurt least.

With P and Q the projections on the subspaces kept of an adapter's in and out spaces,

.. math::
    \|\Delta W - P \Delta W Q\|_F^2 \le \|\Delta W - P \Delta W\|_F^2 + \|\Delta W - \Delta W Q\|_F^2,

and summed over adapters the terms are tails of the two ΔW spectra of a module, :math:`\sum_{i>K} \sigma_i^2`. The sum
of all tails is what an allocation makes least: a bound on the squared error of all ΔW that adds up over modules and
sides. It is the raw factors' error for nobody: their norms are the gauge's and the random start's.

A component of a side costs, on disk, its own row of `width` numbers and one coefficient for every row of the matrix
(adapters keep K_out × r and r × K_in), hence ``itemsize · (width + Σ ranks)`` bytes.

Pure numbers; `engine.analysis.budget` takes them from a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.rank.knapsack import Knapsack
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WITHIN = 1e-12  # of a target: sums of squares round


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """What the components of one matrix are worth, and what one costs.

    Attributes
    ----------
    energies : (n,) float64, squared singular values, in falling order; those of 0 are never kept.
    unit : bytes of one component.
    beyond : squared singular values that are not listed, summed: of a truncated spectrum, from the exact trace.

    Raises
    ------
    EigenzooError
        For a unit below 1, or energies that rise, or are negative or not finite.
    """

    energies: NDArray[np.float64]
    unit: int
    beyond: float = 0.0

    def __post_init__(self) -> None:
        e = self.energies
        if self.unit < 1 or self.beyond < 0 or not np.isfinite(e).all() or (e < 0).any() or (np.diff(e) > 0).any():
            raise EigenzooError(
                f"curve: a unit of {self.unit} bytes and {len(e)} energies; give at least 1 byte, and energies that "
                "fall and are not negative"
            )

    @property
    def useful(self) -> int:
        """Components that carry anything."""
        return int(np.count_nonzero(self.energies))

    def tail(self, k: int) -> float:
        """Energy that is left out where k components are kept."""
        return float(self.energies[k:][::-1].sum()) + self.beyond


@dataclass(frozen=True, slots=True)
class Allocation:
    """How many components each matrix keeps.

    Attributes
    ----------
    k : one per curve, in their order.
    nbytes : what they take.
    tail : energy left out, of all curves together.
    gap : how much smaller the tail of another allocation might be; 0.0 where none is (or none takes fewer bytes, where
        an error was given), which is proven. Infinite where nothing is known, as of greedy and uniform allocations.
    """

    k: tuple[int, ...]
    nbytes: int
    tail: float
    gap: float = math.inf


def allocate(curves: Sequence[Curve], nbytes: int) -> Allocation:
    """The allocation of the least tail within so many bytes; exact.

    Parameters
    ----------
    curves : sequence of Curve
    nbytes : int

    Returns
    -------
    Allocation
        With `gap` 0.0; should the search have needed more than a million states, the best found and what it may lack.
        Tails that differ by less than the rounding of their own sums count as equal.

    Notes
    -----
    See `engine.rank.knapsack`. O(n log n) for n singular values in all, and the search: seconds for 400 matrices.
    """
    problem = _Problem(curves)
    counts, gap = problem.knapsack.best(_checked(nbytes))
    return problem.allocation(counts, gap)


def allocate_error(curves: Sequence[Curve], tail: float) -> Allocation:
    """The allocation of the fewest bytes that leaves out no more than `tail`; exact, as `allocate` is.

    Raises
    ------
    EigenzooError
        If what truncated spectra do not list is more than that.
    """
    problem = _Problem(curves)
    counts, gap = problem.knapsack.least(_reachable(curves, tail))
    return problem.allocation(counts, gap)


def greedy(curves: Sequence[Curve], nbytes: int) -> Allocation:
    """Component after component by energy per byte, as long as one fits."""
    problem = _Problem(curves)
    return problem.allocation(problem.knapsack.greedy(_checked(nbytes)))


def greedy_error(curves: Sequence[Curve], tail: float) -> Allocation:
    """Component after component by energy per byte, until no more than `tail` is left out; errors as above."""
    problem = _Problem(curves)
    return problem.allocation(problem.knapsack.greedy_least(_reachable(curves, tail)))


def uniform(curves: Sequence[Curve], nbytes: int) -> Allocation:
    """The largest K that all matrices can have at once (as far as their rank goes) within so many bytes."""
    _checked(nbytes)
    k = _last(_most(curves), lambda k: _bytes(curves, k) <= nbytes)
    return _uniform(curves, k)


def uniform_error(curves: Sequence[Curve], tail: float) -> Allocation:
    """The smallest K for all matrices that leaves out no more than `tail`; errors as for `allocate_error`."""
    wanted = _reachable(curves, tail) + math.fsum(c.beyond for c in curves)
    short = _last(_most(curves), lambda k: k == 0 or math.fsum(c.tail(k - 1) for c in curves) > wanted)
    return _uniform(curves, short)


class _Problem:
    """Curves of equal units as one class of components."""

    def __init__(self, curves: Sequence[Curve]) -> None:
        self.curves = curves
        self._owners: list[NDArray[np.int64]] = []
        gains: list[NDArray[np.float64]] = []
        units = sorted({c.unit for c in curves if c.useful})
        for unit in units:
            mine = [i for i, c in enumerate(curves) if c.unit == unit and c.useful]
            energies = np.concatenate([curves[i].energies[: curves[i].useful] for i in mine])
            owners = np.repeat(np.array(mine, dtype=np.int64), [curves[i].useful for i in mine])
            order = np.argsort(-energies, kind="stable")  # stable: of equal ones a matrix's earlier comes first
            gains.append(energies[order])
            self._owners.append(owners[order])
        self.knapsack = Knapsack(units, gains)

    def allocation(self, counts: NDArray[np.int64], gap: float = math.inf) -> Allocation:
        k = np.zeros(len(self.curves), np.int64)
        for owners, n in zip(self._owners, counts.tolist(), strict=True):
            k += np.bincount(owners[:n], minlength=len(k))
        return _allocation(self.curves, k.tolist(), gap)


def _allocation(curves: Sequence[Curve], k: Sequence[int], gap: float = math.inf) -> Allocation:
    nbytes = sum(c.unit * n for c, n in zip(curves, k, strict=True))
    return Allocation(tuple(k), nbytes, math.fsum(c.tail(n) for c, n in zip(curves, k, strict=True)), gap)


def _uniform(curves: Sequence[Curve], k: int) -> Allocation:
    return _allocation(curves, [min(k, c.useful) for c in curves])


def _bytes(curves: Sequence[Curve], k: int) -> int:
    return sum(c.unit * min(k, c.useful) for c in curves)


def _most(curves: Sequence[Curve]) -> int:
    return max((c.useful for c in curves), default=0)


def _last(most: int, holds: Callable[[int], bool]) -> int:
    """The largest of 0 … most for which something holds that holds for all smaller ones, and for 0."""
    below, above = 0, most + 1
    while above - below > 1:
        middle = (below + above) // 2
        if holds(middle):
            below = middle
        else:
            above = middle
    return below


def _checked(nbytes: int) -> int:
    if nbytes < 0:
        raise EigenzooError(f"budget: got {nbytes} bytes; give 0 or more")
    return nbytes


def _reachable(curves: Sequence[Curve], tail: float) -> float:
    """What may be left out of the energies that are listed."""
    beyond = math.fsum(c.beyond for c in curves)
    if not tail >= 0 or beyond > tail * (1 + _WITHIN):
        raise EigenzooError(
            f"budget: no more than {tail:.4g} may be left out, but {beyond:.4g} lies beyond the singular values known; "
            "fit the whole spectrum, or allow more"
        )
    return max(tail - beyond, 0.0) + _WITHIN * tail

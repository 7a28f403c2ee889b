r"""The knapsack of components, exactly: greedy, the bound of its linear relaxation, and a search of the little between.

Every component of a matrix costs the same and gains no more than the one before it, so a solution that takes a
component has no reason to leave out an earlier one: precedence needs no constraint, and components of equal cost are
one class, whichever matrix they are of, of which a solution takes the first n. What is left is a knapsack over few
classes.

Let p be the gain per byte of the first component that greedy cannot take, the dual price of the relaxation. Whatever
is moved from the greedy's break point costs its reduced gain, :math:`|g - p\,c| \ge 0`, and an unused byte costs p.
The optimum is the solution with the least sum of both, its *loss*; the best one known bounds it, which fixes all
components whose reduced gain is larger. The rest is searched class by class over the states (bytes, loss) that no
other state dominates (cf. Pisinger, "A minimal algorithm for the 0-1 knapsack problem", Operations Research 45, 1997),
first with few states kept, which finds a near-optimal loss and so a smaller core, then with more, until none had to be
left out: then the answer is proven.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BEAM, _MORE, _MOST = 256, 16, 2**20  # states kept at first, by which factor more, and at most
_PAIRS = 2**23  # of a state and a move, looked at in one step
_ROUNDING = 2.0**-50  # share of the gain that is not had: its sum is not known to more


class Found(NamedTuple):
    """How many components of each class, and how much more gain another choice might have: 0 where that is proven."""

    counts: NDArray[np.int64]
    gap: float


@dataclass(frozen=True, slots=True, eq=False)
class _Options:
    """What may be done with one class: by how many components, at what weight and loss; by rising loss."""

    cls: int
    moved: NDArray[np.int64]
    weight: NDArray[np.int64]
    loss: NDArray[np.float64]


class Knapsack:
    """Classes of components, each class with its cost and its gains in falling order.

    Parameters
    ----------
    costs : positive integers, one per class.
    gains : (n,) positive float64 in falling order, one array per class.

    Notes
    -----
    O(n log n) to set up. A solution then takes what its core takes, which is small where gains near the break point
    are dense, however many components there are.
    """

    def __init__(self, costs: Sequence[int], gains: Sequence[NDArray[np.float64]]) -> None:
        self.unit = math.gcd(*costs) or 1
        self._gains = list(gains)
        self._weights = np.array([c // self.unit for c in costs], dtype=np.int64)
        self._sizes = np.array([len(g) for g in gains], dtype=np.int64)
        cls = np.repeat(np.arange(len(costs)), self._sizes)
        every = np.concatenate([np.empty(0), *gains])
        price = every / self._weights[cls]
        order = np.argsort(-price, kind="stable")  # stable: a class's own order stays
        self._price, self._cls = price[order], cls[order]
        self._cumulative = np.cumsum(self._weights[self._cls])
        self._left = np.append(np.cumsum(every[order][::-1])[::-1], 0.0)  # gain not had after the first b components

    @property
    def total(self) -> int:
        """Cost of everything."""
        return int(self._cumulative[-1]) * self.unit if len(self._cumulative) else 0

    def cost(self, counts: NDArray[np.int64]) -> int:
        """Cost of the first so many components of each class."""
        return int(counts @ self._weights) * self.unit

    def greedy(self, capacity: int) -> NDArray[np.int64]:
        """By falling gain per cost, whatever still fits."""
        counts, slack, _ = self._break(capacity // self.unit)
        return self._filled(counts, slack)

    def best(self, capacity: int) -> Found:
        """The most gain within a cost."""
        room = capacity // self.unit
        counts, slack, price = self._break(room)
        if price == 0.0:
            return Found(counts, 0.0)
        found = self._filled(counts, slack)
        loss = self._loss(counts, found, price) + price * (slack - int((found - counts) @ self._weights))
        beam, known = _BEAM, _ROUNDING * self._missed(counts)
        while loss > known:
            moved, better, whole = self._search(counts, slack, price, loss, beam)
            if moved is not None:
                found, loss = counts + moved, better
            if whole:
                return Found(found, 0.0)
            if beam >= _MOST:
                return Found(found, loss)
            beam *= _MORE
        return Found(found, 0.0)

    def greedy_least(self, left: float) -> NDArray[np.int64]:
        """By falling gain per cost, until no more than `left` of the gain is not had."""
        return self._first(self._needed(left))

    def least(self, left: float) -> Found:
        """The least cost at which no more than `left` of the gain is not had."""
        b = self._needed(left)
        # With all but the last of these even the relaxation falls short.
        below, found = int(self._cumulative[b - 2]) if b > 1 else 0, Found(self._first(b), 0.0)
        above = int(self._cumulative[b - 1]) if b else 0
        gap = 0.0
        while above - below > 1:
            middle = (below + above) // 2
            counts, proven = self._reaching(middle, left)
            if counts is not None:
                found = Found(counts, 0.0)
                above = int(counts @ self._weights)
            else:
                below = middle
                gap = gap if proven else math.inf
        return Found(found.counts, gap)

    def _reaching(self, room: int, left: float) -> tuple[NDArray[np.int64] | None, bool]:
        """A choice within that weight that leaves no more than `left`, if there is one; whether that is proven."""
        counts, slack, price = self._break(room)
        allowed = left - self._missed(counts) + price * slack  # of loss, beyond what the relaxation leaves
        if allowed < 0:
            return None, True
        found = self._filled(counts, slack)
        if self._missed(found) <= left:
            return found, True
        beam = _BEAM
        while True:
            moved, _, whole = self._search(counts, slack, price, math.nextafter(allowed, math.inf), beam)
            if moved is not None:
                return counts + moved, True
            if whole or beam >= _MOST:
                return None, whole
            beam *= _MORE

    def _missed(self, counts: NDArray[np.int64]) -> float:
        return math.fsum(float(g[n:][::-1].sum()) for g, n in zip(self._gains, counts.tolist(), strict=True))

    def _needed(self, left: float) -> int:
        """How many components greedy takes until no more than `left` is not had."""
        return int(np.searchsorted(-self._left, -left, side="left"))

    def _first(self, b: int) -> NDArray[np.int64]:
        return np.bincount(self._cls[:b], minlength=len(self._weights)).astype(np.int64)

    def _break(self, room: int) -> tuple[NDArray[np.int64], int, float]:
        """What greedy takes until something does not fit, the room left, and the price; 0 where everything fits."""
        b = int(np.searchsorted(self._cumulative, room, side="right"))
        slack = room - (int(self._cumulative[b - 1]) if b else 0)
        return self._first(b), slack, float(self._price[b]) if b < len(self._price) else 0.0

    def _filled(self, counts: NDArray[np.int64], slack: int) -> NDArray[np.int64]:
        counts = counts.copy()
        fitting = np.flatnonzero((self._weights <= slack) & (counts < self._sizes))
        while len(fitting):
            worth = [self._gains[c][counts[c]] / self._weights[c] for c in fitting]
            best = int(fitting[int(np.argmax(worth))])
            counts[best] += 1
            slack -= int(self._weights[best])
            fitting = fitting[(self._weights[fitting] <= slack) & (counts[fitting] < self._sizes[fitting])]
        return counts

    def _loss(self, base: NDArray[np.int64], counts: NDArray[np.int64], price: float) -> float:
        """What moving from one choice to the other costs in reduced gain."""
        total = 0.0
        for c, (n, m) in enumerate(zip(base.tolist(), counts.tolist(), strict=True)):
            reduced = self._gains[c][min(n, m) : max(n, m)] - price * float(self._weights[c])
            total += float(np.abs(reduced).sum())
        return total

    def _options(self, counts: NDArray[np.int64], price: float, most: float) -> list[_Options]:
        """For every class, the moves that cost less than `most`."""
        out = []
        for c, n in enumerate(counts.tolist()):
            gains, weight = self._gains[c], int(self._weights[c])
            worth = price * weight
            # Only components of a reduced gain below `most` can move; gains fall.
            lo = int(np.searchsorted(-gains, -(worth + most), side="left"))
            hi = int(np.searchsorted(-gains, -(worth - most), side="right"))
            more = np.cumsum(np.maximum(worth - gains[n : max(hi, n)], 0.0))
            less = np.cumsum(np.maximum(gains[min(lo, n) : n][::-1] - worth, 0.0))
            more, less = more[more < most], less[less < most]
            moved = np.concatenate([[0], np.arange(1, len(more) + 1), -np.arange(1, len(less) + 1)]).astype(np.int64)
            if len(moved) > 1:
                loss = np.concatenate([[0.0], more, less])
                order = np.argsort(loss, kind="stable")
                out.append(_Options(c, moved[order], moved[order] * weight, loss[order]))
        return sorted(out, key=lambda o: len(o.moved))

    def _search(
        self, counts: NDArray[np.int64], slack: int, price: float, most: float, beam: int
    ) -> tuple[NDArray[np.int64] | None, float, bool]:
        """The moves of the least loss below `most`, if any; their loss; whether no state was left out."""
        options = self._options(counts, price, most)
        # What the classes still to come can give back or take, in weight.
        gives = np.cumsum([0, *(int(o.weight.min()) for o in reversed(options))])[::-1]
        takes = np.cumsum([0, *(int(o.weight.max()) for o in reversed(options))])[::-1]
        weight, loss, whole = np.zeros(1, np.int64), np.zeros(1), True
        trail: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        for stage, o in enumerate(options, start=1):
            reach = np.searchsorted(loss, most - o.loss, side="left")  # states are by rising loss
            if int(reach.sum()) > _PAIRS:
                reach, whole = np.minimum(reach, max(1, _PAIRS // len(reach))), False
            parent = np.concatenate([np.arange(r) for r in reach])
            choice = np.repeat(np.arange(len(reach)), reach)
            weight, loss = weight[parent] + o.weight[choice], loss[parent] + o.loss[choice]
            bound = loss + price * np.maximum(slack - weight - takes[stage], 0)
            keep = np.flatnonzero((bound < most) & (weight + gives[stage] <= slack))
            keep = keep[_undominated(weight[keep], price * weight[keep] - loss[keep])]
            keep = keep[np.argsort(loss[keep], kind="stable")]
            whole &= len(keep) <= beam
            keep = keep[:beam]
            weight, loss = weight[keep], loss[keep]
            trail.append((parent[keep], choice[keep]))
        if not len(weight):
            return None, most, whole
        final = np.where(weight <= slack, loss + price * (slack - weight), np.inf)
        at = int(np.argmin(final))
        if not final[at] < most:
            return None, most, whole
        moved, least = np.zeros(len(counts), np.int64), float(final[at])
        for o, (parents, choices) in zip(reversed(options), reversed(trail), strict=True):
            moved[o.cls] = o.moved[choices[at]]
            at = int(parents[at])
        return moved, least, whole


def _undominated(weight: NDArray[np.int64], value: NDArray[np.float64]) -> NDArray[np.int64]:
    """Places of the states that no other has at least the value of at no more weight; of equal ones the first."""
    order = np.lexsort((-value, weight))
    best = np.maximum.accumulate(value[order])
    first = np.ones(len(order), bool)
    first[1:] = value[order][1:] > best[:-1]
    return np.asarray(order[first], dtype=np.int64)

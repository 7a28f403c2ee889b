"""A reduction of two passes, for runners: means first, then squares about them; the second carries `ballast`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.reductions.protocol import Again


@dataclass(slots=True)
class Sums:
    n: int
    total: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Means:
    """First pass. `marks`: a folder in which every end of the pass leaves its process' id."""

    width: int
    ballast: int = 0
    marks: Path | None = None

    def start(self) -> Sums:
        return Sums(0, np.zeros(self.width))

    def step(self, state: Sums, block: NDArray[Any], /) -> Sums:
        return Sums(state.n + len(block), state.total + block.sum(axis=0))

    def combine(self, left: Sums, right: Sums) -> Sums:
        return Sums(left.n + right.n, left.total + right.total)

    def finish(self, state: Sums) -> Again[NDArray[np.float64]]:
        if self.marks is not None:
            (self.marks / f"ended-{os.getpid()}").touch()
        return Again(Squares(self.width, state.total / state.n, np.ones(self.ballast // 8)))


@dataclass(frozen=True, slots=True)
class Squares:
    """Second pass: Σ (x − mean)²."""

    width: int
    mean: NDArray[np.float64]
    ballast: NDArray[np.float64] = field(repr=False)

    def start(self) -> NDArray[np.float64]:
        return np.zeros(self.width)

    def step(self, state: NDArray[np.float64], block: NDArray[Any], /) -> NDArray[np.float64]:
        return state + ((block - self.mean) ** 2).sum(axis=0)

    def combine(self, left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
        return left + right

    def finish(self, state: NDArray[np.float64]) -> NDArray[np.float64]:
        return state

"""Rows that are few or short, gathered as they are: what a map left of larger ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Gather:
    """A `Reduction` from rows to the array of all rows, in their order; O(n_rows · width) bytes, twice at its end.

    Attributes
    ----------
    width, dtype : columns, and numpy's name of their type.
    """

    width: int
    dtype: str = "float32"

    def start(self) -> list[NDArray[Any]]:
        return []

    def step(self, state: list[NDArray[Any]], block: NDArray[Any], /) -> list[NDArray[Any]]:
        state.append(block)
        return state

    def combine(self, left: list[NDArray[Any]], right: list[NDArray[Any]]) -> list[NDArray[Any]]:
        left.extend(right)
        return left

    def finish(self, state: list[NDArray[Any]]) -> NDArray[Any]:
        return np.concatenate([np.empty((0, self.width), self.dtype), *state])

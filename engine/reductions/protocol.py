"""What an algorithm over a matrix of rows looks like to a runner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from numpy.typing import NDArray

S = TypeVar("S")
R_co = TypeVar("R_co", covariant=True)


class Reduction(Protocol[S, R_co]):
    """Fold blocks of rows into states, combine states in the order of the rows, finish the last one.

    Implementations are small and picklable; a state is picklable too.
    """

    def start(self) -> S:
        """An empty state, also the neutral element of `combine`. Loads whatever library `step` needs."""

    def step(self, state: S, block: NDArray[Any], /) -> S:
        """`state` with the block's rows appended. May update `state`; never changes or keeps `block`'s data
        beyond what the state says it holds."""

    def combine(self, left: S, right: S) -> S:
        """The state of left's rows followed by right's. May update `left`; leaves `right` unchanged."""

    def finish(self, state: S) -> R_co | Again[R_co]:
        """The result, or the reduction of one more pass over the same rows. May use up `state`."""


@dataclass(frozen=True, slots=True)
class Again(Generic[R_co]):
    """What `finish` returns when the rows have to be read once more: the reduction of the next pass."""

    reduction: Reduction[Any, R_co]

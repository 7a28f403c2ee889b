"""How a matrix is solved: one visible table of names, each with what it is and what it costs.

A method makes a `Solver`: the three verbs of a reduction, and `solve`, which turns the last state into a `Solution`
or into `Again`, the solver of one more pass over the same rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.backends.protocol import Backend
    from engine.reductions.protocol import Again
    from engine.rows import RowSource
    from engine.spectrum import Solution

S = TypeVar("S")
SPECTRA = ("full", "top")


class Solver(Protocol[S]):
    """A state's own half of the work: fold, combine, solve."""

    def start(self) -> S: ...

    def step(self, state: S, block: NDArray[Any], /) -> S: ...

    def combine(self, left: S, right: S) -> S: ...

    def solve(self, state: S, *, centred: bool) -> Solution | Again[Solution]:
        """The solution, or the solver (as the reduction of an `Again`) of the next pass."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of a method.

    Attributes
    ----------
    components : how many components will be wanted at most, where that is known before the spectrum is (a fixed K);
        None where a rule decides.
    spectrum : "full" or "top".
    refine : one more pass for small singular values: True, False, or None to do it where one that is wanted lies
        below the floor.
    products : "auto", or the least precise products allowed: "float64", "float32", "bfloat16".
    seed : of methods that draw random numbers.
    """

    components: int | None = None
    spectrum: str = "full"
    refine: bool | None = None
    products: str = "auto"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Method:
    """One entry of the table.

    Attributes
    ----------
    make : rows, backend, what is wanted → solver.
    exact : whether the result is the matrix's own up to rounding.
    what : a line for people.
    """

    make: Callable[[RowSource, Backend, Wanted], Solver[Any]]
    exact: bool
    what: str


def _moments(rows: RowSource, backend: Backend, wanted: Wanted) -> Solver[Any]:
    from engine.exact import MomentsSolver

    return MomentsSolver(rows.shape[1], backend)


def _dual(rows: RowSource, backend: Backend, wanted: Wanted) -> Solver[Any]:
    from engine.exact import DualSolver

    return DualSolver(rows.shape[1], backend)


METHODS: dict[str, Method] = {
    "moments": Method(_moments, True, "exact: one pass, eigenproblem of the scatter (width × width)"),
    "dual": Method(_dual, True, "exact: one pass, eigenproblem of the rows' Gram, for fewer rows than columns"),
}


def method_named(name: str) -> Method:
    """The entry of the table.

    Raises
    ------
    EigenzooError
        For a name that is not in it.
    """
    if name not in METHODS:
        raise EigenzooError(f"method: got {name!r}; choose auto, {', '.join(METHODS)}")
    return METHODS[name]

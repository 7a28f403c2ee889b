"""How a matrix is solved: one visible table of names, each with what it is and what it costs.

A method makes a `Solver`: the three verbs of a reduction, and `solve`, which turns the last state into a `Solution`
or into `Again`, the solver of one more pass over the same rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from engine.backends.protocol import PRODUCTS
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.backends.protocol import Backend
    from engine.rank.choice import RankRule
    from engine.reductions.protocol import Again
    from engine.rows import RowSource
    from engine.spectrum import Solution

S = TypeVar("S")
SPECTRA = ("full", "top")
COARSE_WIDTH = 512  # from here on 16-bit rows are multiplied with float32 results


class Solver(Protocol[S]):
    """A state's own half of the work: fold, combine, solve."""

    @property
    def backend(self) -> Backend: ...

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
    rule : who judges the values of spectrum "top"; None where `components` says what is wanted.
    """

    components: int | None = None
    spectrum: str = "full"
    refine: bool | None = None
    products: str = "auto"
    seed: int = 0
    rule: RankRule | None = None


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


def moments_products(dtype: str, width: int, backend: Backend, products: str = "auto") -> str:
    """What rows are multiplied in for a scatter: one of `PRODUCTS`.

    Raises
    ------
    EigenzooError
        For products that are unknown, or of 16 bits and not the rows' own.
    """
    if products == "auto":
        # Narrow matrices are quick in float64 anyway.
        return backend.products(dtype) if width >= COARSE_WIDTH else "float64"
    if products not in PRODUCTS or products in ("bfloat16", "float16") and products != dtype:
        raise EigenzooError(
            f"products: got {products!r} for rows of {dtype}; choose auto, float64, float32 or the rows' own"
        )
    if products == "float32" and dtype not in ("float16", "bfloat16", "float32"):
        raise EigenzooError(f"products: float32 would round rows of {dtype}; choose auto or float64")
    if products in ("bfloat16", "float16") and backend.products(dtype) != products:
        return "float32"  # there are no matrix units for them here
    return products


def _moments(rows: RowSource, backend: Backend, wanted: Wanted) -> Solver[Any]:
    from engine.exact import MomentsSolver

    products = moments_products(rows.dtype.name, rows.shape[1], backend, wanted.products)
    return MomentsSolver(rows.shape[1], backend, products, wanted.spectrum, wanted.components, rule=wanted.rule)


def _dual(rows: RowSource, backend: Backend, wanted: Wanted) -> Solver[Any]:
    from engine.exact import DualSolver

    return DualSolver(rows.shape[1], backend)


def _randomized(rows: RowSource, backend: Backend, wanted: Wanted) -> Solver[Any]:
    from engine.solvers import randomized

    return randomized.begin(*rows.shape, backend, wanted.components, wanted.seed)


def _incremental(rows: RowSource, backend: Backend, wanted: Wanted) -> Solver[Any]:
    from engine.solvers import incremental

    return incremental.begin(rows.shape[1], backend, wanted.components)


def _tsqr(rows: RowSource, backend: Backend, wanted: Wanted) -> Solver[Any]:
    from engine.solvers.tsqr import TsqrSolver

    return TsqrSolver(rows.shape[1], backend)


def _krylov(rows: RowSource, backend: Backend, wanted: Wanted) -> Solver[Any]:
    from engine.solvers.krylov import GatheredKrylov

    return GatheredKrylov(rows.shape[1], backend, wanted.components)


def check_settings(method: str, wanted: Wanted) -> None:
    """Refuse what a method that was asked for by name cannot do.

    Raises
    ------
    EigenzooError
        Naming the setting.
    """
    if method in ("auto", "moments"):
        return
    if wanted.refine:
        raise EigenzooError(f"refine: method {method!r} has no such pass; leave it out, or choose method 'moments'")
    if wanted.products != "auto":
        raise EigenzooError(f"products: method {method!r} has its own; leave it out, or choose method 'moments'")
    if wanted.spectrum == "top" and method_named(method).exact:
        raise EigenzooError(f"spectrum: method {method!r} gives all of it; leave 'top' out, or choose another method")


METHODS: dict[str, Method] = {
    "moments": Method(_moments, True, "exact: one pass, eigenproblem of the scatter (width × width)"),
    "dual": Method(_dual, True, "exact: one pass, eigenproblem of the rows' Gram, for fewer rows than columns"),
    "krylov": Method(_krylov, False, "the top, its error measured: one pass, block Lanczos on rows kept in memory"),
    "randomized": Method(_randomized, False, "approximate, error measured: block Krylov in 5 to 8 passes"),
    "incremental": Method(_incremental, False, "approximate, error bounded: one pass, merged and truncated"),
    "tsqr": Method(_tsqr, True, "exact to the last digit of float64: one pass of QR, the slow reference"),
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

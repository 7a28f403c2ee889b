"""Rows and settings → `Subspace`. (Not `fit.py`: a module `engine.fit` would hide the function.)"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

from engine import memory as _memory
from engine.backends import choose, get_backend
from engine.delta import check_center
from engine.fit_reduction import Fit
from engine.methods import SPECTRA, Wanted, method_named
from engine.plan.choice import choose_method, without_refinement
from engine.plan.matrix import matrix_of
from engine.rank import parse_rule
from engine.rank.fixed import Fixed
from engine.rows import as_rows
from engine.runners.protocol import describe
from engine.runners.serial import SerialRunner
from engine.subspace import CENTERS
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from engine.rank.choice import RankRule
    from engine.rows import RowSource
    from engine.runners.protocol import Runner
    from engine.subspace import Subspace


@dataclass(frozen=True, slots=True)
class FitPlan:
    """How one matrix will be solved, in plain numbers; nothing has been read.

    Attributes
    ----------
    method : name in `engine.methods.METHODS`.
    n_rows, width : the matrix.
    device : name of the backend.
    n_tasks : ranges of rows that are folded apart.
    task_bytes : peak memory of a task.
    refine : as `Wanted.refine`; False where there is no room for one more pass.
    why : the reason for the method, in one line.
    """

    method: str
    n_rows: int
    width: int
    device: str
    n_tasks: int
    task_bytes: int
    refine: bool | None = None
    why: str = ""

    @property
    def process_bytes(self) -> int:
        """Peak memory of a task, and what its process needs to hold the library of the backend."""
        return self.task_bytes + (_memory.TORCH_BYTES if self.device == "torch" else 0)


def fit(
    x: Any,
    k: str | int | RankRule = "gavish-donoho",
    *,
    center: str = "feature",
    device: str = "auto",
    method: str = "auto",
    spectrum: str = "full",
    refine: bool | None = None,
    products: str = "auto",
    seed: int = 0,
    runner: Runner | None = None,
    memory: int | None = None,
) -> Subspace:
    """Principal subspace of a matrix of rows; exact, in one pass, unless the memory allowed leaves no room for that.

    Parameters
    ----------
    x : (n_rows, width) numpy, zarr or dask array, torch tensor on the CPU, or a `RowSource`. Never changed.
    k : rule for the number of components: "gavish-donoho", "ev:0.8" (share of variance), a number, or a rule.
    center : "feature" subtracts the mean row, "none" nothing.
    device : "auto", "cpu", "torch", "cuda", "cuda:1", "cupy" or "cupy:1".
    method : "auto", or a name in `engine.methods.METHODS`. "auto" takes an exact one where its tasks fit `memory`,
        and says in `Subspace.method` and `Subspace.exact` what it took.
    spectrum : "full": all singular values; "top": only the largest, with the noise level from the exact trace;
        matrices narrower than 768 are solved whole all the same.
    refine : one more pass that gives components below the floor all their digits; by default where one is wanted.
    products : "auto", or "float64" to have 16-bit rows multiplied in float64 too.
    seed : of the methods that draw random numbers.
    runner : who executes; by default this process.
    memory : bytes a task may use; None for no limit.

    Returns
    -------
    Subspace

    Raises
    ------
    EigenzooError
        For arrays, settings or a K that cannot be had, for rows with NaN or Inf, and when a task would need
        more than `memory`.

    Notes
    -----
    Time O(n_rows · width · min(n_rows, width) + min(n_rows, width)³); memory is `FitPlan.task_bytes`.
    """
    given: Any = memory
    if given is not None and not isinstance(given, Integral):
        raise EigenzooError(f"memory: got {memory!r}; give bytes, such as 8 * 2**30")
    rows = as_rows(x)
    wanted = what_is_wanted(k, spectrum=spectrum, refine=refine, products=products, seed=seed)
    plan = plan_fit(rows, device=device, memory=memory, method=method, wanted=wanted)
    reduction = fit_reduction(
        rows,
        k,
        center=center,
        device=plan.device,
        method=plan.method,
        spectrum=spectrum,
        refine=plan.refine,
        products=products,
        seed=seed,
    )
    return (runner or SerialRunner()).run(reduction, rows)


def plan_fit(
    rows: RowSource,
    *,
    device: str = "auto",
    memory: int | None = None,
    name: str = "",
    method: str = "auto",
    wanted: Wanted | None = None,
) -> FitPlan:
    """Method, device, tasks and memory for one matrix.

    Raises
    ------
    EigenzooError
        When a task would need more than `memory` bytes by any method, or by the one asked for; the message begins
        with `name`.
    """
    wanted = wanted or Wanted()
    device = device if device == "auto" else choose(device)
    choice = choose_method(matrix_of(rows), wanted, method=method, device=device, memory=memory)
    chosen = choice.must(name or describe(rows))
    refine = without_refinement(wanted, chosen).refine
    return FitPlan(
        chosen.method, *rows.shape, chosen.device, chosen.work.n_ranges, chosen.task_bytes, refine, choice.why
    )


def what_is_wanted(
    k: str | int | RankRule,
    *,
    spectrum: str = "full",
    refine: bool | None = None,
    products: str = "auto",
    seed: int = 0,
) -> Wanted:
    """What is asked of a method. Parameters as for `fit`.

    Raises
    ------
    EigenzooError
        For an unknown rule or spectrum.
    """
    if spectrum not in SPECTRA:
        raise EigenzooError(f"spectrum: got {spectrum!r}; choose {' or '.join(SPECTRA)}")
    rule = parse_rule(k)
    fixed = rule.k if isinstance(rule, Fixed) else None
    return Wanted(fixed, spectrum, refine, products, seed, rule if fixed is None and spectrum == "top" else None)


def fit_reduction(
    rows: RowSource,
    k: str | int | RankRule,
    *,
    center: str = "feature",
    device: str = "auto",
    method: str = "auto",
    spectrum: str = "full",
    refine: bool | None = None,
    products: str = "auto",
    seed: int = 0,
) -> Fit[Any]:
    """The reduction that turns `rows` into a `Subspace`; for a runner to execute. Parameters as for `fit`."""
    if center not in CENTERS:
        raise EigenzooError(f"center: got {center!r}; choose {' or '.join(CENTERS)}")
    space = getattr(rows, "space", "factor")
    check_center(space, center)
    rule, wanted = parse_rule(k), what_is_wanted(k, spectrum=spectrum, refine=refine, products=products, seed=seed)
    if method == "auto" or device == "auto":
        plan = plan_fit(rows, device=device, method=method, wanted=wanted)
        method, device = plan.method, plan.device
    backend = get_backend(device)
    solver = method_named(method).make(rows, backend, wanted)
    settings = {
        "k": rule.name,
        "center": center,
        "device": backend.name,
        "method": method,
        "spectrum": spectrum,
        "space": space,
    }
    return Fit(solver, rule, center, len(rows.offsets) - 1, rows.identity, settings, refine)

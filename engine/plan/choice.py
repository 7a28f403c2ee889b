"""Which method solves a matrix, on which device, and why: every method's cost, held against the memory allowed.

The rule: of the exact methods that fit, the one that takes least time, where "dual", which is float64 throughout, may
take up to twice that of "moments"; where none fits, the first approximate one that does. Where a fixed K of a "top"
spectrum is all that is asked for, "krylov" goes before them for matrices that it suits (`GATHERED_BYTES`). That time is
by the documented rates, so that the choice is the same wherever it is made; the times told are by the rates given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from engine import memory as _memory
from engine.backends import choose
from engine.backends.matrix_units import cpu_has_amx
from engine.methods import METHODS, Wanted, check_settings, method_named, moments_products
from engine.plan.rates import Rates, default_rates
from engine.plan.work import Work, work_of
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.backends.protocol import Backend
    from engine.plan.matrix import Matrix

# tsqr is exact too, and never the cheapest: it is there to be asked for.
EXACT = ("moments", "dual")
APPROXIMATE = ("randomized", "incremental")
# Where only the top is asked for, wide 16-bit rows that take no more than this in float32 are kept in memory: at width
# 4096 that takes two fifths of the time of their scatter, and three quarters of it where AMX makes it.
GATHERED_BYTES, GATHERED_WIDTH = 512 * 2**20, 2048
DUAL_SHARE = 0.5
# From this width on, torch's eigenvalues alone save more than importing torch costs a process.
TORCH_WIDTH = 2048
# From this width, and this many operations of a matrix, its bfloat16 products through AMX do.
AMX_WIDTH, AMX_FLOPS = 1024, 2**36


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a method would take for one matrix.

    Attributes
    ----------
    method, device : names in `METHODS`, and of a backend.
    exact : whether the result is the matrix's own up to rounding.
    spectrum : what it gives, "full" or "top".
    refine : whether small singular values are renewed, as `Wanted.refine`; False where that would not fit.
    work : operations and bytes.
    task_bytes : peak memory of a task.
    fold_seconds, solve_seconds : of one task; on a CPU of one core. Folding includes reading.
    refusal : why it cannot be; "" where it can.
    """

    method: str
    device: str
    exact: bool
    spectrum: str
    refine: bool | None
    work: Work
    task_bytes: int
    fold_seconds: float
    solve_seconds: float
    refusal: str = ""

    @property
    def seconds(self) -> float:
        """Of the whole matrix in one task."""
        return self.fold_seconds + self.solve_seconds

    @property
    def passes(self) -> str:
        """Such as "one pass", "5 to 8 passes"."""
        least, most = self.work.passes, self.work.most_passes
        if most == 1:
            return "one pass"
        return f"{most} passes" if least == most else f"{least} to {most} passes"


@dataclass(frozen=True, slots=True)
class Choice:
    """The method for one matrix.

    Attributes
    ----------
    matrix : what is solved.
    chosen : the method taken; None where none fits.
    estimates : of every method, in the order of `METHODS`.
    why : the reason, in one line.
    """

    matrix: Matrix
    chosen: Estimate | None
    estimates: tuple[Estimate, ...]
    why: str

    def named(self, method: str) -> Estimate:
        """The estimate of a method."""
        return next(e for e in self.estimates if e.method == method)

    def must(self, what: str) -> Estimate:
        """What was chosen.

        Raises
        ------
        EigenzooError
            Where nothing was; the message begins with `what`.
        """
        if self.chosen is None:
            raise EigenzooError(f"{what}: {self.why}")
        return self.chosen


def choose_method(
    matrix: Matrix,
    wanted: Wanted,
    *,
    method: str = "auto",
    device: str = "auto",
    memory: int | None = None,
    rates: Mapping[str, Rates] | None = None,
) -> Choice:
    """The method for one matrix: "auto", or the one asked for if it can be had.

    Parameters
    ----------
    matrix, wanted : what is solved, and what is asked for.
    method : "auto", or a name in `METHODS`.
    device : "auto", or a backend's name, which need not be on this machine.
    memory : bytes a task may use; None for no limit.
    rates : by device; the documented ones for those that are missing.

    Raises
    ------
    EigenzooError
        For an unknown method.
    """
    if method != "auto":
        method_named(method)
        check_settings(method, wanted)
    estimates = tuple(estimate(name, matrix, wanted, device=device, memory=memory, rates=rates) for name in METHODS)
    by_name = {e.method: e for e in estimates}
    if method != "auto":
        asked = by_name[method]
        chosen = None if asked.refusal else asked
        return Choice(matrix, chosen, estimates, f"{method}: {asked.refusal or 'asked for, ' + _what(asked, memory)}")
    kept = by_name["krylov"]
    if _best_kept(matrix, wanted) and not kept.refusal:
        return Choice(matrix, kept, estimates, f"krylov: {_what(kept, memory, approximate=True)}")
    fitting = [by_name[name] for name in EXACT if not by_name[name].refusal]
    if fitting:
        chosen = min(fitting, key=_preference)
        return Choice(matrix, chosen, estimates, f"{chosen.method}: {_what(chosen, memory)}")
    exact = [by_name[name] for name in EXACT if _possible(name, matrix)]
    needs = " and ".join(
        f"{e.method} needs {_memory.size_text(e.task_bytes)} for {_state_of(e, matrix)}" for e in exact
    )
    for name in APPROXIMATE:
        chosen = by_name[name]
        if not chosen.refusal:
            allowed = _memory.size_text(memory or 0)
            why = f"{name}: {needs}, allowed {allowed}; {_what(chosen, memory, approximate=True)}"
            return Choice(matrix, chosen, estimates, why)
    least = min((by_name[name] for name in (*APPROXIMATE, *[e.method for e in exact])), key=lambda e: e.task_bytes)
    return Choice(matrix, None, estimates, f"{least.method}, which takes least, {least.refusal}")


def estimate(
    method: str,
    matrix: Matrix,
    wanted: Wanted,
    *,
    device: str = "auto",
    memory: int | None = None,
    rates: Mapping[str, Rates] | None = None,
) -> Estimate:
    """What one method would take, and whether it can be had."""
    asked, device = device, device_for(method, matrix, wanted, device)
    if asked == "auto" and device == "torch" and memory is not None:
        on_torch = estimate(method, matrix, wanted, device="torch", memory=memory, rates=rates)
        if on_torch.refusal:  # scipy takes less memory, and longer
            return estimate(method, matrix, wanted, device="cpu", memory=memory, rates=rates)
        return on_torch
    backend = _backend(device)
    products = "float64"
    if method == "moments":
        products = moments_products(matrix.dtype, matrix.width, backend, wanted.products)
    work = work_of(method, matrix, wanted, products=products, values_alone=backend.values_alone)
    refine = wanted.refine if method == "moments" else False
    if memory is not None and device == "torch":
        memory = max(memory - _memory.TORCH_BYTES, 0)  # what its process needs before any task
    needed = _needed(method, matrix, wanted, device, products, refine)
    if refine is None and memory is not None and needed > memory:
        # Not asked for, only welcome: left out where there is no room for it.
        refine = False
        needed = _needed(method, matrix, wanted, device, products, refine)
    refusal = ""
    if not _possible(method, matrix):
        refusal = f"for fewer rows than columns only; there are {matrix.n_rows} and {matrix.width}"
    elif memory is not None and needed > memory:
        refusal = _memory.refusal(needed, memory)
    rate = (rates or {}).get(device) or default_rates(device)
    kind = wanted.spectrum if method == "moments" else "full" if METHODS[method].exact else "top"
    return Estimate(
        method=method,
        device=device,
        exact=METHODS[method].exact,
        spectrum=kind,
        refine=refine,
        work=work,
        task_bytes=needed,
        fold_seconds=rate.fold_seconds(work),
        solve_seconds=rate.solve_seconds(work),
        refusal=refusal,
    )


def device_for(method: str, matrix: Matrix, wanted: Wanted, device: str = "auto") -> str:
    """The backend for one matrix: what is asked for, a GPU where there is one, else as the matrix is worth it.

    torch on a CPU brings eigenvalues without vectors, and bfloat16 products through AMX, to the method "moments"
    alone; elsewhere scipy's BLAS and LAPACK are as fast and cost no import. See `engine.backends`.
    """
    if device != "auto":
        return device
    found = choose("auto")
    if found != "cpu" or method not in ("moments", "krylov") or find_spec("torch") is None:
        return found
    d = matrix.width
    if method == "krylov":
        return "torch" if d >= TORCH_WIDTH else "cpu"
    through_amx = matrix.dtype == "bfloat16" and wanted.products in ("auto", "bfloat16") and cpu_has_amx()
    if d >= TORCH_WIDTH:
        return "torch"
    return "torch" if through_amx and d >= AMX_WIDTH and matrix.n_rows * d * d >= AMX_FLOPS else "cpu"


def _needed(method: str, m: Matrix, wanted: Wanted, device: str, products: str, refine: bool | None) -> int:
    return m.read_bytes + _memory.task_bytes(
        method,
        m.n_rows,
        m.width,
        m.block_rows,
        m.itemsize,
        device=device,
        coarse=products != "float64",
        components=wanted.components,
        spectrum=wanted.spectrum,
        refine=refine,
    )


def _preference(e: Estimate) -> float:
    documented = default_rates(e.device)
    seconds = documented.fold_seconds(e.work) + documented.solve_seconds(e.work)
    return seconds * (DUAL_SHARE if e.method == "dual" else 1.0)


def _best_kept(matrix: Matrix, wanted: Wanted) -> bool:
    small = 4 * matrix.n_rows * matrix.width <= GATHERED_BYTES
    few = wanted.components is not None and wanted.components <= matrix.width // 64 and wanted.products == "auto"
    wide = matrix.itemsize == 2 and GATHERED_WIDTH <= matrix.width <= matrix.n_rows
    return wanted.spectrum == "top" and wanted.refine is not True and small and few and wide


def _possible(method: str, matrix: Matrix) -> bool:
    return method != "dual" or matrix.n_rows < matrix.width


def _what(e: Estimate, memory: int | None, *, approximate: bool = False) -> str:
    """Such as "exact, one pass, 1.2 GiB per task of 8 GiB allowed, about 3.1 s of one core"."""
    allowed = "" if memory is None else f" of {_memory.size_text(memory)} allowed"
    core = {"torch": " of one core with torch"}.get(e.device, f" on {e.device}")
    if e.device in ("cpu", "numpy"):
        core = " of one core"
    kind = "exact" if e.exact else "approximate"
    if approximate:
        return f"{kind}, the largest values alone, {e.passes}, about {_seconds(e.seconds)}{core}"
    return f"{kind}, {e.passes}, {_memory.size_text(e.task_bytes)} per task{allowed}, about {_seconds(e.seconds)}{core}"


def _state_of(e: Estimate, matrix: Matrix) -> str:
    if e.method == "dual":
        return f"{matrix.n_rows} rows"
    return f"a scatter of width {matrix.width}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s"


def _backend(device: str) -> Backend:
    """A backend to ask what it would do; its library need not be here, and none is imported."""
    if device in ("cpu", "numpy"):
        from engine.backends.numpy_ import NumpyBackend

        return NumpyBackend()
    from engine.backends.torch_ import TorchBackend

    return TorchBackend("cpu" if device == "torch" else "cuda")


def without_refinement(wanted: Wanted, e: Estimate) -> Wanted:
    """What is asked of the method that was chosen: refining is off where there is no room for it."""
    return replace(wanted, refine=e.refine) if e.method == "moments" else wanted

"""What is to be done for a run: which matrices of a zoo wait, how each will be solved, and what is done already."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.backends import choose
from engine.fitting import FitPlan, fit_reduction, plan_fit, what_is_wanted
from engine.kept.fit import Update, Whole, kept_task_bytes
from engine.kept.updates import States
from engine.memory import check
from engine.rank.gavish_donoho import INIT, NAME, GavishDonoho
from engine.resume import local_folder, locked, prepare
from engine.run import MatrixResult, RunRecord, read_marker
from engine.runners.partition import ranges_of
from engine.selection import KByMatrix, check_k, choose_matrices, run_settings
from engine.starts.known_noise import known_noise
from engine.starts.seed_rows import SeedChoice, check_seeds
from ingest.store.reader import MatrixInfo, Zoo, open_zoo

if TYPE_CHECKING:
    from engine.fit_reduction import Fit
    from engine.rank.choice import RankRule
    from engine.rows import RowSource


# Of states that are kept: what float32 sums lose could only be had back by one more look at all rows.
KEPT_PRODUCTS = "float64"


class Waiting(NamedTuple):
    """A matrix to be fitted.

    `change` is what has to be read of it; None where no state is kept: the run keeps none, or its method has none.
    `rule` is the rule for K, with the level of the adapters' random start where it asks for that.
    """

    info: MatrixInfo
    rows: RowSource
    plan: FitPlan
    change: Update | Whole | None
    rule: str | int | RankRule

    @property
    def name(self) -> str:
        """In messages."""
        return f"{self.info.layer} {self.info.side}"


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done for a run: its directory and settings, the matrices that wait, those that are done.

    Attributes
    ----------
    path : str
        The run directory.
    record : RunRecord
        Settings and zoo.
    device : str
        Name of the backend, or "auto": then every matrix has the one that suits it.
    waiting : tuple of Waiting
    done : tuple of MatrixResult
        Finished at an earlier start, from the same rows.
    states : States or None
        Of a run that keeps them.
    notice : callable or None
        Called with one line when something is not as at the last start.
    """

    path: str
    record: RunRecord
    device: str
    waiting: tuple[Waiting, ...]
    done: tuple[MatrixResult, ...]
    states: States | None = None
    notice: Callable[[str], None] | None = None


@contextlib.contextmanager
def open_job(
    zoo: Zoo | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    layers: str = "*",
    side: str = "both",
    center: str | None = None,
    k: str | int | KByMatrix = "gavish-donoho",
    method: str = "auto",
    spectrum: str = "full",
    refine: bool | None = None,
    products: str = "auto",
    space: str = "factor",
    seeds: str = "all",
    device: str = "auto",
    restart: bool = False,
    keep_state: bool = False,
    notice: Callable[[str], None] | None = None,
) -> Iterator[Job]:
    """Find out what a run directory lacks, begin it where there is none, and keep other fits out until the end.

    Parameters
    ----------
    zoo : Zoo or path-like
    out : path-like
        The run directory; a second start there does what is missing.
    layers : str
        A glob over canonical layer names; several may be given with commas.
    side : {"both", "A", "B"}
    center : {"feature", "none"}, optional
        By default "feature"; in ΔW space "none", which is all that it takes.
    k : str, int or mapping
        A rule (see `engine.fit`), or ``{layer: {side: K}}`` for every chosen matrix.
    space : {"factor", "delta"}
        The rows of A and B as they are stored, or those of ΔW (see `engine.delta`).
    seeds : str
        What is done about adapters that share a random start: "all", "one-each", "subtract" or "group:N" (see
        `engine.starts.seed_rows.SeedChoice`); all but the first read every module once more.
    method, spectrum, refine, products, device
        See `engine.fit`. Where states are kept, products are float64.
    restart : bool
        Discard what the run directory holds.
    keep_state : bool
        Keep the moments of every matrix that is solved by them in the run, 4 · width · (width + 1) bytes each, made
        with float64 products: from then on every start reads only the rows of adapters that came or went.
    notice : callable, optional
        Called with one line when something is not as at the last start.

    Yields
    ------
    Job
        For `run_job`, within the context.

    Raises
    ------
    EigenzooError
        If nothing matches, a K is more than a matrix can have, a setting differs from the run's, the zoo is not
        the run's (the same zoo at another path is), or another fit or analysis is writing to the run.
    """
    zoo = zoo if isinstance(zoo, Zoo) else open_zoo(zoo)
    path = local_folder(out)
    settings = run_settings(
        center,
        k,
        method=method,
        spectrum=spectrum,
        refine=refine,
        products=products,
        space=space,
        seeds=seeds,
    )
    check_seeds(settings.seeds, space=space, keep_state=keep_state)
    choice = SeedChoice(zoo, settings.seeds, space)
    chosen = choice.matrices(choose_matrices(zoo, layers, side), notice)
    check_k(settings, chosen)
    planned = tuple((m.layer, m.side) for m in chosen)
    record = RunRecord(settings, zoo.path, zoo.commit.version, zoo.base_model, zoo.commit.uuid, planned, keep_state)
    device = device if device == "auto" else choose(device)
    if record.settings.method != "auto":  # what cannot be done claims no folder
        for info in chosen:
            _plan(record, info, choice.rows(info.layer, info.side), device, name=f"{info.layer} {info.side}")
    with locked(path):
        record = prepare(path, record, zoo.matrices, restart=restart, notice=notice)
        yield _job(zoo, path, record, choice, chosen, device, notice)


def _job(
    zoo: Zoo,
    path: str,
    record: RunRecord,
    choice: SeedChoice,
    chosen: list[MatrixInfo],
    device: str,
    notice: Callable[[str], None] | None,
) -> Job:
    states = States(path, zoo, record.settings.space) if record.keep_state else None
    waiting: list[Waiting] = []
    done: list[MatrixResult] = []
    stale = 0
    for info in chosen:
        rows = choice.rows(info.layer, info.side)
        marker = read_marker(path, info.layer, info.side)
        same = marker is not None and marker.identity == rows.identity
        plan = _plan(record, info, rows, device)
        keeper = states if plan.method == "moments" else None
        # A matrix that had to be solved by another method keeps no state, and is done all the same.
        if marker is not None and same and (keeper is None or keeper.kept(info) or marker.method != "moments"):
            done.append(marker)
            continue
        stale += marker is not None and not same
        rule = _known_rule(record, info, zoo, choice)
        fit = fit_of(record, rule, rows, plan)
        change = keeper.change(info, rows, fit, marker) if keeper is not None else None
        waiting.append(Waiting(info, rows, _planned(plan, rows, change), change, rule))
    if stale and notice is not None:
        notice(f"{stale} of {len(chosen)} matrices have other rows than at the last start and are fitted again")
    tell_whole(notice, [(w, w.change.reason) for w in waiting if isinstance(w.change, Whole)])
    return Job(path, record, device, tuple(waiting), tuple(done), states, notice)


def within(job: Job, memory: int | None, *, quiet: bool = False) -> Job:
    """The job as it is done with `memory` bytes a task: by other methods where those planned do not fit.

    Raises
    ------
    EigenzooError
        Naming a matrix for which none fits.
    """
    if memory is None or all(each.plan.task_bytes <= memory for each in job.waiting):
        return job
    waiting, other = list[Waiting](), list[tuple[Waiting, str]]()
    for each in job.waiting:
        if each.plan.task_bytes > memory:
            plan = _plan(job.record, each.info, each.rows, job.device, memory, each.name)
            change = each.change if plan.method == "moments" else None
            each = each._replace(plan=_planned(plan, each.rows, change), change=change)
            check(each.plan.task_bytes, memory, each.name)
            other.append((each, plan.why))
        waiting.append(each)
    if not quiet:
        _tell(job.notice, "by", other)
    return replace(job, waiting=tuple(waiting))


def _rule(record: RunRecord, info: MatrixInfo) -> str | int:
    k = record.settings.k
    return k if isinstance(k, str) else k[info.layer][info.side]


def _known_rule(record: RunRecord, info: MatrixInfo, zoo: Zoo, choice: SeedChoice) -> str | int | RankRule:
    """The rule of a matrix; one that asks for the level of the adapters' random start gets it."""
    rule = _rule(record, info)
    if rule != f"{NAME}:{INIT}":
        return rule
    known = known_noise(zoo, info.layer, info.side, choice.members(info.layer))
    return GavishDonoho(known.sigma, init=True, why=known.why)


def _products(record: RunRecord) -> str:
    kept = record.keep_state and record.settings.method in ("auto", "moments")
    return KEPT_PRODUCTS if kept else record.settings.products


def _plan(
    record: RunRecord, info: MatrixInfo, rows: RowSource, device: str, memory: int | None = None, name: str = ""
) -> FitPlan:
    settings = record.settings
    wanted = what_is_wanted(
        _rule(record, info), spectrum=settings.spectrum, refine=settings.refine, products=_products(record)
    )
    return plan_fit(rows, device=device, memory=memory, name=name, method=settings.method, wanted=wanted)


def fit_of(record: RunRecord, rule: str | int | RankRule, rows: RowSource, plan: FitPlan) -> Fit[Any]:
    return fit_reduction(
        rows,
        rule,
        center=record.settings.center,
        device=plan.device,
        method=plan.method,
        spectrum=record.settings.spectrum,
        refine=plan.refine,
        products=_products(record),
    )


def _planned(plan: FitPlan, rows: RowSource, change: Update | Whole | None) -> FitPlan:
    """The plan of a matrix whose state is kept: as many tasks as its update has, and room for the states it holds."""
    if change is None:
        return plan
    tasks = len(ranges_of(change.rows)) if isinstance(change, Update) else plan.n_tasks
    return replace(plan, n_tasks=tasks, task_bytes=max(plan.task_bytes, kept_task_bytes(rows)))


def tell_whole(notice: Callable[[str], None] | None, found: list[tuple[Waiting, str]]) -> None:
    """A line for every reason for which matrices are read whole that have been fitted before."""
    _tell(notice, "read whole:", found)


def _tell(notice: Callable[[str], None] | None, what: str, found: list[tuple[Waiting, str]]) -> None:
    by_reason: dict[str, list[Waiting]] = {}
    for each, reason in found:
        if reason:
            by_reason.setdefault(reason, []).append(each)
    if notice is not None:
        for reason, matrices in by_reason.items():
            number = f"{len(matrices)} matrices" if len(matrices) > 1 else "1 matrix"
            notice(f"{number} ({matrices[0].name}{' first' if len(matrices) > 1 else ''}) {what} {reason}")

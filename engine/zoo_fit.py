"""A whole zoo: every layer and side fitted, into a run directory that can be resumed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.job import Job, Waiting, fit_of, open_job, tell_whole, within
from engine.kept.fit import Further, Stale, Update, Whole
from engine.kept.updates import check_visible
from engine.run import MatrixResult, Run, open_run, state_path, summary, write_result
from engine.runners.serial import SerialRunner
from engine.subspace import Subspace
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from engine.reductions.protocol import Reduction
    from engine.rows import RowSource
    from engine.runners.protocol import Runner
    from engine.selection import KByMatrix
    from ingest.store.reader import Zoo


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a fit is: matrices finished (those of earlier starts too), of how many; the last one's summary."""

    done: int
    total: int
    last: MatrixResult | None


def fit_zoo(
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
    runner: Runner | None = None,
    memory: int | None = None,
    restart: bool = False,
    keep_state: bool = False,
    progress: Callable[[Progress], None] | None = None,
    notice: Callable[[str], None] | None = None,
) -> Run:
    """Fit every chosen matrix of a zoo and keep the results in a run directory.

    Parameters
    ----------
    zoo, out, layers, side, center, k, method, spectrum, refine, products, space, seeds, device, restart,
    keep_state, notice
        See `open_job`.
    runner : Runner, optional
        Who executes; this process without it.
    memory : int, optional
        Bytes that one task may use; without it there is no limit. Where no exact method fits, method "auto" takes an
        approximate one, and says so by `notice` and in the result.
    progress : callable, optional
        Called with a `Progress` after every matrix.

    Returns
    -------
    Run

    Raises
    ------
    EigenzooError
        See `open_job`; and if a task does not fit the memory, or fails: what is finished stays.

    Notes
    -----
    Cost: one read of each matrix, O(rows · width · min(rows, width)) flops and one eigenproblem. Where a state was
    kept, only rows of adapters that came or went since are read.
    """
    with open_job(
        zoo,
        out,
        layers=layers,
        side=side,
        center=center,
        k=k,
        method=method,
        spectrum=spectrum,
        refine=refine,
        products=products,
        space=space,
        seeds=seeds,
        device=device,
        restart=restart,
        keep_state=keep_state,
        notice=notice,
    ) as job:
        return run_job(job, runner or SerialRunner(), memory=memory, progress=progress)


def run_job(
    job: Job, runner: Runner, *, memory: int | None = None, progress: Callable[[Progress], None] | None = None
) -> Run:
    """Fit the matrices that wait; see `fit_zoo`."""
    most = getattr(runner, "task_bytes", None)  # of the worker with the least memory
    job = within(job, min((m for m in (memory, most) if m is not None), default=None))
    for each in job.waiting:
        runner.check_memory(each.plan.task_bytes, each.name)
    done, total = len(job.done), len(job.done) + len(job.waiting)
    if job.states is not None and job.waiting:
        check_visible(runner, job.waiting[0].rows, job.path)
    if progress is not None:
        progress(Progress(done, total, None))
    for each, subspace, rows_read in _fitted(runner, job):
        last = summary(each.info.layer, each.info.side, subspace, rows_read)
        write_result(job.path, last, subspace)
        if job.states is not None and each.change is None:  # what a method that keeps no state has left behind
            Path(state_path(job.path, *last.key)).unlink(missing_ok=True)
        done += 1
        if progress is not None:
            progress(Progress(done, total, last))
    return open_run(job.path)


def _fitted(runner: Runner, job: Job) -> Iterator[tuple[Waiting, Subspace, int]]:
    """Every matrix with its result and the rows that were read for it."""
    again: list[tuple[Waiting, Stale | Further]] = []
    for each, outcome in _outcomes(runner, _first(job)):
        if isinstance(outcome, Subspace):
            update = each.change if isinstance(each.change, Update) else None
            yield each, outcome, update.n_rows if update else each.rows.shape[0] * outcome.passes
        else:
            again.append((each, outcome))
    tell_whole(job.notice, [(each, o.reason if isinstance(o, Stale) else FURTHER) for each, o in again])
    read = {each.name: each.change.n_rows for each, _ in again if isinstance(each.change, Update)}
    for each, outcome in _outcomes(runner, _second(job, again)):
        if not isinstance(outcome, Subspace):
            raise EigenzooError(f"{each.name}: read whole and still without a result; --restart the run")
        passes = outcome.passes - any(e is each and isinstance(o, Further) for e, o in again)
        yield each, outcome, read[each.name] + each.rows.shape[0] * passes


FURTHER = "components below the floor are wanted, which takes one more look at every row"
Outcome = Subspace | Stale | Further
Work = tuple[Waiting, "Reduction[Any, Outcome]", "RowSource"]


def _outcomes(runner: Runner, work: Iterator[Work]) -> Iterator[tuple[Waiting, Outcome]]:
    waiting: dict[str, Waiting] = {}

    def named() -> Iterator[tuple[str, Reduction[Any, Outcome], RowSource]]:
        for each, reduction, rows in work:
            waiting[each.name] = each
            yield each.name, reduction, rows

    for name, outcome in runner.run_many(named()):
        yield waiting.pop(name), outcome


def _first(job: Job) -> Iterator[Work]:
    for each in job.waiting:
        fit = fit_of(job.record, each.rule, each.rows, each.plan)
        if job.states is None or each.change is None:
            yield each, fit, each.rows
        else:
            rows = each.change.rows if isinstance(each.change, Update) else each.rows
            yield each, job.states.reduction(each.info, each.rows, fit, each.change), rows


def _second(job: Job, again: list[tuple[Waiting, Stale | Further]]) -> Iterator[Work]:
    """Matrices whose update did not do: read whole."""
    for each, outcome in again:
        if isinstance(outcome, Further):
            yield each, outcome.reduction, each.rows
        elif job.states is not None:
            fit = fit_of(job.record, each.rule, each.rows, each.plan)
            yield each, job.states.reduction(each.info, each.rows, fit, Whole()), each.rows

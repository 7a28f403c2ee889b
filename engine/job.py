"""A whole zoo: every layer and side fitted, into a run directory that can be resumed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.backends import choose
from engine.fitting import FitPlan, fit_reduction, plan_fit
from engine.memory import check
from engine.resume import local_folder, locked, prepare
from engine.run import MatrixResult, Run, RunRecord, open_run, read_marker, summary, write_result
from engine.runners.serial import SerialRunner
from engine.selection import KByMatrix, check_k, choose_matrices, run_settings
from ingest.store.reader import MatrixInfo, Zoo, open_zoo
from ingest.store.rows import ZooRows

if TYPE_CHECKING:
    from engine.fit_reduction import Fit
    from engine.runners.protocol import Runner
    from engine.subspace import Subspace


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a fit is: matrices finished (those of earlier starts too), of how many; the last one's summary."""

    done: int
    total: int
    last: MatrixResult | None


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
        Name of the backend.
    waiting : tuple of (MatrixInfo, ZooRows, FitPlan)
    done : tuple of MatrixResult
        Finished at an earlier start, from the same rows.
    """

    path: str
    record: RunRecord
    device: str
    waiting: tuple[tuple[MatrixInfo, ZooRows, FitPlan], ...]
    done: tuple[MatrixResult, ...]


def fit_zoo(
    zoo: Zoo | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    layers: str = "*",
    side: str = "both",
    center: str = "feature",
    k: str | int | KByMatrix = "gavish-donoho",
    device: str = "auto",
    runner: Runner | None = None,
    memory: int | None = None,
    restart: bool = False,
    progress: Callable[[Progress], None] | None = None,
    notice: Callable[[str], None] | None = None,
) -> Run:
    """Fit every chosen matrix of a zoo and keep the results in a run directory.

    Parameters
    ----------
    zoo, out, layers, side, center, k, device, restart, notice
        See `open_job`.
    runner : Runner, optional
        Who executes; this process without it.
    memory : int, optional
        Bytes that one task may use.
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
    Cost: one read of each matrix, O(rows · width · min(rows, width)) flops and one eigenproblem.
    """
    with open_job(
        zoo, out, layers=layers, side=side, center=center, k=k, device=device, restart=restart, notice=notice
    ) as job:
        return run_job(job, runner or SerialRunner(), memory=memory, progress=progress)


@contextlib.contextmanager
def open_job(
    zoo: Zoo | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    layers: str = "*",
    side: str = "both",
    center: str = "feature",
    k: str | int | KByMatrix = "gavish-donoho",
    device: str = "auto",
    restart: bool = False,
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
    center : {"feature", "none"}
    k : str, int or mapping
        A rule (see `engine.fit`), or ``{layer: {side: K}}`` for every chosen matrix.
    device : str
        See `engine.fit`.
    restart : bool
        Discard what the run directory holds.
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
        the run's (the same zoo at another path is), or another fit is writing to the run.
    """
    zoo = zoo if isinstance(zoo, Zoo) else open_zoo(zoo)
    path = local_folder(out)
    settings = run_settings(center, k)
    chosen = choose_matrices(zoo, layers, side)
    check_k(settings, chosen)
    planned = tuple((m.layer, m.side) for m in chosen)
    record = RunRecord(settings, zoo.path, zoo.commit.version, zoo.base_model, zoo.commit.uuid, planned)
    device = choose(device)
    with locked(path):
        prepare(path, record, zoo.matrices, restart=restart, notice=notice)
        yield _job(zoo, path, record, chosen, device, notice)


def _job(
    zoo: Zoo,
    path: str,
    record: RunRecord,
    chosen: list[MatrixInfo],
    device: str,
    notice: Callable[[str], None] | None,
) -> Job:
    waiting: list[tuple[MatrixInfo, ZooRows, FitPlan]] = []
    done: list[MatrixResult] = []
    stale = 0
    for info in chosen:
        rows = zoo.rows(info.layer, side=info.side)
        marker = read_marker(path, info.layer, info.side)
        if marker is not None and marker.identity == rows.identity:
            done.append(marker)
        else:
            stale += marker is not None
            waiting.append((info, rows, plan_fit(rows, device=device)))
    if stale and notice is not None:
        notice(f"{stale} of {len(chosen)} matrices have other rows than at the last start and are fitted again")
    return Job(path, record, device, tuple(waiting), tuple(done))


def run_job(
    job: Job, runner: Runner, *, memory: int | None = None, progress: Callable[[Progress], None] | None = None
) -> Run:
    """Fit the matrices that wait; see `fit_zoo`."""
    done, total = len(job.done), len(job.done) + len(job.waiting)
    for info, _, plan in job.waiting:
        check(plan.task_bytes, memory, f"{info.layer} {info.side}")
    if progress is not None:
        progress(Progress(done, total, None))
    for (layer, side), subspace in _named(runner, job):
        last = summary(layer, side, subspace)
        write_result(job.path, last, subspace)
        done += 1
        if progress is not None:
            progress(Progress(done, total, last))
    return open_run(job.path)


def _named(runner: Runner, job: Job) -> Iterator[tuple[tuple[str, str], Subspace]]:
    keys = {f"{info.layer} {info.side}": (info.layer, info.side) for info, _, _ in job.waiting}
    k = job.record.settings.k

    def work() -> Iterator[tuple[str, Fit[Any], ZooRows]]:
        for info, rows, _ in job.waiting:
            rule = k if isinstance(k, str) else k[info.layer][info.side]
            fit = fit_reduction(rows, rule, center=job.record.settings.center, device=job.device)
            yield f"{info.layer} {info.side}", fit, rows

    for name, subspace in runner.run_many(work()):
        yield keys[name], subspace

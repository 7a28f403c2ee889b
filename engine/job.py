"""A whole zoo: every layer and side fitted, into a run directory that can be resumed."""

from __future__ import annotations

import fnmatch
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.backends import choose
from engine.fitting import FitPlan, exact_fit, plan_fit
from engine.memory import check
from engine.rank import parse_rule
from engine.run import (
    MATRICES,
    RUN,
    MatrixResult,
    Run,
    RunRecord,
    RunSettings,
    open_run,
    read_marker,
    read_record,
    summary,
    write_record,
    write_result,
)
from engine.runners.serial import SerialRunner
from engine.subspace import CENTERS
from ingest.errors import EigenzooError
from ingest.store.reader import MatrixInfo, Zoo, open_zoo
from ingest.store.rows import ZooRows

if TYPE_CHECKING:
    from engine.exact import ExactFit
    from engine.runners.protocol import Runner
    from engine.subspace import Subspace

KByMatrix = Mapping[str, Mapping[str, int]]


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
        See `plan_job`.
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
        If nothing matches, a setting differs from the run's, a task does not fit the memory, or a task fails;
        what is finished stays.

    Notes
    -----
    Cost: one read of each matrix, O(rows · width · min(rows, width)) flops and one eigenproblem.
    """
    job = plan_job(
        zoo, out, layers=layers, side=side, center=center, k=k, device=device, restart=restart, notice=notice
    )
    return run_job(job, runner or SerialRunner(), memory=memory, progress=progress)


def plan_job(
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
) -> Job:
    """Find out what a run directory lacks, and begin it where there is none.

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

    Returns
    -------
    Job

    Raises
    ------
    EigenzooError
        If nothing matches, or a setting differs from the run's.
    """
    zoo = zoo if isinstance(zoo, Zoo) else open_zoo(zoo)
    path = os.path.abspath(os.fspath(out))
    settings = _settings(center, k)
    chosen = choose_matrices(zoo, layers, side)
    _check_k(settings, chosen)
    record = RunRecord(settings, zoo.path, zoo.commit.version, zoo.base_model)
    device = choose(device)
    if restart:
        _discard(path)
    _continue_or_begin(path, record, notice)
    _sweep(path)
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

    def work() -> Iterator[tuple[str, ExactFit[Any], ZooRows]]:
        for info, rows, _ in job.waiting:
            rule = k if isinstance(k, str) else k[info.layer][info.side]
            fit = exact_fit(rows, rule, center=job.record.settings.center, device=job.device)
            yield f"{info.layer} {info.side}", fit, rows

    for name, subspace in runner.run_many(work()):
        yield keys[name], subspace


def choose_matrices(zoo: Zoo, layers: str = "*", side: str = "both") -> list[MatrixInfo]:
    """The matrices whose layer matches the glob, on the given side or both.

    Raises
    ------
    EigenzooError
        For an unknown side, or when nothing matches.
    """
    if side not in ("both", "A", "B"):
        raise EigenzooError(f"side: got {side!r}; choose A, B or both")
    globs = [g.strip() for g in layers.split(",") if g.strip()]
    chosen = [
        m
        for m in zoo.matrices
        if side in ("both", m.side) and any(fnmatch.fnmatchcase(m.layer, glob) for glob in globs)
    ]
    if not chosen:
        if not zoo.matrices:
            raise EigenzooError(f"{zoo.path}: the zoo has no accepted adapter; `eigenzoo info` says why")
        example = zoo.matrices[0].layer
        raise EigenzooError(f"layers: {layers!r} matches none of {len(zoo.layers)} layers, such as {example!r}")
    return chosen


def _settings(center: str, k: str | int | KByMatrix) -> RunSettings:
    if center not in CENTERS:
        raise EigenzooError(f"center: got {center!r}; choose {' or '.join(CENTERS)}")
    if isinstance(k, Mapping):
        return RunSettings(center, {layer: dict(sides) for layer, sides in k.items()})
    return RunSettings(center, parse_rule(k).name)


def _check_k(settings: RunSettings, chosen: list[MatrixInfo]) -> None:
    """A K file must name every matrix to be fitted, with a number that the matrix has."""
    if isinstance(settings.k, str):
        return
    for info in chosen:
        k = settings.k.get(info.layer, {}).get(info.side)
        if not isinstance(k, int) or isinstance(k, bool) or k < 0:
            raise EigenzooError(f"k: no whole number for {info.layer} {info.side} (found {k!r}); add it to the K file")


def _discard(path: str) -> None:
    if os.path.exists(os.path.join(path, RUN)):
        shutil.rmtree(os.path.join(path, MATRICES), ignore_errors=True)
        os.unlink(os.path.join(path, RUN))


def _sweep(path: str) -> None:
    """Remove the temporary files of a start that was killed."""
    for folder in (path, os.path.join(path, MATRICES)):
        for name in os.listdir(folder) if os.path.isdir(folder) else []:
            if name.startswith(".") and name.endswith(".tmp"):
                os.unlink(os.path.join(folder, name))


def _continue_or_begin(path: str, record: RunRecord, notice: Callable[[str], None] | None) -> None:
    before = read_record(path)
    if before is None:
        if os.path.isdir(path) and any(not name.startswith(".") for name in os.listdir(path)):
            raise EigenzooError(f"{path}: a folder with other files; give a new path for the run")
    else:
        changes = before.settings.differences(record.settings)
        if before.zoo != record.zoo:
            changes.append(f"zoo: {before.zoo} → {record.zoo}")
        if changes:
            raise EigenzooError(
                f"{path}: the run was made with other settings ({'; '.join(changes)}); give another --out, or --restart"
            )
        if before.zoo_version != record.zoo_version and notice is not None:
            notice(f"the zoo is at commit {record.zoo_version}, the run was made at commit {before.zoo_version}")
    if before != record:
        write_record(path, record)

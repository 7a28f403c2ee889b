"""A run directory before a fit: one writer at a time, the same settings and zoo, nothing left over."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine.run import (
    ANALYSIS,
    MATRICES,
    RUN,
    RunRecord,
    marker_path,
    read_record,
    result_path,
    state_path,
    write_record,
)
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from ingest.store.reader import MatrixInfo

LOCK = ".lock"

Notice = Callable[[str], None]


def local_folder(out: str | os.PathLike[str]) -> str:
    """The absolute path of a run's folder.

    Raises
    ------
    EigenzooError
        For a URL: a run lies on a local disk, wherever its zoo does.
    """
    path = os.fspath(out)
    if "://" in path:
        raise EigenzooError(f"{path}: a run is a local folder; give --out a path")
    return os.path.abspath(path)


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """Make a run directory and be its only writer within the context; a process that dies lets go of it.

    Raises
    ------
    EigenzooError
        If another fit holds it, it cannot be written to, or it is a folder with other files.
    """
    from filelock import FileLock, Timeout

    _refuse_foreign(path)  # before the lock's own file is put there
    lock = FileLock(os.path.join(path, LOCK))
    try:
        os.makedirs(path, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise EigenzooError(f"{path}: another fit or analysis is writing to this run; wait for it to end") from error
    except OSError as error:
        raise EigenzooError(f"{path}: cannot write there ({error.strerror}); give another --out") from error
    try:
        yield
    finally:
        lock.release()


def prepare(
    path: str, record: RunRecord, matrices: Iterable[MatrixInfo], *, restart: bool, notice: Notice | None
) -> RunRecord:
    """Go on with the run at `path`, or begin it, and clear away what a killed start or an older zoo left there.

    Parameters
    ----------
    path : str
        The run directory, locked.
    record : RunRecord
        Settings and zoo of this start.
    matrices : iterable of MatrixInfo
        All of the zoo; results of others are dropped.
    restart : bool
        Discard what is there.
    notice : callable, optional
        Called with one line when something is not as at the last start.

    Returns
    -------
    RunRecord
        As it is now on disk, with what earlier starts asked for.

    Raises
    ------
    EigenzooError
        If the run was made with other settings, or from another zoo.
    """
    if restart:
        _discard(path)
    matrices = list(matrices)
    record = _continue_or_begin(path, record, matrices, notice)
    _sweep(path)
    _drop_others(path, matrices, notice)
    return record


def _refuse_foreign(path: str) -> None:
    if not os.path.isdir(path) or os.path.exists(os.path.join(path, RUN)):
        return
    if any(not name.startswith(".") for name in os.listdir(path)):
        raise EigenzooError(f"{path}: a folder with other files; give a new path for the run")


def _discard(path: str) -> None:
    if os.path.exists(os.path.join(path, RUN)):
        shutil.rmtree(os.path.join(path, MATRICES), ignore_errors=True)
        Path(path, ANALYSIS).unlink(missing_ok=True)
        os.unlink(os.path.join(path, RUN))


def _continue_or_begin(path: str, record: RunRecord, matrices: list[MatrixInfo], notice: Notice | None) -> RunRecord:
    before = read_record(path)
    if before is not None:
        changes = before.settings.differences(record.settings)
        moved = before.zoo != record.zoo
        if moved and not (before.zoo_uuid and before.zoo_uuid == record.zoo_uuid):
            changes.append(f"zoo: {before.zoo} → {record.zoo}")
        elif before.zoo_uuid and record.zoo_uuid and before.zoo_uuid != record.zoo_uuid:
            changes.append("zoo: another zoo at the same path")
        if changes:
            raise EigenzooError(
                f"{path}: the run was made with other settings ({'; '.join(changes)}); give another --out, or --restart"
            )
        if moved and notice is not None:
            notice(f"the zoo was at {before.zoo} when the run was made; it goes on from {record.zoo}")
        if before.zoo_version != record.zoo_version and notice is not None:
            notice(f"the zoo is at commit {record.zoo_version}, the run was made at commit {before.zoo_version}")
        # A matrix that an earlier start asked for is still asked for, unless the zoo has it no more.
        known = {(m.layer, m.side) for m in matrices}
        planned = dict.fromkeys([*(key for key in before.planned if key in known), *record.planned])
        record = replace(record, planned=tuple(planned), keep_state=before.keep_state or record.keep_state)
    if before != record:
        write_record(path, record)
    return record


def _sweep(path: str) -> None:
    """Remove the temporary files of a start that was killed."""
    for folder in (path, os.path.join(path, MATRICES)):
        for name in _listed(folder):
            if name.startswith(".") and name.endswith(".tmp"):
                os.unlink(os.path.join(folder, name))


def _drop_others(path: str, matrices: Iterable[MatrixInfo], notice: Notice | None) -> None:
    """Remove results and states of matrices that the zoo does not have, or no longer."""
    files = (marker_path, result_path, state_path)
    known = {os.path.basename(of(path, m.layer, m.side)) for m in matrices for of in files}
    folder = os.path.join(path, MATRICES)
    # In order of name, a summary goes before the result that it marks as complete.
    gone = [n for n in sorted(_listed(folder)) if n.endswith((".json", ".safetensors")) and n not in known]
    for name in gone:
        os.unlink(os.path.join(folder, name))
    dropped = [name.removesuffix(".json") for name in gone if name.endswith(".json")]
    if dropped and notice is not None:
        notice(f"the zoo no longer has {len(dropped)} matrices of the run ({dropped[0]} first); they are dropped")


def _listed(folder: str) -> list[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []

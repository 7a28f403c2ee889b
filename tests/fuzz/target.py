"""One hostile input through the whole of ingest, watched: its time, its memory, and where it writes."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ingest.pipeline import ingest
from ingest.reasons import Reason
from ingest.settings import Settings
from ingest.store.reader import open_zoo
from ingest.verify import verify
from tests.fuzz.corpus import Files

NBYTES = 256 << 20
BLOCKED = 120
"""Seconds on the wall after which something waits for ever, as for a pipe; generous, since other processes run, too."""
CODES = {r.value for r in Reason}
_WRITING = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}

_watched: list[tuple[Path, list[str]]] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    """Note every path that is opened for writing, made, moved or removed outside the folder that is watched."""
    if not _watched or (event != "open" and event not in _WRITING):
        return
    allowed, escapes = _watched[-1]
    if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return
    for path in arguments[: 2 if event in ("os.rename", "os.link", "os.symlink") else 1]:
        if isinstance(path, str | bytes | os.PathLike):
            real = os.path.realpath(os.fsdecode(path))
            if real != str(allowed) and not real.startswith(f"{allowed}{os.sep}") and real != os.devnull:
                escapes.append(f"{event} {real}")


sys.addaudithook(_hook)


@contextmanager
def watched(folder: Path) -> Iterator[list[str]]:
    """What is written outside a folder meanwhile."""
    _watched.append((folder.resolve(), []))
    try:
        yield _watched[-1][1]
    finally:
        _watched.pop()


def write(files: Files, folder: Path) -> None:
    """The input as a folder on disk."""
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)


def peak() -> int:
    """The largest resident size since the last `forget_peak`, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def forget_peak() -> int:
    """Begin a new peak; returns the resident size now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


@contextmanager
def not_blocked() -> Iterator[None]:
    """Interrupt what takes `BLOCKED` seconds on the wall, whatever little processor time it takes."""

    def stop(number: int, frame: Any) -> None:
        raise AssertionError(f"still not done after {BLOCKED} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(BLOCKED)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(files: Files, work: Path, settings: Settings, seconds: float) -> set[str]:
    """Ingest one input; returns the reasons given, "ok" among them if something came in.

    Asserts that every candidate got a reason or came in whole, that it took at most so many seconds of processor time,
    did not block, `NBYTES` of memory, and that nothing was written outside the zoo.
    """
    source, zoo = work / "in", work / "zoo"
    write(files, source)
    idle = forget_peak()
    begin = time.process_time()
    with not_blocked(), watched(zoo) as escapes:
        result = ingest(source, zoo, settings)
    taken = time.process_time() - begin
    grown = peak() - idle
    assert escapes == []
    assert taken < seconds, f"{taken:.2f} s of processor time"
    assert grown < NBYTES, f"{grown >> 20} MiB"
    reasons = {record.reason for record in result.refused}
    assert reasons <= CODES and all(r.detail and "\n" not in r.detail for r in result.refused)
    opened = open_zoo(zoo)
    assert verify(opened).problems == ()
    assert sorted(r.name for r in opened.accepted) == sorted(result.added)
    assert result.added or result.refused
    return reasons | ({"ok"} if result.added else set())

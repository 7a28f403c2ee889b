"""Runs a contestant and watches it: time, processors, memory, and what others did to the machine meanwhile."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.fitting.answer import Contestant, Errors, Truth
from bench.fitting.data import ROOT, Store
from bench.fitting.ours import CAP, CAPPED
from bench.ingest_large import Confined

TICK = os.sysconf("SC_CLK_TCK")
LOADED = 0.10  # of a core, taken by others: such a row is taken again
_SAMPLE = 0.1  # seconds between looks at the tree of processes
# What would pin a BLAS to another kernel or other threads than it chooses itself.
_REMOVED = (
    "OPENBLAS_CORETYPE",
    "OPENBLAS_L2_SIZE",
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
)
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one contestant.

    Attributes
    ----------
    status : "ok"; "absent": not installed or not offered; "failed"; "killed"; "slow": over the limit.
    reason : one line, where it is not "ok" or wants saying.
    wall, cpu : seconds between go and done; cpu of all its processes.
    peak, idle : resident bytes, the peak and before the clock started.
    load : what other processes took meanwhile, in cores.
    passes : times the rows were read, where known.
    errors : distances from the reference.
    """

    status: str
    reason: str = ""
    wall: float = 0.0
    cpu: float = 0.0
    peak: int = 0
    idle: int = 0
    load: float = 0.0
    passes: int | None = None
    errors: Errors = field(default_factory=Errors)


def environment(one_thread: bool = False) -> dict[str, str]:
    """For a child: nothing that steers a BLAS, unless its documentation asks for one thread."""
    env = {name: value for name, value in os.environ.items() if name not in _REMOVED}
    return env | (dict.fromkeys(_THREADS, "1") if one_thread else {})


def run_quiet(
    contestant: Contestant, store: Store, tiny: Store, truth: Truth, limit: float, tries: int
) -> tuple[Sample, bool]:
    """The first run that others left alone, else the one least disturbed of `tries`; whether it was disturbed."""
    best: Sample | None = None
    for _ in range(tries):
        sample = run_once(contestant, store, tiny, truth, limit)
        if sample.status != "ok" or sample.load <= LOADED:
            return sample, False
        if best is None or sample.load < best.load:
            best = sample
    if best is None:
        raise ValueError(f"tries: got {tries}; at least 1")
    return best, True


def run_once(contestant: Contestant, store: Store, tiny: Store, truth: Truth, limit: float) -> Sample:
    """One run in a fresh process, its files in the page cache."""
    with tempfile.TemporaryDirectory() as folder, confined(contestant) as group:
        answer = Path(folder) / "answer.npz"
        job = {
            "contestant": contestant.name,
            "store": asdict(store),
            "tiny": asdict(tiny),
            "answer": str(answer),
        }
        with open(Path(folder) / "stderr", "w+") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "bench.fitting.child", json.dumps(job)],
                cwd=ROOT,
                env=environment(contestant.one_thread),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                preexec_fn=None if group is None else group.enter,
            )
            try:
                return _watch(process, store, truth, answer, limit, group)
            finally:
                process.kill()
                process.communicate()


@contextmanager
def confined(contestant: Contestant) -> Iterator[Confined | None]:
    """A control group of `CAP` bytes for the child to enter, where it is the capped run's."""
    if contestant.name != CAPPED:
        yield None
        return
    group = Confined(CAP)
    try:
        yield group
    finally:
        group.close()


def _watch(
    process: subprocess.Popen[str], store: Store, truth: Truth, answer: Path, limit: float, group: Confined | None
) -> Sample:
    capped = group is not None and group.folder is not None
    over = f"; the cap is {CAP >> 20} MiB" if capped else "; no group could be made to cap it" if group else ""
    ready = _next_line(process, limit)
    if ready["event"] != "ready":
        if ready["event"] == "killed" and capped:
            return Sample("killed", f"the idle process with its imports is what exceeds {CAP >> 20} MiB")
        return Sample(ready["event"], ready.get("reason", ""))
    store.warm()
    watch = Tree(process.pid)
    _say(process, "go")
    done = _next_line(process, limit)
    tree = watch.stop()
    idle = ready["idle"]
    if done["event"] != "done":
        reason = f"{done.get('reason', '')}; idle {idle >> 20} MiB, sampled peak {tree.peak >> 20} MiB{over}"
        return Sample(done["event"], reason.strip("; "), tree.seconds, tree.cpu, tree.peak, idle, tree.load)
    _say(process, "save")
    saved = _next_line(process, limit)
    if saved["event"] != "saved":
        return Sample("failed", f"its answer could not be kept: {saved.get('reason', saved['event'])}")
    reason = f"idle {idle >> 20} MiB{over}" if group else ""
    peak = max(tree.peak, done["peak"])
    return Sample("ok", reason, done["wall"], tree.cpu, peak, idle, tree.load, saved["passes"], truth.judge(answer))


def _say(process: subprocess.Popen[str], word: str) -> None:
    if process.stdin is not None:
        process.stdin.write(word + "\n")
        process.stdin.flush()


def _next_line(process: subprocess.Popen[str], limit: float) -> dict[str, Any]:
    """The child's next event; "slow" or "killed" where none comes."""
    if process.stdout is None:
        raise ValueError("a contestant's process has no pipe to speak through")
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(limit):
            return {"event": "slow", "reason": f"over {limit:.0f} s"}
    line = process.stdout.readline()
    if line:
        return dict(json.loads(line))
    code = process.wait()
    return {"event": "killed" if code < 0 else "failed", "reason": f"exit status {code}"}


class Tree:
    """A process and its children, watched from now until `stop`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._cpu, self._busy, self._own = self._tree_ticks(), busy_ticks(), sum(os.times()[:2])
        self._begin = time.perf_counter()
        self._thread.start()

    def stop(self) -> Tree:
        """Take the figures."""
        self.seconds = time.perf_counter() - self._begin
        ticks, busy, own = self._tree_ticks() - self._cpu, busy_ticks() - self._busy, sum(os.times()[:2]) - self._own
        self._ended.set()
        self._thread.join()
        self.cpu = ticks / TICK
        # This process's own share is no other's either; where it watches itself it is among the tree's.
        apart = own if self.pid != os.getpid() else 0.0
        self.load = max(0.0, (busy - ticks) / TICK - apart) / max(self.seconds, 1e-9)
        return self

    def _sample(self) -> None:
        while not self._ended.wait(_SAMPLE):
            self.peak = max(self.peak, sum(map(_resident, self._pids())))

    def _pids(self) -> list[int]:
        import psutil

        try:
            return [self.pid, *(child.pid for child in psutil.Process(self.pid).children(recursive=True))]
        except psutil.Error:
            return []

    def _tree_ticks(self) -> int:
        return sum(map(_ticks, self._pids()))


def busy_ticks() -> int:
    """Ticks in which any processor of the machine was busy, or taken by the machine below it."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return user + nice + system + irq + softirq + steal


def _ticks(pid: int) -> int:
    """Processor time of a process and of the children it has waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return sum(map(int, fields[11:15]))


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0

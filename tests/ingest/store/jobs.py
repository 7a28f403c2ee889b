"""Writers in processes of their own that die when they are told to, without the time that a new interpreter takes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingest.storage import LOCK

ROOT = Path(__file__).resolve().parents[3]
LOCAL_CALLS = ("open", "write", "fsync", "replace", "unlink", "rmdir")
OBJECT_CALLS = ("put", "delete")

FIRST = [[("a", 1), ("b", 2)], [("c", 3), ("d", 4), ("e", 5)]]
MORE = [[("f", 7), ("b", 6)], [("g", 8), ("h", 9)], [("a", 10), ("i", 11)]]
GONE = ["a", "d"]


@dataclass(frozen=True)
class Ended:
    """How a job ended: exit status (negative: by a signal), what it raised, and its calls that change the store."""

    status: int
    error: str
    calls: int


class Jobs:
    """A process that forks one writer after the other."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", "from tests.ingest.store.jobs import serve; serve()"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, do: str, url: str, *, die_at: int = 0, stop_at: int = 0) -> int:
        """Begin a job; it kills or stops itself at the given call. Returns its process number."""
        job = {"do": do, "url": url, "die_at": die_at, "stop_at": stop_at, "environment": dict(os.environ)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return int(self._line())

    def wait(self) -> Ended:
        """The end of the job."""
        return Ended(**json.loads(self._line()))

    def run(self, do: str, url: str, *, die_at: int = 0) -> Ended:
        self.start(do, url, die_at=die_at)
        return self.wait()

    def close(self) -> None:
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


def serve() -> None:
    """The process behind `Jobs`."""
    import ingest.compact
    import ingest.remove
    import ingest.storage.lease as lease
    import tests.ingest.store.zoos as zoos

    lease.HEARTBEAT_SECONDS = 0.02  # who finds a dead writer's lease watches it for so long
    work: dict[str, Callable[[str], Any]] = {
        "make": lambda url: zoos.make(url, FIRST),
        "append": lambda url: zoos.make(url, MORE),
        "remove": lambda url: ingest.remove.remove(url, GONE),
        "compact": lambda url: ingest.compact.compact(url),
    }
    for line in sys.stdin:
        job = json.loads(line)
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(reader)
            os.environ.update(job["environment"])
            moments = _Moments(job["die_at"], job["stop_at"], remote="://" in job["url"])
            error = ""
            try:
                work[job["do"]](job["url"])
            except BaseException as raised:
                error = f"{type(raised).__name__}: {raised}"
            moments.over()
            with open(writer, "w") as file:
                json.dump({"error": error, "calls": moments.calls}, file)
            os._exit(1 if error else 0)
        os.close(writer)
        print(pid, flush=True)
        with open(reader) as file:
            said = file.read()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps({"error": "", "calls": 0, **json.loads(said or "{}"), "status": status}), flush=True)


class _Moments:
    """Counts the calls that change a store, before and after each, and sends this process a signal at one of them."""

    def __init__(self, die_at: int, stop_at: int, remote: bool) -> None:
        self.calls = 0
        self._signals = {die_at: signal.SIGKILL, stop_at: signal.SIGSTOP}
        self._signals.pop(0, None)
        self._lock = threading.Lock()
        self._undo = list(self._patch(remote))

    def over(self) -> None:
        for module, name, function in self._undo:
            setattr(module, name, function)

    def _patch(self, remote: bool) -> Iterator[tuple[Any, str, Any]]:
        module: Any = os
        if remote:
            import obstore

            module = obstore
        for name in OBJECT_CALLS if remote else LOCAL_CALLS:
            function = getattr(module, name)
            setattr(module, name, self._counted(function))
            yield module, name, function

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if LOCK in arguments[1:2]:  # renewed by a thread of its own, whenever it likes
                return function(*arguments, **named)
            self._count()
            try:
                return function(*arguments, **named)
            finally:
                self._count()

        return call

    def _count(self) -> None:
        with self._lock:
            self.calls += 1
            now = self._signals.get(self.calls)
        if now is not None:
            os.kill(os.getpid(), now)

"""One contestant in a process of its own: `python -m bench.fitting.child JOB`, a JSON object.

It says "ready" when everything is imported and tried on a small matrix, starts its clock at "go", says "done", and
saves its answer at "save", so that the parent can look at it between these.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any


def main() -> None:
    job = json.loads(sys.argv[1])
    # What a library prints goes to stderr; only this file's own lines go to the parent.
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(event: str, **facts: Any) -> None:
        lines.write(json.dumps({"event": event, **facts}) + "\n")
        lines.flush()

    try:
        _run(job, say)
    except MemoryError as problem:
        say("failed", reason=f"out of memory: {problem}")
    except Exception as problem:
        say("failed", reason=_one_line(problem))


def _run(job: dict[str, Any], say: Any) -> None:
    from bench.fitting.answer import save
    from bench.fitting.contestants import BY_NAME
    from bench.fitting.data import Store
    from bench.fitting.ours import Absent, resident

    contestant = BY_NAME[job["contestant"]]
    try:
        import_module(contestant.requires[1])
        _try(contestant.prepare, Store(**job["tiny"]))
        solve = contestant.prepare(Store(**job["store"]))
    except (ImportError, Absent) as problem:
        say("absent", reason=_not_installed(contestant.requires[0]) or _one_line(problem))
        return
    gc.collect()
    reset_peak()
    say("ready", idle=resident())
    _await("go")
    begin = time.perf_counter()
    answer = solve()
    say("done", wall=time.perf_counter() - begin, peak=peak())
    _await("save")
    save(Path(job["answer"]), answer)
    say("saved", passes=answer.passes)


def _try(prepare: Any, tiny: Any) -> None:
    """Solve the small matrix: what the engine refuses there it does not offer."""
    from bench.fitting.ours import Absent
    from ingest.errors import EigenzooError

    try:
        prepare(tiny)()
    except EigenzooError as problem:
        raise Absent(str(problem)) from problem


def _await(word: str) -> None:
    if sys.stdin.readline().strip() != word:
        raise SystemExit(f"the parent is gone before {word!r}")


def reset_peak() -> None:
    """Let the peak begin at the present size; the peaks of imports are nobody's business."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak() -> int:
    """Peak of resident bytes since `reset_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _not_installed(distribution: str) -> str:
    """What pip said of it when the peers' environment was made; nothing where it is there."""
    try:
        said = (Path(sys.prefix) / "not-installed.txt").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in said if line.partition("==")[0] == distribution), "")


def _one_line(problem: BaseException) -> str:
    from bench.fitting.ours import Absent

    kind = "" if isinstance(problem, Absent) else f"{type(problem).__name__}: "
    return f"{kind}{' '.join(str(problem).split())}"[:200]


if __name__ == "__main__":
    main()

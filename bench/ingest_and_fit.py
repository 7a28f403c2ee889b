"""Ingest and fit of a synthetic zoo, side by side with plainly reading and writing the same bytes.

    python bench/ingest_and_fit.py                      1,000 and 4,000 adapters
    python bench/ingest_and_fit.py --adapters 100       a quick look

of 8 modules × rank 16 × width 1024 in bfloat16.

For each size: the ratio of times, ingest / plain, measured in turn (plain, ingest, plain, …) with both sides flushed to
disk; and the peak of memory, over all processes, above their idle size. Idle is after a first small job, so that
imported libraries do not count. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

MIB = 1 << 20


def settings(adapters: int, width: int = 1024) -> Any:
    from ingest.synthetic import Layer, Settings

    layers = tuple(Layer(f"layers.{i}.self_attn.q_proj", width, width, 4, 4) for i in range(8))
    return Settings(layers, adapters, ranks=(16,), dtypes=("bfloat16",), broken=False, seed=adapters)


def plain(source: Path, target: Path) -> None:
    """Read every file, write its bytes to files of 4 MiB, flush them."""
    target.mkdir()
    pending: list[bytes] = []
    count = 0
    for file in sorted(source.glob("*/adapter_model.safetensors")):
        pending.append(file.read_bytes())
        if sum(map(len, pending)) >= 4 * MIB:
            _write(target / str(count), pending)
            pending, count = [], count + 1
    _write(target / str(count), pending)


def _write(path: Path, parts: list[bytes]) -> None:
    with open(path, "wb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())


def status(pid: int, key: str) -> int:
    """Bytes of a line of /proc/PID/status: VmRSS (now) or VmHWM (peak)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return 0


def reset_peak(pids: Iterable[int]) -> dict[int, int]:
    """Forget the peaks so far; each process's size now."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    return {pid: status(pid, "VmRSS") for pid in pids}


def above(idle: dict[int, int]) -> int:
    """Sum over processes of peak less idle: at least the peak of the sum."""
    return sum(max(0, status(pid, "VmHWM") - size) for pid, size in idle.items())


def tree() -> list[int]:
    import psutil

    me = psutil.Process()
    return [me.pid, *(child.pid for child in me.children(recursive=True))]


def job_ingest(source: Path, small: Path, work: Path, repeats: int) -> dict[str, Any]:
    from ingest.pipeline import ingest

    ingest(small, work / "warm.zarr")
    peaks: list[int] = []
    times: dict[str, list[float]] = {"plain": [], "ingest": []}
    idle = reset_peak(tree())  # once: what a first round leaves in the allocator is no idle size of a second
    for i in range(repeats):
        begin = time.perf_counter()
        plain(source, work / f"plain{i}")
        times["plain"].append(time.perf_counter() - begin)
        shutil.rmtree(work / f"plain{i}")
        reset_peak(tree())
        begin = time.perf_counter()
        result = ingest(source, work / f"zoo{i}.zarr")
        times["ingest"].append(time.perf_counter() - begin)
        peaks.append(above(idle))
        if i < repeats - 1:
            shutil.rmtree(work / f"zoo{i}.zarr")
    ratios = [a / b for a, b in zip(times["ingest"], times["plain"], strict=True)]
    return {
        "bytes": result.nbytes,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "peak": int(statistics.median(peaks)),
        "peaks": peaks,
        **times,
    }


def job_fit(zoo: Path, small: Path, work: Path) -> dict[str, Any]:
    from engine.runners.dask_ import DaskRunner
    from engine.zoo_fit import fit_zoo
    from ingest.store.reader import open_zoo

    peaks = []
    for i in range(3):
        with DaskRunner(workers=2) as runner:
            fit_zoo(small, work / f"run-warm{i}", runner=runner)
            idle = reset_peak(tree())
            begin = time.perf_counter()
            run = fit_zoo(zoo, work / f"run-{zoo.name}{i}", runner=runner)
            seconds = time.perf_counter() - begin
            peaks.append(above(idle))
            processes = len(idle)
    peak = int(statistics.median(peaks))
    found = all(m.k["gavish_donoho"] == 4 for m in run.matrices)
    return {
        "peak": peak,
        "peaks": peaks,
        "seconds": seconds,
        "processes": processes,
        "matrices": len(open_zoo(zoo).matrices),
        "k": found,
    }


def child(name: str, *arguments: Any) -> dict[str, Any]:
    """Run one job in a process of its own; its last line is the result."""
    command = [sys.executable, __file__, "--child", name, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=1000)
    parser.add_argument("--factor", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", default=None, help="write the figures there as JSON")
    parser.add_argument("--child", nargs="+", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, *rest = options.child
        if name == "ingest":
            result = job_ingest(Path(rest[0]), Path(rest[1]), Path(rest[2]), int(rest[3]))
        else:
            result = job_fit(Path(rest[0]), Path(rest[1]), Path(rest[2]))
        print(json.dumps(result))
        return

    from ingest import synthetic

    rows = []
    with tempfile.TemporaryDirectory(prefix="eigenzoo-bench-") as folder:
        work = Path(folder)
        synthetic.write(work / "small", settings(64))
        for adapters in (options.adapters, options.adapters * options.factor):
            source = work / f"in-{adapters}"
            synthetic.write(source, settings(adapters))
            inner = work / f"work-{adapters}"
            inner.mkdir()
            taken = child("ingest", source, work / "small", inner, options.repeats)
            zoo = inner / f"zoo{options.repeats - 1}.zarr"
            fitted = child("fit", zoo, inner / "warm.zarr", inner)
            rows.append({"adapters": adapters, "ingest": taken, "fit": fitted})
            shutil.rmtree(source)
            shutil.rmtree(inner)
    print(" adapters    MiB  plain s  ingest s  ratio  peak MiB  fit s  peak MiB")
    for row in rows:
        a, f = row["ingest"], row["fit"]
        print(
            f"{row['adapters']:>9} {a['bytes'] / MIB:>6.0f} {statistics.median(a['plain']):>8.2f} "
            f"{statistics.median(a['ingest']):>9.2f} {a['ratio']:>6.2f} {a['peak'] / MIB:>9.0f} "
            f"{f['seconds']:>6.1f} {f['peak'] / MIB:>9.0f}"
        )
    for what in ("ingest", "fit"):
        small, large = (row[what]["peak"] for row in rows)
        print(f"{what}: peak at {options.factor} × the adapters is {large / small:.2f} × the peak")
    if options.out:
        Path(options.out).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

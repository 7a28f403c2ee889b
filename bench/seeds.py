"""Seed groups of one module at the size of a large zoo: seconds, peak memory, and whether the groups are exact.

    python bench/seeds.py                        10,000 adapters of rank 16 and width 4096 in float32, 2.6 GB
    python bench/seeds.py --adapters 1000        a quick look

Half of the adapters share starts, in groups of 2000 down to 2 at 10,000 adapters, each moved by a tenth of its norm;
starts are uniform as PEFT draws A. Rows lie in a zarr array of 4 MiB chunks, in the page cache; groups are found by one
fresh process with as many BLAS threads as there are cores. Fails where a group is not exact, a peak reaches 1 GiB or,
on two cores and more, the time two minutes. Writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

RANK, WIDTH, CHUNK = 16, 4096, 256
SHARES = (5, 10, 20, 40, 40)  # of all adapters: one group each of a fifth, a tenth, …; pairs up to a half
SECONDS, PEAK = 120.0, 1 << 30

CHILD = """
import json, resource, sys, time
import numpy as np
import zarr
from engine.starts.shared import shared_starts
from engine.rows import as_rows

rows = as_rows(zarr.open_array(sys.argv[1], mode="r"))
rows.offsets = np.arange(0, rows.shape[0] + 1, int(sys.argv[2]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begin, worked = time.perf_counter(), time.process_time()
found = shared_starts(rows)
seconds, worked = time.perf_counter() - begin, time.process_time() - worked
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({
    "seconds": seconds, "cpu_seconds": worked, "peak": peak * 1024, "peak_before": before * 1024,
    "groups": found.groups, "bar": found.bar, "weakest": found.weakest, "strongest": found.strongest,
}))
"""


def labels_of(adapters: int, rng: Any) -> Any:
    """Each adapter's group, −1 for none."""
    import numpy as np

    sizes = [adapters // share for share in SHARES]
    sizes += [2] * ((adapters // 2 - sum(sizes)) // 2)
    labels = np.full(adapters, -1)
    grouped = np.repeat(np.arange(len(sizes)), sizes)
    labels[: len(grouped)] = grouped
    return rng.permutation(labels)


def write(path: Path, labels: Any, rng: Any) -> None:
    """The rows of all adapters."""
    import numpy as np
    import zarr

    bound = WIDTH**-0.5
    array = zarr.create_array(
        path, shape=(len(labels) * RANK, WIDTH), chunks=(CHUNK, WIDTH), dtype="float32", compressors=None
    )
    at_once = CHUNK // RANK
    for first in range(0, len(labels), at_once):
        some = labels[first : first + at_once].tolist()
        block = np.empty((len(some), RANK, WIDTH), np.float32)
        for place, label in enumerate(some):
            start = np.random.default_rng((7, label)) if label >= 0 else rng
            block[place] = start.uniform(-bound, bound, (RANK, WIDTH))
        block += 0.1 * bound * 3**-0.5 * rng.standard_normal(block.shape, np.float32)
        array[first * RANK : (first + len(some)) * RANK] = block.reshape(-1, WIDTH)


def planted(labels: Any) -> list[list[int]]:
    """The groups, the largest first."""
    import numpy as np

    order = np.argsort(labels, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return sorted((g.tolist() for g in groups if labels[g[0]] >= 0), key=lambda g: (-len(g), g))


def main() -> None:
    import numpy as np

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/seeds.json")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    labels = labels_of(options.adapters, rng)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.zarr"
        begin = time.perf_counter()
        write(path, labels, rng)
        print(f"wrote {options.adapters} adapters in {time.perf_counter() - begin:.0f} s")
        runs = []
        for _ in range(options.repeats):
            command = [sys.executable, "-c", CHILD, str(path), str(RANK)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ROOT)
            runs.append(json.loads(done.stdout))
    truth = planted(labels)
    exact = all(run.pop("groups") == truth for run in runs)
    worst = {"seconds": max(r["seconds"] for r in runs), "peak": max(r["peak"] for r in runs)}
    cores = len(os.sched_getaffinity(0))
    for run in runs:
        print(
            f"{run['seconds']:6.1f} s, {run['cpu_seconds']:6.1f} s of CPU  peak {run['peak'] / 2**20:5.0f} MiB",
            end="  ",
        )
        print(f"weakest {run['weakest']:.4f}  strongest apart {run['strongest']:.4f}  asked {run['bar']:.2f}")
    print(f"{len(truth)} groups of {sum(map(len, truth))} adapters: {'exact' if exact else 'NOT EXACT'}")
    figures = {
        "machine": {"cores": cores, "processor": platform.machine()},
        "adapters": options.adapters,
        "rank": RANK,
        "width": WIDTH,
        "groups": len(truth),
        "grouped": sum(map(len, truth)),
        "exact": exact,
        "runs": runs,
    }
    options.out.write_text(json.dumps(figures, indent=1) + "\n")
    if not exact or worst["peak"] >= PEAK or (cores >= 2 and worst["seconds"] >= SECONDS):
        sys.exit("the groups are not exact, or their cost is above what was promised")


if __name__ == "__main__":
    main()

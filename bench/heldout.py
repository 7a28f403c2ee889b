"""Leave-one-out errors by updating one eigendecomposition, side by side with fitting the others anew each time.

    python bench/heldout.py                     200 adapters of rank 16, width 1024, K = 24
    python bench/heldout.py --adapters 40       a quick look

The adapters share `--k` planted directions above white noise, and a mean. Refits are `engine.fit` with that K and
float64 products on rows in memory, by whichever device and kind of spectrum is fastest here; of them the fit alone is
timed. The update is timed whole: both passes over the rows, the eigendecomposition, every adapter. They take turns, a
share of the refits after each update, so that both see the same machine. Processor seconds are those of all threads.
Prints a summary and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

ROUNDS = 5


class Zoo:
    """A `RowSource` in memory."""

    def __init__(self, adapters: int, rank: int, width: int, k: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        n = adapters * rank
        directions = np.linalg.qr(rng.standard_normal((width, k)))[0].T
        edge = np.sqrt(n) + np.sqrt(width)  # of the noise's singular values
        strength = edge / np.sqrt(n) * np.geomspace(10.0, 1.5, k)
        x = (rng.standard_normal((n, k)) * strength) @ directions + rng.standard_normal((n, width))
        self.x = (x + 0.5 * rng.standard_normal(width)).astype(np.float32)
        self.shape, self.dtype = self.x.shape, self.x.dtype
        self.offsets = np.arange(0, n + 1, rank, dtype=np.int64)
        self.block_rows, self.identity = 512, ""

    def read(self, start: int, stop: int) -> Any:
        return self.x[start:stop]

    def split(self, adapter: int) -> tuple[Any, Any]:
        """Everybody else's rows, and its own."""
        first, last = self.offsets[adapter : adapter + 2]
        return np.concatenate([self.x[:first], self.x[last:]]), self.x[first:last]


def refit(zoo: Zoo, adapter: int, k: int, way: dict[str, str]) -> tuple[float, float, float]:
    """(seconds of the fit, its processor seconds, error of the adapter)."""
    import engine

    others, own = zoo.split(adapter)
    begin, before = time.perf_counter(), time.process_time()
    sub = engine.fit(others, k, products="float64", **way)
    seconds, processor = time.perf_counter() - begin, time.process_time() - before
    rows = own.astype(np.float64)
    left = rows - sub.inverse_transform(sub.transform(rows))
    return seconds, processor, float(np.square(left).sum() / np.square(rows).sum())


def fastest(zoo: Zoo, k: int) -> tuple[dict[str, str], dict[str, float]]:
    """The way that refits fastest, and the median seconds of all."""
    devices = ["cpu"] + (["torch"] if find_spec("torch") else [])
    ways = [{"device": d, "spectrum": s} for d in devices for s in ("full", "top")]
    seconds = {}
    for way in ways:
        refit(zoo, 0, k, way)  # loads libraries
        seconds[f"{way['device']} {way['spectrum']}"] = statistics.median(refit(zoo, i, k, way)[0] for i in range(5))
    best = min(ways, key=lambda way: seconds[f"{way['device']} {way['spectrum']}"])
    return best, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("adapters", 200), ("rank", 16), ("width", 1024), ("k", 24), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", default=str(ROOT / "bench" / "results" / "heldout.json"))
    options = parser.parse_args()
    from threadpoolctl import threadpool_info

    from engine.analysis.heldout import held_out_error

    zoo = Zoo(options.adapters, options.rank, options.width, options.k, options.seed)
    held_out_error(Zoo(8, options.rank, options.width, options.k, 1), options.k, null=False)  # loads libraries
    way, tried = fastest(zoo, options.k)
    updates: list[float] = []
    of_updates: list[float] = []
    refits: list[float] = []
    of_refits: list[float] = []
    errors: list[float] = []
    for part in np.array_split(np.arange(options.adapters), ROUNDS):
        begin, before = time.perf_counter(), time.process_time()
        found = held_out_error(zoo, options.k, null=False)
        updates.append(time.perf_counter() - begin)
        of_updates.append(time.process_time() - before)
        for adapter in part.tolist():
            seconds, processor, error = refit(zoo, adapter, options.k, way)
            refits.append(seconds)
            of_refits.append(processor)
            errors.append(error)
    off = np.abs(found.errors / np.array(errors) - 1)
    figures: dict[str, Any] = {
        "adapters": options.adapters,
        "rank": options.rank,
        "width": options.width,
        "k": options.k,
        "machine": {
            "cores": os.cpu_count(),
            "processor": platform.machine(),
            "numpy": np.__version__,
            "threads": max(library["num_threads"] for library in threadpool_info()),
        },
        "refit": {
            "way": way,
            "tried_seconds": tried,
            "seconds": sum(refits),
            "each": statistics.median(refits),
            "processor_seconds": sum(of_refits),
        },
        "update": {
            "seconds": statistics.median(updates),
            "all": updates,
            "processor_seconds": statistics.median(of_updates),
        },
        "speedup": sum(refits) / statistics.median(updates),
        "speedup_processor": sum(of_refits) / statistics.median(of_updates),
        "largest_relative_difference": float(off.max()),
        "solved_whole": found.n_whole,
        "refitted": found.n_refits,
        "total": found.total,
        "in_sample": found.in_sample,
        "mean_only": found.controls.mean_only,
    }
    refitting, updating = figures["refit"], figures["update"]
    print(f"refits: {sum(refits):.2f} s by {way['device']}, spectrum {way['spectrum']}, {len(refits)} fits")
    for name, each in tried.items():
        print(f"  {name:<12} {each * 1e3:7.1f} ms a fit")
    print(f"update: {updating['seconds']:.2f} s, all adapters; {figures['speedup']:.1f} × as fast as refitting")
    print(
        f"processor: {refitting['processor_seconds']:.2f} s and {updating['processor_seconds']:.2f} s, "
        f"{figures['speedup_processor']:.1f} ×"
    )
    print(f"errors differ by {off.max():.1e} at most, relatively; {found.n_whole} solved whole")
    print(f"held out {found.total:.6f}, in sample {found.in_sample:.6f}, mean only {found.controls.mean_only:.6f}")
    if options.out:
        Path(options.out).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""A zoo fitted by one worker and by two: what the second one brings, and what it moves.

    python bench/dask_scaling.py                        16 matrices of 65,536 × 2048 in bfloat16, 4.3 GB
    python bench/dask_scaling.py --rows 8192            a quick look

Each worker is a process with one BLAS thread. The two clusters take turns (1, 2, 1, 2, …); their start and a first
small fit come before the clock. Prints the ratio of times; the bytes that workers fetched from one another, for each
matrix and in units of one state (8 · width²); and the bytes that they spilled to disk. Writes JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

RANK = 64  # rows of an adapter in one matrix


def make_zoo(path: Path, matrices: int, rows: int, width: int) -> None:
    """A zoo of white noise in bfloat16, both sides of matrices / 2 layers, through the store's own writer."""
    import ml_dtypes
    import numpy as np

    from ingest.store import schema
    from ingest.store.catalog import AdapterRecord, ArrayRecord, LayerRecord, entry_dtype
    from ingest.store.writer import ZooWriter

    rng = np.random.default_rng(0)
    chunk = schema.chunk_rows(width, "bfloat16", rows)
    layers = tuple(LayerRecord(f"layers.{i}.q_proj", "linear", (width,), width) for i in range(matrices // 2))
    arrays = tuple(
        ArrayRecord(f"{schema.layer_path(la.layer)}/{side}", la.layer, side, "bfloat16", rows, width, chunk)
        for la in layers
        for side in "AB"
    )
    with ZooWriter(str(path)) as writer:
        for array in arrays:
            for index in range(array.chunks):
                block = np.zeros((chunk, width), ml_dtypes.bfloat16)
                n = min(chunk, rows - index * chunk)
                block[:n] = rng.random((n, width), np.float32) - np.float32(0.5)
                writer.write_chunk(array, index, block)
        count = rows // RANK
        entries = np.zeros((count, len(layers)), entry_dtype())
        entries["adapter"], entries["layer"] = np.arange(count)[:, None], np.arange(len(layers))
        entries["rank"], entries["scale"] = RANK, 1.0
        for offset, side in enumerate("ab"):
            entries[f"{side}_array"] = 2 * np.arange(len(layers)) + offset
            entries[f"{side}_start"] = RANK * np.arange(count)[:, None]
            entries[f"{side}_digest"] = rng.integers(0, 256, (count, len(layers), 16), np.uint8)
        records = [
            AdapterRecord(f"a{i}", f"a{i}", "ok", content=f"{i:064x}", rank=RANK, rows=RANK * len(layers))
            for i in range(count)
        ]
        texts = {record.name: {"config": "{}", "metadata": {}} for record in records}
        commit = dataclasses.replace(writer.commit, base_model="bench/noise", layers=layers, arrays=arrays)
        writer.save(commit, records, entries.ravel(), texts)


def counters(dask_worker: Any) -> dict[str, int]:
    """On a worker: bytes that it has fetched from other workers, and spilled, since it started."""
    spilled = getattr(dask_worker.data, "cumulative_metrics", {})
    return {
        "fetched": sum(int(each["total"]) for each in dask_worker.transfer_incoming_log),
        "spilled": int(spilled.get(("disk-write", "bytes"), 0)),
    }


def fit(zoo: Path, small: Path, work: Path, workers: int) -> dict[str, Any]:
    """Seconds and bytes of one fit by a fresh cluster."""
    from bench.fitting.measure import Tree
    from engine.runners.dask_ import DaskRunner
    from engine.zoo_fit import fit_zoo

    out = work / "run"
    with DaskRunner(workers=workers) as runner:
        fit_zoo(small, work / "small-run", runner=runner)
        client = runner._client  # the runner has no public way to its workers' counters
        before = _total(client.run(counters).values())
        watch = Tree(os.getpid())
        run = fit_zoo(zoo, out, runner=runner)
        watch.stop()
        after = _total(client.run(counters).values())
    matrices = len(run.matrices)
    shutil.rmtree(out)
    shutil.rmtree(work / "small-run")
    return {
        "workers": workers,
        "seconds": watch.seconds,
        "cpu_s": watch.cpu,
        "load": watch.load,
        "peak": watch.peak,
        "matrices": matrices,
        **{name: after[name] - before[name] for name in after},
    }


def _total(figures: Any) -> dict[str, int]:
    each = list(figures)
    return {name: sum(f[name] for f in each) for name in ("fetched", "spilled")}


def summary(runs: Sequence[dict[str, Any]], width: int) -> dict[str, Any]:
    """The ratios of one series of runs, one worker's and two workers' in turn."""
    pairs = list(zip(runs[::2], runs[1::2], strict=True))
    state = 8 * width * width
    two = [run for _, run in pairs]
    return {
        "speedup": statistics.median(one["seconds"] / pair["seconds"] for one, pair in pairs),
        "states_moved_per_matrix": statistics.median(run["fetched"] / run["matrices"] / state for run in two),
        "spilled": max(run["spilled"] for run in runs),
        "load": max(run["load"] for run in runs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--matrices", type=int, default=16, help="an even number")
    parser.add_argument("--rows", type=int, default=65_536, help=f"of each, a multiple of {RANK}")
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path, help="where to write; needs the zoo's bytes")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "dask_scaling.json")
    options = parser.parse_args()
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="eigenzoo-bench-", dir=options.work) as folder:
        work = Path(folder)
        make_zoo(work / "small.zarr", 4, 512, 128)
        make_zoo(work / "zoo.zarr", options.matrices, options.rows, options.width)
        for _ in range(options.repeats):
            for workers in (1, 2):
                runs.append(fit(work / "zoo.zarr", work / "small.zarr", work, workers))
                done = runs[-1]
                print(
                    f"{workers} worker{'s' * (workers > 1)}: {done['seconds']:.1f} s, "
                    f"{done['seconds'] * workers / done['matrices']:.2f} s of a worker a matrix, "
                    f"{done['fetched'] >> 20} MiB between workers, {done['spilled'] >> 20} MiB spilled, "
                    f"others {done['load']:.0%} of a core",
                    flush=True,
                )
    found = summary(runs, options.width)
    print(
        f"\none worker / two workers: {found['speedup']:.2f} (median of {options.repeats} pairs); "
        f"{found['states_moved_per_matrix']:.2f} states moved a matrix; {found['spilled']} bytes spilled"
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"options": vars(options) | {"work": None, "out": None}, **found, "runs": runs}))


if __name__ == "__main__":
    main()

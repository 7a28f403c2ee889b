"""What a plan says a fit takes, and what it takes: two matrices of a Mistral-7B-shaped zoo of 10,000 adapters.

    python bench/plan.py                         160,000 × 4096 in bfloat16, twice 1.3 GB
    python bench/plan.py --rows 16000            a quick look
    python bench/plan.py --together              both at a time, as two workers would

One matrix is like a side A, noise as `kaiming_uniform` draws it with 24 directions above it; one like a side B, with a
spectrum that falls. The rates are measured first, as `eigenzoo plan` does. Each matrix is then fitted in a fresh
process with one BLAS thread, as a worker does, from the zoo's store in the page cache. Prints seconds and peak memory
as planned and as measured, and fails where a ratio of seconds is beyond 1.5 or a peak above what was stated. Writes
JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

RANK, SPIKES = 16, 24
LAYER = "model.layers.0.self_attn.q_proj"
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")

CHILD = """
import json, sys, time
import numpy as np
import engine, ingest
from engine.runners.threads import ThreadsRunner

def status(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))

path, layer, side, device = sys.argv[1:]
rows = ingest.open_zoo(path).rows(layer, side=side)
rows.read(0, 1)
with ThreadsRunner(1) as runner:
    engine.fit(np.random.default_rng(0).random((900, 800)), "ev:0.5", device=device, runner=runner)
    for start in range(0, rows.shape[0], 4096):  # into the page cache
        rows.read(start, min(start + 4096, rows.shape[0]))
    open("/proc/self/clear_refs", "w").write("5")
    before = status("VmRSS")
    print("ready", flush=True)
    sys.stdin.readline()
    begin, busy = time.perf_counter(), time.process_time()
    sub = engine.fit(rows, device=device, runner=runner)
    seconds, busy = time.perf_counter() - begin, time.process_time() - busy
print(json.dumps({
    "seconds": seconds, "cpu_seconds": busy, "peak": status("VmHWM") - before,
    "method": sub.method, "exact": sub.exact, "k": sub.k_choice.k, "passes": sub.passes,
}))
"""


def make_zoo(path: Path, rows: int, width: int) -> None:
    """A zoo of one layer whose two sides are drawn chunk by chunk, through the store's own writer."""
    import ml_dtypes
    import numpy as np

    from ingest.store import schema
    from ingest.store.catalog import AdapterRecord, ArrayRecord, LayerRecord, entry_dtype
    from ingest.store.writer import ZooWriter

    rng = np.random.default_rng(0)
    chunk = schema.chunk_rows(width, "bfloat16", rows)
    layer = LayerRecord(LAYER, "linear", (width,), width)
    arrays = tuple(
        ArrayRecord(f"{schema.layer_path(LAYER)}/{side}", LAYER, side, "bfloat16", rows, width, chunk) for side in "AB"
    )
    directions = np.linalg.qr(rng.standard_normal((width, SPIKES)))[0].T.astype(np.float32)
    bound = 1 / math.sqrt(width)  # kaiming_uniform with a = √5, as PEFT begins A
    sizes = {"A": np.full(SPIKES, 6 * bound, np.float32), "B": 40 * bound * 0.8 ** np.arange(SPIKES, dtype=np.float32)}
    count = rows // RANK
    with ZooWriter(str(path)) as writer:
        for array in arrays:
            for index in range(array.chunks):
                n = min(chunk, rows - index * chunk)
                block = np.zeros((chunk, width), ml_dtypes.bfloat16)
                drawn = (2 * rng.random((n, width), np.float32) - 1) * np.float32(bound)
                drawn += (rng.standard_normal((n, SPIKES), np.float32) * sizes[array.side]) @ directions
                block[:n] = drawn
                writer.write_chunk(array, index, block)
        entries = np.zeros((count, 1), entry_dtype())
        entries["adapter"], entries["rank"], entries["scale"] = np.arange(count)[:, None], RANK, 1.0
        for offset, side in enumerate("ab"):
            entries[f"{side}_array"] = offset
            entries[f"{side}_start"] = RANK * np.arange(count)[:, None]
            entries[f"{side}_digest"] = rng.integers(0, 256, (count, 1, 16), np.uint8)
        records = [
            AdapterRecord(f"a{i}", f"a{i}", "ok", content=f"{i:064x}", rank=RANK, rows=RANK) for i in range(count)
        ]
        texts = {record.name: {"config": "{}", "metadata": {}} for record in records}
        commit = dataclasses.replace(writer.commit, base_model="bench/mistral", layers=(layer,), arrays=arrays)
        writer.save(commit, records, entries.ravel(), texts)


def planned(path: Path, side: str, device: str) -> dict[str, Any]:
    """What `eigenzoo plan` says of one matrix."""
    import ingest
    from engine.methods import Wanted
    from engine.plan.calibration import calibrate
    from engine.plan.choice import choose_method
    from engine.plan.matrix import matrix_of

    rows = ingest.open_zoo(path).rows(LAYER, side=side)
    matrix = matrix_of(rows)
    chosen = choose_method(matrix, Wanted(), device=device).must(side)
    rates = {chosen.device: calibrate(chosen.device, rows)}
    choice = choose_method(matrix, Wanted(), device=device, rates=rates)
    e = choice.must(side)
    return {
        "matrix": str(matrix),
        "method": e.method,
        "device": e.device,
        "seconds": e.seconds,
        "fold_seconds": e.fold_seconds,
        "solve_seconds": e.solve_seconds,
        "task_bytes": e.task_bytes,
        "why": choice.why,
        "rates": dataclasses.asdict(rates[e.device]),
    }


def start(path: Path, side: str, device: str) -> subprocess.Popen[str]:
    """A process that is ready to fit a matrix, with one BLAS thread."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), LAYER, side, device],
        cwd=ROOT,
        env={**os.environ, **dict.fromkeys(THREADS, "1")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise SystemExit(f"side {side}: the process that was to fit it ended with {process.wait()}")
    return process


def go(processes: list[subprocess.Popen[str]]) -> list[dict[str, Any]]:
    """What these processes measure, all at a time."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [json.loads(process.communicate()[0].splitlines()[-1]) for process in processes]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=160_000, help=f"of each matrix, a multiple of {RANK}")
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--together", action="store_true", help="fit both at a time")
    parser.add_argument("--work", type=Path, help="where to write; needs the zoo's bytes")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "plan.json")
    options = parser.parse_args()
    os.environ.update(dict.fromkeys(THREADS, "1"))
    with tempfile.TemporaryDirectory(prefix="eigenzoo-bench-", dir=options.work) as folder:
        path = Path(folder) / "zoo.zarr"
        make_zoo(path, options.rows, options.width)
        plans = {side: planned(path, side, options.device) for side in "AB"}
        measured: list[dict[str, Any]] = []
        if options.together:
            measured = go([start(path, side, plans[side]["device"]) for side in "AB"])
        else:
            for side in "AB":
                measured += go([start(path, side, plans[side]["device"])])
    bad = 0
    for side, found in zip("AB", measured, strict=True):
        plan = plans[side]
        ratio = found["seconds"] / plan["seconds"]
        within = 1 / 1.5 <= ratio <= 1.5 and found["peak"] <= plan["task_bytes"] and found["method"] == plan["method"]
        bad += not within
        print(f"{side} {plan['matrix']}: {plan['why']} ({plan['device']})")
        print(
            f"  seconds: planned {plan['seconds']:.1f} (fold {plan['fold_seconds']:.1f}, solve "
            f"{plan['solve_seconds']:.1f}), measured {found['seconds']:.1f} (processor {found['cpu_seconds']:.1f}), "
            f"ratio {ratio:.2f}"
        )
        print(
            f"  peak: stated {plan['task_bytes'] >> 20} MiB, measured {found['peak'] >> 20} MiB; K = {found['k']}, "
            f"{found['passes']} passes{'' if within else '; NOT as planned'}"
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    document = {"rows": options.rows, "width": options.width, "together": options.together}
    options.out.write_text(json.dumps({**document, "planned": plans, "measured": measured}, indent=1))
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())

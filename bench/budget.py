"""What a byte budget buys: the measured error of ΔW of the exact allocation, of greedy, and of one K for all.

    python bench/budget.py [--out bench/results/budget.json]

Zoos: the demo's synthetic one, and the families of real adapters in $EIGENZOO_REAL_ZOO where that is set. Every zoo is
fitted once in ΔW space with all components; an allocation's error is that of reconstructing every adapter with the
first K of each matrix.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

FAMILIES = ("roberta-base", "gpt2", "sd1.x-unet-r4")
TIMES = (1.5, 2, 3, 4, 8, 18, 40)  # how many times smaller than the factors as stored


def zoos(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name and path of every zoo at hand."""
    from ingest import synthetic
    from ingest.pipeline import ingest

    synthetic.write(folder / "demo")
    ingest(folder / "demo", folder / "demo.zarr")
    yield "demo", folder / "demo.zarr"
    real = os.environ.get("EIGENZOO_REAL_ZOO", "")
    for family in FAMILIES if real else ():
        ingest(f"{real}/{family}__*", folder / f"{family}.zarr")
        yield family, folder / f"{family}.zarr"


def measure(name: str, zoo: Path, out: Path, dtype: str) -> list[dict[str, Any]]:
    """A line per budget."""
    from engine.analysis.budget import budget, curves_of, stored_bytes
    from engine.analysis.reconstruction import reconstruction
    from engine.zoo_fit import fit_zoo
    from ingest.store.reader import open_zoo

    first = curves_of(fit_zoo(zoo, out.with_suffix(".spectra"), space="delta"))
    run = fit_zoo(zoo, out, space="delta", k=first.all)
    stored = stored_bytes(run, open_zoo(zoo))
    lines = []
    for times in TIMES:
        begin = time.perf_counter()
        found = budget(run, nbytes=int(stored / times), dtype=dtype)
        seconds = time.perf_counter() - begin
        line: dict[str, Any] = {"zoo": name, "matrices": len(found.curves.matrices), "stored_bytes": stored}
        line |= {"times_smaller": times, "bytes": int(stored / times), "dtype": dtype, "seconds": round(seconds, 3)}
        for kind, allocation in (("exact", found.exact), ("greedy", found.greedy), ("uniform", found.uniform)):
            line[kind] = {
                "bytes": allocation.nbytes,
                "bound": found.curves.bound(allocation),
                "error": reconstruction(run, k=found.curves.table(allocation)).total,
                "k": [min(allocation.k), max(allocation.k)],
                "tail": allocation.tail,
            }
        line["exact"]["gap"] = found.exact.gap
        lines.append(line)
    return lines


def show(lines: list[dict[str, Any]]) -> None:
    header = ("zoo", "smaller", "bytes", "exact", "greedy", "one K", "bound exact", "K exact", "one K", "seconds")
    print("".join(f"{h:>14}" for h in header))
    for e in lines:
        cells = (e["zoo"], f"{e['times_smaller']}x", str(e["bytes"]))
        cells += tuple(f"{e[kind]['error']:.5f}" for kind in ("exact", "greedy", "uniform"))
        cells += (f"{e['exact']['bound']:.5f}", "{}–{}".format(*e["exact"]["k"]), str(e["uniform"]["k"][1]))
        print("".join(f"{c:>14}" for c in (*cells, f"{e['seconds']:.2f}")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="f16", help="f32, f16 or bf16: of the numbers kept")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "budget.json")
    options = parser.parse_args()
    lines: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="eigenzoo-bench-") as folder:
        for name, zoo in zoos(Path(folder)):
            lines += measure(name, zoo, Path(folder) / f"{name}.run", options.dtype)
    show(lines)
    worse = [e for e in lines if e["exact"]["tail"] > e["uniform"]["tail"] * (1 + 1e-12) or e["exact"]["gap"] > 0]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(lines, indent=1))
    return 1 if worse else 0


if __name__ == "__main__":
    raise SystemExit(main())

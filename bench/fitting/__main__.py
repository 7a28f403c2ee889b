"""`engine.fit` beside other libraries, and beside what the machine can do, on one machine in one run.

    python -m bench.fitting                                    M, L and XL, every contestant
    python -m bench.fitting --sizes M --only 'ours|sklearn'    a part of it
    python -m bench.fitting --quick                            a small matrix, to see that it runs

Sizes: M 16,000 × 4096 and L 100,000 × 4096, in float16 and bfloat16 (ours in float32 too, for its Gram pass); XL
400,000 × 2048 in float32 for ours alone, in a group of processes that has 512 MiB. Every run has a fresh process;
imports and a first small matrix come before its clock starts, reading the stored matrix is part of its time. Rounds are
interleaved; a run that others took more than a tenth of a core from is taken again. Prints tables and ratios, writes
JSON and a picture. Peers are those of bench/requirements-peers.txt; what is not installed is named as such.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.fitting import limits, plot, table
from bench.fitting.answer import Contestant
from bench.fitting.contestants import CONTESTANTS
from bench.fitting.data import ROOT, SIZES, Store, prepare
from bench.fitting.measure import Sample, environment, run_quiet
from bench.fitting.ratios import lines as ratio_lines
from bench.fitting.ratios import ratios
from bench.fitting.reference import reference

SLOW = 60.0  # seconds; what takes longer is run once


def main() -> None:
    options = _options()
    chosen = [c for c in CONTESTANTS if re.search(options.only, c.name)]
    tiny = {dtype: prepare(options.data, "tiny", dtype) for dtype in ("float16", "bfloat16", "float32")}
    stores = list(_stores(options, chosen))
    for store in stores:
        print(f"{store.name}: the reference", flush=True)
        reference(store)
    figures: dict[str, Any] = {
        "machine": _machine(),
        "options": {"sizes": options.sizes, "dtypes": options.dtypes, "only": options.only},
        "limits": _limits(stores) if options.limits else {"read": {}, "width": {}, "product": {}},
        "rows": [],
    }
    print("\n".join(table.limit_lines(figures["limits"])), flush=True)
    for store in stores:
        takers = [c for c in chosen if c.takes(store)]
        figures["rows"] += _contest(store, tiny[store.dtype], takers, options, figures["limits"]["product"])
        _write(options.out, figures)
    found = ratios(figures["rows"], figures["limits"])
    figures["ratios"] = [each._asdict() for each in found]
    _write(options.out, figures)
    print("\n".join([*table.lines(figures["rows"]), *ratio_lines(found)]))
    print(plot.draw(figures["rows"], options.out.with_suffix(".png")))


def _contest(
    store: Store, tiny: Store, chosen: list[Contestant], options: argparse.Namespace, products: dict[str, Any]
) -> list[table.Row]:
    """All rounds over one store, each with the machine's own products of as many rows beside it."""
    truth = reference(store)
    samples: dict[str, list[tuple[Sample, bool]]] = {contestant.name: [] for contestant in chosen}
    for number in range(options.repeats):
        if options.limits:
            products.setdefault(store.name, []).append(limits.measured("product", store, environment()))
        for contestant in chosen:
            earlier = samples[contestant.name]
            if earlier and (earlier[-1][0].status != "ok" or earlier[0][0].wall > SLOW):
                continue
            earlier.append(run_quiet(contestant, store, tiny, truth, options.limit, options.tries))
            print(f"{number + 1} {store.name:14} {table.line(table.row(store, contestant, earlier[-1:]))}", flush=True)
    return [table.row(store, contestant, samples[contestant.name]) for contestant in chosen]


def _stores(options: argparse.Namespace, chosen: list[Contestant]) -> Iterator[Store]:
    """Those that somebody takes part in, drawn where they are not there yet."""
    for size in options.sizes:
        for dtype in options.dtypes:
            rows, width = SIZES[size]
            if any(c.takes(Store("", size, dtype, rows, width)) for c in chosen):
                print(f"{size} {dtype}: the data", flush=True)
                yield prepare(options.data, size, dtype)


def _limits(stores: list[Store]) -> dict[str, Any]:
    env = environment()
    read: dict[str, Any] = {}
    for store in stores:
        store.warm()
        read[store.name] = limits.measured("read", store, env)
    width: dict[str, Any] = {}
    for store in stores:
        if str(store.width) not in width:
            width[str(store.width)] = {name: limits.measured(name, store, env) for name in limits.PER_WIDTH}
    return {"read": read, "width": width, "product": {}}


def _machine() -> dict[str, Any]:
    names = sorted({c.requires[0] for c in CONTESTANTS} | {"numpy", "scipy", "zarr", "dask", "torch"})
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.*)", cpuinfo)
    return {
        "processor": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "python": platform.python_version(),
        "versions": versions,
        "one_blas_thread": [c.name for c in CONTESTANTS if c.one_thread],
    }


def _write(path: Path, figures: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.fitting", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cache = Path(tempfile.gettempdir()) / "eigenzoo-bench-fitting"
    parser.add_argument("--sizes", type=_names, default=["M", "L", "XL"], help="of M, L, XL, with commas")
    parser.add_argument("--dtypes", type=_names, default=["float16", "bfloat16", "float32"])
    parser.add_argument("--only", default="", help="a regular expression over contestants' names")
    parser.add_argument("--repeats", type=int, default=3, help=f"rounds; what takes over {SLOW:.0f} s is run once")
    parser.add_argument("--tries", type=int, default=4, help="runs of one round until others leave it alone")
    parser.add_argument("--limit", type=float, default=1200.0, help="seconds after which a run is given up")
    parser.add_argument("--data", type=Path, default=cache, help="where the matrices are kept (8 GB for all)")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "fitting.json")
    parser.add_argument("--no-limits", dest="limits", action="store_false", help="leave the machine's limits out")
    parser.add_argument("--quick", action="store_true", help="2000 × 256, one round")
    options = parser.parse_args()
    if options.quick:
        options.sizes, options.repeats, options.tries = ["quick"], 1, 1
    if unknown := [size for size in options.sizes if size not in SIZES]:
        parser.error(f"--sizes: no size {unknown[0]}; choose of {', '.join(SIZES)}")
    return options


def _names(text: str) -> list[str]:
    return text.split(",")


if __name__ == "__main__":
    main()

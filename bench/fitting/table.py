"""Samples → rows of figures → text."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from bench.fitting.answer import Contestant
from bench.fitting.data import Store
from bench.fitting.measure import Sample

MIB = 1 << 20
Row = dict[str, Any]
_HEAD = (
    f"{'':25}{'wall s':>9}{'min':>9}{'cpu s':>9}{'peak MiB':>10}{'reads':>6}"
    f"{'top 24':>9}{'angle':>9}{'all σ':>9}{'median':>9}  {'K_GD':18}{'others':>7}"
)


def row(store: Store, contestant: Contestant, samples: list[tuple[Sample, bool]]) -> Row:
    """One row of figures: medians and the minimum over the runs, the worst peak, the errors of the last run."""
    good = [sample for sample, _ in samples if sample.status == "ok"]
    last = good[-1] if good else samples[-1][0]
    runs = good or [last]
    return {
        "store": store.name,
        "size": store.size,
        "dtype": store.dtype,
        "rows": store.rows,
        "width": store.width,
        "contestant": contestant.name,
        "kind": contestant.kind,
        "status": last.status,
        "reason": last.reason,
        "wall_s": statistics.median(sample.wall for sample in runs),
        "wall_min_s": min(sample.wall for sample in runs),
        "cpu_s": statistics.median(sample.cpu for sample in runs),
        "peak": max(sample.peak for sample in runs),
        "idle": max(sample.idle for sample in runs),
        "passes": last.passes,
        "load": max(sample.load for sample in runs),
        "loaded": any(disturbed for _, disturbed in samples),
        "same": last.errors.same,
        **{f"error_{name}": value for name, value in asdict(last.errors).items()},
        "samples": [asdict(sample) for sample, _ in samples],
    }


def lines(rows: Iterable[Row]) -> list[str]:
    """The table as text, a block for each store."""
    out: list[str] = []
    store = ""
    for each in rows:
        if each["store"] != store:
            store = each["store"]
            out += ["", f"{store}: {each['rows']:,} × {each['width']:,}", _HEAD]
        out.append(line(each))
    return out


def line(each: Row) -> str:
    """One row as text."""
    if each["status"] != "ok":
        return f"{each['contestant']:25}{each['status']}: {each['reason']}"
    passes = "" if each["passes"] is None else str(each["passes"])
    errors = "".join(f"{_small(each[f'error_{name}']):>9}" for name in ("top", "angle", "whole", "median"))
    marks = "  loaded" if each["loaded"] else ""
    if each["reason"]:
        marks += f"  ({each['reason']})"
    return (
        f"{each['contestant']:25}{each['wall_s']:>9.2f}{each['wall_min_s']:>9.2f}{each['cpu_s']:>9.2f}"
        f"{each['peak'] / MIB:>10.0f}{passes:>6}{errors}  {_k(each):18}{each['load']:>6.0%}{marks}"
    )


def limit_lines(limits: dict[str, Any]) -> list[str]:
    """The machine's limits as text."""
    out = ["", "the machine, in this run:"]
    for store, figures in limits["read"].items():
        if figures:
            out.append(f"  read {store:16} {figures['bytes_per_s'] / 1e9:8.2f} GB/s from the page cache")
    for width, groups in limits["width"].items():
        for name, rate in {**groups["syrk"], **groups["bfloat16"]}.items():
            out.append(f"  {name:21} {rate / 1e9:8.0f} Gflop/s (rows · width²) at width {width}")
        for name, seconds in groups["eigen"].items():
            out.append(f"  eigen {name:24} {seconds:8.2f} s at width {width}")
    return out


def _k(each: Row) -> str:
    right = each["error_k_right"]
    if right is None:
        return "" if each["error_top"] is None else "no whole spectrum"
    return "right" if right else "wrong"


def _small(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"

"""The comparisons that the figures of one run allow, each a ratio of two of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from statistics import median
from typing import Any, NamedTuple

from bench.fitting.data import SIZES
from bench.fitting.table import Row


class Ratio(NamedTuple):
    """A ratio by name, for a store or a dtype, and what it divides by."""

    name: str
    where: str
    value: float
    by: str


def ratios(rows: list[Row], limits: dict[str, Any]) -> list[Ratio]:
    """All that the rows allow; those whose parts are missing are left out."""
    out: list[Ratio] = []
    for store in dict.fromkeys(each["store"] for each in rows):
        good = {each["contestant"]: each for each in rows if each["store"] == store and each["status"] == "ok"}
        out += _against_peers(store, good)
        out += _against_machine(store, good, limits)
    return [*out, *_across(rows)]


def lines(found: Iterable[Ratio]) -> list[str]:
    """As text."""
    return ["", *(f"{each.name:45} {each.where:14} {each.value:8.3f}   {each.by}" for each in found)]


def _against_peers(store: str, good: dict[str, Row]) -> Iterator[Ratio]:
    ours, top = good.get("ours"), good.get("ours top")
    peers = [each for each in good.values() if each["kind"] != "ours"]
    exact = _fastest(peers, lambda each: bool(each["kind"] == "exact"))
    same = _fastest(peers, lambda each: bool(each["same"]))
    if ours and exact:
        yield _walls("ours / fastest exact peer", store, ours, exact)
        by = f"{exact['contestant']}, {exact['peak'] >> 20} MiB"
        yield Ratio("peak: ours / fastest exact peer", store, ours["peak"] / exact["peak"], by)
    if ours and same:
        yield _walls("ours / fastest peer as accurate", store, ours, same)
    lowrank = good.get("torch svd_lowrank")
    if top and lowrank:
        yield _walls("ours top / torch svd_lowrank", store, top, lowrank)


def _against_machine(store: str, good: dict[str, Row], limits: dict[str, Any]) -> Iterator[Ratio]:
    any_row = next(iter(good.values()), None)
    product = product_seconds(limits.get("product", {}).get(store, []))
    if any_row is None or not product:
        return
    width = limits["width"].get(str(any_row["width"]), {"eigen": {}})
    values = {name: s for name, s in width["eigen"].items() if name.startswith("values")}
    for kind, solvers in (("any precision", values), ("float64", {n: s for n, s in values.items() if "64" in n})):
        if solvers and "ours" in good:
            floor = product + min(solvers.values())
            by = f"{floor:.2f} s: product {product:.2f}, eigenvalues in {kind} {min(solvers.values()):.2f}"
            yield Ratio("ours / floor", store, good["ours"]["wall_s"] / floor, by)
    read = limits["read"].get(store, {}).get("seconds", 0.0)
    for each in ("ours gram pass", "ours under 512 MiB"):
        if each in good:
            by = f"read {read:.2f} s, product {product:.2f} s"
            value = good[each]["wall_s"] / max(read, product)
            yield Ratio(f"{each} / max(read, product)", store, value, by)


def product_seconds(rounds: list[dict[str, float]]) -> float:
    """Of the routine that is the fastest by its median over the rounds; 0 where nothing was measured."""
    names = rounds[0] if rounds else {}
    return min((median(each[name] for each in rounds if name in each) for name in names), default=0.0)


def _across(rows: list[Row]) -> Iterator[Ratio]:
    """Between stores: dtypes of one size, sizes of one dtype."""
    by = {(r["contestant"], r["size"], r["dtype"]): r for r in rows if r["status"] == "ok"}
    for size in SIZES:
        half, single = (by.get(("ours gram pass", size, dtype)) for dtype in ("bfloat16", "float32"))
        if half and single:
            yield Ratio("gram pass: bfloat16 / float32", size, half["wall_s"] / single["wall_s"], _seconds(single))
    for name in ("ours", "ours top"):
        for dtype in ("float16", "bfloat16", "float32"):
            small, large = by.get((name, "M", dtype)), by.get((name, "L", dtype))
            if small and large:
                of = f"{small['peak'] >> 20} MiB at M, {large['peak'] >> 20} MiB at L"
                yield Ratio(f"peak at L / peak at M, {name}", dtype, large["peak"] / small["peak"], of)


def _walls(name: str, store: str, ours: Row, peer: Row) -> Ratio:
    return Ratio(name, store, ours["wall_s"] / peer["wall_s"], f"{peer['contestant']}, {_seconds(peer)}")


def _seconds(each: Row) -> str:
    return f"{each['wall_s']:.2f} s"


def _fastest(rows: Iterable[Row], wanted: Callable[[Row], bool]) -> Row | None:
    return min(filter(wanted, rows), key=lambda each: float(each["wall_s"]), default=None)

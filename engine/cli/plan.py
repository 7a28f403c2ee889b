"""The command that says what a fit will take: plan."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.output import counted, emit_json, parse_size, printable, say, size, table
from engine.cli.runs import one_of, parse_k
from engine.cli.zoo import Json, open_zoo_here

if TYPE_CHECKING:
    from engine.methods import Wanted
    from engine.plan.choice import Choice, Estimate
    from engine.plan.matrix import Matrix
    from engine.plan.rates import Rates
    from engine.plan.zoo import Group, ZooPlan
    from engine.rows import RowSource
    from ingest.store.reader import Zoo

_SHAPE = re.compile(r"(\d+)[x×](\d+)(?::(\d+))?(?::([a-z]+\d+))?")


def plan(
    zoo: Annotated[
        str | None, typer.Argument(metavar="[ZOO]", help="The zoo's folder or URL; may be left out with --shape.")
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--shape", metavar="ROWSxWIDTH:COUNT:DTYPE", help="Matrices of a zoo that is not there; repeatable."
        ),
    ] = None,
    layers: Annotated[str, typer.Option("--layers", metavar="GLOB", help="Layers; commas between globs.")] = "*",
    side: Annotated[str, typer.Option("--side", help="A, B or both.")] = "both",
    space: Annotated[str, typer.Option("--space", help="factor or delta, as for fit.")] = "factor",
    k: Annotated[str, typer.Option("--k", help="As for fit; a number tells how many components.")] = "gavish-donoho",
    method: Annotated[str, typer.Option("--method", help="auto, or one of those listed.")] = "auto",
    spectrum: Annotated[str, typer.Option("--spectrum", help="full, or top: the largest values alone.")] = "full",
    refine: Annotated[
        bool | None, typer.Option("--refine/--no-refine", help="One more pass for small singular values.")
    ] = None,
    products: Annotated[str, typer.Option("--products", help="auto, or the least precise, such as float64.")] = "auto",
    device: Annotated[str, typer.Option("--device", help="As for fit; it need not be here.")] = "auto",
    workers: Annotated[
        str | None,
        typer.Option("--workers", metavar="N,N,…", help="Tasks at a time; as fit would start, unless given."),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            help="Of all workers together, such as 8GiB; 80 % of what is free, or no limit where --workers is given.",
        ),
    ] = None,
    rates: Annotated[
        str | None, typer.Option("--rates", metavar="FILE", help="Rates by device, instead of measuring here.")
    ] = None,
    save: Annotated[str | None, typer.Option("--save", metavar="FILE", help="Write the rates used, as JSON.")] = None,
    json: Json = False,
) -> int:
    """Say what a fit will take, by every method, and which one it will choose."""
    from engine.backends import DEVICES, form_of
    from engine.backends.protocol import PRODUCTS
    from engine.delta import SPACES
    from engine.methods import METHODS, SPECTRA
    from engine.plan.calibration import calibrate
    from engine.plan.rates import load_rates, save_rates
    from engine.plan.zoo import devices_of, grouped, plan_zoo, rates_for
    from engine.selection import SIDES

    one_of("--side", side, SIDES)
    one_of("--space", space, SPACES)
    one_of("--method", method, ("auto", *METHODS))
    one_of("--spectrum", spectrum, SPECTRA)
    one_of("--products", products, ("auto", *PRODUCTS))
    one_of("--device", form_of(device), DEVICES)
    if zoo is None and not shape:
        raise typer.BadParameter("give a ZOO, or --shape ROWSxWIDTH:COUNT")
    opened = open_zoo_here(zoo) if zoo is not None else None
    wanted = wanted_of(k, spectrum, refine, products)
    groups = grouped([*_of_zoo(opened, layers, side, k, space), *_of_shapes(shape or [])])
    sample = _sample(opened, layers, side, space)
    used = rates_for(
        devices_of(groups, wanted, device),
        load_rates(rates) if rates else {},
        lambda name: calibrate(name, sample),
    )
    plans = [
        plan_zoo(groups, wanted, n, method=method, device=device, memory=allowed, rates=used)
        for n, allowed in _workers(groups, wanted, workers, memory, method, device)
    ]
    if save:
        save_rates(save, used)
    if json:
        emit_json(_document(zoo, groups, plans, used))
    else:
        _print(groups, plans, used)
    return 0 if all(c.chosen for p in plans for c in p.choices) else 1


def wanted_of(k: str, spectrum: str, refine: bool | None, products: str) -> Wanted:
    """What is asked for; K per matrix, from a file, is each group's own."""
    from engine.fitting import what_is_wanted

    rule = parse_k(k)
    return what_is_wanted(
        rule if isinstance(rule, str) else "gavish-donoho", spectrum=spectrum, refine=refine, products=products
    )


def _of_zoo(zoo: Zoo | None, layers: str, side: str, k: str, space: str) -> Iterator[tuple[Matrix, str, int | None]]:
    from engine.delta import rows_in
    from engine.plan.matrix import matrix_of
    from engine.selection import check_k, choose_matrices, run_settings

    if zoo is None:
        return
    chosen = choose_matrices(zoo, layers, side)
    rule = parse_k(k)
    check_k(run_settings("none", rule), chosen)
    for info in chosen:
        components = rule[info.layer][info.side] if isinstance(rule, Mapping) else None
        yield matrix_of(rows_in(space, zoo, info.layer, info.side)), f"{info.layer} {info.side}", components


def _of_shapes(shapes: list[str]) -> Iterator[tuple[Matrix, str, int | None]]:
    from engine.plan.matrix import matrix_stored

    for text in shapes:
        match = _SHAPE.fullmatch(text)
        if match is None:
            raise typer.BadParameter(f"--shape {text!r}: give ROWSxWIDTH:COUNT:DTYPE, such as 160000x4096:96:bfloat16")
        rows, width, count, dtype = match.groups()
        matrix = matrix_stored(int(rows), int(width), dtype or "bfloat16")
        for _ in range(int(count or 1)):
            yield matrix, "", None


def _sample(zoo: Zoo | None, layers: str, side: str, space: str) -> RowSource | None:
    """Rows to time reading with: the zoo's largest matrix."""
    from engine.delta import rows_in
    from engine.selection import choose_matrices

    if zoo is None:
        return None
    largest = max(choose_matrices(zoo, layers, side), key=lambda m: m.rows * m.width)
    return rows_in(space, zoo, largest.layer, largest.side)


def _workers(
    groups: list[Group], wanted: Wanted, workers: str | None, memory: str | None, method: str, device: str
) -> list[tuple[int, int | None]]:
    """Numbers of workers, each with the bytes a task may use."""
    from engine.plan.zoo import plan_zoo

    limit = parse_size(memory) if memory else None
    if workers is not None:
        numbers = [int(part) for part in workers.split(",") if part.strip().isdigit()]
        if not numbers or min(numbers) < 1 or len(numbers) != workers.count(",") + 1:
            raise typer.BadParameter(f"--workers {workers!r}: give a number, or several such as 2,8,64")
        return [(n, limit // n if limit is not None else None) for n in numbers]
    if device.startswith(("cuda", "cupy")):
        return [(1, limit)]
    import psutil

    from engine.runners.cluster import IDLE_BYTES

    limit = limit or int(psutil.virtual_memory().available * 0.8)
    alone = plan_zoo(groups, wanted, 1, method=method, device=device, memory=limit)
    tasks = sum(
        g.count * c.chosen.work.n_ranges for g, c in zip(groups, alone.choices, strict=True) if c.chosen is not None
    )
    fitting = limit // (alone.memory_bytes + IDLE_BYTES)
    n = max(1, min(len(os.sched_getaffinity(0)), tasks, fitting))
    return [(n, limit // n)]


def _print(groups: list[Group], plans: list[ZooPlan], rates: Mapping[str, Rates]) -> None:
    first = plans[0]
    rows = []
    for group, choice in zip(groups, first.choices, strict=True):
        for e in choice.estimates:
            rows.append(_row(group, choice, e, first.workers))
    header = ("rows × width", "number", "", "method", "device", "passes", "fold", "solve", "task memory", "read")
    flops = ("operations", f"moved by {first.workers}", "result")
    table((*header, *flops), rows, right=(1, *range(6, 12)))
    print()
    for group, choice in zip(groups, first.choices, strict=True):
        named = f", {printable(group.first)} first" if group.first and group.count > 1 else ""
        one = f", {printable(group.first)}" if group.first and group.count == 1 else ""
        print(f"{group.count} of {group.matrix}{named or one}: {choice.why}")
    print()
    number = sum(g.count for g in groups)
    for p in plans:
        print(_total(p, number, first))
    for device, rate in rates.items():
        say(f"rates of {device}: {rate.source}; times are within a factor of {rate.within:g} of what is measured")


def _row(group: Group, choice: Choice, e: Estimate, workers: int) -> tuple[str, ...]:
    shape = (f"{group.matrix.n_rows} × {group.matrix.width} {group.matrix.dtype}", str(group.count))
    mark = "*" if choice.chosen is not None and choice.chosen.method == e.method else ""
    if e.refusal and e.method == "dual" and group.matrix.n_rows >= group.matrix.width:
        return (*shape, mark, e.method, *[""] * 8, e.refusal.partition(";")[0])
    result = f"{'exact' if e.exact else 'approximate'}, {e.spectrum} spectrum"
    return (
        *shape,
        mark,
        e.method,
        e.device,
        e.passes,
        _seconds(e.fold_seconds),
        _seconds(e.solve_seconds),
        size(e.task_bytes),
        size(e.work.bytes_read),
        f"{(e.work.fold_flops + e.work.solve_flops) / 1e9:.3g} G",
        size(e.work.moved_bytes(workers)),
        "does not fit" if e.refusal else result,
    )


def _total(p: ZooPlan, number: int, first: ZooPlan) -> str:
    t = p.total
    other = sum(
        c.chosen is not None and _method(c) != _method(f) for c, f in zip(p.choices, first.choices, strict=True)
    )
    lacking = sum(c.chosen is None for c in p.choices)
    parts = [
        f"{counted(p.workers, 'worker')}: {counted(number, 'matrix').replace('matrixs', 'matrices')} in about "
        f"{_seconds(t.seconds)} ({_seconds(t.seconds / p.within)} to {_seconds(t.seconds * p.within)})",
        f"{_seconds(t.busy_seconds)} of work",
        f"no order beats {_seconds(t.bound_seconds)}",
        f"up to {size(p.memory_bytes)} of memory" + (f", {size(p.allowed)} a task allowed" if p.allowed else ""),
        f"{size(t.bytes_read)} read" + (f", {size(t.bytes_read / t.seconds)}/s of the store" if t.seconds else ""),
        f"{size(t.bytes_moved)} moved",
    ]
    if other:
        parts.append(f"{counted(other, 'shape')} by another method than above")
    if lacking:
        parts.append(f"{counted(lacking, 'shape')} not counted: no method fits")
    return "; ".join(parts)


def _method(choice: Choice) -> str:
    return choice.chosen.method if choice.chosen is not None else ""


def _seconds(seconds: float) -> str:
    if seconds >= 7200:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 120:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"


def _document(zoo: str | None, groups: list[Group], plans: list[ZooPlan], rates: Mapping[str, Rates]) -> dict[str, Any]:
    return {
        "zoo": zoo,
        "rates": {device: asdict(rate) for device, rate in rates.items()},
        "plans": [
            {
                "workers": p.workers,
                "allowed_bytes": p.allowed,
                "groups": [_group(g, c, p.workers) for g, c in zip(groups, p.choices, strict=True)],
                "total": {
                    **asdict(p.total),
                    "within": p.within,
                    "memory_bytes": p.memory_bytes,
                },
            }
            for p in plans
        ],
    }


def _group(group: Group, choice: Choice, workers: int) -> dict[str, Any]:
    return {
        "rows": group.matrix.n_rows,
        "width": group.matrix.width,
        "dtype": group.matrix.dtype,
        "count": group.count,
        "first": group.first,
        "method": _method(choice) or None,
        "why": choice.why,
        "methods": [
            {
                "method": e.method,
                "device": e.device,
                "exact": e.exact,
                "spectrum": e.spectrum,
                "passes": [e.work.passes, e.work.most_passes],
                "fold_flops": e.work.fold_flops,
                "solve_flops": e.work.solve_flops,
                "fold_seconds": e.fold_seconds,
                "solve_seconds": e.solve_seconds,
                "task_bytes": e.task_bytes,
                "bytes_read": e.work.bytes_read,
                "bytes_moved": e.work.moved_bytes(workers),
                "refusal": e.refusal,
            }
            for e in choice.estimates
        ],
    }

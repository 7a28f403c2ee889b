"""`eigenzoo heldout`: how much of the subspace holds for adapters that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.output import Meter, emit_json, printable, say, table
from engine.cli.runs import RunPath, one_of, open_run_here
from engine.cli.zoo import Json

if TYPE_CHECKING:
    from engine.analysis.heldout import HeldOut
    from engine.run import MatrixResult, Run
    from ingest.store.reader import Zoo

LOO = "loo"


def heldout(
    run: RunPath,
    layers: Annotated[
        str, typer.Option("--layers", metavar="GLOB", help="Layers to look at; commas between globs.")
    ] = "*",
    side: Annotated[str, typer.Option("--side", help="A, B or both.")] = "both",
    k: Annotated[int | None, typer.Option("--k", min=0, help="Components; by default those that the run kept.")] = None,
    folds: Annotated[
        str, typer.Option("--folds", metavar="N|loo", help="Adapters held out one by one (loo), or in N folds.")
    ] = LOO,
    seeds: Annotated[
        bool, typer.Option("--seeds", help="Find seed groups: kept together in folds, and one adapter of each alone.")
    ] = False,
    null: Annotated[
        bool, typer.Option("--null/--no-null", help="Adapters of the same strengths that share nothing, held out too.")
    ] = True,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the folds and the null.")] = 0,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, torch, cuda, cuda:1, cupy, cupy:1.")] = "auto",
    json: Json = False,
) -> None:
    """Reconstruct adapters by the subspace of the others, beside what chance would do."""
    from engine.analysis.heldout import check_not_subtracted, held_out
    from engine.analysis.run_rows import check_rows, zoo_of
    from engine.analysis.side_by_side import side_by_side
    from engine.analysis.whole_run import MATRIX_STATES
    from engine.backends import DEVICES, form_of
    from engine.selection import SIDES

    one_of("--side", side, SIDES)
    one_of("--device", form_of(device), DEVICES)
    number = parse_folds(folds)
    opened = open_run_here(run)
    check_not_subtracted(opened)
    zoo = zoo_of(opened)
    chosen = [m for m in opened.matrices if side in ("both", m.side) and _matches(m.layer, layers)]
    if not chosen:
        from ingest.errors import EigenzooError

        raise EigenzooError(f"{opened.path}: no finished matrix matches {layers!r}; `eigenzoo rank` lists them")
    groups = {layer: groups_of(opened, zoo, layer) for layer in {m.layer for m in chosen}} if seeds else {}

    def job(m: MatrixResult) -> Callable[[], HeldOut]:
        check_rows(opened, zoo, m)
        return lambda: held_out(
            opened,
            m.layer,
            m.side,
            k=k,
            folds=number,
            groups=groups.get(m.layer),
            null=null,
            seed=seed,
            device=device,
            zoo=zoo,
        )

    nbytes = MATRIX_STATES * 8 * max(m.width for m in chosen) ** 2
    errors: dict[int, HeldOut] = {}
    with Meter("held out", "matrices") as meter:
        meter.update(0, len(chosen), "")
        for place, each in side_by_side([job(m) for m in chosen], device, nbytes):
            errors[place] = each
            meter.update(len(errors), len(chosen), f"{chosen[place].layer} {chosen[place].side}")
    found = [(m.layer, m.side, errors[place]) for place, m in enumerate(chosen)]
    if json:
        emit_json({"matrices": [heldout_json(*each) for each in found]})
        return
    header = ["layer", "side", "K", "in sample", "held out", "mean only", "random basis", "null"]
    header += ["one per seed"] if seeds else []
    header += ["worst", "adapter"]
    table(header, [_row(*each, seeds=seeds) for each in found], right=range(2, len(header) - 1))
    how = found[0][2].method
    print(f"\nerrors are Σ‖x − x̂‖²/Σ‖x‖², {how}; held out as large as the null: nothing but the mean is shared")
    if refits := sum(each.n_refits for _, _, each in found):
        say(f"{refits} times the others were fitted anew: an adapter outweighed them, or they it")


def parse_folds(text: str) -> int | None:
    """The number of folds; None for "loo".

    Raises
    ------
    typer.BadParameter
        For anything else.
    """
    if text == LOO:
        return None
    if not (text.isascii() and text.isdigit() and int(text) >= 2):
        raise typer.BadParameter(f"--folds {text!r}: give a number from 2 on, or loo")
    return int(text)


def groups_of(run: Run, zoo: Zoo, layer: str) -> list[list[int]]:
    """The seed groups of a layer, by the places of adapters among those that the run fits."""
    from engine.analysis.run_rows import places_of
    from engine.starts.groups import seed_groups

    places = places_of(run, zoo, layer)
    return [[places[ordinal] for ordinal in group if ordinal in places] for group in seed_groups(zoo, layer).ordinals]


def heldout_json(layer: str, side: str, each: HeldOut) -> dict[str, Any]:
    """One matrix as `heldout --json` gives it; what is no finite number is null."""
    controls = each.controls
    worst = each.worst
    return {
        "layer": layer,
        "side": side,
        "rows": each.n_rows,
        "width": each.width,
        "n_adapters": len(each.errors),
        "center": each.center,
        "method": each.method,
        "k": each.k,
        "in_sample": _number(each.in_sample),
        "error": _number(each.total),
        "explained": _number(each.explained),
        "mean": _number(each.mean),
        "median": _number(each.median),
        "worst": None if worst is None else _number(each.errors[worst]),
        "worst_adapter": _worst(each),
        "mean_only": _number(controls.mean_only),
        "random_basis": _number(controls.random_basis),
        "null": _number(controls.null),
        "one_per_seed": _number(controls.one_per_seed),
        "n_per_seed": controls.n_per_seed,
        "curve": [[k, _number(error)] for k, error in each.curve],
        "in_sample_curve": [[k, _number(error)] for k, error in each.in_sample_curve],
        "solved_whole": each.n_whole,
        "refitted": each.n_refits,
    }


def _row(layer: str, side: str, each: HeldOut, *, seeds: bool) -> list[Any]:
    controls, worst = each.controls, each.worst
    cells = [each.in_sample, each.total, controls.mean_only, controls.random_basis, controls.null]
    cells += [controls.one_per_seed] if seeds else []
    cells += [None if worst is None else float(each.errors[worst])]
    return [layer, side, each.k, *("–" if cell is None else f"{cell:.4f}" for cell in cells), printable(_worst(each))]


def _worst(each: HeldOut) -> str:
    return each.adapters[each.worst] if each.worst is not None and each.adapters else ""


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)  # JSON has no others


def _matches(layer: str, globs: str) -> bool:
    import fnmatch

    return any(fnmatch.fnmatchcase(layer, glob.strip()) for glob in globs.split(",") if glob.strip())

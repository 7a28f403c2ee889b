"""The command about K: what a run kept, and what every rule says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.output import Meter, emit_json, table
from engine.cli.runs import matrix_json, open_run_here, print_run, say_what_is_missing, show_k
from engine.cli.zoo import Json

if TYPE_CHECKING:
    from engine.analysis.ranks import MatrixRanks
    from engine.rank.choice import RankRule
    from engine.run import Run

WHITE_NOISE = ("gavish-donoho", "bulk-edge", "shrinkage")


def rank(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="A run directory, as made by `eigenzoo fit`.")
    ] = None,
    rules: Annotated[
        str | None,
        typer.Option(
            "--rules",
            help="Rules side by side, with commas, as in gavish-donoho,ev:0.9,parallel; all: those that the spectra "
            "alone answer.",
        ),
    ] = None,
    list_rules: Annotated[bool, typer.Option("--list-rules", help="List the rules, and what they assume.")] = False,
    device: Annotated[str, typer.Option("--device", help="Of parallel analysis, as for fit.")] = "auto",
    json: Json = False,
) -> None:
    """List a run's matrices with K, by the rules of the fit or by others."""
    if list_rules:
        print_rules(json)
        return
    if run is None:
        raise typer.BadParameter("give a RUN, or --list-rules")
    wanted = parse_rules(rules) if rules is not None else []
    opened = open_run_here(run)
    if wanted:
        print_side_by_side(opened, compared(opened, wanted, device), json)
    else:
        print_run(opened, json)


def parse_rules(text: str) -> list[RankRule]:
    """Rules as typed, each once.

    Raises
    ------
    typer.BadParameter
        For one that is unknown.
    """
    from engine.rank import read_rule
    from engine.rank.compare import SPECTRAL
    from ingest.errors import EigenzooError

    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise typer.BadParameter("--rules: give names with commas, or all; `eigenzoo rank --list-rules` lists them")
    found: dict[str, RankRule] = {}
    for name in names:
        for each in SPECTRAL if name == "all" else (name,):
            try:
                rule = read_rule(each)
            except EigenzooError as error:
                raise typer.BadParameter(f"--rules: {str(error).removeprefix('k: ')}") from error
            found.setdefault(rule.name, rule)
    return list(found.values())


def compared(run: Run, rules: Sequence[RankRule], device: str) -> list[MatrixRanks]:
    """What the rules say of every matrix, with progress where rows are read."""
    from engine.analysis.ranks import needs_zoo, ranks_of
    from engine.runners.threads import ThreadsRunner

    if not any(needs_zoo(rule) for rule in rules):
        return list(ranks_of(run, rules))
    found: list[MatrixRanks] = []
    total = len(run.matrices)
    with ThreadsRunner(threads_for(run, device)) as runner, Meter("rank", "matrices") as meter:
        for each in ranks_of(run, rules, runner=runner, device=device):
            found.append(each)
            meter.update(len(found), total, f"{each.result.layer} {each.result.side}")
    return found


def threads_for(run: Run, device: str) -> int:
    """Draws that are made side by side: one per core, and no more than there is memory for."""
    import psutil

    from engine.analysis.parallel import draw_bytes
    from engine.plan.matrix import matrix_stored

    needed = 1
    for each in run.matrices:
        stored = matrix_stored(each.rows, each.width, "float32")
        read = stored.block_rows * stored.width * stored.itemsize
        needed = max(needed, read + draw_bytes(each.rows, each.width, stored.block_rows, device))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, int(psutil.virtual_memory().available * 0.8) // needed))


def print_side_by_side(run: Run, found: Sequence[MatrixRanks], json: bool) -> None:
    """A column of K for every rule, and under it what the reader should know; or JSON."""
    results = [each.result for each in found]
    if json:
        emit_json({"matrices": [_json(each) for each in found], "planned": run.planned(results)})
    elif found:
        names = list(found[0].choices)
        rows = [
            (
                each.result.layer,
                each.result.side,
                f"{each.result.rows} × {each.result.width}",
                *(show_k(choice.k) for choice in each.choices.values()),
                {True: "white", False: "not white", None: "–"}[each.whiteness.white],
            )
            for each in found
        ]
        header = ("layer", "side", "rows × width", *(f"K {name}" for name in names), "noise")
        table(header, rows, right=range(2, 3 + len(names)))
        for line in remarks(found):
            print(line)
    say_what_is_missing(run, results)


def remarks(found: Sequence[MatrixRanks]) -> list[str]:
    """Which rules not to believe where, and why rules declined."""
    lines = []
    coloured = [each for each in found if each.whiteness.white is False]
    misled = [name for name in found[0].choices if name.partition(":")[0] in WHITE_NOISE]
    if coloured and misled:
        first, many = coloured[0].result, f"{len(coloured)} of {len(found)} matrices"
        lines.append(
            f"noise is not white in {many} ({first.layer} {first.side} first), as {', '.join(misled)} take it to be"
        )
    for name in misled:
        own = [e for e in found if e.whiteness.white is not False and "noise is not white" in e.choices[name].note]
        if own:
            first, many = own[0].result, f"{len(own)} of {len(found)} matrices"
            lines.append(f"what {name} leaves is not white noise in {many} ({first.layer} {first.side} first)")
    reasons: dict[tuple[str, str], list[MatrixRanks]] = {}
    for each in found:
        for name, choice in each.choices.items():
            if choice.k is None:
                reasons.setdefault((name, choice.note), []).append(each)
    for (name, note), declined in reasons.items():
        where = declined[0].result
        others = f", and {len(declined) - 1} more" if len(declined) > 1 else ""
        lines.append(f"{name} declines: {note} ({where.layer} {where.side}{others})")
    return ["", *lines] if lines else []


def print_rules(json: bool) -> None:
    """The table of rules."""
    from engine.rank import RULES

    if json:
        emit_json(
            {
                "rules": [
                    {"rule": r.usage, "reference": r.reference, "assumes": r.assumes, "needs": r.needs}
                    for r in RULES.values()
                ]
            }
        )
        return
    for rule in RULES.values():
        print(rule.usage)
        for what, text in (("from", rule.reference), ("assumes", rule.assumes), ("needs", rule.needs)):
            print(f"  {what:9}{text}")


def _json(each: MatrixRanks) -> dict[str, Any]:
    from engine.run import rule_key

    keyed = {rule_key(name): choice for name, choice in each.choices.items()}
    return matrix_json(each.result) | {
        "k": {key: choice.k for key, choice in keyed.items()},
        "thresholds": {key: choice.threshold for key, choice in keyed.items()},
        "notes": {key: choice.note for key, choice in keyed.items() if choice.note},
        "white": each.whiteness.white,
        "distance": each.whiteness.distance,
        "critical": each.whiteness.critical,
    }

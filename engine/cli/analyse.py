"""`eigenzoo analyse`: what the report shows beyond spectra."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.heldout import parse_folds
from engine.cli.output import Meter, emit_json, printable, say, table
from engine.cli.runs import RunPath, one_of, open_run_here
from engine.cli.zoo import Json

if TYPE_CHECKING:
    from engine.analysis.file import Analysis, MatrixAnalysis


AUTO = "auto"


def analyse(
    run: RunPath,
    parts: Annotated[
        str,
        typer.Option("--parts", help="Of seeds, overlap, heldout, reconstruction, leverage and parallel; with commas."),
    ] = "seeds,overlap,heldout,reconstruction,leverage",
    folds: Annotated[
        str,
        typer.Option(
            "--folds", metavar="N|loo", help="Adapters held out one by one (loo), or in N folds; auto: 5 from 257 on."
        ),
    ] = AUTO,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of folds and nulls.")] = 0,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, torch, cuda, cuda:1, cupy, cupy:1.")] = "auto",
    restart: Annotated[bool, typer.Option("--restart", help="Do layers again that are done.")] = False,
    json: Json = False,
) -> None:
    """Find what is shared by seed, what generalises, who dominates; `report` shows it."""
    from engine.analysis.file import as_document
    from engine.analysis.whole_run import LEAVE_ONE_OUT, PARTS
    from engine.analysis.whole_run import analyse as analyse_run
    from engine.backends import DEVICES, form_of

    wanted = [part.strip() for part in parts.split(",") if part.strip()]
    if not wanted:
        raise typer.BadParameter("--parts: give at least one")
    for part in wanted:
        one_of("--parts", part, PARTS)
    one_of("--device", form_of(device), DEVICES)
    number = None if folds == AUTO else parse_folds(folds) or LEAVE_ONE_OUT
    opened = open_run_here(run)
    with Meter("analyse", "layers") as meter:
        found = analyse_run(
            opened,
            parts=wanted,
            folds=number,
            seed=seed,
            device=device,
            restart=restart,
            progress=lambda done, total, last: meter.update(done, total, printable(last)),
        )
    if json:
        emit_json(as_document(found))
    else:
        _print(found)
    say(f"`eigenzoo report {run}` shows it")


def _print(found: Analysis) -> None:
    header = (
        "layer",
        "side",
        "overlap",
        "by chance",
        "one per seed",
        "K",
        "in sample",
        "held out",
        "one per seed",
        "mean only",
        "null",
        "dominated by",
    )
    table(header, [_row(m) for m in found.matrices], right=range(2, len(header) - 1))
    grouped = [layer for layer in found.layers if layer.seeds is not None and layer.seeds.groups]
    looked = [layer for layer in found.layers if layer.seeds is not None]
    if looked:
        names = {name for layer in grouped if layer.seeds for group in layer.seeds.groups for name in group}
        where = f"{len(grouped)} of {len(looked)} layers"
        print(f"\n{len(names)} adapters share a random start with another, in {where}")


def _row(m: MatrixAnalysis) -> tuple[str, ...]:
    o, h = m.overlap, m.heldout
    over = ("–",) * 3
    if o is not None:
        alone = "–" if o.one_per_seed is None else f"{o.one_per_seed:.2f}"
        over = (f"{o.ratio:.2f}", f"{o.low:.3f} … {o.high:.3f}", alone)
    numbers = (h.in_sample, h.error, h.one_per_seed, h.mean_only, h.null) if h is not None else (None,) * 5
    held = [str(h.k) if h is not None else "–", *("–" if value is None else f"{value:.4f}" for value in numbers)]
    worst = max(m.leverage, key=lambda each: each.share, default=None)
    who = f"{printable(worst.adapter)}, {worst.share:.0%} of component {worst.component}" if worst else ""
    return (m.layer, m.side, *over, *held, who)

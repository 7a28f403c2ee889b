"""`eigenzoo seeds`: which adapters share a random start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.output import Meter, counted, emit_json, printable, table
from engine.cli.zoo import Json, ZooPath, open_zoo_here

if TYPE_CHECKING:
    from engine.starts.groups import SeedGroups

SHOWN = 12  # names of a group that are printed


def seeds(
    zoo: ZooPath,
    layers: Annotated[
        str, typer.Option("--layers", metavar="GLOB", help="Layers to look at; commas between globs.")
    ] = "*",
    min_cosine: Annotated[
        float,
        typer.Option(
            "--min-cosine",
            help="The least cosine of two adapters' A that tells of one start; the bar rises where chance reaches it.",
        ),
    ] = 0.5,
    json: Json = False,
) -> None:
    """Find the adapters that share a random start, module by module."""
    from engine.runners.threads import ThreadsRunner
    from engine.starts.groups import partitions
    from engine.starts.groups import seeds as find
    from engine.starts.shared import check_cosine
    from ingest.errors import EigenzooError

    try:
        check_cosine(min_cosine)
    except EigenzooError as error:
        raise typer.BadParameter(f"--{str(error).replace('_', '-')}") from error
    opened = open_zoo_here(zoo)
    with ThreadsRunner() as runner, Meter("seeds", "matrices") as meter:
        found = find(opened, layers, min_cosine=min_cosine, runner=runner, progress=meter.update)
    if json:
        modules = [
            {
                "layer": each.layer,
                "side": each.side,
                "n_adapters": each.n_adapters,
                "groups": each.groups,
                "bar": each.bar,
                "weakest": each.weakest,
                "strongest": each.strongest,
            }
            for each in found
        ]
        alike = [{"groups": groups, "layers": names} for groups, names in partitions(found)]
        emit_json({"min_cosine": min_cosine, "layers": modules, "partitions": alike})
        return
    print_groups(found)


def print_groups(found: Sequence[SeedGroups]) -> None:
    """A line per module, then who is in which group."""
    from engine.starts.groups import partitions

    rows = [
        (
            each.layer,
            each.side,
            each.n_adapters,
            len(each.groups) or "–",
            _sizes([len(group) for group in each.groups]),
            _cosine(each.weakest),
            _cosine(each.strongest),
            f"{each.bar:.4f}",
        )
        for each in found
    ]
    header = ("layer", "side", "adapters", "groups", "of", "weakest cosine within", "strongest apart", "bar")
    table(header, rows, right=(2, 3, 5, 6, 7))
    for groups, names in partitions(found):
        where = f"{counted(len(names), 'module')}, {names[0]}{' first' if len(names) > 1 else ''}"
        what = "one start each for" if groups else "every adapter has a start of its own"
        print(f"\n{printable(where)}: {what}")
        for group in groups:
            more = f" and {len(group) - SHOWN} more" if len(group) > SHOWN else ""
            print(printable(f"  {len(group)}: {', '.join(group[:SHOWN])}{more}"))


def _sizes(sizes: Sequence[int]) -> str:
    """The sizes of groups, such as "40, 12, 3 × 2"."""
    runs: list[tuple[int, int]] = []
    for size in sizes:
        runs = [*runs[:-1], (size, runs[-1][1] + 1)] if runs and runs[-1][0] == size else [*runs, (size, 1)]
    shown = [f"{count} × {size}" if count > 1 else str(size) for size, count in runs]
    return ", ".join([*shown[:6], *(["…"] if len(shown) > 6 else [])])


def _cosine(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"

"""`eigenzoo overlap`: how much adapters overlap, against chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.output import Meter, emit_json, table
from engine.cli.zoo import Json, ZooPath, open_zoo_here

if TYPE_CHECKING:
    from engine.analysis.overlap import Overlap
    from engine.starts.groups import SeedGroups
    from ingest.store.reader import Zoo

# What is compared: in JSON, in the table, side and space.
KINDS = (
    ("A", "A", "A", "factor"),
    ("B", "B", "B", "factor"),
    ("delta_A", "ΔW in", "A", "delta"),
    ("delta_B", "ΔW out", "B", "delta"),
)


def overlap(
    zoo: ZooPath,
    layers: Annotated[
        str, typer.Option("--layers", metavar="GLOB", help="Layers to look at; commas between globs.")
    ] = "*",
    json: Json = False,
) -> None:
    """Compare adapters' subspaces, as multiples of the overlap of random ones.

    Row spaces of A, column spaces of B, and where the energy of ΔW lies; of all adapters, and of one per random start.
    """
    from engine.starts.groups import layers_matching, seed_groups

    opened = open_zoo_here(zoo)
    chosen = layers_matching(opened, layers)
    found = []
    with Meter("overlap", "matrices") as meter:
        for number, layer in enumerate(chosen):
            groups = seed_groups(opened, layer)
            every = _overlaps(opened, layer, None)
            found.append((groups, every, _overlaps(opened, layer, groups.one_each) if groups.groups else every))
            meter.update(number + 1, len(chosen), layer)
    if json:
        emit_json([_as_json(*each) for each in found])
        return
    names = [name for _, name, _, _ in KINDS]
    rows = [
        (groups.layer, groups.n_adapters, *_ratios(every), len(groups.one_each), *_ratios(one), _band(one))
        for groups, every, one in found
    ]
    table(("layer", "adapters", *names, "starts", *names, "chance"), rows, right=range(1, 11))
    print("\nmultiples of chance: all adapters, then one per random start; chance is 1 ± three standard deviations")


def _overlaps(zoo: Zoo, layer: str, members: tuple[int, ...] | None) -> dict[str, Overlap]:
    from engine.analysis.overlap import overlap as measure

    return {key: measure(zoo, layer, side=side, space=space, members=members) for key, _, side, space in KINDS}


def _as_json(groups: SeedGroups, every: dict[str, Overlap], one: dict[str, Overlap]) -> dict[str, Any]:
    def plain(found: dict[str, Overlap]) -> dict[str, Any]:
        return {
            key: {"ratio": _number(o.ratio), "low": _number(o.low), "high": _number(o.high), "n_adapters": o.n_adapters}
            for key, o in found.items()
        }

    return {"layer": groups.layer, "all": plain(every), "one_per_start": plain(one)}


def _number(value: float) -> float | None:
    return value if value == value else None  # JSON has no NaN


def _ratios(found: dict[str, Overlap]) -> list[str]:
    return ["–" if o.ratio != o.ratio else f"{o.ratio:.2f}" for o in found.values()]


def _band(found: dict[str, Overlap]) -> str:
    widths = [o.high - 1.0 for o in found.values() if o.std == o.std]
    return f"± {max(widths):.2g}" if widths else "–"

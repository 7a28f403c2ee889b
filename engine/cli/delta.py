"""Commands on what a run's subspaces make of every adapter: error, leverage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.output import counted, emit_json, say, table
from engine.cli.runs import RunPath, open_run_here
from engine.cli.zoo import Json

if TYPE_CHECKING:
    from engine.analysis.leverage import Leverage
    from engine.analysis.reconstruction import Errors, LayerError
    from engine.run import Run

Layers = Annotated[str, typer.Option("--layers", metavar="GLOB", help="Layers; commas between globs.")]
_SHOWN = 40  # lines of a table for people


def error(run: RunPath, layers: Layers = "*", json: Json = False) -> None:
    """Give every adapter back from a run's subspaces and say how far off it is, layer by layer.

    Relative errors of the factors and of the weight changes ΔW that they make; in ΔW space of these alone.
    """
    from engine.analysis.reconstruction import reconstruction

    opened = open_run_here(run)
    found = reconstruction(opened, layers=layers)
    say_what_changed(opened)
    if json:
        emit_json(
            {"space": found.space, "total": _number(found.total), "layers": [_layer_json(e) for e in found.layers]}
        )
        return
    rows = [
        (
            e.layer,
            *(_shown(e.k.get(side)) for side in "AB"),
            *("–" if f is None else f"{f.mean:.4f}" for f in (e.A, e.B)),
            f"{e.delta.mean:.4f}",
            f"{e.delta.median:.4f}",
            f"{e.delta.worst:.4f}",
            e.delta.worst_adapter,
            f"{e.delta.total:.4f}",
        )
        for e in found.layers
    ]
    header = ("layer", "K A", "K B", "A", "B", "ΔW mean", "ΔW median", "ΔW worst", "of", "ΔW total")
    table(header, rows, right=(1, 2, 3, 4, 5, 6, 7, 9))
    print(f"\nrelative error of ΔW, all adapters and layers together: {found.total:.4f}")


def say_what_changed(run: Run) -> None:
    """A line where the zoo holds other rows now than were fitted."""
    from engine.analysis.run_rows import rows_of, zoo_of

    zoo = zoo_of(run)
    if others := [m for m in run.matrices if rows_of(run, zoo, m.layer, m.side).identity != m.identity]:
        say(f"{len(others)} of {len(run.matrices)} matrices were fitted to other adapters than the zoo has now")


def leverage(
    run: RunPath,
    layers: Layers = "*",
    share: Annotated[
        float, typer.Option("--share", min=0, max=1, help="Name adapters with more than this share of a component.")
    ] = 0.5,
    times: Annotated[
        float, typer.Option("--times", min=0, help="Where that is also so many times its even share.")
    ] = 3.0,
    json: Json = False,
) -> None:
    """Name adapters that hold a component up by themselves: directions that are theirs rather than the zoo's."""
    from engine.analysis.leverage import leverage as find

    found = find(open_run_here(run), layers=layers, share=share, times=times)
    if json:
        emit_json({"leverage": [_leverage_json(f) for f in found]})
        return
    if not found:
        print("no adapter dominates a component")
        return
    rows = [(f.adapter, f.layer, f.side, f.component + 1, f"{f.share:.1%}", f"{f.fair:.1%}") for f in found[:_SHOWN]]
    table(("adapter", "layer", "side", "component", "share", "fair"), rows, right=(3, 4, 5))
    if len(found) > _SHOWN:
        print(f"… and {len(found) - _SHOWN} more; --json lists all")
    adapters = len({f.adapter for f in found})
    components = len({(f.layer, f.side, f.component) for f in found})
    print(f"\n{counted(adapters, 'adapter')} in {counted(components, 'component')}")


def _shown(k: int | None) -> str:
    return "all" if k is None else str(k)


def _number(value: float) -> float | None:
    """As JSON knows it: an infinite error, of what changes nothing, is null."""
    return value if value < float("inf") else None


def _errors_json(e: Errors | None) -> dict[str, Any] | None:
    if e is None:
        return None
    return {
        "mean": _number(e.mean),
        "median": _number(e.median),
        "worst": _number(e.worst),
        "worst_adapter": e.worst_adapter,
        "total": _number(e.total),
    }


def _layer_json(e: LayerError) -> dict[str, Any]:
    errors = {"A": _errors_json(e.A), "B": _errors_json(e.B), "delta": _errors_json(e.delta)}
    return {"layer": e.layer, "k": dict(e.k), **errors, "n_adapters": len(e.delta.adapters)}


def _leverage_json(f: Leverage) -> dict[str, Any]:
    return {
        "adapter": f.adapter,
        "layer": f.layer,
        "side": f.side,
        "component": f.component,
        "share": f.share,
        "fair": f.fair,
    }

"""Layer names read as block and module, for the map of K."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from engine.run import natural_key
from ingest.html import printable

MAX_PANELS = 24
ROW = 24  # layers in a row of the map, where their names show no order
NO_BLOCK = -1


@dataclass(frozen=True, slots=True)
class Place:
    """Where a layer is drawn: which row of the map, and where along it."""

    panel: str
    x: int


@dataclass(frozen=True, slots=True)
class Layout:
    """The places of all layers, and what the axis counts."""

    places: dict[str, Place]
    axis: str


def lay_out(layers: Iterable[str]) -> Layout:
    """A row per module, blocks along its axis.

    The axis is the layer number where every block has exactly one ("layers.7"), else the blocks' position in
    natural order; modules outside any block stand at `NO_BLOCK`.  A model whose names show no such order (more than
    `MAX_PANELS` modules) gets its layers in natural order, `ROW` to a row.
    """
    ordered = sorted(dict.fromkeys(layers), key=natural_key)
    split = _split(ordered)
    panels = dict.fromkeys(module for _, module in split.values())
    if len(panels) > MAX_PANELS:
        return Layout(_wrapped(ordered), f"layer, counted in the table’s order, {ROW} to a row")
    blocks = sorted({block for block, _ in split.values() if block}, key=natural_key)
    patterns = {_masked(block) for block in blocks}
    if len(patterns) == 1 and (pattern := next(iter(patterns))).split(".").count("#") == 1:
        x = {block: next(int(p) for p in block.split(".") if _is_number(p)) for block in blocks}
        axis = f"layer number # ({printable(pattern)})"
    else:
        x = {block: i for i, block in enumerate(blocks, 1)}
        axis = "block, counted in the order of the names"
    places = {layer: Place(printable(module), x.get(block, NO_BLOCK)) for layer, (block, module) in split.items()}
    return Layout(places, axis)


def _wrapped(ordered: list[str]) -> dict[str, Place]:
    places = {}
    for i, layer in enumerate(ordered):
        first = i - i % ROW + 1
        places[layer] = Place(f"{first}–{min(first + ROW - 1, len(ordered))}", i % ROW + 1)
    return places


def _split(layers: list[str]) -> dict[str, tuple[str, str]]:
    """Layer → (block, module): "layers.7" and "self_attn.q_proj".

    A block ends in a number.  Of several such prefixes the longest that holds different modules is taken, so
    the 0 of "transformer_blocks.1.ff.net.0.proj" does not count as a block.
    """
    modules: dict[str, set[str]] = defaultdict(set)
    for layer in layers:
        for block, module in _candidates(layer):
            modules[block].add(_masked(module))
    out = {}
    for layer in layers:
        candidates = _candidates(layer) or [("", layer)]
        shared = [c for c in candidates if len(modules[c[0]]) > 1]
        out[layer] = (shared or candidates)[-1]
    return out


def _candidates(layer: str) -> list[tuple[str, str]]:
    parts = layer.split(".")
    ends = [i + 1 for i, part in enumerate(parts[:-1]) if _is_number(part)]
    return [(".".join(parts[:end]), ".".join(parts[end:])) for end in ends]


def _masked(name: str) -> str:
    return ".".join("#" if _is_number(part) else part for part in name.split("."))


def _is_number(part: str) -> bool:
    return part.isascii() and part.isdigit()

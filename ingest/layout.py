"""Where rows go: the arrays that a plan needs, and a batch's place in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ingest.fill import Piece, Work
from ingest.planned import Plan, PlannedAdapter
from ingest.screen import Screened
from ingest.store import catalog, schema
from ingest.store.catalog import ArrayRecord, Commit

if TYPE_CHECKING:
    from numpy.typing import NDArray


def prepare(before: Commit, made: Plan) -> Commit:
    """The commit with everything that a plan decides and no row yet: base, layers, arrays and their chunks.

    It is committed before the first row, so that an ingest that is killed and started again, which then plans for the
    remaining sources only, lays out the same zoo.
    """
    if not made.adapters:
        return dataclasses.replace(before, renames=made.renames)
    if not any(segment.ok for segment in before.segments):  # nobody came in, so nothing is decided
        before = dataclasses.replace(before, base_model=None, aliases=(), layers=(), arrays=())
    known = {r.layer for r in before.layers}
    arrays = list(before.arrays)
    held = {(a.layer, a.side, a.dtype) for a in arrays}
    sides = {(a.layer, a.side) for a in arrays}
    # The commonest dtype of a matrix comes first and takes the plain name; a further one says its own.
    for m in sorted(made.matrices, key=lambda m: (m.layer, m.side, -m.rows)):
        if (m.layer, m.side, m.dtype) not in held:
            name = m.side if (m.layer, m.side) not in sides else f"{m.side}-{m.dtype}"
            sides.add((m.layer, m.side))
            path = f"{schema.layer_path(m.layer, before.generation)}/{name}"
            arrays.append(ArrayRecord(path, m.layer, m.side, m.dtype, 0, m.width, m.chunk))
    return dataclasses.replace(
        before,
        base_model=before.base_model or made.base.name,
        aliases=tuple(sorted({*before.aliases, *made.base.aliases})),
        renames=made.renames,
        layers=(*before.layers, *(record for layer, record in made.base.layers.items() if layer not in known)),
        arrays=tuple(arrays),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """A batch's place: the commit that it makes, its entries (see `catalog.entry_dtype`), and what is to be stored."""

    commit: Commit
    entries: NDArray[Any]
    work: Work


def lay_out(before: Commit, accepted: Sequence[tuple[PlannedAdapter, Screened]]) -> Layout:
    """Give every row of a batch its place, in the order of the adapters, behind the rows committed before."""
    import numpy as np

    layers = {r.layer: i for i, r in enumerate(before.layers)}
    index = {(a.layer, a.side, a.dtype): i for i, a in enumerate(before.arrays)}
    ahead = [a.rows for a in before.arrays]
    first = sum(s.ok for s in before.segments)
    entries = np.zeros(sum(len(p.adapter.modules) for p, _ in accepted), catalog.entry_dtype())
    work: list[tuple[PlannedAdapter, list[Piece]]] = []
    n = 0
    for order, (planned, screened) in enumerate(accepted):
        pieces: list[Piece] = []
        for i, module in enumerate(planned.adapter.modules):
            entry = entries[n]
            n += 1
            entry["adapter"], entry["layer"] = first + order, layers[module.layer]
            entry["rank"], entry["scale"] = module.rank, module.scale
            for side, (name, ref) in enumerate((("A", module.a), ("B", module.b))):
                at = index[module.layer, name, ref.dtype]
                pieces.append(Piece(at, ahead[at], module.rank, ref, side == 1, screened.raw[i][side]))
                low = name.lower()
                entry[f"{low}_array"], entry[f"{low}_start"] = at, ahead[at]
                entry[f"{low}_digest"] = screened.canonical[i, side]
                ahead[at] += module.rank
        work.append((planned, pieces))
    arrays = tuple(dataclasses.replace(a, rows=r) for a, r in zip(before.arrays, ahead, strict=True))
    commit = dataclasses.replace(before, arrays=arrays)
    return Layout(commit, entries, Work(work, arrays, [a.rows for a in before.arrays]))

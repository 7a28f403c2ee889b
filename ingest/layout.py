"""Where a batch's rows go: the commit that it makes, its entries, and the pieces to be stored."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ingest.fill import Piece, Work
from ingest.plan import Plan, PlannedAdapter
from ingest.screen import Screened
from ingest.store import catalog, schema
from ingest.store.catalog import ArrayRecord, Commit

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Layout:
    """Where a batch's rows go: the commit that it makes, its entries, and the chunks to be filled."""

    def __init__(self, before: Commit, made: Plan, accepted: Sequence[tuple[PlannedAdapter, Screened]]) -> None:
        import numpy as np

        layers = {r.layer: i for i, r in enumerate(before.layers)}
        records = list(before.layers)
        arrays = list(before.arrays)
        index = {(a.layer, a.side, a.dtype): i for i, a in enumerate(arrays)}
        planned_rows = {(m.layer, m.side, m.dtype): m.rows for m in made.matrices}
        ahead = [a.rows for a in arrays]
        first = sum(s.ok for s in before.segments)
        entries = np.zeros(sum(len(p.adapter.modules) for p, _ in accepted), catalog.entry_dtype())
        work: list[tuple[PlannedAdapter, list[Piece]]] = []
        n = 0
        for order, (planned, screened) in enumerate(accepted):
            pieces: list[Piece] = []
            for i, module in enumerate(planned.adapter.modules):
                if module.layer not in layers:
                    layers[module.layer] = len(records)
                    records.append(made.base.layers[module.layer])
                entry = entries[n]
                n += 1
                entry["adapter"], entry["layer"] = first + order, layers[module.layer]
                entry["rank"], entry["scale"] = module.rank, module.scale
                for side, (name, ref, width) in enumerate(
                    (("A", module.a, module.a_width), ("B", module.b, module.out))
                ):
                    key = (module.layer, name, ref.dtype)
                    if key not in index:
                        index[key] = len(arrays)
                        arrays.append(_new_array(*key, width, planned_rows[key], arrays))
                        ahead.append(0)
                    at = index[key]
                    pieces.append(Piece(at, ahead[at], module.rank, ref, side == 1, screened.raw[i][side]))
                    low = name.lower()
                    entry[f"{low}_array"], entry[f"{low}_start"] = at, ahead[at]
                    entry[f"{low}_digest"] = screened.canonical[i, side]
                    ahead[at] += module.rank
            work.append((planned, pieces))
        self.entries: NDArray[Any] = entries
        self.commit = Commit(
            before.version,
            before.base_model or made.base.name,
            tuple(sorted({*before.aliases, *made.base.aliases})),
            made.renames,
            tuple(records),
            tuple(dataclasses.replace(a, rows=r) for a, r in zip(arrays, ahead, strict=True)),
            before.segments,
        )
        committed = [a.rows for a in before.arrays]
        self.work = Work(work, self.commit.arrays, committed + [0] * (len(arrays) - len(committed)))


def _new_array(
    layer: str, side: str, dtype: str, width: int, planned_rows: int, arrays: Sequence[ArrayRecord]
) -> ArrayRecord:
    """The first dtype of a matrix takes the plain name; a further one says its own."""
    plain = not any(a.layer == layer and a.side == side for a in arrays)
    path = f"{schema.layer_path(layer)}/{side if plain else f'{side}-{dtype}'}"
    return ArrayRecord(path, layer, side, dtype, 0, width, schema.chunk_rows(width, dtype, planned_rows))

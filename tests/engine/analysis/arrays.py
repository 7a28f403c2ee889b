"""Adapters' rows in memory, with their starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.rows import ArrayRows


def rows_of(adapters: Sequence[NDArray[Any]], block_rows: int = 7) -> ArrayRows:
    """Rows of adapters, one after the other."""
    rows = ArrayRows(np.concatenate(adapters))
    rows.offsets = np.concatenate([[0], np.cumsum([len(a) for a in adapters])]).astype(np.int64)
    rows.block_rows = block_rows
    return rows


def started(
    rng: np.random.Generator, groups: Sequence[int | None], ranks: Sequence[int], width: int, drift: float = 0.1
) -> list[NDArray[np.float64]]:
    """A of adapters whose starts are white: one for every group, one for each adapter of group None."""
    highest = max(ranks)
    starts = {group: rng.standard_normal((highest, width)) for group in groups if group is not None}
    out = []
    for group, rank in zip(groups, ranks, strict=True):
        own = rng.standard_normal((rank, width))
        start = own if group is None else starts[group][:rank]
        out.append(start + drift * rng.standard_normal((rank, width)))
    return out

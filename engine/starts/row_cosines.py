"""Cosines of pairs of adapters from their rows as stored, each adapter read once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.by_adapter import pieces

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.rows import RowSource

HELD_BYTES = 64 * 2**20  # of adapters that others are held against, at a time
MOSTLY = 4  # a piece of the rows is read whole where one in so many of its adapters is wanted

Asked = tuple[int, "NDArray[np.int64]"]


def row_cosines(rows: RowSource, asked: Sequence[Asked]) -> list[NDArray[np.float64]]:
    """Of each (adapter, others): its cosine with each of the others, by the leading rows that both have.

    Reads whom it is asked for, and neighbours where that is cheaper; `HELD_BYTES` and a piece of the rows in memory.
    """
    out = [np.zeros(len(others)) for _, others in asked]
    batch, held = list[int](), 0
    for at, (one, others) in enumerate(asked):
        if not len(others):
            continue
        size = 8 * rows.shape[1] * int(rows.offsets[one + 1] - rows.offsets[one])
        if batch and held + size > HELD_BYTES:
            _fill(rows, asked, batch, out)
            batch, held = [], 0
        batch.append(at)
        held += size
    _fill(rows, asked, batch, out)
    return out


def _fill(rows: RowSource, asked: Sequence[Asked], batch: Sequence[int], out: Sequence[NDArray[np.float64]]) -> None:
    wanted: dict[int, list[tuple[int, int]]] = {}  # adapter → (which of those asked, at which place)
    for at in batch:
        for place, other in enumerate(asked[at][1].tolist()):
            wanted.setdefault(other, []).append((at, place))
    held = {at: _read(rows, asked[at][0]).astype(np.float64) for at in batch}
    for other, stored in _each(rows, sorted(wanted)):
        y = stored.astype(np.float64)
        for at, place in wanted[other]:
            out[at][place] = _cosine(held[at], y)


def _cosine(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    both = min(len(x), len(y))
    x, y = x[:both], y[:both]
    size = math.sqrt(_dot(x, x) * _dot(y, y))
    return _dot(x, y) / size if size > 0 else 0.0


def _dot(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    # Not by BLAS, whose threads cost more than so short a product (measured: 15 ms on busy cores, and 0.05 ms so).
    return float(np.einsum("ij,ij->", x, y))


def _each(rows: RowSource, adapters: Sequence[int]) -> Iterator[tuple[int, NDArray[Any]]]:
    """(adapter, its rows) for ascending adapters, read many at once where they lie close together."""
    if not adapters:
        return
    wanted, offsets = np.array(adapters, np.int64), rows.offsets
    for first, last in pieces(rows, adapters[0], adapters[-1] + 1):
        here = wanted[np.searchsorted(wanted, first) : np.searchsorted(wanted, last)].tolist()
        if MOSTLY * len(here) < last - first:
            yield from ((adapter, _read(rows, adapter)) for adapter in here)
            continue
        begin = int(offsets[first])
        block = rows.read(begin, int(offsets[last]))
        for adapter in here:
            yield adapter, block[int(offsets[adapter]) - begin : int(offsets[adapter + 1]) - begin]


def _read(rows: RowSource, adapter: int) -> NDArray[Any]:
    return rows.read(int(rows.offsets[adapter]), int(rows.offsets[adapter + 1]))

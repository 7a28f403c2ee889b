"""Which sketches are alike: every pair is looked at, tile by tile, and none is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.starts.sketch import Sketches

TILE = 1024  # adapters on either side of a tile
FARTHEST = 8  # pairs of different groups whose cosine is worked out from the rows


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """Cosines (m, n) of adapters `left` and `right` by their leading `level` rows; −2 where a pair is none."""

    level: int
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    cosines: NDArray[np.float32]


def tiles(sketches: Sketches) -> Iterator[Tile]:
    """Every pair of adapters once; O(n²) products of `sketch.NUMBERS` numbers, 4 MiB at a time."""
    for level in sketches.made.levels:
        own = np.flatnonzero(sketches.ranks == level)
        both = np.concatenate([own, np.flatnonzero(sketches.ranks > level)])
        units = sketches.units(level, both)
        for i in range(0, len(own), TILE):
            upto = min(i + TILE, len(own))
            for j in range(i, len(both), TILE):
                cosines = units[i:upto] @ units[j : j + TILE].T
                if j == i:
                    cosines[np.tri(*cosines.shape, dtype=np.bool_)] = -2.0
                yield Tile(level, own[i:upto], both[j : j + TILE], cosines)


def linked(sketches: Sketches, least: Mapping[int, float]) -> list[NDArray[np.int64]]:
    """Adapters that hang together by cosines of at least `least[level]`, two and more, each set ascending."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(sketches.ranks)
    labels = np.arange(n)
    for tile in tiles(sketches):
        left, right = np.nonzero(tile.cosines >= least[tile.level])
        if len(left):
            # An adapter and the first one of its set so far; with the tile's pairs these make the sets anew.
            ends = np.concatenate([tile.left[left], np.arange(n)]), np.concatenate([tile.right[right], labels])
            graph = coo_array((np.ones(len(ends[0]), np.int8), ends), shape=(n, n))
            _, found = connected_components(graph, directed=False)
            labels = _first_of_each(found)[found]
    order = np.argsort(labels, kind="stable")
    sets = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return [members for members in sets if len(members) > 1]


def nearest_apart(sketches: Sketches, group: NDArray[np.int64]) -> list[tuple[int, int]]:
    """The pairs of adapters of different groups whose sketches are most alike, at most `FARTHEST`."""
    found: list[tuple[float, int, int]] = []
    for tile in tiles(sketches):
        tile.cosines[group[tile.left][:, None] == group[tile.right]] = -2.0
        if tile.cosines.size:
            i, j = np.unravel_index(int(tile.cosines.argmax()), tile.cosines.shape)
            found.append((float(tile.cosines[i, j]), int(tile.left[i]), int(tile.right[j])))
    best = sorted((pair for pair in found if pair[0] > -2.0), reverse=True)
    return [(left, right) for _, left, right in best[:FARTHEST]]


def _first_of_each(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first place of each label 0, 1, …"""
    return np.asarray(np.unique(labels, return_index=True)[1])

r"""Which adapters do alike: inner products of their weight changes, from the factors.

.. math::
    \langle \Delta W_s, \Delta W_t \rangle = s_s s_t \operatorname{tr}(A_s^\top B_s^\top B_t A_t)
    = s_s s_t \sum_{ij} (B_s^\top B_t)_{ij} (A_s A_t^\top)_{ij},

two products of rows and a sum over each pair of adapters' ranks: no ΔW is made, and the factors' gauge drops out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.delta import batches, paired_rows
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.delta import PairedRows
    from ingest.store.reader import Zoo

_TILE_ROWS = 1024  # of a tile's side: a product of two takes 8 MiB


@dataclass(frozen=True, slots=True, eq=False)
class Similarity:
    """Inner products of all adapters' ΔW, summed over layers.

    Attributes
    ----------
    adapters : names, in the order of the rows; an adapter that lacks a layer changes nothing there.
    layers : the layers summed over.
    gram : (N, N) float64, symmetric: Σ ⟨ΔWₛ, ΔWₜ⟩.
    """

    adapters: tuple[str, ...]
    layers: tuple[str, ...]
    gram: NDArray[np.float64]

    @property
    def norms(self) -> NDArray[np.float64]:
        """(N,), ‖ΔW‖ over all layers."""
        return np.sqrt(np.maximum(np.diagonal(self.gram), 0.0))

    @property
    def cosine(self) -> NDArray[np.float64]:
        """(N, N), ⟨ΔWₛ, ΔWₜ⟩ / (‖ΔWₛ‖ ‖ΔWₜ‖), as a new array; 0 with an adapter that changes nothing."""
        norms = np.where(self.norms > 0, self.norms, np.inf)
        out = self.gram.copy()
        for row, norm in zip(out, norms, strict=True):  # by norms' product, which is symmetric to the last bit
            row /= norm * norms
        np.clip(out, -1.0, 1.0, out=out)
        np.fill_diagonal(out, np.where(np.isfinite(norms), 1.0, 0.0))
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Clusters:
    """Adapters grouped by the cosine of their ΔW.

    Attributes
    ----------
    groups : names, the largest group first; adapters that are like nobody are groups of one.
    linkage : (N − 1, 4) float64, the tree as `scipy.cluster.hierarchy` has it, with distances 1 − cosine.
    min_cosine : mean cosine above which groups were joined.
    """

    groups: tuple[tuple[str, ...], ...]
    linkage: NDArray[np.float64]
    min_cosine: float


def similarity(zoo: Zoo, layers: Sequence[str] | None = None) -> Similarity:
    """Inner products of the ΔW of all live adapters of a zoo.

    Parameters
    ----------
    zoo : Zoo
    layers : sequence of str, optional
        Canonical names of those to sum over; by default all.

    Raises
    ------
    EigenzooError
        For an unknown layer.

    Notes
    -----
    O(N²) memory for the result alone, and four tiles of rows; O((Σ ranks)² · (in + out)) time per layer, and
    (Σ ranks)/1024 reads of its rows.
    """
    wanted = tuple(zoo.layers if layers is None else layers)
    if not wanted:
        raise EigenzooError(f"{zoo.path}: no layer to compare adapters in; give one or more of zoo.layers")
    live = [i for i, s in enumerate(zoo.stored) if s.live]
    place = np.full(len(zoo.stored), -1, np.int64)
    place[live] = np.arange(len(live))
    gram = np.zeros((len(live), len(live)))
    for layer in wanted:
        pair = paired_rows(zoo, layer)
        at = place[pair.members]
        _add_pair(gram, pair, at)
    return Similarity(tuple(zoo.stored[i].record.name for i in live), wanted, gram)


def pair_gram(pair: PairedRows) -> NDArray[np.float64]:
    """⟨ΔWₛ, ΔWₜ⟩ of one layer, (n_adapters, n_adapters) float64."""
    n = len(pair.offsets) - 1
    out = np.zeros((n, n))
    _add_pair(out, pair, np.arange(n))
    return out


def _add_pair(gram: NDArray[np.float64], pair: PairedRows, at: NDArray[np.int64]) -> None:
    """Add a layer's inner products to `gram`, in the places `at` of its adapters, tile by tile."""
    offsets, scales, n = pair.offsets, pair.scales, len(pair.offsets) - 1
    tiles = list(batches(offsets, 0, n, _TILE_ROWS))
    for number, (first, stop) in enumerate(tiles):
        left = pair.read(first, stop)
        for begin, end in tiles[number:]:
            right = left if begin == first else pair.read(begin, end)
            both = (left[0] @ right[0].T) * (left[1] @ right[1].T)
            summed = np.add.reduceat(both, offsets[first:stop] - offsets[first], axis=0)
            tile = np.add.reduceat(summed, offsets[begin:end] - offsets[begin], axis=1)
            tile *= np.multiply.outer(scales[first:stop], scales[begin:end])
            if begin == first:
                gram[np.ix_(at[first:stop], at[first:stop])] += (tile + tile.T) / 2  # symmetric to the last bit
            else:
                gram[np.ix_(at[first:stop], at[begin:end])] += tile
                gram[np.ix_(at[begin:end], at[first:stop])] += tile.T


def clusters(found: Similarity, *, min_cosine: float = 0.5) -> Clusters:
    """Hierarchical clusters of adapters: groups are joined while their mean cosine (average linkage) is high enough.

    Parameters
    ----------
    found : Similarity
    min_cosine : float
        From −1 to 1; groups whose mean cosine is below it stay apart.

    Raises
    ------
    EigenzooError
        For another `min_cosine`.

    Notes
    -----
    O(N²) time and memory.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    if not -1 <= min_cosine <= 1:
        raise EigenzooError(f"min_cosine: got {min_cosine}; give a number from -1 to 1")
    n = len(found.adapters)
    if n < 2:
        return Clusters(tuple((name,) for name in found.adapters), np.empty((0, 4)), min_cosine)
    distance = found.cosine
    np.subtract(1.0, distance, out=distance)  # not below 0, as no cosine is above 1
    np.fill_diagonal(distance, 0.0)
    pairs = squareform(distance, checks=False)
    del distance
    tree = linkage(pairs, method="average")
    groups: dict[int, list[str]] = {}
    for name, label in zip(found.adapters, fcluster(tree, 1.0 - min_cosine, criterion="distance"), strict=True):
        groups.setdefault(int(label), []).append(name)
    return Clusters(tuple(tuple(g) for g in sorted(groups.values(), key=len, reverse=True)), tree, min_cosine)

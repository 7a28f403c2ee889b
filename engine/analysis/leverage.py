r"""Adapters that hold a component up by themselves.

Of component :math:`v_k` with energy :math:`\sigma_k^2 = \sum_x (x \cdot v_k)^2` an adapter's rows bring a share, its
leverage; the shares of all adapters sum to 1. A direction that one adapter brings nearly alone is that adapter's, not
the zoo's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.analysis.reconstruction import chosen
from engine.analysis.run_rows import zoo_of
from engine.delta import batches
from engine.starts.seed_rows import SeedChoice
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.rows import RowSource
    from engine.run import Run
    from engine.subspace import Subspace
    from ingest.store.reader import Zoo

_BATCH_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Leverage:
    """An adapter that dominates a component.

    Attributes
    ----------
    layer, side : str
    adapter : str
    component : int
        From 0.
    share : float
        Of the component's energy, 0 … 1.
    fair : float
        What it would have if energy were spread evenly over rows: its rank's share of all ranks.
    """

    layer: str
    side: str
    adapter: str
    component: int
    share: float
    fair: float


@dataclass(frozen=True, slots=True, eq=False)
class Shares:
    """Every adapter's share of every component kept.

    Attributes
    ----------
    share : (n_adapters, K) float64; columns sum to 1, or are 0 where a component has no energy.
    fair : (n_adapters,) float64
    """

    share: NDArray[np.float64]
    fair: NDArray[np.float64]


def shares(rows: RowSource, subspace: Subspace) -> Shares:
    """Shares of the components of a subspace among the adapters whose rows it was fitted to.

    Notes
    -----
    One read in batches of whole adapters; O(Σ ranks · width · K) time, O(n_adapters · K) memory.
    """
    offsets, width = rows.offsets, rows.shape[1]
    n = len(offsets) - 1
    out = np.zeros((n, subspace.n_components))
    for first, stop in batches(offsets, 0, n, max(1, _BATCH_BYTES // (8 * width))):
        x = np.asarray(rows.read(int(offsets[first]), int(offsets[stop])), dtype=np.float64)
        squares = ((x - subspace.offset) @ subspace.components.T) ** 2
        out[first:stop] = np.add.reduceat(squares, offsets[first:stop] - offsets[first], axis=0)
    energy = out.sum(axis=0)
    out /= np.where(energy > 0, energy, 1.0)
    return Shares(out, np.diff(offsets) / max(int(offsets[-1]), 1))


def leverage(
    run: Run, *, zoo: Zoo | None = None, layers: str | Collection[str] = "*", share: float = 0.5, times: float = 3.0
) -> list[Leverage]:
    """The adapters that dominate a component of a run, by falling share.

    Parameters
    ----------
    run : Run
        Of either space.
    zoo : Zoo, optional
        By default the one that the run was made from, as it is now.
    layers : str or collection of str
        A glob over layer names, several may be given with commas; or the names themselves.
    share, times : float
        An adapter dominates a component with more than this share of its energy that is more than so many times its
        fair share: of two or three adapters none is named for having a half.

    Raises
    ------
    EigenzooError
        If the zoo is gone, no layer matches, or the rows are others than were fitted.
    """
    zoo = zoo or zoo_of(run)
    settings = run.record.settings
    choice = SeedChoice(zoo, settings.seeds, settings.space)
    found = [f for layer, sides in chosen(run, layers).items() for f in _of(run, choice, layer, sides, share, times)]
    return sorted(found, key=lambda f: -f.share)


def _of(
    run: Run, choice: SeedChoice, layer: str, sides: Iterable[str], share: float, times: float
) -> Iterator[Leverage]:
    for side in sides:
        rows, sub = choice.rows(layer, side), run.subspace(layer, side=side)
        if rows.identity != sub.source:
            raise EigenzooError(
                f"{run.path}: {layer} {side} was fitted to other rows than its zoo has now; run `eigenzoo fit` again"
            )
        found = shares(rows, sub)
        names = choice.adapters(layer)
        over = (found.share > share) & (found.share > times * found.fair[:, None])
        for i, k in np.argwhere(over).tolist():
            yield Leverage(layer, side, names[i], k, float(found.share[i, k]), float(found.fair[i]))

r"""Overlap of adapters against chance.

Two subspaces of dimensions k and l in d dimensions, with orthonormal bases U (k × d) and V (l × d), overlap by
:math:`\|UV^\top\|_F^2 = \operatorname{tr} P_U P_V`, the sum of squared cosines of their principal angles (Björck and
Golub, 1973; Krzanowski, 1979; Hu et al., "LoRA", 2021, section 7.2). Of random subspaces it is kl/d on average, so

.. math:: \frac{d}{kl} \, \|UV^\top\|_F^2

is 1 by chance, d/max(k, l) where one holds the other. With positive matrices M in the place of projectors, such as
ΔWᵀΔW, it is d · tr(MₛMₜ) / (tr Mₛ · tr Mₜ). The ratio of a set of adapters is that of the sums over all pairs,

.. math::
    d \, \frac{\|\sum_s M_s\|_F^2 - \sum_s \|M_s\|_F^2}
    {(\sum_s \operatorname{tr} M_s)^2 - \sum_s (\operatorname{tr} M_s)^2},

which takes one Gram and no pairs. If each adapter is turned at random (Haar) and independently, then
:math:`\operatorname{tr} M_s M_t` varies by

.. math:: \frac{2 f_s f_t}{(d - 1)(d + 2)}, \qquad f_s = \|M_s\|_F^2 - (\operatorname{tr} M_s)^2 / d,

as the traceless symmetric matrices are an irreducible representation of O(d), of dimension (d − 1)(d + 2)/2; pairs are
uncorrelated, so the ratio's standard deviation follows exactly.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from engine.analysis.adapter_rows import Bases, Energies
from engine.backends import choose, get_backend
from engine.by_adapter import ByAdapter
from engine.delta import rows_in
from engine.reductions.pair_traces import PairTraces, TraceSums, pair_traces_bytes
from engine.runners.partition import read_rows
from engine.runners.serial import SerialRunner
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.rows import RowSource
    from engine.runners.protocol import Runner
    from ingest.store.reader import Zoo

BAND = 3.0  # standard deviations of chance on either side


@dataclass(frozen=True, slots=True)
class Overlap:
    """How much adapters overlap, as a multiple of what random ones do.

    Attributes
    ----------
    ratio : float
        1 by chance; NaN of fewer than two adapters.
    std : float
        Standard deviation of `ratio` over independent random rotations of these very adapters.
    n_adapters, width : int
        How many, in how many dimensions.
    """

    ratio: float
    std: float
    n_adapters: int
    width: int

    @property
    def low(self) -> float:
        """The lower end of the band of chance: three standard deviations below 1, at least 0."""
        return max(0.0, 1.0 - BAND * self.std)

    @property
    def high(self) -> float:
        """The upper end of the band of chance."""
        return 1.0 + BAND * self.std

    @property
    def by_chance(self) -> bool:
        """Whether `ratio` lies within the band."""
        return self.low <= self.ratio <= self.high


@dataclass(frozen=True, slots=True)
class Between:
    """Overlap within and between groups of adapters.

    Attributes
    ----------
    ratios, std : ndarray of float64, shape (n_groups, n_groups)
        As of `Overlap`, on the diagonal those of pairs within a group, NaN in a group of one. Beside it `std` is over
        random rotations of each group as a whole: adapters of one start are not independent of one another.
    width : int
    """

    ratios: NDArray[np.float64] = field(repr=False)
    std: NDArray[np.float64] = field(repr=False)
    width: int


def overlap(
    zoo: Zoo,
    layer: str,
    *,
    side: str = "A",
    space: str = "factor",
    members: Collection[int] | None = None,
    device: str = "auto",
    runner: Runner | None = None,
) -> Overlap:
    """Overlap of all pairs of a module's adapters, against chance.

    Parameters
    ----------
    zoo : Zoo
    layer : str
    side : {"A", "B"}
        "A" compares them in the layer's input dimensions, "B" in its output dimensions.
    space : {"factor", "delta"}
        "factor": the row space of A, the column space of B. "delta": where the energy of ΔW lies, ΔWᵀΔW or ΔWΔWᵀ.
    members : collection of int, optional
        Ordinals of the adapters; by default all that are live. `SeedGroups.one_each` has one per start.
    device : str
        As for `engine.fit`.
    runner : Runner, optional
        Who executes; by default this process.

    Raises
    ------
    EigenzooError
        For an unknown layer, side or space.

    Notes
    -----
    One read of the rows; O(n_rows · width · min(n_rows, width)) time and four times
    8 · width · min(n_rows, width) bytes, beside blocks of 16 MiB, or of one adapter of the highest rank. The same for
    any gauge (B G⁻¹, G A).
    """
    rows = _rows(zoo, layer, side, space, members)
    return overlap_of(rows, space=space, device=device, runner=runner)


def overlap_of(
    rows: RowSource, *, space: str = "factor", device: str = "auto", runner: Runner | None = None
) -> Overlap:
    """Overlap of the adapters of any rows; of delta rows (`engine.delta`) where the space is "delta"."""
    runner = runner or SerialRunner()
    sums = runner.run(*_work(rows, space, device, runner))
    return _overlap(sums, rows.shape[1])


def between(
    zoo: Zoo,
    layer: str,
    groups: Sequence[Collection[int]],
    *,
    side: str = "A",
    space: str = "factor",
    device: str = "auto",
    runner: Runner | None = None,
) -> Between:
    """Overlap within each group of a module's adapters, and between each two groups.

    Parameters
    ----------
    groups : sequence of collections of int
        Ordinals; none in two groups.
    zoo, layer, side, space, device, runner
        As for `overlap`.

    Raises
    ------
    EigenzooError
        As for `overlap`; for a group without adapters, or an adapter in two groups.

    Notes
    -----
    One Gram at a time, of a group or of two together: :math:`2 \\operatorname{tr} G_a G_b = \\|G_a + G_b\\|^2 -
    \\|G_a\\|^2 - \\|G_b\\|^2`. With m groups each is read m times.
    """
    flat = [ordinal for group in groups for ordinal in group]
    if len(set(flat)) < len(flat) or not all(len(group) for group in groups):
        raise EigenzooError("groups: an adapter is in two of them, or one is empty; give disjoint groups")
    runner, n = runner or SerialRunner(), len(groups)
    pairs = [*((a, a) for a in range(n)), *combinations(range(n), 2)]
    width = 0

    def work() -> Iterator[tuple[tuple[int, int], PairTraces, ByAdapter]]:
        nonlocal width
        for a, b in pairs:
            rows = _rows(zoo, layer, side, space, {*groups[a], *groups[b]})
            width = rows.shape[1]
            yield (a, b), *_work(rows, space, device, runner)

    sums = dict(runner.run_many(work()))
    ratios, std = np.empty((n, n)), np.empty((n, n))
    for a, b in pairs:
        if a == b:
            within = _overlap(sums[a, a], width)
            ratios[a, a], std[a, a] = within.ratio, within.std
            continue
        found = (sums[a, b].total - sums[a, a].total - sums[b, b].total) / 2
        expected = float(sums[a, a].traces.sum() * sums[b, b].traces.sum()) / width
        spread = math.sqrt(2 * _group_excess(sums[a, a], width) * _group_excess(sums[b, b], width) / _modes(width))
        ratios[a, b] = ratios[b, a] = found / expected if expected else math.nan
        std[a, b] = std[b, a] = spread / expected if expected else math.nan
    return Between(ratios, std, width)


def _rows(zoo: Zoo, layer: str, side: str, space: str, members: Iterable[int] | None) -> RowSource:
    return rows_in(space, zoo, layer, side, None if members is None else sorted(members))


def _work(rows: RowSource, space: str, device: str, runner: Runner) -> tuple[PairTraces, ByAdapter]:
    n_rows, width = rows.shape
    rank = int(np.diff(rows.offsets).max(initial=1))
    made = Bases(width, rank) if space == "factor" else Energies(width, rank)
    adapters = ByAdapter(rows, made)
    read = min(adapters.shape[0], read_rows(adapters.block_rows, made.width, adapters.dtype.itemsize))
    runner.check_memory(pair_traces_bytes(n_rows, width, read * made.width * adapters.dtype.itemsize), "overlap")
    backend = get_backend(choose(device))
    return PairTraces(rank, width, n_rows, backend), adapters


def _overlap(sums: TraceSums, width: int) -> Overlap:
    traces = sums.traces
    expected = (float(traces.sum()) ** 2 - float((traces**2).sum())) / width
    n = len(traces)
    if n < 2 or expected <= 0:
        return Overlap(math.nan, math.nan, n, width)
    excess = _excess(sums, width)
    # Σ over unordered pairs of 2 f f′ / modes, four times: each pair counts twice in the sum.
    spread = 4 * max(0.0, float(excess.sum()) ** 2 - float((excess**2).sum())) / _modes(width)
    return Overlap(sums.between / expected, math.sqrt(spread) / expected, n, width)


def _excess(sums: TraceSums, width: int) -> NDArray[np.float64]:
    """‖M‖² less that of the multiple of 1 with M's trace."""
    return np.maximum(sums.squares - sums.traces**2 / width, 0.0)


def _group_excess(sums: TraceSums, width: int) -> float:
    """The same of the group's sum Σ M."""
    return max(0.0, sums.total - float(sums.traces.sum()) ** 2 / width)


def _modes(width: int) -> float:
    """Twice the dimension of the traceless symmetric matrices."""
    return float(max(1, (width - 1) * (width + 2)))

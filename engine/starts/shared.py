r"""Adapters that share a random start, from the rows of one matrix.

A start is drawn once, and training adds to it. Where :math:`A_s = A_0 + \Delta_s`, the cosine of two adapters of one
start is :math:`\|A_0\|^2` over the product of their norms, up to what their training has in common; that of two others
is nearly 0. Rows are compared as they are: training applies no gauge to a start.

Each adapter is read once and sketched (`engine.starts.sketch`). Pairs of sketches that may be alike are joined to
sets (`engine.starts.linkage`). Members of a set are read again and held against one of them, the first one of the
highest rank; what is not like it makes up sets of its own. So a group holds nothing but adapters whose rows are like
those of its representative, and the sketches decide only whose rows are looked at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.by_adapter import ByAdapter
from engine.reductions.gather import Gather
from engine.runners.serial import SerialRunner
from engine.starts.chance import LEAST_COSINE, MIN_COSINE, unmatched
from engine.starts.linkage import linked, nearest_apart
from engine.starts.row_cosines import row_cosines
from engine.starts.sketch import NUMBERS, SIGMAS, LeadingRows, Sketches
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.rows import RowSource
    from engine.runners.protocol import Runner


@dataclass(frozen=True, slots=True)
class Starts:
    """Groups of adapters, by their place in the rows.

    Attributes
    ----------
    groups : tuple of tuples of int
        Of two and more, ascending; the largest group first, equal ones in the order of their first members.
    bar : float
        The cosine that a pair of the lowest rank had to reach.
    weakest : float or None
        The lowest cosine of a member and its group's representative; None without a group.
    strongest : float or None
        The highest cosine of two adapters that are in no group together, of the few pairs whose sketches are most
        alike; None where there is no such pair.
    """

    groups: tuple[tuple[int, ...], ...]
    bar: float
    weakest: float | None
    strongest: float | None


def shared_starts(
    rows: RowSource, *, min_cosine: float = MIN_COSINE, seed: int = 0, runner: Runner | None = None
) -> Starts:
    """Find the adapters of one matrix that share a random start.

    Parameters
    ----------
    rows : RowSource
        (n_rows, width), an adapter's rows between two of its `offsets`.
    min_cosine : float, default 0.5
        The least cosine of two adapters of a group, from 0.2 to below 1; more is asked where independent adapters may
        be as alike, and 0.95 where all have but one row, so that nothing tells (`engine.starts.chance`).
    seed : int
        Of the sketches, and of the adapters that are looked at for what chance does.
    runner : Runner, optional
        Who reads and sketches; by default this process.

    Raises
    ------
    EigenzooError
        For another `min_cosine`, or if rows cannot be read.

    Notes
    -----
    Reads every row once, and those of groups' members twice. O(n_rows · width · p + n_adapters² · 1024) flops with
    p = 1024 / rank; 4 KiB of memory per adapter where all ranks are equal, and about 200 MiB.
    """
    check_cosine(min_cosine)
    sketched = sketch_of(rows, min_cosine, seed)
    sketches = (runner or SerialRunner()).run(Gather(sketched.shape[1]), sketched)
    return starts_of(rows, sketches, min_cosine=min_cosine, seed=seed)


def check_cosine(min_cosine: float) -> None:
    """Raises `EigenzooError` for a threshold below `LEAST_COSINE`, from 1 on, or that is no number."""
    if not LEAST_COSINE <= min_cosine < 1.0:
        raise EigenzooError(
            f"min_cosine: got {min_cosine}; give a number from {LEAST_COSINE} to below 1, such as {MIN_COSINE}"
        )


def sketch_of(rows: RowSource, min_cosine: float = MIN_COSINE, seed: int = 0) -> ByAdapter:
    """The sketches of all adapters, as a source to be gathered."""
    return ByAdapter(rows, _made(rows, min_cosine, seed))


def starts_of(
    rows: RowSource, numbers: NDArray[np.float32], *, min_cosine: float = MIN_COSINE, seed: int = 0
) -> Starts:
    """The groups, of rows whose gathered sketches are at hand; see `shared_starts`."""
    ranks, levels = np.diff(rows.offsets), _levels(rows)
    null, made = unmatched(rows, seed), _made(rows, min_cosine, seed)
    bars = {level: null.bar(level, len(ranks), min_cosine) for level in levels}
    least = {level: bar - made.slack(level, bar, null.dimensions) for level, bar in bars.items()}
    sketches = Sketches(made, ranks, numbers)
    groups, weakest = list[tuple[int, ...]](), list[float]()
    # Of each set the highest rank comes first: it has all the rows that others have.
    todo = [members[np.argsort(-ranks[members], kind="stable")] for members in linked(sketches, least)]
    while todo:
        asked = [(int(members[0]), _near(sketches, members, least)) for members in todo]
        left = []
        for members, (one, near), cosines in zip(todo, asked, row_cosines(rows, asked), strict=True):
            alike = cosines >= _of_ranks(bars, ranks[near])
            group = [one, *near[alike].tolist()]
            if len(group) > 1:
                groups.append(tuple(sorted(group)))
                weakest.append(float(cosines[alike].min()))
            others = members[~np.isin(members, group)]
            left += [others] if len(others) > 1 else []
        todo = left
    groups.sort(key=lambda group: (-len(group), group))
    apart = [sorted(pair, key=lambda i: -ranks[i]) for pair in nearest_apart(sketches, _numbered(groups, len(ranks)))]
    strongest = row_cosines(rows, [(one, np.array([other])) for one, other in apart])
    return Starts(
        tuple(groups),
        bars[levels[0]],
        min(weakest, default=None),
        max((float(cosine[0]) for cosine in strongest), default=None),
    )


def _made(rows: RowSource, min_cosine: float, seed: int) -> LeadingRows:
    """Sketches of as many numbers as tell a pair at the threshold from unrelated ones."""
    numbers = max(NUMBERS, math.ceil((2 * SIGMAS / min_cosine) ** 2))
    return LeadingRows(rows.shape[1], _levels(rows), seed, numbers)


def _levels(rows: RowSource) -> tuple[int, ...]:
    return tuple(np.unique(np.diff(rows.offsets)).tolist())


def _near(sketches: Sketches, members: NDArray[np.int64], least: Mapping[int, float]) -> NDArray[np.int64]:
    """The members after the first whose sketches are like its."""
    others = members[1:]
    return others[sketches.cosines(int(members[0]), others) >= _of_ranks(least, sketches.ranks[others])]


def _of_ranks(values: Mapping[int, float], ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.array([values[rank] for rank in ranks.tolist()])


def _numbered(groups: Sequence[tuple[int, ...]], n: int) -> NDArray[np.int64]:
    """Every adapter's group; whoever is in none has a number of its own."""
    out = len(groups) + np.arange(n)
    for number, group in enumerate(groups):
        out[list(group)] = number
    return out

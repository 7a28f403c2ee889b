r"""How alike two independent adapters may be by chance: what a cosine must exceed to tell of a common start.

Rows i of two adapters with one start are alike; row i of one and row j ≠ i of the other are not. The cosines c of such
unmatched rows show what independence looks like in this very zoo: of white starts they scatter by 1/√width, of trained
rows that keep to a few common directions by much more, and about a mean m > 0 where all rows share a mean. A cosine is
therefore taken for a start where

.. math:: \cos \ge m + (1 - m)\,\max(c_{min}, c_p),

with c_p the cosine that random vectors of D = r (1 − m)²/var(c) dimensions exceed with probability p:
½ I_{1−c²}((D − 1)/2, ½) = p, the distribution of a correlation of independent vectors (Fisher, 1915). p is `CHANCE`
divided by the number of pairs (Bonferroni).

Where no two adapters have unmatched rows, as where all are of rank 1, nothing is known of chance: rows that keep to one
direction, or share a large mean, look like one start. Then c_min is at least `UNKNOWN_COSINE`, which only adapters
that have barely left their start reach.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from engine.rows import RowSource

# Half of the squared norm of either is the common start. Measured: gpt2's medical and sports adapters 0.93 to 0.997 and
# two authors' roberta checkpoints 0.92 to 0.9999 in their modules, other pairs of these and of three Stable Diffusion
# adapters at most 0.12.
MIN_COSINE = 0.5
LEAST_COSINE = 0.2  # below it most of either is no common start, and sketches would have to be large
UNKNOWN_COSINE = 0.95  # asked for where there are no unmatched rows to tell what chance does
CHANCE = 1e-6  # of one false pair in a matrix of independent adapters
SAMPLE = 64  # adapters whose unmatched rows are looked at
SAMPLE_ROWS = 16  # leading rows of each


@dataclass(frozen=True, slots=True)
class Unmatched:
    """Cosines of unmatched rows of different adapters: their mean (at least 0) and variance.

    `known` is False where there are none: then these are those of white rows, and `bar` asks for more.
    """

    mean: float
    variance: float
    known: bool = True

    @property
    def dimensions(self) -> float:
        """How many dimensions a row seems to have, its mean apart."""
        return (1.0 - self.mean) ** 2 / self.variance

    def bar(self, rank: int, n_adapters: int, min_cosine: float = MIN_COSINE) -> float:
        """The cosine that two adapters must reach whose lower rank is `rank`."""
        rest = 1.0 - self.mean
        least = min_cosine if self.known else max(min_cosine, UNKNOWN_COSINE)
        chance = CHANCE / max(1.0, n_adapters * (n_adapters - 1) / 2)
        by_chance = exceeded(rank * self.dimensions, chance)
        return self.mean + rest * max(least, by_chance)


def exceeded(dimensions: float, probability: float) -> float:
    """The cosine that two random vectors of so many dimensions exceed with that probability."""
    from scipy.special import betaincinv

    if dimensions <= 1.0:
        return 1.0
    return math.sqrt(max(0.0, 1.0 - float(betaincinv((dimensions - 1.0) / 2, 0.5, 2 * probability))))


def unmatched(rows: RowSource, seed: int = 0) -> Unmatched:
    """Look at a sample of adapters, drawn by the seed; reads at most `SAMPLE` · `SAMPLE_ROWS` rows."""
    width, offsets = rows.shape[1], rows.offsets
    n_adapters = len(offsets) - 1
    drawn = np.sort(np.random.default_rng(seed).permutation(n_adapters)[:SAMPLE])
    units, owner, number = [], [], []
    for adapter in drawn.tolist():
        first, last = int(offsets[adapter]), int(offsets[adapter + 1])
        x = rows.read(first, min(last, first + SAMPLE_ROWS)).astype(np.float64)
        norms = np.linalg.norm(x, axis=1)
        at = np.flatnonzero(norms > 0)  # a row of zeros is like nothing
        units.append(x[at] / norms[at, None])
        owner.append(np.full(len(at), adapter))
        number.append(at)
    x, who, which = np.concatenate(units), np.concatenate(owner), np.concatenate(number)
    apart = (who[:, None] < who) & (which[:, None] != which)
    found = (x @ x.T)[apart]
    if len(found) < 2:
        return Unmatched(0.0, 1.0 / width, known=False)
    return Unmatched(max(float(found.mean()), 0.0), max(float(found.var()), 1.0 / width))

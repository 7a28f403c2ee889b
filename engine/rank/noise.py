r"""The noise level of a matrix of which only the first singular values and the total energy are known.

Then the median of the spectrum, from which the optimal hard threshold is otherwise set, is out of reach. The
Marchenko–Pastur law (1967) of white noise of standard deviation s in an N × W matrix still ties the energy of its
bulk to s: a matrix of j directions above the noise leaves

.. math:: E - \sum_{i \le j} \sigma_i^2 \approx s^2 (N - j)(W - j),

for a direction that stands above the noise takes a row's and a column's worth of noise energy with it: its
σ² = (θ² + N s²)(θ² + W s²)/θ² is θ² + s²(N + W) up to s⁴NW/θ² (Benaych-Georges and Nadakuditi 2012). The noise left
ends at the edge

.. math:: s (\sqrt{N - j} + \sqrt{W - j}).

Of the values known, those at or below the edge are the bulk's own first ones. Taking them out of the energy as if they
were signal leaves a law without its top quantiles, and an s too small (by 1.1 % for 64 of 1024); here they are put
back, which needs no quantiles and no precise value for them: values inside the bulk may be as rough as a sketch makes
them.

How far s may be off has three parts, of which the first two are nearly always the smaller. Twice the standard deviation
of the noise's energy, s/√(2NW) for normal entries; what the approximation above leaves out, ½ s Σ s²/θᵢ² over the
directions; and one direction misjudged at the edge, whose value there takes s²(√N + √W)² out of the energy where
s²(N + W − 1) belongs to it, which is s/√(NW) in s.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.rank.estimate import Estimate
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# Relative: the energy and the known values are rounded apart, so less than this is nothing left.
_ROUNDING = 1e-12


class _Found(NamedTuple):
    """A noise level, and the squares of the directions that stand above it."""

    level: float
    above: NDArray[np.float64]


def noise_from_trace(top_singular_values: ArrayLike, total_energy: float, shape: tuple[int, int]) -> float:
    """Standard deviation of one entry of the noise below a truncated spectrum.

    Parameters
    ----------
    top_singular_values : the largest singular values, as many as are known.
    total_energy : Σ σ² over all of them, from the exact trace.
    shape : the effective shape, in either order: (n − 1, width) when the rows' mean was subtracted.

    Returns
    -------
    float
        0 when the values known carry all the energy: nothing is left to measure.

    Raises
    ------
    EigenzooError
        For values or an energy that are negative or not finite.

    Notes
    -----
    Signal is taken to be the largest j for which the first j values all lie above the edge of the noise that is left
    without them; at most half the short side, as for a median. O(number of values). White noise is assumed; signal
    beyond the values known counts as noise.
    """
    return _found(top_singular_values, total_energy, shape).level


def noise_estimate(top_singular_values: ArrayLike, total_energy: float, shape: tuple[int, int]) -> Estimate:
    """`noise_from_trace` with how far it may be off if the noise is white; parameters and errors are the same."""
    level, above = _found(top_singular_values, total_energy, shape)
    rows, columns = (int(side) for side in shape)
    if not level > 0:
        return Estimate(level, 0.0)
    # θ² from σ² = θ² + s²(N + W) + s⁴NW/θ².
    excess = above / level**2 - rows - columns
    strengths = (excess + np.sqrt(np.maximum(excess**2 - 4.0 * rows * columns, 0.0))) / 2
    missed = float((1 / np.maximum(strengths, math.sqrt(rows * columns))).sum()) / 2
    return Estimate(level, level * (math.sqrt(2 / (rows * columns)) + missed + 1 / math.sqrt(rows * columns)))


def _found(top_singular_values: ArrayLike, total_energy: float, shape: tuple[int, int]) -> _Found:
    squares = np.sort(np.asarray(top_singular_values, dtype=np.float64).ravel())[::-1]
    if not (np.isfinite(squares).all() and (squares >= 0).all() and math.isfinite(total_energy) and total_energy >= 0):
        raise EigenzooError("noise: singular values and their energy must be finite and not negative")
    squares = squares**2
    rows, columns = (int(side) for side in shape)
    if min(rows, columns) < 1:
        return _Found(0.0, squares[:0])
    level, n_above = math.sqrt(total_energy / (rows * columns)), 0
    taken = 0.0
    for j, square in enumerate(squares[: min(rows, columns) // 2].tolist(), start=1):
        taken += square
        left = total_energy - taken
        if left <= _ROUNDING * total_energy:
            return _Found(0.0, squares[:j])
        variance = left / ((rows - j) * (columns - j))
        edge = math.sqrt(rows - j) + math.sqrt(columns - j)
        if square > variance * edge**2:
            level, n_above = math.sqrt(variance), j
    return _Found(level, squares[:n_above])

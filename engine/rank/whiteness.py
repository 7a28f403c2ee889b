r"""Whether the bulk of a spectrum is that of white noise, so that rules which take it for such may be believed.

The distance is Kolmogorov's and Smirnov's, between the squared singular values below the K largest and the
Marchenko–Pastur law of what is left of the shape, at the level s that brings them nearest:

.. math:: D = \min_s \sup_x |\hat F_m(x) - F_\beta(x / (s^2 L))| .

As s grows the one side of the difference grows and the other falls, so bisection finds where they meet.

Eigenvalues repel each other, so m of them keep within O(log m / m) of their law (F. Götze and A. Tikhomirov 2016; A.
Bandeira and others call it rigidity), where m independent values would stray by 1/√m. The critical value is therefore

.. math:: (A + B \ln m) / m,

a small number of ranks. A and B lie above the 99 % quantiles of m·D, 2.17 to 3.68, in simulations
(`bench/whiteness.py`): Gaussian and kaiming-uniform entries, centred, with and without planted directions, shapes from
60 × 40 to 4000 × 1000; of 26,520 such matrices 20 were flagged, and of no kind more than one in a hundred.

Directions too weak for a rule, but above the edge of the noise, are no part of the bulk: a few are left out. They are
not to be mistaken for a bulk with another shape, whose tail is only where it begins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.rank.marchenko_pastur import largest_of_noise, marchenko_pastur_cdf, marchenko_pastur_median

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.spectrum import Spectrum

A, B = 1.3, 0.38  # ranks; see above
LEAST = 20  # values below which the law is no guide
MOST = 4  # times K that there must be values
WEAK_SHARE = 20  # one value in so many may be a direction that the rule left
_LEVELS, _BISECTIONS = 2.0, 24  # how far from the median's level another is sought, and how finely
_BLURRED = 0.05  # of the law's width: values that may be off by more tell nothing


@dataclass(frozen=True, slots=True)
class Whiteness:
    """Whether a bulk is white.

    Attributes
    ----------
    white : None where it cannot be told; then the note says why.
    distance : D, between 0 and 1; None where it cannot be had.
    critical : what white noise stays below in 99 of 100 matrices.
    note : for the reader; "" where the bulk is white.
    """

    white: bool | None
    distance: float | None
    critical: float | None
    note: str


def whiteness(spectrum: Spectrum, k: int = 0) -> Whiteness:
    """Hold the values below the `k` largest against white noise.

    Parameters
    ----------
    spectrum : of kind "full": columns without variance leave the width first.
    k : values that are signal, as a rule says.

    Returns
    -------
    Whiteness
        Cannot tell for a truncated spectrum, for fewer than 20 values, and where rounding blurs them. Where K is more
        than a quarter of the values it is False even if the others look white: a median so far off is no noise's.

    Notes
    -----
    O(number of values). Unchanged when the matrix is scaled, transposed, or its rows and columns permuted.
    """
    if spectrum.kind == "top":
        return _unknown("only the largest singular values are known, which are no bulk")
    rows, columns = spectrum.effective_shape
    short = min(rows, columns)
    values = np.sort(np.asarray(spectrum.singular_values, dtype=np.float64))[::-1][: max(short, 0)]
    if len(values) < short:
        return _unknown(f"only {len(values)} of {short} singular values are known")
    if short - k < LEAST:
        return _unknown(f"{max(short - k, 0)} values lie below K, {LEAST} are needed")
    squares = values**2
    nulls = int(np.count_nonzero(values[k:] <= 0))
    if 2 * nulls >= short - k:
        critical = critical_distance(short - k)
        note = f"{nulls} of the {short - k} values below K are numerically null"
        return Whiteness(False, nulls / (short - k), critical, note)
    bulk = _bulk(squares, (rows, columns), k)
    blur = spectrum.eigenvalue_error / bulk.unit
    if blur > _BLURRED * 4 * math.sqrt(bulk.beta):
        return _unknown("rounding blurs the values below K")
    distance, critical = _distance(bulk, spectrum.eigenvalue_error), critical_distance(len(bulk.squares))
    if distance <= critical and MOST * k <= short:
        return Whiteness(True, distance, critical, "")
    if distance <= critical:
        note = f"{k} of {short} values are too many for the median to be that of noise: columns of two levels, say"
        return Whiteness(False, distance, critical, note)
    note = f"the values below K are {distance:.2g} from the Marchenko–Pastur law, where white noise is within "
    return Whiteness(False, distance, critical, f"{note}{critical:.2g}")


def critical_distance(m: int) -> float:
    """What D of m values of white noise exceeds in less than one of 100 matrices."""
    return min(1.0, (A + B * math.log(m)) / m)


def not_white(spectrum: Spectrum, k: int | None) -> str:
    """A note for a rule that took the noise for white and said `k`; "" where nothing speaks against it."""
    found = whiteness(spectrum, k) if k is not None else None
    return f"noise is not white: {found.note}" if found is not None and found.white is False else ""


@dataclass(frozen=True, slots=True)
class _Bulk:
    """Squares (m,) falling, the law's ratio, and by the median what it takes for 1."""

    squares: NDArray[np.float64]
    beta: float
    unit: float


def _bulk(squares: NDArray[np.float64], shape: tuple[int, int], k: int) -> _Bulk:
    most = max(1, (len(squares) - k) // WEAK_SHARE)
    weak = 0
    while True:
        rest, left = squares[k + weak :], (shape[0] - k - weak, shape[1] - k - weak)
        short, long = sorted(left)
        beta = short / long
        unit = float(np.median(rest)) / marchenko_pastur_median(beta)
        edge = unit / long * largest_of_noise(left) ** 2
        above = int(np.count_nonzero(rest > edge))
        if not above or weak == most:
            return _Bulk(rest, beta, unit)
        weak = min(weak + above, most)


def _distance(bulk: _Bulk, error: float) -> float:
    """D, as far as values that may be off by `error` do not explain it."""
    squares, m = bulk.squares[::-1], len(bulk.squares)
    ranks = np.arange(1, m + 1)

    def sides(unit: float) -> tuple[float, float]:
        over = ranks / m - marchenko_pastur_cdf((squares + error) / unit, bulk.beta)
        under = marchenko_pastur_cdf((squares - error) / unit, bulk.beta) - (ranks - 1) / m
        return float(over.max()), float(under.max())

    low, high = bulk.unit / _LEVELS, bulk.unit * _LEVELS
    found = sides(bulk.unit)
    for _ in range(_BISECTIONS):
        middle = math.sqrt(low * high)
        over, under = sides(middle)
        if max(over, under) < max(found):
            found = over, under
        low, high = (middle, high) if over < under else (low, middle)
    return max(*found, 0.0)


def _unknown(why: str) -> Whiteness:
    return Whiteness(None, None, None, why)

r"""The elbow of the scree plot, as the most likely place for a gap.

M. Zhu and A. Ghodsi, "Automatic dimensionality selection from the scree plot via the use of profile likelihood",
Computational Statistics and Data Analysis 51 (2006). The variances d₁ ≥ … ≥ d_p are taken for two normal samples, the
first q and the rest, of different means and one variance σ² = (SS₁ + SS₂)/(p − 2); K is the q with the highest profile
likelihood

.. math:: \ell(q) = \sum_{i \le q} \log f(d_i; \hat\mu_1, \hat\sigma^2) + \sum_{i > q} \log f(d_i; \hat\mu_2,
    \hat\sigma^2) = -\frac p2 \log(2\pi\hat\sigma^2) - \frac{p-2}{2},

that is, with the smallest sum of squares within both. It always finds a gap, so K is never 0, and one large variance
takes all of the likelihood: K is a small number where the spectrum falls steeply.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.rank.choice import RankChoice
from engine.rank.level import checked, left_out
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from engine.spectrum import Spectrum

NAME = "elbow"
_ROUNDING = 1e-12  # of the variances' own size


def elbow(singular_values: ArrayLike, shape: tuple[int, int]) -> RankChoice:
    """The number of variances before the most likely gap.

    Parameters
    ----------
    singular_values : all min(shape) of them, any order.
    shape : the effective shape, in either order: (n − 1, width) when the rows' mean was subtracted.

    Returns
    -------
    RankChoice
        `threshold` lies half-way between the singular values before and after the gap. k is None, with a note, where
        there are fewer than three values or all are alike.

    Raises
    ------
    EigenzooError
        For a truncated spectrum, and for values that are negative or not finite.

    Notes
    -----
    O(min(shape) log min(shape)). Of equal likelihoods the smallest K is taken.
    """
    values = checked(singular_values, shape, NAME)
    p = min(shape)
    if len(values) < p:
        raise EigenzooError(
            f"{NAME}: got {len(values)} singular values of a {shape[0]} × {shape[1]} matrix, {p} are needed; "
            "give the whole spectrum"
        )
    if p < 3 or values[0] - values[-1] <= _ROUNDING * values[0]:
        why = "fewer than three singular values" if p < 3 else "all singular values are alike"
        return RankChoice(None, None, NAME, f"{why}: there is no gap to find")
    d = values**2 / values[0] ** 2
    d = d - d.mean()
    first = np.cumsum(d)[:-1]
    q = np.arange(1, p)
    # Σd² less what lies between the two means, which the best q makes largest; Σd is 0, so the rest's sum is −first.
    between = first**2 / q + first**2 / (p - q)
    k = int(np.argmax(between)) + 1
    return RankChoice(k, float(values[k - 1] + values[k]) / 2, NAME)


@dataclass(frozen=True, slots=True)
class Elbow:
    """The rule over a `Spectrum`: columns without variance leave the width first."""

    @property
    def name(self) -> str:
        return NAME

    @staticmethod
    def parse(argument: str) -> Elbow:
        if argument:
            raise EigenzooError(f"k: 'elbow:{argument}': the elbow takes no argument")
        return Elbow()

    def __call__(self, spectrum: Spectrum) -> RankChoice:
        if spectrum.kind == "top":
            note = "only the largest singular values are known; the likelihood of a gap needs all of them"
            return RankChoice(None, None, self.name, note)
        if min(spectrum.effective_shape) < 1:
            return RankChoice(None, None, self.name, "nothing to judge in an empty effective shape")
        choice = elbow(spectrum.singular_values, spectrum.effective_shape)
        notes = [note for note in (choice.note, left_out(spectrum)) if note]
        return RankChoice(choice.k, choice.threshold, self.name, "; ".join(notes))

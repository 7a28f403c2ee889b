r"""As many components as stand above the largest value that white noise has.

Noise of standard deviation σ in an n × d matrix ends at σ(√n + √d) (Marchenko and Pastur 1967). A planted direction
stands out from it once its strength passes σ(nd)^¼, and not before: J. Baik, G. Ben Arous and S. Péché, "Phase
transition of the largest eigenvalue for nonnull complex sample covariance matrices", Annals of Probability 33 (2005);
F. Benaych-Georges and R. R. Nadakuditi (2012) for rectangular matrices. So this K is what can be detected at all. It is
at least Gavish and Donoho's, which asks for more, as a direction near the edge is denoised better by leaving it out.

In a finite matrix the first value of the noise strays about the edge, beyond it in one matrix of six. The threshold is
what it exceeds in one of a hundred (Tracy and Widom; see `engine.rank.marchenko_pastur`), as in S. Kritchman and B.
Nadler, "Determining the number of components in a factor model from limited noisy data" (2008).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.rank.choice import RankChoice, exactly
from engine.rank.level import Level, checked, checked_noise, left_out, level_of, level_of_median, values_of
from engine.rank.marchenko_pastur import largest_of_noise
from engine.rank.whiteness import not_white
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from engine.spectrum import Spectrum

NAME = "bulk-edge"


def bulk_edge(singular_values: ArrayLike, shape: tuple[int, int], noise: float | None = None) -> RankChoice:
    """How many singular values stand above the edge of white noise.

    Parameters
    ----------
    singular_values : all min(shape) of them, any order; where `noise` is given, the largest are enough.
    shape : the effective shape, in either order: (n − 1, width) when the rows' mean was subtracted.
    noise : standard deviation of the noise in one entry; None: judged from the median of the values that are not
        among the K, which is repeated until K stands.

    Returns
    -------
    RankChoice
        k is None, with a note, when half or more of the spectrum is numerically null and no noise is given.

    Raises
    ------
    EigenzooError
        For a truncated spectrum without `noise`, a noise level that is not positive, and values that are negative or
        not finite.

    Notes
    -----
    O(min(shape) log min(shape)). Symmetric in transposition; scales with the values.
    """
    if noise is not None and not (math.isfinite(noise) and noise > 0):
        raise EigenzooError(f"{NAME}: noise must be positive, got {noise}; leave it out if unknown")
    values = checked(singular_values, shape, NAME)
    short = min(shape)
    if len(values) < short and (noise is None or not len(values)):
        raise EigenzooError(
            f"{NAME}: got {len(values)} singular values of a {shape[0]} × {shape[1]} matrix, {short} are needed; "
            "give the whole spectrum, or the noise"
        )
    if noise is not None:
        return _above(values, shape, 0, noise)
    level = level_of_median(values, shape)
    if level.noise is None:
        return RankChoice(None, None, NAME, level.note)
    choice = _above(values, shape, 0, level.noise)
    while choice.k and choice.k <= short // 2:
        rest = _level_below(values, shape, choice.k)
        again = _above(values, shape, choice.k, rest.noise) if rest.noise else choice
        if again.k is None or again.k < choice.k:
            break
        choice, before = again, choice
        if again.k == before.k:
            break
    return choice


@dataclass(frozen=True, slots=True)
class BulkEdge:
    """The rule over a `Spectrum`: columns without variance leave the width first."""

    noise: float | None = None

    @property
    def name(self) -> str:
        return NAME if self.noise is None else f"{NAME}:{exactly(self.noise)}"

    @staticmethod
    def parse(argument: str) -> BulkEdge:
        return BulkEdge(checked_noise(argument, NAME))

    def __call__(self, spectrum: Spectrum) -> RankChoice:
        level = level_of(spectrum, self.noise)
        if level.noise is None:
            return RankChoice(None, None, self.name, level.note)
        given = level.noise if self.noise is not None or spectrum.kind == "top" else None
        choice = bulk_edge(values_of(spectrum), spectrum.effective_shape, given)
        notes = [level.note, choice.note, not_white(spectrum, choice.k), left_out(spectrum)]
        return RankChoice(choice.k, choice.threshold, self.name, "; ".join(note for note in notes if note))


def _above(values: NDArray[np.float64], shape: tuple[int, int], k: int, noise: float) -> RankChoice:
    """Values above the edge of what noise of this level does in the shape that k directions leave."""
    threshold = noise * largest_of_noise((shape[0] - k, shape[1] - k))
    found = int(np.count_nonzero(values > threshold))
    capped = f"all {found} singular values known lie above the edge, so K may be larger"
    return RankChoice(found, threshold, NAME, capped if found == len(values) < min(shape) else "")


def _level_below(values: NDArray[np.float64], shape: tuple[int, int], k: int) -> Level:
    return level_of_median(values[k:], (shape[0] - k, shape[1] - k))

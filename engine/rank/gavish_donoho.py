r"""The optimal hard threshold for singular values.

M. Gavish and D. L. Donoho, "The optimal hard threshold for singular values is 4/√3", IEEE Transactions on
Information Theory 60 (2014). With β = short side / long side ≤ 1,

.. math::
    \lambda_*(\beta) = \sqrt{2(\beta+1) + \frac{8\beta}{(\beta+1) + \sqrt{\beta^2 + 14\beta + 1}}},

the threshold is τ = λ*(β) · √(long side) · σ for noise of known level σ, and τ = ω(β) · median(singular
values) otherwise, ω = λ*/√μ_β, μ_β the median of the Marchenko–Pastur law. The median is found by quadrature:
the paper's cubic for ω is off by 1.1 % at β = 0.001.

The rule minimises the error of denoising under *white* noise; scales that vary by row or column mislead it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.rank.choice import RankChoice, exactly
from engine.rank.level import values_of
from engine.rank.marchenko_pastur import marchenko_pastur_median
from engine.rank.whiteness import not_white
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from engine.spectrum import Spectrum

NAME = "gavish-donoho"
INIT = "init"
_NULL = 1e-7  # σ/σ₁ at which a value given by the caller counts as numerically null
_UNRESOLVED = "the noise is known from the configurations of a zoo's adapters alone; fit the zoo, or give the level"


def gavish_donoho(singular_values: ArrayLike, shape: tuple[int, int], noise: float | None = None) -> RankChoice:
    """How many singular values rise above white noise.

    Parameters
    ----------
    singular_values : all min(shape) singular values, any order; where `noise` is given, the largest are enough. Null
        values beyond that number are taken for what they are (a centred wide matrix of n rows has n values, the last
        one 0).
    shape : the effective shape, in either order: (n − 1, width) when the rows' mean was subtracted.
    noise : standard deviation of the noise in one entry; None: judged from the median singular value.

    Returns
    -------
    RankChoice
        k = number of values above `threshold`, in the units of the values; a note says so where the values given are
        not all there are and none of them lies below. k is None, with a note, when half or more of the spectrum is
        numerically null and no noise is given: the median then measures nothing.

    Raises
    ------
    EigenzooError
        For a truncated spectrum without `noise`, as its median is unknown; for a noise level that is not positive; for
        values that are negative or not finite.

    Notes
    -----
    O(min(shape) log min(shape)). Symmetric in transposition of the matrix.
    """
    values = np.sort(np.asarray(singular_values, dtype=np.float64).ravel())[::-1]
    short, long = sorted(int(side) for side in shape)
    if noise is not None and not (math.isfinite(noise) and noise > 0):
        raise EigenzooError(f"gavish-donoho: noise must be positive, got {noise}; leave it out if unknown")
    if not np.isfinite(values).all() or (values < 0).any():
        raise EigenzooError("gavish-donoho: singular values must be finite and not negative")
    if len(values) < short and (noise is None or not len(values)):
        raise EigenzooError(
            f"gavish-donoho: got {len(values)} singular values of a {shape[0]} × {shape[1]} matrix, "
            f"{short} are needed; give the whole spectrum, or the noise"
        )
    if short < 1:
        return RankChoice(None, None, NAME, f"nothing to judge in an effective shape {shape[0]} × {shape[1]}")
    null = _NULL * values[0]
    if (values[short:] > null).any():
        raise EigenzooError(
            f"gavish-donoho: {np.count_nonzero(values > null)} non-zero singular values cannot come from a "
            f"{shape[0]} × {shape[1]} matrix; give the effective shape"
        )
    values, beta = values[:short], short / long
    if noise is not None:
        threshold = optimal_ratio(beta) * math.sqrt(long) * noise
        k = int(np.count_nonzero(values > threshold))
        capped = f"all {k} singular values known lie above the threshold, so K may be larger"
        return RankChoice(k, threshold, NAME, capped if k == len(values) < short else "")
    nulls = int(np.count_nonzero(values <= null))
    if 2 * nulls >= short:
        note = f"{nulls} of {short} singular values are numerically null, so their median measures no noise"
        return RankChoice(None, None, NAME, note)
    threshold = median_ratio(beta) * float(np.median(values))
    return RankChoice(int(np.count_nonzero(values > threshold)), threshold, NAME)


def optimal_ratio(beta: float) -> float:
    """λ*(β): the threshold in units of √(long side) · noise."""
    b1 = beta + 1
    return math.sqrt(2 * b1 + 8 * beta / (b1 + math.sqrt(beta * beta + 14 * beta + 1)))


def median_ratio(beta: float) -> float:
    """ω(β) = λ*(β)/√μ_β: the threshold in units of the median singular value."""
    return optimal_ratio(beta) / math.sqrt(marchenko_pastur_median(beta))


@dataclass(frozen=True, slots=True)
class GavishDonoho:
    """The rule over a `Spectrum`: columns without variance leave the width first.

    Where only the largest singular values are known, the noise level is the one estimated with them, and the note
    says how. A bulk that is not white noise's is noted too, and changes nothing.

    Attributes
    ----------
    noise : the noise level; None where it is to be judged from the spectrum.
    init : whether the level is that of the adapters' random start, which `noise` then is; None while nobody has
        looked it up (`engine.starts.known_noise`), or where it is unknown.
    why : of a start, where its level is from, or why it is unknown.
    """

    noise: float | None = None
    init: bool = False
    why: str = ""

    @property
    def name(self) -> str:
        if self.init:
            return f"{NAME}:{INIT}"
        return NAME if self.noise is None else f"{NAME}:{exactly(self.noise)}"

    @staticmethod
    def parse(argument: str) -> GavishDonoho:
        if argument == INIT:
            return GavishDonoho(init=True)
        try:
            rule = GavishDonoho(float(argument) if argument else None)
        except ValueError:
            raise EigenzooError(f"k: 'gavish-donoho:{argument}': the noise level must be a number, or init") from None
        if rule.noise is not None and not (math.isfinite(rule.noise) and rule.noise > 0):
            raise EigenzooError(
                f"k: 'gavish-donoho:{argument}': the noise level must be above 0; leave it out if unknown"
            )
        return rule

    def __call__(self, spectrum: Spectrum) -> RankChoice:
        noise, notes = self.noise, [self.why] if self.why else []
        if self.init and noise is None:
            return RankChoice(None, None, self.name, self.why or _UNRESOLVED)
        if noise is None and spectrum.kind == "top":
            if not spectrum.noise:
                return RankChoice(None, None, self.name, "the singular values known leave no noise to measure")
            noise, notes = spectrum.noise, [f"noise by {spectrum.noise_from}"]
        choice = gavish_donoho(values_of(spectrum), spectrum.effective_shape, noise)
        notes += [note for note in (choice.note, not_white(spectrum, choice.k)) if note]
        left_out = spectrum.n_zero_variance_columns
        if left_out:
            notes.append(f"{left_out} of {spectrum.width} columns have no variance and were left out")
        return RankChoice(choice.k, choice.threshold, self.name, "; ".join(notes))

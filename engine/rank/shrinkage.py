r"""Optimal shrinkage of singular values, and how many of them survive it.

M. Gavish and D. L. Donoho, "Optimal shrinkage of singular values", IEEE Transactions on Information Theory 63 (2017).
Values y are taken in units of √(long side) · noise, β = short side / long side. A direction of strength x is seen at
y(x) = √((x + 1/x)(x + β/x)); its inverse (their equation 10) is, for y ≥ 1 + √β,

.. math:: x(y) = \frac{1}{\sqrt 2} \sqrt{y^2 - \beta - 1 + \sqrt{(y^2 - \beta - 1)^2 - 4\beta}}.

The shrinkers that lose least, asymptotically, under white noise (their equations 7 to 9):

.. math::
    \eta_{\text{frobenius}}(y) = \frac1y \sqrt{(y^2 - \beta - 1)^2 - 4\beta}, \qquad
    \eta_{\text{operator}}(y) = x(y), \qquad
    \eta_{\text{nuclear}}(y) = \frac{(x^4 - \beta - \sqrt\beta x y)_+}{x^2 y},

all of them 0 below the edge 1 + √β. As every value beyond the edge survives, if only just, K is the number of
detectable directions; on noise alone it may be 1 where a hard threshold says 0: what survives there is next to nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.rank.choice import RankChoice
from engine.rank.level import checked, left_out, level_of, level_of_median, values_of
from engine.rank.whiteness import not_white
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from engine.spectrum import Spectrum

NAME = "shrinkage"
LOSSES = ("frobenius", "operator", "nuclear")


@dataclass(frozen=True, slots=True, eq=False)
class Shrunk:
    """A denoised spectrum.

    Attributes
    ----------
    values : float64, as many as were given and in their falling order: what each singular value is shrunk to.
    k : how many are not 0.
    noise : standard deviation of the noise in one entry; None where it could not be had, and then nothing is shrunk.
    threshold : values up to here become 0; None without a noise level.
    note : why there is no noise level; else "".
    """

    values: NDArray[np.float64]
    k: int | None
    noise: float | None
    threshold: float | None
    note: str = ""


def shrink(
    singular_values: ArrayLike, shape: tuple[int, int], noise: float | None = None, loss: str = "frobenius"
) -> Shrunk:
    """Shrink singular values so that the matrix they make is nearest to the signal under the noise.

    Parameters
    ----------
    singular_values : all min(shape) of them, any order; where `noise` is given, the largest are enough.
    shape : the effective shape, in either order: (n − 1, width) when the rows' mean was subtracted.
    noise : standard deviation of the noise in one entry; None: judged from the median singular value.
    loss : "frobenius", "operator" or "nuclear": the norm of what the denoised matrix is off by.

    Raises
    ------
    EigenzooError
        For an unknown loss, a truncated spectrum without `noise`, a noise level that is not positive, and values that
        are negative or not finite.

    Notes
    -----
    O(min(shape) log min(shape)). Symmetric in transposition; scales with the values.
    """
    if loss not in LOSSES:
        raise EigenzooError(f"{NAME}: got loss {loss!r}; choose {', '.join(LOSSES)}")
    if noise is not None and not (math.isfinite(noise) and noise > 0):
        raise EigenzooError(f"{NAME}: noise must be positive, got {noise}; leave it out if unknown")
    values = checked(singular_values, shape, NAME)
    short, long = sorted(int(side) for side in shape)
    if noise is None:
        if len(values) < short:
            raise EigenzooError(
                f"{NAME}: got {len(values)} singular values of a {shape[0]} × {shape[1]} matrix, {short} are needed; "
                "give the whole spectrum, or the noise"
            )
        level = level_of_median(values, shape)
        if level.noise is None:
            return Shrunk(values, None, None, None, level.note)
        noise = level.noise
    unit = math.sqrt(long) * noise
    shrunk = unit * shrinker(values / unit, short / long, loss)
    return Shrunk(shrunk, int(np.count_nonzero(shrunk)), noise, unit * least(short / long, loss))


def shrinker(y: NDArray[np.float64], beta: float, loss: str) -> NDArray[np.float64]:
    """η(y), in units of √(long side) · noise."""
    out = np.zeros_like(y)
    seen = y > 1 + math.sqrt(beta)
    y = y[seen]
    excess = y * y - beta - 1
    root = np.sqrt(np.maximum(excess * excess - 4 * beta, 0.0))
    x2 = (excess + root) / 2
    if loss == "frobenius":
        out[seen] = root / y
    elif loss == "operator":
        out[seen] = np.sqrt(x2)
    else:
        out[seen] = np.maximum(x2 * x2 - beta - math.sqrt(beta) * np.sqrt(x2) * y, 0.0) / (x2 * y)
    return out


def least(beta: float, loss: str) -> float:
    """The largest y that is shrunk to 0: the edge, or where the nuclear norm's shrinker begins."""
    if loss != "nuclear":
        return 1 + math.sqrt(beta)
    # x⁴ − β = √β · x · y(x), where x · y = √((x² + 1)(x² + β)); in z = x², whose left side wins once z is large.
    low, high = math.sqrt(beta), 4.0
    for _ in range(100):
        z = (low + high) / 2
        wins = z * z - beta > math.sqrt(beta * (z + 1) * (z + beta))
        low, high = (low, z) if wins else (z, high)
    return math.sqrt((high + 1) * (high + beta) / high)


@dataclass(frozen=True, slots=True)
class Shrinkage:
    """The rule over a `Spectrum`: as many components as survive; columns without variance leave the width first."""

    loss: str = "frobenius"

    @property
    def name(self) -> str:
        return NAME if self.loss == "frobenius" else f"{NAME}:{self.loss}"

    @staticmethod
    def parse(argument: str) -> Shrinkage:
        if argument not in ("", *LOSSES):
            raise EigenzooError(f"k: 'shrinkage:{argument}': choose a loss: {', '.join(LOSSES)}")
        return Shrinkage(argument or "frobenius")

    def __call__(self, spectrum: Spectrum) -> RankChoice:
        level = level_of(spectrum, None)
        if level.noise is None:
            return RankChoice(None, None, self.name, level.note)
        values = values_of(spectrum)
        found = shrink(values, spectrum.effective_shape, level.noise, self.loss)
        all_known = found.k == len(values) < min(spectrum.effective_shape)
        capped = f"all {found.k} singular values known survive, so K may be larger" if all_known else ""
        notes = [level.note, capped, not_white(spectrum, found.k), left_out(spectrum)]
        return RankChoice(found.k, found.threshold, self.name, "; ".join(note for note in notes if note))

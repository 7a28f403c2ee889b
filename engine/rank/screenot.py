r"""ScreeNOT: the optimal hard threshold under noise that need not be white.

D. L. Donoho, M. Gavish and E. Romanov, "ScreeNOT: exact MSE-optimal singular value thresholding in correlated noise",
Annals of Statistics 51 (2023). Given an upper bound k of the rank, the k largest values are replaced by imputed ones
that go on as a bulk's edge does (their section 3.1),

.. math:: z_l = y_{k+1} + \frac{1 - ((l-1)/k)^{2/3}}{2^{2/3} - 1} (y_{k+1} - y_{2k+1}), \qquad l = 1 … k,

and what is left is taken for the noise. With φ(y) = mean of y/(y² − z²) over it and γ = short side / long side, the
threshold is the y beyond all z for which

.. math:: \Psi(y) = y D'(y) / D(y) = -4, \qquad D(y) = \varphi(y) (\gamma \varphi(y) + (1-\gamma)/y).

Ψ rises there, so bisection finds it. The authors' package (`screenot`) bisects to 1e-5, in the units of the values
whatever they are; here it goes on to the last digit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.rank.choice import RankChoice
from engine.rank.level import checked, left_out
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from engine.spectrum import Spectrum

NAME = "screenot"
BOUND = 50
_OPTIMUM = -4.0
_BISECTIONS = 60


def screenot(singular_values: ArrayLike, shape: tuple[int, int], bound: int = BOUND) -> RankChoice:
    """How many singular values rise above noise of any spectrum.

    Parameters
    ----------
    singular_values : all min(shape) of them, any order.
    shape : the effective shape, in either order: (n − 1, width) when the rows' mean was subtracted.
    bound : the rank is at most this, loosely. 2 · bound + 1 must be below min(shape); where it is not, a quarter of
        min(shape) is taken instead.

    Returns
    -------
    RankChoice
        A note says where the bound was lowered, or reached. k is None, with a note, where there is no variance or
        there are too few values.

    Raises
    ------
    EigenzooError
        For a truncated spectrum, a negative bound, and values that are negative or not finite.

    Notes
    -----
    O(min(shape) log min(shape)) time, O(min(shape)) memory. Symmetric in transposition; scales with the values.
    """
    if bound < 0:
        raise EigenzooError(f"{NAME}: the upper bound must be 0 or more, got {bound}")
    values = checked(singular_values, shape, NAME)
    short, long = sorted(int(side) for side in shape)
    if len(values) < short:
        raise EigenzooError(
            f"{NAME}: got {len(values)} singular values of a {shape[0]} × {shape[1]} matrix, {short} are needed; "
            "give the whole spectrum"
        )
    # Imputation reaches as deep as 2 · bound; with the deepest bound there would be no bulk left to go by.
    allowed = bound if 2 * bound + 1 < short else short // 4
    if allowed < min(bound, 1):
        return RankChoice(None, None, NAME, f"{short} singular values are too few to tell noise by")
    lowered = f"upper bound lowered to {allowed}, a quarter of {short}: 2 · bound + 1 must be below that number"
    notes = [lowered] if allowed < bound else []
    noise = pseudo_noise(values, allowed)
    if not noise[0] > 0:
        return RankChoice(None, None, NAME, f"beyond {allowed} singular values there is no noise to measure")
    threshold = optimal_threshold(noise, short / long)
    k = int(np.count_nonzero(values > threshold))
    if k >= allowed > 0:
        notes.append(f"the upper bound {allowed} is reached, so K may be larger; give another, as in screenot:200")
    return RankChoice(k, threshold, NAME, "; ".join(notes))


def pseudo_noise(values: NDArray[np.float64], bound: int) -> NDArray[np.float64]:
    """Falling singular values with the `bound` largest replaced by imputed ones, which fall too."""
    noise = values.copy()
    if bound:
        step = values[bound] - values[2 * bound]
        places = np.arange(bound) / bound
        noise[:bound] = values[bound] + (1 - places ** (2 / 3)) / (2 ** (2 / 3) - 1) * step
    return noise


def optimal_threshold(noise: NDArray[np.float64], gamma: float) -> float:
    """The y beyond all values of the noise with Ψ(y) = −4, to the last digit."""
    size = float(noise.max())
    squares = (noise / size) ** 2

    def psi(y: float) -> float:
        gaps = y * y - squares
        phi = float(np.mean(y / gaps))
        slope = -float(np.mean((y * y + squares) / gaps**2))
        d = phi * (gamma * phi + (1 - gamma) / y)
        return y * (slope * (gamma * phi + (1 - gamma) / y) + phi * (gamma * slope - (1 - gamma) / y**2)) / d

    low, high = 1.0, 2.0
    while psi(high) < _OPTIMUM:
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if psi(middle) < _OPTIMUM else (low, middle)
    return size * high


@dataclass(frozen=True, slots=True)
class ScreeNOT:
    """The rule over a `Spectrum`: columns without variance leave the width first."""

    bound: int = BOUND

    @property
    def name(self) -> str:
        return NAME if self.bound == BOUND else f"{NAME}:{self.bound}"

    @staticmethod
    def parse(argument: str) -> ScreeNOT:
        if argument and not (argument.isascii() and argument.isdigit()):
            raise EigenzooError(f"k: 'screenot:{argument}': give an upper bound of the rank, as in screenot:50")
        return ScreeNOT(int(argument) if argument else BOUND)

    def __call__(self, spectrum: Spectrum) -> RankChoice:
        if spectrum.kind == "top":
            note = "only the largest singular values are known; the noise's spectrum needs all of them"
            return RankChoice(None, None, self.name, note)
        if min(spectrum.effective_shape) < 1:
            return RankChoice(None, None, self.name, "nothing to judge in an empty effective shape")
        choice = screenot(spectrum.singular_values, spectrum.effective_shape, self.bound)
        notes = [note for note in (choice.note, left_out(spectrum)) if note]
        return RankChoice(choice.k, choice.threshold, self.name, "; ".join(notes))

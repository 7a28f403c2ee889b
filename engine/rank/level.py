"""The noise level of a spectrum, for rules that take the noise for white."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.rank.marchenko_pastur import marchenko_pastur_median
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from engine.spectrum import Spectrum

_NULL = 1e-7  # σ/σ₁ at which a value counts as numerically null


@dataclass(frozen=True, slots=True)
class Level:
    """Standard deviation of the noise in one entry; None where it cannot be had, and then why."""

    noise: float | None
    note: str = ""


def checked(singular_values: ArrayLike, shape: tuple[int, int], what: str) -> NDArray[np.float64]:
    """Singular values in falling order, at most min(shape) of them.

    Raises
    ------
    EigenzooError
        Beginning with `what`, for values that are negative, not finite, or more than the shape can have.
    """
    values = np.sort(np.asarray(singular_values, dtype=np.float64).ravel())[::-1]
    short = min(int(side) for side in shape)
    if not np.isfinite(values).all() or (values < 0).any():
        raise EigenzooError(f"{what}: singular values must be finite and not negative")
    if short < 1:
        raise EigenzooError(f"{what}: nothing to judge in an effective shape {shape[0]} × {shape[1]}")
    if len(values) > short and values[short] > _NULL * values[0]:
        raise EigenzooError(
            f"{what}: more than {short} non-zero singular values cannot come from a {shape[0]} × {shape[1]} matrix; "
            "give the effective shape"
        )
    return values[:short]


def checked_noise(argument: str, rule: str) -> float | None:
    """A noise level as typed behind a rule's name; None where there is none.

    Raises
    ------
    EigenzooError
        For what is no number above 0.
    """
    if not argument:
        return None
    try:
        noise = float(argument)
    except ValueError:
        noise = math.nan
    if not (math.isfinite(noise) and noise > 0):
        what = "the noise level must be a number above 0; leave it out if unknown"
        raise EigenzooError(f"k: '{rule}:{argument}': {what}")
    return noise


def level_of(spectrum: Spectrum, noise: float | None) -> Level:
    """The level given, or the one estimated with a truncated spectrum, or that of the median of a whole one."""
    if noise is not None:
        return Level(noise)
    if spectrum.kind == "top":
        if not spectrum.noise:
            return Level(None, "the singular values known leave no noise to measure")
        return Level(spectrum.noise, f"noise by {spectrum.noise_from}")
    short = min(spectrum.effective_shape)
    if short < 1:
        rows, columns = spectrum.effective_shape
        return Level(None, f"nothing to judge in an effective shape {rows} × {columns}")
    return level_of_median(np.sort(spectrum.singular_values)[::-1][:short], spectrum.effective_shape)


def level_of_median(values: NDArray[np.float64], shape: tuple[int, int]) -> Level:
    """From all min(shape) singular values, falling: median / √(μ_β · long side)."""
    short, long = sorted(int(side) for side in shape)
    nulls = int(np.count_nonzero(values <= _NULL * values[0]))
    if 2 * nulls >= short:
        note = f"{nulls} of {short} singular values are numerically null, so their median measures no noise"
        return Level(None, note)
    return Level(float(np.median(values)) / math.sqrt(marchenko_pastur_median(short / long) * long))


def left_out(spectrum: Spectrum) -> str:
    """A note on columns that hold nothing; "" without any."""
    zero = spectrum.n_zero_variance_columns
    return f"{zero} of {spectrum.width} columns have no variance and were left out" if zero else ""


def values_of(spectrum: Spectrum) -> NDArray[np.float64]:
    """The singular values known, and of a truncated spectrum the next one from below, where that is known."""
    values = spectrum.singular_values
    return np.append(values, min(spectrum.following, float(values[-1]))) if spectrum.following else values

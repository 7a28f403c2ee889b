"""The smallest K whose components carry a given share of the variance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.rank.choice import RankChoice, exactly
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from engine.spectrum import Spectrum

_ROUNDING = 1e-12  # relative: the trace and the eigenvalues are rounded apart


def explained_variance(
    singular_values: ArrayLike, fraction: float, total: float | None = None, name: str | None = None
) -> RankChoice:
    """Smallest K with Σ_{i ≤ K} σᵢ² ≥ fraction · total.

    Parameters
    ----------
    singular_values : descending; a truncated list is fine as long as `total` is given.
    fraction : 0 < fraction ≤ 1.
    total : Σ σ² of the whole matrix; by default of the values given.
    name : what the choice's `rule` says, by default "ev:fraction".

    Returns
    -------
    RankChoice
        `threshold` is the fraction. Declines (k None) when there is no variance, or when the values given
        stop short of the share.
    """
    _check(fraction)
    name = name or f"ev:{exactly(fraction)}"
    squares = np.asarray(singular_values, dtype=np.float64).ravel() ** 2
    whole = float(squares.sum()) if total is None else total
    if not whole > 0:
        return RankChoice(None, fraction, name, "no variance: all rows are equal")
    reached = np.flatnonzero(np.cumsum(squares) >= fraction * whole * (1 - _ROUNDING))
    if len(reached):
        return RankChoice(int(reached[0]) + 1, fraction, name)
    share = float(squares.sum()) / whole
    note = f"the {len(squares)} singular values known carry a share of {share:.9g}"
    return RankChoice(None, fraction, name, note)


@dataclass(frozen=True, slots=True)
class ExplainedVariance:
    """The rule over a `Spectrum`, against its exact trace."""

    fraction: float

    def __post_init__(self) -> None:
        _check(self.fraction)

    @property
    def name(self) -> str:
        return f"ev:{exactly(self.fraction)}"

    @staticmethod
    def parse(argument: str) -> ExplainedVariance:
        try:
            return ExplainedVariance(float(argument))
        except (ValueError, EigenzooError):
            raise EigenzooError(
                f"k: 'ev:{argument}': give a share of the variance above 0 and at most 1, as in 'ev:0.8'"
            ) from None

    def __call__(self, spectrum: Spectrum) -> RankChoice:
        # Variances are over n − 1 whether the rows were centred or not, so Σσ² is what that gives back.
        total = spectrum.total_variance * max(spectrum.n_rows - 1, 1)
        choice = explained_variance(spectrum.singular_values, self.fraction, total, self.name)
        if choice.k is None and total > 0 and spectrum.kind == "full":
            # Only values below the floor are missing: everything that can be told from zero is the answer.
            return RankChoice(spectrum.rank, self.fraction, self.name, "all components above the floor")
        return choice


def _check(fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise EigenzooError(f"ev: the share of variance must be above 0 and at most 1, got {fraction}")

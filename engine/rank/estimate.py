"""A number that was estimated, with how far it may be off."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimate.

    Attributes
    ----------
    value : what was estimated.
    error : how far it may be off, absolute, in the units of the value; infinite where nothing is known.
    """

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.6g} {self.within}"

    @property
    def within(self) -> str:
        """The error as a share of the value, for people: "± 0.02 %"."""
        if not self.value > 0 or not math.isfinite(self.error):
            return f"± {self.error:.2g}"
        return f"± {100 * self.error / self.value:.2g} %"

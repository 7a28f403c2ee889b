"""What every solver here makes of its last state: a `Spectrum`, and components with their signs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.rank.noise import noise_estimate
from engine.spectrum import NULL_RATIO, Spectrum, from_trace, signed

if TYPE_CHECKING:
    from numpy.typing import NDArray

_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class Measured:
    """What the rows are known to be exactly, on the host.

    Attributes
    ----------
    n : number of rows.
    mean : (width,).
    squares : (width,), Σ (x − mean)² of each column.
    centred : whether the matrix decomposed is the rows less their mean.
    """

    n: int
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]
    centred: bool

    @property
    def n_effective(self) -> int:
        return self.n - 1 if self.centred else self.n

    @property
    def column_squares(self) -> NDArray[np.float64]:
        """(width,), each column's squares in the matrix decomposed."""
        return self.squares if self.centred else self.squares + self.n * self.mean**2

    @property
    def energy(self) -> float:
        """Σ of all squared singular values: the exact trace."""
        return float(self.column_squares.sum())

    @property
    def n_zero_variance_columns(self) -> int:
        """Columns that contribute nothing."""
        # The mean of equal values may be off by an ulp when blocks met in another order of magnitude.
        rounding = self.n * (4 * _EPS * self.mean) ** 2 * float(self.centred)
        return int(np.count_nonzero(self.column_squares <= rounding))

    def full(self, sigma: NDArray[np.float64], floor: float, method: str, eigenvalue_error: float) -> Spectrum:
        """The spectrum when all min(n, width) or fewer non-zero singular values are known, descending."""
        values = np.zeros(min(self.n, len(self.mean)))
        kept = min(len(values), len(sigma), self.n_effective)
        values[:kept] = np.where(sigma[:kept] > floor, sigma[:kept], 0.0)
        return self._spectrum(values, floor, method, "full", eigenvalue_error)

    def top(self, sigma: NDArray[np.float64], known: int, method: str, eigenvalue_error: float) -> Spectrum:
        """The spectrum of which `known` values are to be told; more in `sigma`, rough ones, serve the noise level."""
        floor = NULL_RATIO * float(sigma[0])
        values = np.where(sigma > floor, sigma, 0.0)
        values[self.n_effective :] = 0.0
        shape = self.n_effective, len(self.mean) - self.n_zero_variance_columns
        noise = noise_estimate(values, self.energy, shape)
        return self._spectrum(values[:known], floor, method, "top", eigenvalue_error, noise.value, from_trace(noise))

    def _spectrum(
        self,
        values: NDArray[np.float64],
        floor: float,
        method: str,
        kind: str,
        eigenvalue_error: float,
        noise: float | None = None,
        noise_from: str = "",
    ) -> Spectrum:
        return Spectrum(
            singular_values=values,
            total_variance=self.energy / max(self.n - 1, 1),
            n_rows=self.n,
            width=len(self.mean),
            n_effective=self.n_effective,
            n_zero_variance_columns=self.n_zero_variance_columns,
            floor=floor,
            method=method,
            kind=kind,
            eigenvalue_error=eigenvalue_error,
            noise=noise,
            noise_from=noise_from,
        )


@dataclass(frozen=True, slots=True)
class Directions:
    """k → the first k rows of `rows`, (·, width) orthonormal, each with its largest entry made positive."""

    rows: NDArray[np.float64]

    def __call__(self, k: int) -> NDArray[np.float64]:
        return signed(self.rows[:k])

"""The top of a spectrum from rows held in memory: one read, then block Lanczos on them in float32.

Where the rows of a wide matrix fit, multiplying them a few times with a block of vectors is less work than making
their scatter once: 4 · rows · width · block a step against rows · width². The rows are centred before anything is
multiplied, so no mean is in the way of float32; singular values are those of Y = X_c V, with V orthonormal in
float64, and their error is measured as in `engine.solvers.randomized`: |σ² − θ| is at most the residual ‖Av − θv‖, and
what float32 products may add to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.eigen import top_of
from engine.reductions.centring import check_finite
from engine.reductions.dual import Dual, GatheredRows
from engine.reductions.moments import ROOM
from engine.solvers.measured import Directions, Measured
from engine.spectrum import Solution

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.backends.protocol import Array

KNOWN = 64  # singular values sought where a rule decides K
CONVERGED = 5e-5  # residual over the largest eigenvalue; the error of an eigenvalue is about its square over the gap
# What float32 products do to values and residuals, over σ₁²: measured 1e-8 and 1.3e-7 at widths 800 … 4096.
ROUNDING = 5e-7


@dataclass(frozen=True, slots=True)
class GatheredKrylov(Dual):
    """Rows → `GatheredRows` → the largest singular values and components.

    Attributes
    ----------
    wanted : how many components will be wanted; None where a rule decides.
    """

    wanted: int | None = None

    def solve(self, state: GatheredRows, *, centred: bool) -> Solution:
        """O(steps · rows · width · block) time; the rows in float32, 4 · rows · width bytes."""
        state = self.finish(state)
        parts, measured, unit = self._operands(state, centred)
        check_finite(measured.energy)
        known = self.wanted if self.wanted else min(KNOWN, measured.n_effective, self.width)
        found = top_of(
            self.backend, lambda v: self._gram(parts, v), self.width, known, dtype="float32", converged=CONVERGED
        )
        values, rows, residual = self._refined(parts, found)
        values, residual = values * unit**2, residual * unit**2
        k = min(known, len(values))
        spectrum = measured.top(np.sqrt(values), k, "krylov", float(residual[:k].max(initial=0.0)))
        sigma = spectrum.singular_values
        safe = np.where(sigma > 0, sigma, np.inf)
        error = np.minimum(residual[:k] / safe, np.sqrt(residual[:k]))
        return Solution(
            spectrum,
            measured.mean,
            Directions(rows),
            exact=False,
            sigma_error=float(error.max(initial=0.0)),
            products="float32",
            note="block Lanczos on the rows in memory",
        )

    def _operands(self, state: GatheredRows, centred: bool) -> tuple[list[Array], Measured, float]:
        """The rows in float32, less their mean when centred, block by block, and the unit they are in.

        The blocks as stored are let go.
        """
        b = self.backend
        parts: list[Array] = []
        total, n = b.vector(self.width), state.n
        unit = _unit(state.blocks[0])
        while state.blocks:
            block = state.blocks.pop(0)
            parts.append(b.matrix(block if unit == 1.0 else block.astype(np.float64) / unit, "float32"))
            total = total + b.column_sum(parts[-1])
        mean = total * (1.0 / max(n, 1))
        squares = b.vector(self.width)
        for x in parts:
            if centred:
                b.subtract_row(x, mean)
            squares = squares + b.column_sum(x * x)
        host, about = b.to_host(mean), b.to_host(squares)
        about = about if centred else np.maximum(about - n * host**2, 0.0)
        return parts, Measured(n, host * unit, about * unit**2, centred), unit

    def _gram(self, parts: list[Array], v: Array) -> Array:
        # (Yᵀ X)ᵀ rather than Xᵀ Y: the rows are read along their length, in half the time.
        b = self.backend
        out = b.matmul(b.matmul(parts[0], v).T, parts[0])
        for x in parts[1:]:
            out = out + b.matmul(b.matmul(x, v).T, x)
        return out.T

    def _refined(
        self, parts: list[Array], found: Array
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Eigenvalues (k,), components (k, width) and residuals (k,) from orthonormal float64 vectors."""
        b = self.backend
        v = b.to_host(b.orthonormalise(b.matrix(np.asarray(b.to_host(found), dtype=np.float64))))
        single = b.matrix(np.asarray(v), "float32")
        image, gram = np.zeros((v.shape[1], self.width)), np.zeros((v.shape[1], v.shape[1]))
        for x in parts:
            y = b.matmul(x, single)
            wide = b.matrix(b.to_host(y))
            gram += b.to_host(b.matmul(wide.T, wide))
            image += b.to_host(b.matmul(y.T, x))
        image = image.T
        theta, turn = np.linalg.eigh(gram)
        theta, turn = np.maximum(theta[::-1], 0.0), turn[:, ::-1]
        residual = np.linalg.norm(image @ turn - (v @ turn) * theta, axis=0) + ROUNDING * theta[:1]
        return theta, np.ascontiguousarray((v @ turn).T), residual


def _unit(block: NDArray[Any]) -> float:
    """A power of two by which values are divided where float32 has no room for their squares' sums."""
    sample = block[:: max(1, len(block) // 64)].astype(np.float64)
    size = float(np.sqrt(np.mean(sample * sample)))
    if not (np.isfinite(size) and size > 0) or ROOM[0] < size < ROOM[1]:
        return 1.0
    return float(2.0 ** np.round(np.log2(size)))

r"""The Marchenko–Pastur law, and what a finite matrix of white noise does about it.

V. A. Marchenko and L. A. Pastur (1967): squared singular values of noise of standard deviation s, divided by
s² · long side, fill [a, b] = [(1 − √β)², (1 + √β)²], β = short side / long side ≤ 1, with density
√((b − x)(x − a)) / (2πβx).

The largest of them is b up to a fluctuation of order n^(−2/3), by the law of Tracy and Widom: I. M. Johnstone, "On the
distribution of the largest eigenvalue in principal components analysis", Annals of Statistics 29 (2001), theorem 1.1,
here with the centring and scaling of Z. Ma, "Accuracy of the Tracy–Widom limits for the extreme eigenvalues in white
Wishart matrices", Bernoulli 18 (2012), which are right to second order. It holds for entries of any law with light
tails, such as the uniform one (S. Péché, "Universality results for the largest eigenvalues of some sample covariance
matrix ensembles", 2009).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_NODES = 96
# Quantile 0.99 of the Tracy–Widom law of real matrices (β = 1): Johnstone (2001), table 1.
TRACY_WIDOM_99 = 2.0234


@lru_cache(maxsize=1024)
def marchenko_pastur_median(beta: float) -> float:
    r"""Median μ_β of the Marchenko–Pastur law of ratio 0 < β ≤ 1.

    With x = 1 + β + 2√β cos θ the density becomes (2/π) sin²θ / x(θ) dθ on [0, π], smooth where the median
    lies, so Gauss–Legendre nodes on [0, θ] and bisection in θ reach machine precision.
    """
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    root = 2 * math.sqrt(beta)

    def mass_above(theta: float) -> float:
        t = (nodes + 1) * (theta / 2)
        return float(weights @ (np.sin(t) ** 2 / (1 + beta + root * np.cos(t)))) * theta / math.pi

    low, high = 0.0, math.pi
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mass_above(middle) < 0.5 else (low, middle)
    return 1 + beta + root * math.cos(low)


def marchenko_pastur_cdf(x: ArrayLike, beta: float) -> NDArray[np.float64]:
    r"""Share of the law of ratio 0 < β ≤ 1 at or below each x.

    .. math:: F(x) = \frac{\sqrt{(b-x)(x-a)} + (1+\beta)\left(\arcsin u + \frac\pi2\right)
        - (1-\beta)\left(\arcsin v + \frac\pi2\right)}{2\pi\beta}, \qquad
        u = \frac{x - 1 - \beta}{2\sqrt\beta}, \quad v = \frac{(1+\beta)x - (1-\beta)^2}{2\sqrt\beta\,x}.

    Accurate to about 1e-15/β inside and 1e-8/β at the ends, where terms of √(b − x) cancel; O(len(x)).
    """
    root = math.sqrt(beta)
    low, high = (1 - root) ** 2, (1 + root) ** 2
    given = np.asarray(x, dtype=np.float64)
    t = np.clip(given, low, high)
    u = np.clip((t - 1 - beta) / (2 * root), -1.0, 1.0)
    safe = np.maximum(t, np.finfo(np.float64).tiny)
    v = np.clip(((1 + beta) * t - (1 - beta) ** 2) / (2 * root * safe), -1.0, 1.0)
    area = np.sqrt(np.maximum((high - t) * (t - low), 0.0))
    area = area + (1 + beta) * (np.arcsin(u) + math.pi / 2) - (1 - beta) * (np.arcsin(v) + math.pi / 2)
    inside = np.clip(area / (2 * math.pi * beta), 0.0, 1.0)
    return np.asarray(np.where(given <= low, 0.0, np.where(given >= high, 1.0, inside)))


def edge(shape: tuple[int, int]) -> float:
    """√n + √d: where singular values of noise of standard deviation 1 end, in the limit."""
    return math.sqrt(shape[0]) + math.sqrt(shape[1])


def largest_of_noise(shape: tuple[int, int]) -> float:
    """What the largest singular value of white noise of standard deviation 1 exceeds once in a hundred matrices."""
    rows, columns = (math.sqrt(max(side - 0.5, 0.5)) for side in shape)
    centre = (rows + columns) ** 2
    scale = (rows + columns) * (1 / rows + 1 / columns) ** (1 / 3)
    return math.sqrt(centre + TRACY_WIDOM_99 * scale)

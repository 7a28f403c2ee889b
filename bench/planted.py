"""Matrices of known rank in noise of known kinds, for benches and tests.

Every kind is noise of about standard deviation 1, n × d, drawn from one generator of a stated seed:

- white: independent N(0, 1).
- uniform: independent, uniform on ±√3, as `kaiming_uniform_` draws.
- adapters: N(0, sₐ²) with one lognormal level per adapter of 16 rows, ln sₐ ~ N(0, 1).
- columns: N(0, s_c²) with one lognormal level per column, ln s_c ~ N(0, 0.5²).
- zeros: 60 % of the columns are 0, the others N(0, 1).
- nearly-zeros: 60 % of the columns have a hundredth of the others' level, as dead units of a layer do.
- ar1: rows are stationary AR(1) processes along the columns, coefficient 0.5, variance 1.
- deficient: white noise in a random 70 % of the directions, rank-deficient.

A signal is k orthonormal directions on either side, of strengths spread evenly over a stated range of the white noise's
edge √n + √d.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

ROWS_PER_ADAPTER = 16
ADAPTERS_SPREAD, COLUMNS_SPREAD = 1.0, 0.5  # of ln s
ZERO_SHARE = 0.6


def _white(rng: np.random.Generator, n: int, d: int) -> Any:
    return rng.standard_normal((n, d))


def _uniform(rng: np.random.Generator, n: int, d: int) -> Any:
    return rng.uniform(-math.sqrt(3), math.sqrt(3), (n, d))


def _adapters(rng: np.random.Generator, n: int, d: int) -> Any:
    levels = np.exp(ADAPTERS_SPREAD * rng.standard_normal(-(-n // ROWS_PER_ADAPTER)))
    return rng.standard_normal((n, d)) * np.repeat(levels, ROWS_PER_ADAPTER)[:n, None]


def _columns(rng: np.random.Generator, n: int, d: int) -> Any:
    levels = np.exp(COLUMNS_SPREAD * rng.standard_normal(d))
    return rng.standard_normal((n, d)) * levels


def _zeros(rng: np.random.Generator, n: int, d: int) -> Any:
    x = rng.standard_normal((n, d))
    x[:, rng.permutation(d)[: int(ZERO_SHARE * d)]] = 0.0
    return x


def _nearly_zeros(rng: np.random.Generator, n: int, d: int) -> Any:
    x = rng.standard_normal((n, d))
    x[:, rng.permutation(d)[: int(ZERO_SHARE * d)]] *= 0.01
    return x


def _ar1(rng: np.random.Generator, n: int, d: int) -> Any:
    x = rng.standard_normal((n, d))
    for j in range(1, d):
        x[:, j] = 0.5 * x[:, j - 1] + math.sqrt(0.75) * x[:, j]
    return x


def _deficient(rng: np.random.Generator, n: int, d: int) -> Any:
    kept = int(0.7 * d)
    return rng.standard_normal((n, kept)) @ np.linalg.qr(rng.standard_normal((d, kept)))[0].T


NOISES: dict[str, Callable[[np.random.Generator, int, int], Any]] = {
    "white": _white,
    "uniform": _uniform,
    "adapters": _adapters,
    "columns": _columns,
    "zeros": _zeros,
    "nearly-zeros": _nearly_zeros,
    "ar1": _ar1,
    "deficient": _deficient,
}
WHITE = ("white", "uniform", "zeros")  # once columns without variance are left out


def planted(kind: str, n: int, d: int, k: int = 0, strengths: tuple[float, float] = (3.0, 1.5), seed: int = 0) -> Any:
    """(n, d) float64: noise of a kind, and k directions of strengths from the first to the last."""
    rng = np.random.default_rng(seed)
    x = NOISES[kind](rng, n, d)
    if k:
        u = np.linalg.qr(rng.standard_normal((n, k)))[0]
        v = np.linalg.qr(rng.standard_normal((d, k)))[0]
        x += (u * (np.linspace(*strengths, k) * (math.sqrt(n) + math.sqrt(d)))) @ v.T
    return x


def spectrum_of(x: Any) -> Any:
    """The `engine.spectrum.Spectrum` of the centred rows, by LAPACK, from the Gram of the shorter side."""
    from engine.spectrum import Spectrum

    n, d = x.shape
    y = x - x.mean(axis=0)
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(y.T @ y if n >= d else y @ y.T), 0.0))[::-1]
    values = np.where(values > 1e-7 * values[0], values, 0.0)
    values[n - 1 :] = 0.0
    energy = float((y**2).sum())
    constant = int(np.count_nonzero((x == x[0]).all(axis=0)))
    return Spectrum(values, energy / (n - 1), n, d, n - 1, constant, 0.0, "moments")

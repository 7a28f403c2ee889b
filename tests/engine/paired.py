"""Adapters of one layer as paired rows, and what they make of the weights, densely."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.delta import PairedRows
from engine.rows import ArrayRows

Factors = tuple[NDArray[np.float64], NDArray[np.float64], float]  # A (rank × in), B (out × rank), scale


def draw(
    ranks: Sequence[int], width: int, out: int, seed: int = 0, *, planted: int = 0, noise: float = 1.0
) -> list[Factors]:
    """Random factors; with some shared directions on either side where `planted` is given."""
    rng = np.random.default_rng(seed)
    u, v = rng.standard_normal((planted, width)), rng.standard_normal((planted, out))
    found = []
    for rank in ranks:
        a = noise * rng.standard_normal((rank, width)) + rng.standard_normal((rank, planted)) @ u
        b = noise * rng.standard_normal((out, rank)) + (rng.standard_normal((rank, planted)) @ v).T
        found.append((a, b, float(rng.uniform(0.5, 2.0))))
    return found


def paired(factors: Sequence[Factors]) -> PairedRows:
    """As rows, block by adapter."""
    offsets = np.concatenate([[0], np.cumsum([len(a) for a, _, _ in factors])]).astype(np.int64)
    a = ArrayRows(np.concatenate([a for a, _, _ in factors]))
    b = ArrayRows(np.concatenate([b.T for _, b, _ in factors]))
    a.offsets = b.offsets = offsets
    return PairedRows(a, b, np.array([s for _, _, s in factors]), np.arange(len(factors)))


def delta(factors: Factors) -> NDArray[np.float64]:
    """ΔW, out × in."""
    a, b, s = factors
    return s * (b @ a)


def regauged(factors: Sequence[Factors], seed: int = 1) -> list[Factors]:
    """(B G⁻¹, G A) with random G of condition 1 to 4: the same ΔW."""
    rng = np.random.default_rng(seed)
    out = []
    for a, b, s in factors:
        rank = len(a)
        left, right = (np.linalg.qr(rng.standard_normal((rank, rank)))[0] for _ in range(2))
        stretch = rng.uniform(0.5, 2.0, rank)
        g, inverse = left * stretch @ right, right.T / stretch @ left.T
        out.append((g @ a, b @ inverse, s))
    return out

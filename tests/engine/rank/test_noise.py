from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from engine.rank.estimate import Estimate
from engine.rank.noise import noise_estimate, noise_from_trace
from ingest.errors import EigenzooError

SHAPES = [(4000, 400), (400, 4000), (800, 800), (3000, 60)]


def sigma_of(shape: tuple[int, int], strengths: np.ndarray, noise: float, seed: int = 0) -> np.ndarray:
    """All singular values of white noise with planted directions, in units of the noise's edge."""
    rng = np.random.default_rng(seed)
    k = len(strengths)
    u = np.linalg.qr(rng.standard_normal((shape[0], k)))[0]
    v = np.linalg.qr(rng.standard_normal((shape[1], k)))[0]
    edge = math.sqrt(shape[0]) + math.sqrt(shape[1])
    x = rng.standard_normal(shape) + (u * (strengths * edge)) @ v.T
    return np.linalg.svd(noise * x, compute_uv=False)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("known", [1, 10, 32])
def test_pure_noise(shape: tuple[int, int], known: int) -> None:
    s = sigma_of(shape, np.zeros(0), 0.3)
    assert noise_from_trace(s[:known], float((s**2).sum()), shape) == pytest.approx(0.3, rel=3e-3)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("lowest", [1.5, 5.0])
def test_directions_above_the_noise_do_not_raise_it(shape: tuple[int, int], lowest: float) -> None:
    strengths = np.geomspace(40, lowest, 12)
    s = sigma_of(shape, strengths, 0.02)
    energy = float((s**2).sum())
    for known in (12, 13, 32):
        found = noise_from_trace(s[:known], energy, shape)
        assert found == pytest.approx(0.02, rel=3e-3)
        # symmetric, scales, and needs no order
        assert noise_from_trace(s[:known][::-1], energy, shape[::-1]) == found
        assert noise_from_trace(3 * s[:known], 9 * energy, shape) == pytest.approx(3 * found, rel=1e-14)


def test_rough_values_inside_the_bulk_do_no_harm() -> None:
    s = sigma_of((4000, 400), np.geomspace(20, 2, 8), 1.0)
    energy = float((s**2).sum())
    rough = np.r_[s[:8], s[8:32] * np.linspace(0.99, 0.6, 24)]
    assert noise_from_trace(rough, energy, (4000, 400)) == noise_from_trace(s[:8], energy, (4000, 400))


def test_taking_the_bulks_own_values_out_would_cost_a_percent() -> None:
    shape, known = (5000, 512), 32
    s = sigma_of(shape, np.geomspace(20, 1.5, 24), 1.0)
    energy = float((s**2).sum())
    assert noise_from_trace(s[:known], energy, shape) == pytest.approx(1.0, abs=1e-3)
    naive = math.sqrt((s[known:] ** 2).sum() / (shape[0] * shape[1]))
    assert naive < 0.97


@pytest.mark.parametrize("shape", [(400, 40), (60, 40), (200, 200), (1, 700)])
def test_a_whole_spectrum_of_noise_is_not_taken_for_signal(shape: tuple[int, int]) -> None:
    found = [
        noise_from_trace(s, float((s**2).sum()), shape)
        for s in (sigma_of(shape, np.zeros(0), 1.0, i) for i in range(20))
    ]
    assert np.sqrt(np.mean(np.square(found))) == pytest.approx(1.0, rel=0.03)


def test_nothing_left() -> None:
    assert noise_from_trace([3.0, 2.0], 13.0, (100, 50)) == 0.0
    assert noise_from_trace([3.0, 2.0, 0.0], 13.0 * (1 + 1e-14), (100, 50)) == 0.0
    assert noise_from_trace([0.0], 0.0, (100, 50)) == 0.0
    assert noise_from_trace([], 0.0, (0, 50)) == 0.0
    assert noise_from_trace([], 2.0, (4, 8)) == 0.25


@pytest.mark.parametrize(("values", "energy"), [([np.nan], 1.0), ([-1.0], 1.0), ([1.0], np.inf), ([1.0], -1.0)])
def test_refusals(values: list[float], energy: float) -> None:
    with pytest.raises(EigenzooError, match="finite and not negative"):
        noise_from_trace(values, energy, (10, 5))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("strengths", [[], [5.0, 3.0, 1.5], np.geomspace(3, 0.8, 24)])
def test_the_error_holds_what_it_says(shape: tuple[int, int], strengths: Any) -> None:
    s = sigma_of(shape, np.asarray(strengths, dtype=float), 0.3, 7)
    for known in (len(strengths) or 4, 64 if min(shape) > 128 else 30):
        found = noise_estimate(s[:known], float((s**2).sum()), shape)
        assert found.value == noise_from_trace(s[:known], float((s**2).sum()), shape)
        assert abs(found.value - 0.3) <= found.error < 0.02 * 0.3
        scaled = noise_estimate(5 * s[:known], 25 * float((s**2).sum()), shape[::-1])
        assert scaled.error == pytest.approx(5 * found.error, rel=1e-9)
    assert noise_estimate([3.0, 2.0], 13.0, (100, 50)).error == 0.0


def test_an_estimate_reads_well() -> None:
    assert str(Estimate(2.0, 0.001)) == "2 ± 0.05 %"
    assert Estimate(0.0, 0.5).within == "± 0.5" and Estimate(1.0, math.inf).within == "± inf"

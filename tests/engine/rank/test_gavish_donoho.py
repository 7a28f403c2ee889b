from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from engine.rank.gavish_donoho import (
    GavishDonoho,
    gavish_donoho,
    marchenko_pastur_median,
    median_ratio,
    optimal_ratio,
)
from engine.spectrum import Spectrum
from ingest.errors import EigenzooError

# β, λ*(β), ω(β) to four decimals
TABLE = [
    (0.001, 1.4163, 1.4166),
    (0.01, 1.4347, 1.4371),
    (0.05, 1.5066, 1.5193),
    (0.10, 1.5816, 1.6088),
    (0.20, 1.7048, 1.7650),
    (0.25, 1.7580, 1.8369),
    (0.40, 1.8974, 2.0402),
    (0.50, 1.9786, 2.1712),
    (0.60, 2.0533, 2.3018),
    (0.70, 2.1229, 2.4341),
    (0.75, 2.1561, 2.5014),
    (0.80, 2.1883, 2.5698),
    (0.90, 2.2503, 2.7106),
    (1.00, 2.3094, 2.8584),
]


@pytest.mark.parametrize(("beta", "lam", "omega"), TABLE)
def test_table(beta: float, lam: float, omega: float) -> None:
    assert round(optimal_ratio(beta), 4) == lam
    assert round(median_ratio(beta), 4) == omega


def test_square_is_four_over_root_three() -> None:
    assert optimal_ratio(1.0) == pytest.approx(4 / math.sqrt(3), rel=1e-15)


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0])
def test_median_of_drawn_noise(beta: float) -> None:
    long = 1200
    x = np.random.default_rng(0).standard_normal((long, int(beta * long)))
    drawn = np.median(np.linalg.svd(x, compute_uv=False) ** 2) / long
    assert drawn == pytest.approx(marchenko_pastur_median(beta), rel=1e-2)


@pytest.mark.parametrize("shape", [(2000, 100), (600, 300), (300, 600), (300, 300)])
@pytest.mark.parametrize("noise", [None, 0.7])
@pytest.mark.parametrize("rank", [0, 5])
def test_planted_rank_is_found(shape: tuple[int, int], noise: float | None, rank: int) -> None:
    rng = np.random.default_rng(1)
    u = np.linalg.qr(rng.standard_normal((shape[0], 5)))[0]
    v = np.linalg.qr(rng.standard_normal((shape[1], 5)))[0]
    strengths = 0.7 * math.sqrt(max(shape)) * np.linspace(5, 8, 5) * (np.arange(5) < rank)
    x = (u * strengths) @ v.T + 0.7 * rng.standard_normal(shape)
    s = np.linalg.svd(x, compute_uv=False)
    assert gavish_donoho(s, shape, noise).k == rank
    assert gavish_donoho(s, shape[::-1], noise) == gavish_donoho(s, shape, noise)


def test_known_noise_uses_the_long_side() -> None:
    threshold = gavish_donoho(np.ones(400), (4000, 400), 2.0).threshold
    assert threshold == pytest.approx(optimal_ratio(0.1) * math.sqrt(4000) * 2.0)


def test_truncated_spectrum_is_refused() -> None:
    with pytest.raises(EigenzooError, match="got 64 singular values of a 1000 × 100 matrix, 100 are needed"):
        gavish_donoho(np.arange(64.0), (1000, 100))


def test_the_null_of_a_centred_wide_matrix_is_tolerated() -> None:
    s = np.concatenate([np.linspace(2, 1, 9), [0.0]])
    assert gavish_donoho(s, (9, 50)) == gavish_donoho(s[:9], (9, 50))
    with pytest.raises(EigenzooError, match="effective shape"):
        gavish_donoho(np.linspace(2, 1, 10), (9, 50))


def test_half_null_declines() -> None:
    s = np.array([3.0, 2.0, 1.0, 0.0, 0.0, 0.0])
    choice = gavish_donoho(s, (6, 60))
    assert choice.k is None and choice.threshold is None and "3 of 6" in choice.note
    assert gavish_donoho(np.r_[3.0, 2.0, 1.0, 1.0, 0.0, 0.0], (6, 60)).k is not None
    assert gavish_donoho(np.zeros(6), (6, 60)).k is None
    assert gavish_donoho(s, (6, 60), noise=0.05).k == 3  # a known level needs no median
    assert gavish_donoho(np.zeros(1), (0, 60)).k is None


@pytest.mark.parametrize("noise", [0.0, -1.0, math.nan, math.inf])
def test_noise_must_be_positive(noise: float) -> None:
    with pytest.raises(EigenzooError, match="noise must be positive"):
        gavish_donoho(np.ones(4), (4, 4), noise)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_values_must_be_finite(bad: float) -> None:
    with pytest.raises(EigenzooError, match="finite"):
        gavish_donoho([1.0, bad], (2, 2))


def test_columns_without_variance_leave_the_width() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((500, 40))
    x[:, 25:] = 3.0
    s = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    s[25:] = 0.0
    spectrum = Spectrum(s, 1.0, 500, 40, 499, 15, 0.0, "moments")
    choice = GavishDonoho()(spectrum)
    assert choice.threshold == gavish_donoho(s[:25], (499, 25)).threshold
    assert "15 of 40 columns" in choice.note
    assert "columns" not in GavishDonoho()(replace(spectrum, n_zero_variance_columns=0)).note

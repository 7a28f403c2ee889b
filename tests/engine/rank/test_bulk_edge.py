from __future__ import annotations

import math

import numpy as np
import pytest

from bench.planted import planted
from engine.rank.bulk_edge import BulkEdge, bulk_edge
from engine.rank.gavish_donoho import gavish_donoho
from engine.rank.marchenko_pastur import largest_of_noise
from ingest.errors import EigenzooError

SHAPES = [(800, 100), (100, 800), (300, 300)]


def sigma_of(x: np.ndarray) -> np.ndarray:
    return np.linalg.svd(x, compute_uv=False)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("noise", [None, 0.3])
def test_it_finds_what_can_be_detected(shape: tuple[int, int], noise: float | None) -> None:
    n, d = shape
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.standard_normal((side, 6)))[0] for side in shape)
    detected = (n * d) ** 0.25 * np.array([4.0, 3.0, 2.5, 2.0, 1.6, 0.5])  # the last one cannot be
    s = 0.3 * sigma_of(rng.standard_normal(shape) + (u * detected) @ v.T)
    choice = bulk_edge(s, shape, noise)
    assert choice.k == 5
    assert (gavish_donoho(s, shape, noise).k or 0) <= 5
    assert bulk_edge(s, shape[::-1], noise) == choice
    scaled = bulk_edge(7 * s, shape, None if noise is None else 7 * noise)
    assert scaled.k == 5 and scaled.threshold == pytest.approx(7 * (choice.threshold or 0), rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_known_level_is_the_edge_of_its_noise(shape: tuple[int, int]) -> None:
    choice = bulk_edge([1.0], shape, 0.5)
    assert choice.threshold == 0.5 * largest_of_noise(shape)
    assert choice.threshold == pytest.approx(0.5 * sum(map(math.sqrt, shape)), rel=0.03)


def test_many_directions_do_not_raise_the_level() -> None:
    x = planted("white", 2000, 200, 40, (3.0, 1.5))
    first = bulk_edge(sigma_of(x), (2000, 200))
    assert first.k == 40
    # the level is that of the 160 values below
    assert first.threshold == pytest.approx(largest_of_noise((1960, 160)), rel=0.01)


def test_noise_alone_has_nothing_above() -> None:
    found = [bulk_edge(sigma_of(planted("white", 200, 50, seed=i)), (200, 50)).k for i in range(200)]
    assert sum(k != 0 for k in found) <= 8


def test_refusals_and_declining() -> None:
    with pytest.raises(EigenzooError, match="got 5 singular values of a 100 × 10 matrix, 10 are needed"):
        bulk_edge(np.ones(5), (100, 10))
    with pytest.raises(EigenzooError, match="finite and not negative"):
        bulk_edge([np.nan], (1, 1))
    with pytest.raises(EigenzooError, match="effective shape"):
        bulk_edge(np.ones(11), (100, 10))
    with pytest.raises(EigenzooError, match="got 0 singular values"):
        bulk_edge([], (100, 10), 1.0)
    for noise in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(EigenzooError, match="bulk-edge: noise must be positive"):
            bulk_edge(np.ones(10), (100, 10), noise)
    choice = bulk_edge(np.r_[3.0, 2.0, np.zeros(4)], (6, 60))
    assert choice.k is None and "4 of 6" in choice.note
    assert "may be larger" in bulk_edge(np.full(3, 99.0), (100, 10), 1.0).note
    for bad in ("x", "0", "-1", "nan", "inf"):
        with pytest.raises(EigenzooError, match="^k: 'bulk-edge:"):
            BulkEdge.parse(bad)

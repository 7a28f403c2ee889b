"""A downdated eigendecomposition against LAPACK's of the whole matrix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.analysis.downdate import count_above, largest

WIDTH, RANK = 160, 4


def spiked(k: int, seed: int, width: int = WIDTH) -> NDArray[np.float64]:
    """k values that stand apart, above a bulk."""
    rng = np.random.default_rng(seed)
    return np.sort(np.concatenate([np.geomspace(4e4, 400, k), rng.uniform(20, 200, width - k)]))[::-1].copy()


def rows(values: NDArray[np.float64], seed: int, rank: int = RANK, adapters: int = 40) -> NDArray[np.float64]:
    """An adapter's share of the scatter."""
    return np.random.default_rng(seed).standard_normal((rank, len(values))) * np.sqrt(values / (adapters * rank))


def check(values: NDArray[np.float64], z: NDArray[np.float64], k: int) -> bool:
    """Laws of the pairs found; whether they came from the whole matrix."""
    t = np.diag(values) - z.T @ z
    found = largest(values, z, k)
    expected, vectors = np.linalg.eigh(t)
    expected, vectors = expected[::-1], vectors[:, ::-1]
    np.testing.assert_allclose(found.values, expected[:k], rtol=0, atol=1e-13 * values[0])
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(k), atol=1e-12)
    # A vector may be off by 1e-11, or by what rounding makes of it: that grows with λ₁ over the gap.
    gap = expected[k - 1] - expected[k]
    outside = found.vectors - vectors[:, :k] @ (vectors[:, :k].T @ found.vectors)
    assert np.linalg.norm(outside, axis=0).max() <= max(5e-11, 2e-14 * values[0] / gap)
    return found.whole


@pytest.mark.parametrize("k", [1, 5, 12])
def test_spikes_are_updated(k: int) -> None:
    for seed in range(6):
        values = spiked(12, seed)
        assert not check(values, rows(values, seed), k)


def test_beyond_the_spikes_into_the_bulk() -> None:
    values = spiked(6, 1, 400)
    assert not check(values, rows(values, 1), 30)


def test_rows_that_miss_directions_or_depend_on_each_other() -> None:
    values = spiked(8, 2)
    z = rows(values, 2)
    z[:, [0, 3, 7]] = 0.0  # these pairs stay as they are
    assert not check(values, z, 8)
    assert not check(values, np.vstack([z, z[:2], np.zeros((1, WIDTH))]), 8)
    assert not check(values, 1e-9 * z, 8)
    assert not check(values, np.zeros((3, WIDTH)), 8)


def test_a_direction_that_nobody_else_has_goes() -> None:
    values = spiked(8, 3)
    z = 0.1 * rows(values, 3)
    z[0] = 0.0
    z[0, 2] = np.sqrt(values[2] * (1 - 1e-6))
    check(values, z, 7)


@pytest.mark.parametrize("spread", [0.0, 1e-13, 1e-9, 1e-4])
def test_values_that_are_close_together(spread: float) -> None:
    values = spiked(9, 4)
    values[2:6] = values[2] * (1 - spread * np.arange(4))
    z = rows(values, 4)
    check(values, z, 9)
    z[:, 2:6] = 0.0  # a cluster that stays one
    check(values, z, 9)
    check(values, z, 4 if spread > 1e-5 else 6)  # and through the middle of it, where that is a question


def test_more_rows_than_can_be_updated_are_solved_whole() -> None:
    values = spiked(5, 5, 60)
    assert check(values, rows(values, 5, rank=30, adapters=3), 5)


def test_nothing_to_do() -> None:
    values = spiked(5, 6)
    assert largest(values, rows(values, 6), 0).vectors.shape == (WIDTH, 0)
    found = largest(values, np.zeros((0, WIDTH)), 3)
    np.testing.assert_array_equal(found.values, values[:3])
    np.testing.assert_array_equal(found.vectors, np.eye(WIDTH, 3))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 2**16), st.integers(1, 6), st.integers(2, 24))
def test_the_inertia_counts_eigenvalues(seed: int, rank: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.sort(rng.uniform(0, 10, width))[::-1]
    z = rng.standard_normal((rank, width))
    found = np.linalg.eigvalsh(np.diag(values) - z.T @ z)
    for x in rng.uniform(-2, 11, 5):
        assert count_above(values, z, float(x)) == np.count_nonzero(found > x)

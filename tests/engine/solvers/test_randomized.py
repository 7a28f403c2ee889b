"""Block Krylov: how near, how many passes, and whether the stated error holds."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import engine
from engine.backends import get_backend
from engine.reductions.protocol import Again
from engine.solvers import randomized
from engine.solvers.randomized import MAX_PASSES, MIN_PASSES, begin, block_columns, known_values, sigma_error
from engine.spectrum import Solution
from ingest.errors import EigenzooError
from tests.engine.spectra import prescribed, reference


def spiked(n: int, width: int, spikes: int, seed: int = 0) -> NDArray[np.float32]:
    """White noise, spikes of 20·k^-0.815 times its edge, and a mean three times the first of them."""
    rng = np.random.default_rng(seed)
    edge = np.sqrt(n) + np.sqrt(width)
    theta = 20 * edge * np.arange(1, spikes + 1) ** -0.815
    v = np.linalg.qr(rng.standard_normal((width, spikes)))[0]
    mean = rng.standard_normal(width)
    mean *= 3 * theta[0] / np.sqrt(n) / np.linalg.norm(mean)
    x = rng.standard_normal((n, width)) + rng.standard_normal((n, spikes)) @ (v * (theta / np.sqrt(n))).T + mean
    return x.astype(np.float32)


def exact(x: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y = x.astype(np.float64)
    _, s, vt = np.linalg.svd(np.linalg.qr(y - y.mean(axis=0), mode="r"))
    return s, vt


def test_spikes_over_noise() -> None:
    x = spiked(4000, 512, 24)
    s, vt = exact(x)
    sub = engine.fit(x, 24, method="randomized")
    error = np.abs(sub.singular_values - s[:24])
    assert (error / s[:24]).max() < 1e-5
    assert np.abs((sub.components * vt[:24]).sum(axis=1)).min() > 1 - 1e-5
    assert sub.sigma_error is not None and error.max() <= sub.sigma_error < 2e-3 * s[23]
    assert MIN_PASSES <= sub.passes <= MAX_PASSES
    assert sub.noise == pytest.approx(1.0, rel=2e-3)
    assert sub.total_variance == pytest.approx((s**2).sum() / 3999, rel=1e-12)


def test_rank_chosen_by_the_rule_is_that_of_the_whole_spectrum() -> None:
    x = spiked(4000, 512, 24)
    sub, whole = engine.fit(x, method="randomized"), engine.fit(x)
    assert sub.n_components == whole.n_components == 24
    assert sub.k_choice.threshold == pytest.approx(whole.k_choice.threshold, rel=0.02)  # the median counts the spikes
    assert "only the 64 largest singular values were sought" in sub.note


@pytest.mark.slow
def test_a_spectrum_that_hardly_falls() -> None:
    """20000 × 1024, K = 64, 24 of them spikes down to the edge, 40 inside the bulk."""
    n, width = 20_000, 1024
    rng = np.random.default_rng(0)
    theta = 3 * (np.sqrt(n) + np.sqrt(width)) * np.arange(1, 25) ** -0.3
    v = np.linalg.qr(rng.standard_normal((width, 24)))[0]
    x = rng.standard_normal((n, width)) + rng.standard_normal((n, 24)) @ (v * (theta / np.sqrt(n))).T
    s, vt = exact(x)
    sub = engine.fit(x, 64, method="randomized")
    error = np.abs(sub.singular_values - s[:64])
    assert (error / s[:64]).max() < 2e-3
    assert (sub.singular_values**2).sum() / (s[:64] ** 2).sum() > 0.9999
    assert error.max() <= sub.sigma_error < 0.02 * s[63]
    assert np.linalg.svd(sub.components[:24] @ vt[:24].T, compute_uv=False).min() > 1 - 1e-9


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 120),
    width=st.integers(1, 80),
    k=st.integers(1, 12),
    decay=st.sampled_from([0.0, 0.3, 1.0, 4.0]),
    seed=st.integers(0, 1000),
)
def test_every_value_has_an_eigenvalue_within_its_error(n: int, width: int, k: int, decay: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, width)) * np.arange(1, width + 1) ** -decay
    k = min(k, n - 1, width)
    sub = engine.fit(x, k, method="randomized", seed=seed)
    s = reference(x)
    assert sub.sigma_error is not None
    slack = sub.sigma_error + 1e-7 * s[0]
    found = sub.singular_values
    assert (np.abs(found[:, None] - s[None, :]).min(axis=1) <= slack).all()
    assert (found <= s[:k] + 1e-7 * s[0]).all()  # from below


def test_eight_passes_beat_what_subspace_iteration_reaches() -> None:
    x = np.random.default_rng(3).standard_normal((3000, 600))
    s, _ = exact(x)
    found = engine.fit(x, 8, method="randomized")
    assert found.passes == MAX_PASSES
    y = x - x.mean(axis=0)
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((600, 18)))[0]
    for _ in range(MAX_PASSES - 1):
        q = np.linalg.qr(y.T @ (y @ q))[0]
    power = np.sqrt(np.linalg.eigvalsh((y @ q).T @ (y @ q))[::-1][:8])
    assert np.abs(found.singular_values - s[:8]).max() < 0.3 * np.abs(power - s[:8]).max()


def test_residuals_are_those_of_the_vectors() -> None:
    x = spiked(1500, 600, 6).astype(np.float64)
    y = x - x.mean(axis=0)
    sub = engine.fit(x, 20, method="randomized")
    av = y.T @ (y @ sub.components.T)
    residual = np.linalg.norm(av - sub.components.T * sub.singular_values**2, axis=0)
    assert sub.eigenvalue_error == pytest.approx(residual.max(), rel=1e-3)
    assert sub.sigma_error == pytest.approx((residual / sub.singular_values).max(), rel=1e-3)


def test_repeated_singular_values_more_than_the_block_has_vectors() -> None:
    x, _ = prescribed(300, 100, np.r_[np.full(40, 3.0), np.full(20, 1.0)])
    sub = engine.fit(x, 4, method="randomized")
    np.testing.assert_allclose(sub.singular_values, 3.0, rtol=1e-10)
    assert sub.sigma_error is not None and sub.sigma_error < 1e-6


def test_it_stops_when_there_is_nothing_new() -> None:
    x, _ = prescribed(300, 100, np.array([5.0, 2.0, 1e-3]))
    sub = engine.fit(x, 3, method="randomized")
    assert sub.passes <= 3
    np.testing.assert_allclose(sub.singular_values, [5.0, 2.0, 1e-3], rtol=1e-7)
    assert engine.fit(x[:, :8], 3, method="randomized").passes == 1  # the block fills the width


def test_results_depend_on_the_seed_and_on_nothing_else() -> None:
    x = np.random.default_rng(1).standard_normal((400, 150))
    first = engine.fit(x, 5, method="randomized", seed=7)
    np.random.seed(1)
    again, other = engine.fit(x, 5, method="randomized", seed=7), engine.fit(x, 5, method="randomized", seed=8)
    np.testing.assert_array_equal(first.singular_values, again.singular_values)
    np.testing.assert_array_equal(first.components, again.components)
    assert (first.singular_values != other.singular_values).any()
    assert "seed 7" in first.note
    with pytest.raises(EigenzooError, match="seed: got -1"):
        engine.fit(x, 5, method="randomized", seed=-1)


def test_only_the_first_pass_counts_squares_and_every_pass_sends_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(randomized, "MAX_PASSES", 3)
    x = np.random.default_rng(2).standard_normal((500, 300))
    solver = begin(500, 300, get_backend("cpu"), 6, 0)
    for passes in range(1, 4):
        assert solver.vectors.shape == (300, 16) and solver.with_squares == (passes == 1)
        assert passes > 1 or len(pickle.dumps(solver)) < 4000  # the first vectors are drawn where they are needed
        outcome = solver.solve(solver.step(solver.start(), x), centred=True)
        if isinstance(outcome, Again):
            solver = outcome.reduction  # type: ignore[assignment]
    assert isinstance(outcome, Solution) and outcome.passes == 3


def test_counts() -> None:
    assert known_values(10**6, 4096, None) == 64 and block_columns(10**6, 4096, None) == 74
    assert known_values(10**6, 4096, 24) == 24 and block_columns(10**6, 4096, 24) == 34
    assert known_values(5, 30, 24) == 5 and known_values(50, 3, 24) == 3 and block_columns(50, 3, 24) == 3
    assert known_values(50, 30, 0) == 1


def test_sigma_error() -> None:
    assert sigma_error(np.array([2.0, 1.0]), np.array([0.2, 0.3])) == 0.3
    assert sigma_error(np.array([1e-8, 0.0]), np.array([1e-4, 1.0])) == pytest.approx(1e-2)
    assert sigma_error(np.zeros(2), np.ones(2)) == 0.0

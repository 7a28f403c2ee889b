"""Merge and truncate: the bound holds, whatever the tree, and is not absurd where the data can be compressed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine
from engine.backends import get_backend
from engine.reductions import incremental as reduction_module
from engine.solvers.incremental import KNOWN, RANKS, begin, begin_rank
from tests.engine.solvers.test_randomized import exact, spiked
from tests.engine.spectra import prescribed, reference


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=7),
    width=st.integers(1, 40),
    max_rank=st.integers(1, 12),
    decay=st.sampled_from([0.0, 0.5, 2.0]),
    seed=st.integers(0, 1000),
    centred=st.booleans(),
)
def test_no_value_is_too_large_nor_too_small_by_more_than_the_bound(
    sizes: list[int], width: int, max_rank: int, decay: float, seed: int, centred: bool
) -> None:
    rng = np.random.default_rng(seed)
    scales = np.arange(1, width + 1) ** -decay
    blocks = [rng.standard_normal((n, width)) * scales + rng.standard_normal(width) for n in sizes]
    x = np.concatenate(blocks)
    solver = begin(width, get_backend("cpu"), min(4, width), max_rank)
    states = [solver.step(solver.start(), block) for block in blocks]
    while len(states) > 1:
        i = int(rng.integers(len(states) - 1))
        states[i : i + 2] = [solver.combine(states[i], states[i + 1])]
    solution = solver.solve(states[0], centred=centred)
    s = reference(x) if centred else np.linalg.svd(x, compute_uv=False)
    found = solution.spectrum.singular_values
    truth, slack = s[: len(found)], 1e-7 * s[0]
    assert (found <= truth + slack).all()
    assert (truth**2 - found**2 <= solution.spectrum.eigenvalue_error + slack * s[0]).all()
    nonzero = found > 0
    allowed = (solution.sigma_error or 0.0) + slack
    assert (truth - found <= allowed)[nonzero].all()
    if solution.exact:
        assert solution.sigma_error is None and len(found) == min(x.shape)
    assert solution.spectrum.total_variance == pytest.approx((s**2).sum() / max(len(x) - 1, 1), rel=1e-10, abs=1e-20)


def test_the_rows_left_out_are_bounded_too() -> None:
    x = spiked(2000, 200, 12).astype(np.float64)
    sub = engine.fit(x, 12, method="incremental")
    y = x - x.mean(axis=0)
    left = ((y - y @ sub.components.T @ sub.components) ** 2).sum()
    best = (reference(x)[12:] ** 2).sum()
    assert best <= left <= sub.total_variance * 1999 - (sub.singular_values[:12] ** 2).sum()


def test_the_bound_is_tight_where_rows_can_be_compressed() -> None:
    sigma = np.r_[np.linspace(10, 5, 8), np.full(60, 1e-3)]
    x, _ = prescribed(3000, 100, sigma, mean=3.0)
    sub = engine.fit(x, 8, method="incremental")
    error = np.abs(sub.singular_values - sigma[:8]).max()
    assert sub.sigma_error is not None and error <= sub.sigma_error < 1e-4 * sigma[7]
    assert not sub.exact and "truncated to 32 rows" in sub.note


def test_spikes_over_noise() -> None:
    x = spiked(4000, 512, 24)
    s, vt = exact(x)
    sub = engine.fit(x, 24, method="incremental")
    assert sub.passes == 1
    assert (np.abs(sub.singular_values - s[:24]) / s[:24]).max() < 0.02
    assert np.abs((sub.components[:12] * vt[:12]).sum(axis=1)).min() > 0.99
    assert sub.sigma_error is not None and s[0] - sub.singular_values[0] <= sub.sigma_error
    assert sub.noise == pytest.approx(1.0, rel=5e-3)
    assert engine.fit(x, method="incremental").n_components == 24


def test_more_rank_and_larger_pieces_come_nearer(monkeypatch: pytest.MonkeyPatch) -> None:
    x = spiked(3000, 300, 10).astype(np.float64)
    s = reference(x)[:10]

    def missed(max_rank: int, ranks: int) -> float:
        monkeypatch.setattr(reduction_module, "PIECE_RANKS", ranks)
        solver = begin(300, get_backend("cpu"), 10, max_rank)
        solution = solver.solve(solver.step(solver.start(), x), centred=True)
        return float(np.abs(solution.spectrum.singular_values - s).max())

    assert missed(80, 4) < missed(40, 4) < missed(20, 4)
    assert missed(40, 8) < missed(40, 1)


def test_few_rows_and_narrow_rows_are_exact() -> None:
    rng = np.random.default_rng(0)
    for shape in [(100, 300), (5000, 30)]:
        x = rng.standard_normal(shape)
        sub = engine.fit(x, 30, method="incremental")
        assert sub.exact and sub.spectrum == "full" and sub.sigma_error is None and not sub.note
        np.testing.assert_allclose(sub.singular_values, reference(x), atol=1e-7 * sub.singular_values[0])


def test_ranks() -> None:
    assert begin_rank(4096, None) == (KNOWN, RANKS * KNOWN)
    assert begin_rank(4096, 24) == (24, 96)
    assert begin_rank(50, 24) == (24, 50)
    assert begin_rank(5, 24) == (5, 5)
    assert begin_rank(4096, 24, 10) == (24, 24)
    assert begin_rank(4096, 0) == (1, 4)

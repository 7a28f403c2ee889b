"""Tall-skinny QR: singular values far below what any Gram matrix can see."""

from __future__ import annotations

import numpy as np
import pytest

import engine
from engine.backends import get_backend
from engine.runners import partition
from engine.solvers.tsqr import TsqrSolver, null_floor
from tests.engine.spectra import orthonormal, prescribed

EPS = 2.0**-52


@pytest.mark.parametrize("device", ["cpu", "torch"])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("n", [45, 600, 5000])
def test_down_to_the_last_digit(n: int, turned: bool, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if device == "torch":
        pytest.importorskip("torch")
    monkeypatch.setattr(partition, "TASK_WORK", 1)
    width, sigma = 40, np.logspace(0, -13.9, 40)
    v = orthonormal(width, width, 1).T if turned else np.eye(width)
    x = (orthonormal(n, width, 0, centred=True) * sigma) @ v
    sub = engine.fit(x, 1, method="tsqr", device=device)
    assert sub.floor < 1e-14 and np.count_nonzero(sub.singular_values) == width
    np.testing.assert_allclose(sub.singular_values, sigma, atol=8 * EPS, rtol=0)


def test_components_of_small_values() -> None:
    sigma = np.logspace(0, -12, 13)
    x, v = prescribed(900, 30, sigma)
    sub = engine.fit(x, 13, method="tsqr")
    cosines = np.abs((sub.components * v).sum(axis=1))
    assert cosines[:8].min() > 1 - 1e-12 and cosines.min() > 0.999
    assert sub.exact and sub.passes == 1 and sub.spectrum == "full"


@pytest.mark.parametrize("mean", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("shape", [(200, 20), (3000, 64), (100_000, 8), (40, 90)])
def test_duplicated_rows_leave_exact_zeros(shape: tuple[int, int], mean: float) -> None:
    n, width = shape
    base, _ = prescribed(10, width, np.logspace(0, -1, 6), seed=3)
    x = np.tile(base + mean * np.random.default_rng(3).standard_normal(width), (n // 10, 1))
    solver = TsqrSolver(width, get_backend("cpu"))
    state = solver.start()
    for part in np.array_split(x, 7):
        state = solver.combine(state, solver.step(solver.start(), part))
    spectrum = solver.solve(state, centred=True).spectrum
    assert spectrum.rank == 6
    assert spectrum.floor == null_floor(spectrum.singular_values[0], n, state.centre.mean)


def test_it_agrees_with_the_scatter_where_that_can_see() -> None:
    x = np.random.default_rng(0).standard_normal((700, 60)) + 3
    for center in ("feature", "none"):
        oracle, found = (engine.fit(x, 20, center=center, method=method) for method in ("tsqr", "moments"))
        np.testing.assert_allclose(found.singular_values, oracle.singular_values, rtol=1e-12)
        np.testing.assert_allclose(found.components, oracle.components, atol=1e-9)
        assert found.k_choice == oracle.k_choice
        assert found.total_variance == pytest.approx(oracle.total_variance, rel=1e-13)

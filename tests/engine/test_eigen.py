"""The few largest pairs by block Lanczos, all values beside them, and truncated spectra; LAPACK is the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import engine
from engine import eigen
from engine.backends import get_backend
from engine.backends.protocol import Backend

N, WIDTH = 3000, 800


@pytest.fixture(params=["cpu", "torch"])
def b(request: pytest.FixtureRequest) -> Backend:
    if request.param == "torch":
        pytest.importorskip("torch")
    backend = get_backend(request.param)
    backend.load()
    return backend


def spiked(n: int = N, width: int = WIDTH, spikes: int = 12, seed: int = 0) -> NDArray[np.float64]:
    """Noise of variance 1, spikes 20·k^−0.815 times its bulk edge, and a mean."""
    rng = np.random.default_rng(seed)
    edge = np.sqrt(n) + np.sqrt(width)
    u, v = np.linalg.qr(rng.standard_normal((n, spikes)))[0], np.linalg.qr(rng.standard_normal((width, spikes)))[0]
    theta = 20 * np.arange(1, spikes + 1) ** -0.815 * edge
    return np.asarray(rng.standard_normal((n, width)) + (u * theta) @ v.T + rng.standard_normal(width))


def gram(b: Backend, x: NDArray[np.float64]) -> tuple[Any, NDArray[np.float64], NDArray[np.float64]]:
    y = x - x.mean(axis=0)
    c = b.square(x.shape[1])
    b.add_gram(c, b.matrix(y))
    _, s, vt = np.linalg.svd(y, full_matrices=False)
    return c, s, vt


def test_what_stands_apart_is_found_to_all_digits(b: Backend) -> None:
    c, s, vt = gram(b, spiked())
    b.mirror(c)
    pairs = eigen.top_pairs(b, c)
    assert len(pairs.values) >= 12
    np.testing.assert_allclose(pairs.values, s[: len(pairs.values)] ** 2, rtol=1e-12)
    v = b.to_host(pairs.vectors).T
    np.testing.assert_allclose(v @ v.T, np.eye(len(v)), atol=1e-12)
    assert np.abs((v * vt[: len(v)]).sum(axis=1))[:12].min() > 1 - 1e-12
    assert pairs.following <= s[len(pairs.values)] ** 2 * (1 + 1e-12)


def test_as_many_as_are_wanted(b: Backend) -> None:
    c, s, _ = gram(b, spiked())
    b.mirror(c)
    pairs = eigen.top_pairs(b, c, 30)
    assert len(pairs.values) >= 30
    np.testing.assert_allclose(pairs.values[:30], s[:30] ** 2, rtol=1e-10)


@pytest.mark.parametrize(("dtype", "worst"), [("float64", 1e-14), ("float32", None)])
def test_all_values_and_few_vectors(b: Backend, dtype: str, worst: float | None) -> None:
    c, s, vt = gram(b, spiked())
    solved = eigen.solve_apart(b, c, dtype=dtype)
    error = np.abs(solved.values - s**2).max()
    assert error <= solved.error
    if worst is not None:
        assert error <= worst * s[0] ** 2
    for k in (0, 3, 12, 20, 300):
        v = b.to_host(solved.vectors(k))
        assert v.shape == (WIDTH, k)
        np.testing.assert_allclose(v.T @ v, np.eye(k), atol=1e-11)
        np.testing.assert_allclose(np.abs((v.T * vt[:k]).sum(axis=1))[:12], 1, atol=1e-10)


def test_repeated_and_null_values(b: Backend) -> None:
    q, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((WIDTH, WIDTH)))
    values = np.repeat([2.0, 1.0, 0.0], [300, 300, 200])
    for dtype in ("float64", "float32"):
        c = b.square(WIDTH)
        b.add(c, b.matrix((q * values) @ q.T))
        solved = eigen.solve_apart(b, c, dtype=dtype)
        assert np.abs(solved.values - values).max() <= max(solved.error, 1e-13)
        assert np.abs(solved.values[600:]).max() <= max(solved.null_error, 1e-13)
        v = b.to_host(solved.vectors(40))
        np.testing.assert_allclose(v.T @ v, np.eye(40), atol=1e-11)
        np.testing.assert_allclose(q[:, 300:].T @ v, 0, atol=1e-7)


def test_a_matrix_of_low_rank(b: Backend) -> None:
    q, _ = np.linalg.qr(np.random.default_rng(3).standard_normal((WIDTH, 10)))
    values = np.linspace(5, 1, 10)
    for dtype in ("float64", "float32"):
        c = b.square(WIDTH)
        b.add(c, b.matrix((q * values) @ q.T))
        solved = eigen.solve_apart(b, c, dtype=dtype)
        np.testing.assert_allclose(solved.values[:10], values, rtol=1e-12)
        assert np.abs(solved.values[10:]).max() <= 1e-5
        v = b.to_host(solved.vectors(10))
        np.testing.assert_allclose(np.abs((v * q).sum(axis=0)), 1, atol=1e-10)
        np.testing.assert_allclose(v.T @ v, np.eye(10), atol=1e-12)


def test_a_zero_matrix(b: Backend) -> None:
    solved = eigen.solve_apart(b, b.square(WIDTH), dtype="float32")
    assert not solved.values.any()


@pytest.mark.parametrize("device", ["cpu", "torch"])
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_fit_full_and_top(device: str, dtype: str) -> None:
    if device == "torch":
        pytest.importorskip("torch")
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = spiked().astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    y = x.astype(np.float64)
    _, s, vt = np.linalg.svd(y - y.mean(axis=0), full_matrices=False)
    truth = engine.gavish_donoho(s, (N - 1, WIDTH)).k
    full = engine.fit(x, 12, device=device)
    assert np.abs(full.singular_values - s).max() <= 1e-6 * s[0]
    assert np.abs(full.singular_values**2 - s**2).max() <= full.eigenvalue_error
    assert full.products == ("float64" if dtype == "float64" else full.products) and full.spectrum == "full"
    top = engine.fit(x, 12, device=device, spectrum="top")
    assert top.spectrum == "top" and 12 <= len(top.singular_values) < WIDTH
    assert np.abs(top.singular_values - s[: len(top.singular_values)]).max() <= 1e-7 * s[0]
    assert top.noise == pytest.approx(1.0, rel=0.01) and "trace" in top.noise_from
    for sub in (full, top):
        assert sub.choices["gavish-donoho"].k == truth == 12
        assert np.abs((sub.components * vt[:12]).sum(axis=1)).min() > 1 - 1e-7
        assert sub.total_variance == pytest.approx((s**2).sum() / (N - 1), rel=1e-6)
    ruled = engine.fit(x, device=device, spectrum="top")
    assert ruled.n_components == 12 and "may be larger" not in ruled.k_choice.note


@pytest.mark.parametrize("device", ["cpu", "torch"])
def test_top_of_pure_noise(device: str) -> None:
    if device == "torch":
        pytest.importorskip("torch")
    x = np.random.default_rng(5).standard_normal((N, WIDTH))
    sub = engine.fit(x, device=device, spectrum="top")
    assert sub.k_choice.k == 0 and sub.n_components == 0


@pytest.mark.parametrize("device", ["cpu", "torch"])
def test_top_finds_all_that_stand_above_the_noise(device: str) -> None:
    if device == "torch":
        pytest.importorskip("torch")
    rng = np.random.default_rng(6)
    u, v = np.linalg.qr(rng.standard_normal((2000, 60)))[0], np.linalg.qr(rng.standard_normal((WIDTH, 60)))[0]
    x = 100 * u @ v.T + 1e-3 * rng.standard_normal((2000, WIDTH))
    full, top = engine.fit(x, device=device), engine.fit(x, device=device, spectrum="top")
    assert full.n_components == top.n_components == 60
    assert top.noise == pytest.approx(1e-3, rel=0.02)


def test_top_of_small_values_and_small_shapes() -> None:
    from tests.engine.spectra import prescribed

    sigma = np.logspace(0, -11, 12)
    x, _ = prescribed(2000, WIDTH, sigma, 0.0)
    top = engine.fit(x, 12, spectrum="top", device="cpu")
    np.testing.assert_allclose(top.singular_values[:12], sigma, rtol=1e-3)
    assert np.abs(top.singular_values[:12] ** 2 - sigma**2).max() <= top.eigenvalue_error
    for n in (1, 20):
        x = np.random.default_rng(n).standard_normal((n, WIDTH))
        sub = engine.fit(x, 0, method="moments", spectrum="top", device="cpu")
        assert len(sub.singular_values) <= n


@pytest.mark.parametrize("ratio", [1.0, 1e3, 1e6])
def test_the_error_stated_holds_for_any_mean(ratio: float) -> None:
    rng = np.random.default_rng(7)
    x = rng.standard_normal((3000, 30)) + ratio
    y = x.astype(np.longdouble)
    s = np.linalg.svd((y - y.mean(axis=0)).astype(np.float64), compute_uv=False)
    sub = engine.fit(x, 1, device="cpu", refine=False)
    assert np.abs(sub.singular_values**2 - s**2).max() <= sub.eigenvalue_error <= 1e-8 * s[0] ** 2

"""Restated after what scikit-learn's test_extmath.py (BSD-3-Clause) asks of randomized SVD and of incremental moments,
at tolerances no looser than its own. Each test names its original.

The exact methods answer the same questions: they are held to the same assertions and to more decimals.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import sparse

import engine
from ingest.errors import EigenzooError
from tests.engine.sklearn_tests.adapter import EngineIncrementalPCA, engine_svd
from tests.engine.sklearn_tests.compare import nearly
from tests.engine.sklearn_tests.data import low_rank
from tests.engine.sklearn_tests.methods import EXACT, METHODS, STREAMS

by_method = pytest.mark.parametrize("method", METHODS)
by_exact_method = pytest.mark.parametrize("method", EXACT)
by_stream = pytest.mark.parametrize("stream", STREAMS)


@by_method
@pytest.mark.parametrize("dtype", ["int32", "float32", "float64"])
def test_low_rank_all_dtypes(method: str, dtype: str) -> None:
    """test_randomized_svd_low_rank_all_dtypes.

    The original's whole numbers are all zeros, a bell of height 1 rounded down; here they are scaled up first and the
    same decimals asked of the result scaled back.
    """
    k, scale = 10, 1e6 if dtype == "int32" else 1.0
    x = (low_rank(100, 500, effective_rank=5, tail=0.0, seed=0) * scale).astype(dtype)
    u, s, vt = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    found = engine_svd(x, k, method=method)
    assert (found.u.shape, found.s.shape, found.vt.shape) == ((100, k), (k,), (k, 500))
    assert found.u.dtype == found.s.dtype == found.vt.dtype == np.float64
    decimal = 5 if dtype == "float32" else 7
    nearly(found.s / scale, s[:k] / scale, decimal)
    nearly(found.u @ found.vt, u[:, :k] @ vt[:k], decimal)


@by_method
@pytest.mark.parametrize("dtype", ["int32", "float64"])
def test_zeros(method: str, dtype: str) -> None:
    """test_randomized_svd_low_rank_all_dtypes, the whole numbers as the original has them: all zeros."""
    sub = engine_svd(np.zeros((100, 500), dtype), 0, method=method)
    assert sub.s.size == 0
    with pytest.raises(EigenzooError, match="ask for at most 0"):
        engine_svd(np.zeros((100, 500), dtype), 10, method=method)


@by_method
def test_low_rank_with_noise(method: str) -> None:
    """test_randomized_svd_low_rank_with_noise, the iterated half."""
    x = low_rank(100, 500, effective_rank=5, tail=0.1, seed=0)
    s = np.linalg.svd(x, compute_uv=False)
    nearly(engine_svd(x, 10, method=method).s, s[:10], 12 if method in EXACT else 3)


@by_method
def test_infinite_rank(method: str) -> None:
    """test_randomized_svd_infinite_rank, the iterated half: a slow decay and no low-rank part."""
    x = low_rank(100, 500, effective_rank=5, tail=1.0, seed=0)
    s = np.linalg.svd(x, compute_uv=False)
    nearly(engine_svd(x, 10, method=method).s, s[:10], 12 if method in EXACT else 3)


@by_method
def test_transpose_consistency(method: str) -> None:
    """test_randomized_svd_transpose_consistency: rows and columns exchanged."""
    x, k = low_rank(100, 500, effective_rank=4, tail=0.5, seed=0), 10
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    for transpose in (False, True):
        found = engine_svd(x, k, method=method, transpose=transpose)
        nearly(found.s, s[:k], 12 if method in EXACT else 3)
        nearly(found.u @ found.vt, u[:, :k] @ vt[:k], 8 if method in EXACT else 2)


@by_method
def test_slow_decay_above_noise(method: str) -> None:
    """test_randomized_svd_power_iteration_normalizer. The engine has no setting for the number of iterations and none
    without normalisation, so what is left to hold is what many normalised iterations come to: the best product's error.
    """
    rng = np.random.RandomState(42)
    x = low_rank(100, 500, effective_rank=50, seed=42) + 3 * rng.randint(0, 2, size=(100, 500))
    best = np.sqrt((np.linalg.svd(x, compute_uv=False)[50:] ** 2).sum())
    error = np.linalg.norm(x - engine_svd(x, 50, method=method).product())
    assert abs(error - best) < 15


@pytest.mark.parametrize("form", ["dok", "lil"])
def test_sparse_matrices_are_refused(form: str) -> None:
    """test_randomized_svd_sparse_warnings: an error here, which says what is taken instead."""
    x = sparse.random_array((50, 20), density=0.2, rng=np.random.default_rng(0), format=form)
    with pytest.raises(EigenzooError, match="give a numpy, zarr or dask array"):
        engine.fit(x, 5)


@by_method
def test_signs_do_not_depend_on_the_draw(method: str) -> None:
    """test_randomized_svd_sign_flip."""
    a = np.array([[2.0, 0.0], [0.0, 1.0]])
    first = engine_svd(a, 2, method=method)
    for seed in range(10):
        found = engine_svd(a, 2, method=method, seed=seed)
        nearly(found.u, first.u, 7)
        nearly(found.vt, first.vt, 7)
        nearly(found.product(), a, 7)
        nearly(found.u.T @ found.u, np.eye(2), 7)
        nearly(found.vt @ found.vt.T, np.eye(2), 7)


@by_method
@pytest.mark.parametrize("transpose", [False, True])
def test_signs_are_decided_by_the_components(method: str, transpose: bool) -> None:
    """test_randomized_svd_sign_flip_with_transpose; the engine looks at the side it returns, not at U."""
    x = np.arange(80.0).reshape(10, 8)
    found = engine_svd(x, 2, method=method, transpose=transpose)
    components = found.u.T if transpose else found.vt
    assert (np.abs(components).max(axis=1) == components.max(axis=1)).all()


@by_exact_method
@pytest.mark.parametrize("n", [50, 100, 300])
@pytest.mark.parametrize("m", [50, 100, 300])
@pytest.mark.parametrize("k", [10, 20, 50])
def test_solvers_agree_entry_by_entry(method: str, n: int, m: int, k: int) -> None:
    """test_randomized_svd_lapack_driver: here the methods are the drivers."""
    for seed in range(5):
        x = np.random.RandomState(seed).rand(n, m)
        u, s, vt = np.linalg.svd(x, full_matrices=False)
        found = engine_svd(x, k, method=method)
        signs = np.sign((found.vt * vt[:k]).sum(axis=1))
        assert_allclose(found.u, u[:, :k] * signs, atol=0, rtol=1e-3)
        assert_allclose(found.s, s[:k], atol=0, rtol=1e-3)
        assert_allclose(found.vt, vt[:k] * signs[:, None], atol=0, rtol=1e-3)


@by_method
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_array_libraries(method: str, dtype: str) -> None:
    """test_randomized_svd_array_api_compliance: torch against numpy, the original's float64 tolerance for both."""
    torch = pytest.importorskip("torch")
    x = np.random.RandomState(0).normal(size=(30, 10)).astype(dtype)
    expected = engine_svd(x, 5, method=method)
    on_torch = engine_svd(x, 5, method=method, device="torch")
    from_torch = engine_svd(torch.from_numpy(x), 5, method=method)
    for found in (on_torch, from_torch):
        assert_allclose(found.u, expected.u, atol=0, rtol=1e-7)
        assert_allclose(found.s, expected.s, atol=0, rtol=1e-7)
        assert_allclose(found.vt, expected.vt, atol=0, rtol=1e-7)


@by_method
@pytest.mark.parametrize("dtype", ["float64", "float32", "int32"])
def test_range_finder_on_torch(method: str, dtype: str) -> None:
    """test_randomized_range_finder_array_api_compliance: the basis of the leading range, whole numbers included."""
    torch = pytest.importorskip("torch")
    x = (np.random.RandomState(0).normal(size=(30, 10)) * (10 if dtype == "int32" else 1)).astype(dtype)
    expected = engine_svd(x, 5, method=method).vt
    nearly(expected @ expected.T, np.eye(5), 12)
    for found in (
        engine_svd(x, 5, method=method, device="torch"),
        engine_svd(torch.from_numpy(x), 5, method=method),
    ):
        assert_allclose(found.vt, expected, atol=0, rtol=1e-7)


@by_stream
def test_variance_update(stream: str) -> None:
    """test_incremental_variance_update_formulas."""
    rows = np.array([[600.0, 470.0, 170.0, 430.0, 300.0]] * 4).T
    pca = EngineIncrementalPCA(1, stream=stream).partial_fit(rows[:2]).partial_fit(rows[2:])
    nearly(pca.mean_, rows.mean(axis=0), 6)
    nearly(pca.total_variance_ * 4 / 5, rows.var(axis=0).sum(), 6)
    assert pca.n_samples_ == 5


@by_stream
def test_variance_is_stable(stream: str) -> None:
    """test_incremental_variance_numerical_stability, row by row onto five thousand rows 1e8 away. The original allows
    each column's variance of 2.5e15 to differ by 200 from numpy's, and the mean by 1.5e-6. numpy's own are off by 430
    and 7e-6, so both are held against the exact ones, that is closer to the truth than the original asks."""
    high, low = 1e8, float(np.log(1e-5))
    rows = np.repeat([[high] * 2, [low] * 2], 5000, axis=0)
    pca = EngineIncrementalPCA(1, stream=stream).take(rows[:5000])
    for i in range(5000, 10000):
        pca.take(rows[i : i + 1])
    pca.solve()
    assert pca.n_samples_ == 10000
    nearly(pca.mean_, float((Fraction(high) + Fraction(low)) / 2), 6)
    # Both columns are alike, so that half of the total is each one's.
    variance = ((Fraction(high) - Fraction(low)) / 2) ** 2
    assert abs(Fraction(pca.total_variance_) / 2 * Fraction(9999, 10000) - variance) < 200


@by_stream
@pytest.mark.parametrize("size", [11, 20, 37])
def test_variance_ddof(stream: str, size: int) -> None:
    """test_incremental_variance_ddof."""
    x = np.random.RandomState(1999).randn(50, 10)
    pca = EngineIncrementalPCA(3, stream=stream)
    for start in range(0, 50, size):
        pca.partial_fit(x[start : start + size])
        so_far = x[: start + size]
        nearly(pca.mean_, so_far.mean(axis=0), 6)
        nearly(pca.total_variance_, so_far.var(axis=0, ddof=1).sum(), 6)
        assert pca.n_samples_ == len(so_far)

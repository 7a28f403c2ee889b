"""Laws on prescribed spectra for the methods that need no scatter; LAPACK's SVD is the reference."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import engine
from engine.fitting import fit_reduction
from engine.methods import METHODS
from engine.reductions.protocol import Again
from engine.rows import as_rows
from engine.runners import partition
from engine.subspace import Subspace
from ingest.errors import EigenzooError
from tests.engine.spectra import prescribed, reference

OURS = ["randomized", "incremental", "tsqr"]
methods = pytest.mark.parametrize("method", OURS)
SHAPES = [(600, 40), (60, 40), (41, 40), (40, 40), (40, 41), (40, 160), (5, 160), (3, 2), (2, 1)]


def check_basis(sub: Subspace, k: int) -> None:
    np.testing.assert_allclose(sub.components @ sub.components.T, np.eye(k), atol=1e-12)
    largest = np.argmax(np.abs(sub.components), axis=1)
    assert (sub.components[np.arange(k), largest] > 0).all()


@methods
@pytest.mark.parametrize("device", ["cpu", "torch"])
@pytest.mark.parametrize("shape", SHAPES)
def test_all_of_a_small_spectrum(shape: tuple[int, int], method: str, device: str) -> None:
    if device == "torch":
        pytest.importorskip("torch")
    n, width = shape
    rank = min(n - 1, width)
    sigma = np.logspace(1, -3, rank)
    mean = np.random.default_rng(9).standard_normal(width) * 3
    x, v = prescribed(n, width, sigma, mean)
    given = x.copy()
    sub = engine.fit(x, rank, method=method, device=device)

    np.testing.assert_array_equal(x, given)
    check_basis(sub, rank)
    np.testing.assert_allclose(sub.singular_values[:rank], reference(x)[:rank], atol=1e-10 * sigma[0], rtol=0)
    assert not sub.singular_values[rank:].any()
    wide = np.flatnonzero(-np.diff(sigma, append=0) > 1e-3 * sigma[0])
    assert (np.abs((sub.components[wide] * v[wide]).sum(axis=1)) >= 1 - 1e-8).all()
    np.testing.assert_allclose(sub.inverse_transform(sub.transform(x)), x, atol=1e-9)
    np.testing.assert_allclose(sub.mean, x.mean(axis=0), atol=1e-13)
    assert sub.total_variance == pytest.approx((sigma**2).sum() / (n - 1), rel=1e-12)
    assert sub.method == method and sub.n_rows == n and sub.width == width
    if sub.spectrum == "full":
        assert sub.exact and sub.sigma_error is None and len(sub.singular_values) == min(n, width)
    else:
        assert not sub.exact and len(sub.singular_values) == max(1, rank)
        assert sub.sigma_error is not None and sub.sigma_error < 1e-7 * sigma[0]
    assert METHODS[method].exact == (method == "tsqr") == (sub.exact and method != "incremental")


@methods
@pytest.mark.parametrize("shape", [(300, 40), (40, 300)])
def test_uncentred(shape: tuple[int, int], method: str) -> None:
    x, _ = prescribed(*shape, np.linspace(5, 1, 30), mean=2.0)
    sub = engine.fit(x, 10, center="none", method=method)
    s = np.linalg.svd(x, compute_uv=False)
    error = (sub.sigma_error or 0) + 1e-10 * s[0]
    assert np.abs(sub.singular_values[:10] - s[:10]).max() <= error
    assert sub.total_variance == pytest.approx((s**2).sum() / (shape[0] - 1), rel=1e-12)
    np.testing.assert_allclose(sub.mean, x.mean(axis=0), atol=1e-13)
    assert not sub.offset.any()
    check_basis(sub, 10)


@methods
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int16"])
def test_stored_dtypes_are_solved_in_float64(dtype: str, method: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x, _ = prescribed(300, 24, np.linspace(30, 3, 15) * 30, mean=100.0)
    stored = x.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    s = reference(stored)
    sub = engine.fit(stored, 15, method=method)
    np.testing.assert_allclose(sub.singular_values[:15], s[:15], atol=1e-10 * s[0], rtol=0)


@methods
@pytest.mark.parametrize(("ratio", "worst"), [(1e4, 1e-10), (1e6, 1e-8)])
@pytest.mark.parametrize("shape", [(3000, 30), (25, 30)])
def test_a_mean_far_above_the_spread(ratio: float, worst: float, shape: tuple[int, int], method: str) -> None:
    rank = min(shape[0] - 1, shape[1])
    x, _ = prescribed(*shape, np.linspace(2, 1, rank) * np.sqrt(shape[0]), mean=ratio)
    y = x.astype(np.longdouble)
    s = np.linalg.svd((y - y.mean(axis=0)).astype(np.float64), compute_uv=False)[:rank]
    found = engine.fit(x, rank, method=method).singular_values[:rank]
    assert np.max(np.abs(found - s) / s) < worst


@methods
def test_constant_columns_and_equal_rows(method: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 10))
    x[:, [3, 7]] = 0.1
    sub = engine.fit(x, 8, method=method)
    assert sub.n_zero_variance_columns == 2
    assert "2 of 10 columns" in engine.fit(x, method=method).k_choice.note
    assert np.count_nonzero(sub.singular_values) == 8
    assert not sub.components[:, [3, 7]].any() or np.abs(sub.components[:, [3, 7]]).max() < 1e-12
    for n in (1, 7, 40):
        same = engine.fit(np.tile(rng.standard_normal(10), (n, 1)) * 1e3, method=method)
        assert not same.singular_values.any() and same.total_variance == 0
        assert same.k_choice.k is None and same.n_components == 0
        assert not same.explained_variance_ratio.any()
        assert same.n_zero_variance_columns == 10


@methods
def test_nothing_wanted(method: str) -> None:
    x = np.random.default_rng(1).standard_normal((50, 8))
    sub = engine.fit(x, 0, method=method)
    assert sub.components.shape == (0, 8) and sub.k_choice.k == 0


@methods
def test_pure_noise_has_no_components_and_planted_signal_has_its_own(method: str) -> None:
    rng = np.random.default_rng(2)
    noise = rng.standard_normal((3000, 300))
    assert engine.fit(noise, method=method).k_choice.k == 0
    planted, _ = prescribed(3000, 300, np.full(4, 400.0))
    sub = engine.fit(noise + planted, method=method)
    assert sub.k_choice.k == sub.n_components == 4
    if method != "tsqr":
        assert sub.noise == pytest.approx(1.0, rel=5e-3)
        assert sub.k_choice.note.startswith("noise by")


@methods
def test_many_tasks_and_odd_blocks(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = prescribed(1000, 30, np.r_[np.linspace(9, 3, 10), np.full(20, 1e-3)], mean=5.0)[0]
    whole = engine.fit(x, 10, method=method)
    monkeypatch.setattr(partition, "TASK_WORK", 1)
    monkeypatch.setattr(partition, "READ_BYTES", 8 * 70 * 30)
    da = pytest.importorskip("dask.array")
    cut = engine.fit(da.from_array(x, chunks=(7, 30)), 10, method=method)
    np.testing.assert_allclose(cut.singular_values[:10], whole.singular_values[:10], rtol=1e-6)
    assert np.linalg.svd(cut.components @ whole.components.T, compute_uv=False).min() > 1 - 1e-7


@methods
def test_refusals(method: str) -> None:
    x = np.random.default_rng(4).standard_normal((9, 64))
    with pytest.raises(EigenzooError, match="rank 8; ask for at most 8"):
        engine.fit(x, 9, method=method)
    for bad in (np.nan, np.inf, 1e200):
        y = x.copy()
        y[3, 3] = bad
        for rows in (y, np.tile(y, (10, 1))):
            with pytest.raises(EigenzooError, match="NaN, Inf") as caught, np.errstate(all="ignore"):
                engine.fit(rows, 2, method=method)
            assert "\n" not in str(caught.value)


@methods
def test_everything_that_travels_can_be_pickled(method: str) -> None:
    x, _ = prescribed(80, 20, np.r_[5, 4, 3, np.full(17, 1e-4)], mean=1.0)
    rows = as_rows(x)
    reduction: Any = fit_reduction(rows, 3, method=method, device="cpu")
    expected = engine.fit(x, 3, method=method, device="cpu")
    while isinstance(reduction, Again) or not isinstance(reduction, Subspace):
        reduction = pickle.loads(pickle.dumps(reduction))
        left, right = (reduction.step(reduction.start(), part) for part in (x[:30], x[30:]))
        state = reduction.combine(reduction.combine(reduction.start(), left), pickle.loads(pickle.dumps(right)))
        outcome = reduction.finish(state)
        reduction = outcome.reduction if isinstance(outcome, Again) else outcome
    np.testing.assert_allclose(reduction.singular_values, expected.singular_values, rtol=1e-7)


@methods
def test_a_result_is_saved_and_read_back(method: str, tmp_path: Any) -> None:
    x: NDArray[np.float64] = np.random.default_rng(6).standard_normal((500, 200))
    sub = engine.fit(x, 3, method=method)
    sub.save(tmp_path / "sub.safetensors")
    back = engine.Subspace.load(tmp_path / "sub.safetensors")
    assert back.sigma_error == sub.sigma_error and back.note == sub.note and back.passes == sub.passes
    assert (back.noise, back.spectrum, back.exact) == (sub.noise, sub.spectrum, sub.exact)

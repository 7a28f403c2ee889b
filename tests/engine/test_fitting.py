"""Laws on prescribed spectra, for every shape, dtype and backend; LAPACK's SVD is the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine.fitting import plan_fit
from engine.rows import as_rows
from ingest.errors import EigenzooError
from tests.engine.spectra import prescribed, reference

SHAPES = [(600, 40), (60, 40), (41, 40), (40, 40), (40, 41), (40, 160), (5, 160)]


@pytest.mark.parametrize("device", ["cpu", "torch"])
@pytest.mark.parametrize("shape", SHAPES)
def test_laws(shape: tuple[int, int], device: str) -> None:
    if device == "torch":
        pytest.importorskip("torch")
    n, width = shape
    rank = min(n - 1, width)
    sigma = np.logspace(1, -3, rank)
    mean = np.random.default_rng(9).standard_normal(width) * 3
    x, v = prescribed(n, width, sigma, mean)
    given = x.copy()
    sub = engine.fit(x, rank, device=device)

    np.testing.assert_array_equal(x, given)
    np.testing.assert_allclose(sub.components @ sub.components.T, np.eye(rank), atol=1e-12)
    assert sub.singular_values.shape == (min(n, width),)
    np.testing.assert_allclose(sub.singular_values[:rank], reference(x)[:rank], atol=1e-10 * sigma[0], rtol=0)
    assert not sub.singular_values[rank:].any()
    # gaps here are all above 1e-3 σ₁ for the first components only
    wide = np.flatnonzero(-np.diff(sigma) > 1e-3 * sigma[0])
    cosines = np.abs((sub.components[wide] * v[wide]).sum(axis=1))
    assert (cosines >= 1 - 1e-8).all() and len(wide) >= 1
    np.testing.assert_allclose(sub.inverse_transform(sub.transform(x)), x, atol=1e-10)
    np.testing.assert_allclose(sub.mean, x.mean(axis=0), atol=1e-13)
    assert sub.total_variance == pytest.approx((sigma**2).sum() / (n - 1), rel=1e-12)
    np.testing.assert_allclose(sub.explained_variance[:rank], sigma**2 / (n - 1), atol=1e-12)
    assert sub.explained_variance_ratio.sum() == pytest.approx(1.0, rel=1e-12)
    largest = np.argmax(np.abs(sub.components), axis=1)
    assert (sub.components[np.arange(rank), largest] > 0).all()
    assert sub.method == ("dual" if n < width else "moments") and sub.exact and sub.n_rows == n


@pytest.mark.parametrize("shape", SHAPES)
def test_uncentred(shape: tuple[int, int]) -> None:
    x, _ = prescribed(*shape, np.linspace(5, 1, min(shape) - 1), mean=2.0)
    sub = engine.fit(x, "ev:1", center="none")
    s = np.linalg.svd(x, compute_uv=False)
    np.testing.assert_allclose(sub.singular_values, s, atol=1e-10 * s[0], rtol=0)
    np.testing.assert_allclose(sub.explained_variance, s**2 / (shape[0] - 1), atol=1e-10 * s[0] ** 2)
    np.testing.assert_allclose(sub.mean, x.mean(axis=0), atol=1e-13)
    assert not sub.offset.any()
    np.testing.assert_allclose(sub.transform(x), x @ sub.components.T, atol=1e-12)
    np.testing.assert_allclose(sub.inverse_transform(sub.transform(x)), x, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "int16"])
@pytest.mark.parametrize("shape", [(300, 24), (20, 48)])
def test_stored_dtypes_are_solved_in_float64(dtype: str, shape: tuple[int, int]) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x, _ = prescribed(*shape, np.linspace(30, 3, 15) * 30, mean=100.0)
    stored = x.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    s = reference(stored)
    sub = engine.fit(stored, 15)
    np.testing.assert_allclose(sub.singular_values[:15], s[:15], atol=1e-12 * s[0], rtol=0)


@pytest.mark.parametrize(("ratio", "worst"), [(1e4, 1e-10), (1e6, 1e-8)])
@pytest.mark.parametrize("shape", [(3000, 30), (25, 30)])
def test_a_mean_far_above_the_spread(ratio: float, worst: float, shape: tuple[int, int]) -> None:
    rank = min(shape[0] - 1, shape[1])
    sigma = np.linspace(2, 1, rank) * np.sqrt(shape[0])
    x, _ = prescribed(*shape, sigma, mean=ratio)
    # Against LAPACK on the same rows, centred in extended precision: only the method's own error counts.
    y = x.astype(np.longdouble)
    s = np.linalg.svd((y - y.mean(axis=0)).astype(np.float64), compute_uv=False)[:rank]
    found = engine.fit(x, 1).singular_values[:rank]
    assert np.max(np.abs(found - s) / s) < worst


def test_constant_columns_and_equal_rows() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 10))
    x[:, [3, 7]] = 0.1
    sub = engine.fit(x)
    assert sub.n_zero_variance_columns == 2
    assert not sub.singular_values[8:].any() and sub.singular_values[7] > 0
    assert "2 of 10 columns" in sub.k_choice.note
    for n in (1, 7, 40):
        same = engine.fit(np.tile(rng.standard_normal(10), (n, 1)) * 1e3)
        assert not same.singular_values.any() and same.total_variance == 0
        assert same.k_choice.k is None and same.n_components == 0
        assert not same.explained_variance_ratio.any()


@pytest.mark.parametrize("shape", [(400, 50), (40, 60)])
def test_duplicated_rows_leave_exact_zeros_and_small_values_stay(shape: tuple[int, int]) -> None:
    base, _ = prescribed(10, shape[1], np.r_[1.0, np.logspace(-1, np.log10(2e-7), 8)])
    x = np.tile(base, (shape[0] // 10, 1))
    s = engine.fit(x, 1).singular_values
    assert np.count_nonzero(s) == 9
    assert s[8] / s[0] == pytest.approx(2e-7, rel=0.1)


def test_zero_components() -> None:
    x = np.random.default_rng(1).standard_normal((50, 8))
    sub = engine.fit(x, 0)
    assert sub.components.shape == (0, 8) and sub.k_choice.k == 0
    assert sub.transform(x).shape == (50, 0)
    np.testing.assert_allclose(sub.inverse_transform(sub.transform(x)), np.tile(sub.mean, (50, 1)))


def test_pure_noise_has_no_components_and_planted_signal_has_its_own() -> None:
    rng = np.random.default_rng(2)
    noise = rng.standard_normal((800, 100))
    assert engine.fit(noise).k_choice.k == 0
    planted, _ = prescribed(800, 100, np.full(4, 200.0))
    sub = engine.fit(noise + planted)
    assert sub.k_choice.k == sub.n_components == 4
    assert set(sub.choices) == {"gavish-donoho", "ev:0.8"}
    assert set(engine.fit(noise, 3).choices) == {"gavish-donoho", "ev:0.8", "3"}


def test_every_kind_of_array_gives_the_same(tmp_path: Path) -> None:
    x = np.random.default_rng(3).standard_normal((90, 12)).astype(np.float32)
    expected = engine.fit(x, 5)
    given: list[Any] = [as_rows(x), np.asfortranarray(x), x[::-1][::-1]]
    zarr = pytest.importorskip("zarr")
    stored = zarr.create_array(tmp_path / "x.zarr", shape=x.shape, chunks=(32, 12), dtype=x.dtype)
    stored[:] = x
    given.append(stored)
    given.append(pytest.importorskip("dask.array").from_array(x, chunks=(17, 5)))
    for array in given:
        found = engine.fit(array, 5)
        np.testing.assert_allclose(found.singular_values, expected.singular_values, rtol=1e-13)
        np.testing.assert_allclose(found.components, expected.components, atol=1e-12)


def test_refusals() -> None:
    x = np.random.default_rng(4).standard_normal((9, 64))
    with pytest.raises(EigenzooError, match="rank 8; ask for at most 8"):
        engine.fit(x, 9)
    with pytest.raises(EigenzooError, match="center: got 'rows'"):
        engine.fit(x, center="rows")
    with pytest.raises(EigenzooError, match=r"needs \d+ MiB per task, allowed 1 MiB; raise --memory"):
        engine.fit(x, memory=2**20)
    bad = x.copy()
    bad[3, 3] = np.nan
    for rows in (bad, np.tile(bad, (10, 1))):
        with pytest.raises(EigenzooError, match="NaN"), np.errstate(all="ignore"):
            engine.fit(rows)


def test_plan_chooses_by_shape() -> None:
    assert plan_fit(as_rows(np.zeros((9, 10))), device="cpu").method == "dual"
    assert plan_fit(as_rows(np.zeros((10, 10))), device="cpu").method == "moments"

from __future__ import annotations

import numpy as np
import pytest

import engine
from bench.planted import planted
from engine.rank.quadrature import lanczos_median, lanczos_quantile
from ingest.errors import EigenzooError


def gram(kind: str, n: int, d: int, k: int = 0) -> np.ndarray:
    x = planted(kind, n, d, k)
    return x.T @ x


@pytest.mark.parametrize("kind", ["white", "columns", "ar1"])
@pytest.mark.parametrize("k", [0, 10])
def test_the_median_lies_within_its_error(kind: str, k: int) -> None:
    g = gram(kind, 900, 200, k)
    truth = float(np.median(np.linalg.eigvalsh(g)))
    found = [lanczos_median(lambda x: g @ x, 200, n_steps=50, seed=seed) for seed in range(8)]
    assert sum(abs(f.value - truth) <= f.error for f in found) >= 7
    for f in found:
        assert abs(f.value - truth) < 0.1 * truth and f.error < 0.15 * truth


def test_more_probes_and_steps_are_nearer() -> None:
    g = gram("white", 3000, 400)
    truth = float(np.median(np.linalg.eigvalsh(g)))
    coarse = [lanczos_median(lambda x: g @ x, 400, n_probes=2, n_steps=10, seed=s) for s in range(8)]
    fine = [lanczos_median(lambda x: g @ x, 400, n_probes=32, n_steps=40, seed=s) for s in range(3)]
    assert np.mean([abs(f.value - truth) for f in fine]) < np.mean([abs(f.value - truth) for f in coarse])
    assert np.mean([f.error for f in fine]) < np.mean([f.error for f in coarse]) / 2
    assert max(f.error for f in fine) < 0.05 * truth


def test_quantiles_shifts_and_scales() -> None:
    g = gram("columns", 900, 200)
    values = np.linalg.eigvalsh(g)
    low, high = (lanczos_quantile(lambda x: g @ x, 200, share) for share in (0.2, 0.8))
    for found, share in ((low, 0.2), (high, 0.8)):
        assert found.value == pytest.approx(float(np.quantile(values, share)), rel=0.1)
    one = lanczos_median(lambda x: g @ x, 200)
    again = lanczos_median(lambda x: 4.0 * (g @ x), 200)
    assert again.value == pytest.approx(4 * one.value, rel=1e-9)
    assert again.error == pytest.approx(4 * one.error, rel=1e-6)


@pytest.mark.parametrize("dim", [1, 2, 7])
def test_a_space_that_is_soon_exhausted(dim: int) -> None:
    g = np.diag(np.full(dim, 3.0))
    found = lanczos_median(lambda x: g @ x, dim)
    assert found.value == pytest.approx(3.0) and found.error < 1e-9


def test_of_moments() -> None:
    x = planted("white", 1200, 250, 5, seed=2) + 3.0
    x[:, 200:] = 1.5
    moments = engine.Moments().update(x)
    s = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)[:200]
    found = moments.median_singular_value()
    assert abs(found.value - np.median(s)) <= 2 * found.error and found.error < 0.02 * found.value
    about_zero = np.linalg.svd(x, compute_uv=False)[:250]
    uncentred = moments.median_singular_value(center="none")
    assert uncentred.value == pytest.approx(float(np.median(about_zero)), rel=0.03)
    assert moments.n_rows == 1200 and moments.subspace("ev:0.5").width == 250  # the moments are as they were
    wide = engine.Moments().update(x[:60])
    assert wide.median_singular_value().value == pytest.approx(
        float(np.median(np.linalg.svd(x[:60] - x[:60].mean(axis=0), compute_uv=False)[:59])), rel=0.05
    )


def test_constant_columns_of_coarse_moments_are_none_of_the_noise() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = np.random.default_rng(0).standard_normal((900, 520)) + 3.0
    x[:, 260:] = 1.5703125
    x = x.astype(ml_dtypes.bfloat16)
    moments = engine.Moments(device="cpu").update(x)
    assert moments.subspace(0).products != "float64" and moments.subspace(0).n_zero_variance_columns == 260
    y = x[:, :260].astype(np.float64)
    median = float(np.median(np.linalg.svd(y - y.mean(axis=0), compute_uv=False)))
    found = moments.median_singular_value()
    assert abs(found.value - median) <= 2 * found.error and found.error < 0.02 * found.value


def test_refusals() -> None:
    for wrong in ({"n_probes": 1}, {"n_steps": 0}):
        with pytest.raises(EigenzooError, match="give at least 1, 2 and 1"):
            lanczos_median(lambda x: x, 5, **wrong)
    with pytest.raises(EigenzooError, match="between 0 and 1"):
        lanczos_quantile(lambda x: x, 5, 1.0)
    with pytest.raises(EigenzooError, match="no noise to measure"):
        engine.Moments().update(np.ones((3, 4))).median_singular_value()
    with pytest.raises(EigenzooError, match="choose feature or none"):
        engine.Moments().update(np.eye(3)).median_singular_value(center="row")

from __future__ import annotations

import pickle

import numpy as np
import pytest

import engine
from engine.rows import as_rows
from ingest.errors import EigenzooError
from tests.engine.spectra import prescribed

SIGMA = np.r_[np.linspace(10, 5, 6), np.full(50, 1e-3)]
X, V = prescribed(900, 80, SIGMA, mean=2.0)


def check(found: engine.Subspace) -> None:
    np.testing.assert_allclose(found.singular_values[:6], SIGMA[:6], rtol=1e-5)
    assert np.abs((found.components[:6] * V[:6]).sum(axis=1)).min() > 1 - 1e-6
    np.testing.assert_allclose(found.mean, X.mean(axis=0), atol=1e-13)
    assert found.total_variance == pytest.approx((SIGMA**2).sum() / 899, rel=1e-12)
    assert found.n_rows == 900 and not found.exact and found.method == "incremental"
    assert found.sigma_error is not None and np.abs(found.singular_values[:6] - SIGMA[:6]).max() <= found.sigma_error


def test_rows_come_in_parts_of_any_size() -> None:
    model = engine.Incremental(24)
    for part in np.array_split(X, [1, 3, 200, 201, 640]):
        assert model.partial_fit(part) is model
    assert (model.n_rows, model.n_adapters) == (900, 6)
    check(model.subspace(6))
    check(model.subspace(6))  # asking changes nothing
    assert model.subspace().k_choice.k == 6


def test_merging_leaves_the_other_alone() -> None:
    left, right = engine.Incremental(24).partial_fit(X[:500]), engine.Incremental(30).partial_fit(X[500:])
    before = pickle.dumps(right)
    left.merge(right).merge(engine.Incremental(5))
    assert pickle.dumps(right) == before and right.n_rows == 400 and left.n_adapters == 2
    check(left.subspace(6))
    check(engine.Incremental(24).merge(left).subspace(6))


def test_devices_meet() -> None:
    pytest.importorskip("torch")
    left = engine.Incremental(24, device="cpu").partial_fit(X[:500])
    right = engine.Incremental(24, device="torch").partial_fit(X[500:])
    check(left.merge(right).subspace(6))
    check(engine.Incremental(24, device="torch").merge(left).subspace(6))


def test_it_travels() -> None:
    model = pickle.loads(pickle.dumps(engine.Incremental(24).partial_fit(X[:100])))
    check(pickle.loads(pickle.dumps(model.partial_fit(X[100:]))).subspace(6))


def test_a_row_source_counts_its_adapters() -> None:
    rows = as_rows(X)
    rows.offsets = np.arange(0, 901, 9)  # type: ignore[misc]
    assert engine.Incremental().partial_fit(rows).n_adapters == 100


def test_exact_while_rows_are_few() -> None:
    model = engine.Incremental(100).partial_fit(X[:30]).partial_fit(X[30:50])
    found, expected = model.subspace(5), engine.fit(X[:50], 5)
    assert found.exact and found.sigma_error is None
    np.testing.assert_allclose(found.singular_values, expected.singular_values, atol=1e-6)
    uncentred, s = model.subspace(5, center="none"), np.linalg.svd(X[:50], compute_uv=False)
    np.testing.assert_allclose(uncentred.singular_values, s, atol=1e-7 * s[0])


def test_a_failure_puts_nothing_in() -> None:
    model = engine.Incremental(24).partial_fit(X[:500])
    bad = X[500:].copy()
    bad[-1, 3] = np.nan
    with pytest.raises(EigenzooError, match="NaN"), np.errstate(all="ignore"):
        model.partial_fit(bad)
    check(model.partial_fit(X[500:]).subspace(6))


def test_refusals() -> None:
    model = engine.Incremental(8)
    with pytest.raises(EigenzooError, match="no rows"):
        model.subspace(1)
    model.partial_fit(X[:100])
    with pytest.raises(EigenzooError, match="width 79, those seen have 80 columns"):
        model.partial_fit(X[:, :79])
    with pytest.raises(EigenzooError, match="width 79"):
        model.merge(engine.Incremental(8).partial_fit(X[:, :79]))
    with pytest.raises(EigenzooError, match="9 components asked of 8 rows kept; raise max_rank"):
        model.subspace(9)
    with pytest.raises(EigenzooError, match="center: got 'rows'"):
        model.subspace(1, center="rows")
    with pytest.raises(EigenzooError, match="max_rank: got 0"):
        engine.Incremental(0)
    assert "100 × 80" in repr(model)

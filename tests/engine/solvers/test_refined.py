"""Singular values down to 1e-11 of the largest, by one more pass; and coarse products made again in float64."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import engine
from engine.fitting import fit_reduction
from engine.rows import as_rows
from engine.runners.serial import SerialRunner
from ingest.errors import EigenzooError
from tests.engine.spectra import orthonormal, prescribed

SIGMA = np.logspace(0, -11, 12)


@pytest.mark.parametrize("device", ["cpu", "torch"])
@pytest.mark.parametrize("center", ["feature", "none"])
def test_no_floor_down_to_1e_11(center: str, device: str) -> None:
    if device == "torch":
        pytest.importorskip("torch")
    # Rows whose spread has lost nothing by being stored about a mean: the mean is tiny.
    x, v = prescribed(3000, 40, SIGMA, 0.0)
    sub = engine.fit(x, 12, center=center, device=device)
    assert sub.passes == 2 and "refined" in sub.note
    np.testing.assert_allclose(sub.singular_values[:12], SIGMA, rtol=1e-4)
    assert not sub.singular_values[12:].any() and sub.floor < 1e-13
    assert np.abs((sub.components * v).sum(axis=1)).min() > 1 - 1e-8
    np.testing.assert_allclose(sub.components @ sub.components.T, np.eye(12), atol=1e-12)


def test_only_where_it_is_wanted() -> None:
    x, _ = prescribed(600, 40, SIGMA, 1.0)
    assert engine.fit(x, 5).passes == 1
    assert engine.fit(x, 5, refine=True).passes == 2
    plain = engine.fit(x, 8, refine=False)
    assert plain.passes == 1 and plain.singular_values[7] / SIGMA[7] == pytest.approx(1, abs=0.5)
    assert engine.fit(x, 8).singular_values[7] / SIGMA[7] == pytest.approx(1, abs=1e-6)
    with pytest.raises(EigenzooError, match="of rank 8"):
        engine.fit(x, 9, refine=False)


def test_what_is_null_stays_null() -> None:
    x = orthonormal(500, 6, 0) @ orthonormal(30, 6, 1).T
    with pytest.raises(EigenzooError, match="of rank 6; ask for at most 6"):
        engine.fit(x, 7, center="none")


def test_coarse_products_are_made_again_in_float64() -> None:
    rng = np.random.default_rng(2)
    strong = 3000 * orthonormal(3000, 2, 3) @ orthonormal(600, 2, 4).T
    x = (strong + 0.1 * rng.standard_normal((3000, 600))).astype(np.float16)
    coarse = engine.fit(x, 3, device="cpu", refine=False)
    fine = engine.fit(x, 3, device="cpu")
    assert (coarse.products, coarse.passes) == ("float32", 1)
    assert fine.products == "float64" and fine.passes == 2
    y = x.astype(np.float64)
    s = np.linalg.svd(y - y.mean(axis=0), compute_uv=False)
    np.testing.assert_allclose(fine.singular_values, s, atol=1e-10 * s[0])
    assert np.abs(coarse.singular_values - s).max() < 1e-3 * s[0]


def test_passes_travel_as_pickles() -> None:
    x, _ = prescribed(400, 20, SIGMA, 0.0)
    rows = as_rows(x)
    reduction: Any = fit_reduction(rows, 12, device="cpu")
    again = reduction.finish(reduction.step(reduction.start(), x))
    copy = pickle.loads(pickle.dumps(again.reduction))
    found = SerialRunner().run(copy, rows)
    np.testing.assert_allclose(found.singular_values[:12], SIGMA, rtol=1e-3)

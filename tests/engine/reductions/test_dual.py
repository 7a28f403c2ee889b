from __future__ import annotations

import numpy as np
import pytest

from engine.backends import get_backend
from engine.reductions import dual as dual_module
from engine.reductions.dual import Dual, tile_columns
from engine.reductions.moments import Moments
from engine.spectrum import solve_dual, solve_moments
from ingest.errors import EigenzooError

CPU = get_backend("cpu")


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_dual_is_primal(centred: bool, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    monkeypatch.setattr(dual_module, "TILE_BYTES", 30 * 8 * 7)  # 7 columns a tile, 50 is no multiple
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((30, 50)) * np.logspace(0, -2, 50) + rng.standard_normal(50)).astype(
        ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    )
    x[:, 11] = x[0, 11]
    gather, moments = Dual(50, CPU), Moments(50, CPU)
    rows = gather.combine(gather.step(gather.start(), x[:4]), gather.step(gather.start(), x[4:]))
    d = solve_dual(gather, gather.finish(rows), centred=centred)
    p = solve_moments(moments, moments.step(moments.start(), x), centred=centred)
    s = d.spectrum.singular_values
    np.testing.assert_allclose(s, p.spectrum.singular_values, atol=1e-12 * s[0], rtol=0)
    np.testing.assert_allclose(d.mean, p.mean, atol=1e-15)
    assert d.spectrum.total_variance == pytest.approx(p.spectrum.total_variance, rel=1e-13)
    assert d.spectrum.n_zero_variance_columns == p.spectrum.n_zero_variance_columns == (1 if centred else 0)
    np.testing.assert_allclose(d.components(20), p.components(20), atol=1e-9)


def test_combine_leaves_the_right_state_alone() -> None:
    gather = Dual(2, CPU)
    left, right = gather.step(gather.start(), np.ones((1, 2))), gather.step(gather.start(), np.zeros((2, 2)))
    both = gather.combine(left, right)
    gather.combine(both, left)
    assert right.n == 2


def test_components_of_small_values_stay_orthonormal() -> None:
    rng = np.random.default_rng(4)
    x = np.linalg.qr(rng.standard_normal((400, 40)))[0].T * np.logspace(0, -6, 40)[:, None]
    gather = Dual(400, CPU)
    solution = solve_dual(gather, gather.step(gather.start(), x), centred=False)
    v = solution.components(solution.spectrum.rank)
    assert len(v) == 40
    np.testing.assert_allclose(v @ v.T, np.eye(40), atol=1e-13)


def test_not_finite() -> None:
    gather = Dual(4, CPU)
    with pytest.raises(EigenzooError, match="NaN, Inf"), np.errstate(all="ignore"):
        gather.gram(gather.step(gather.start(), np.array([[1.0, np.nan, 0, 0]])), centred=True)


def test_tiles_are_never_empty() -> None:
    assert tile_columns(10**9, 5) == 1
    assert tile_columns(2, 5) == 5

"""Block Lanczos on rows in memory: the top to float32's digits, with an error that holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import engine
from engine.fitting import plan_fit
from engine.methods import Wanted
from engine.plan.choice import choose_method
from engine.plan.matrix import Matrix
from engine.rows import as_rows
from ingest.errors import EigenzooError
from tests.engine.spectra import prescribed
from tests.engine.test_eigen import WIDTH, N, spiked

ml_dtypes = pytest.importorskip("ml_dtypes")


@pytest.mark.parametrize("device", ["cpu", "torch"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("center", ["feature", "none"])
def test_top(device: str, dtype: str, center: str) -> None:
    if device == "torch":
        pytest.importorskip("torch")
    x = spiked().astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    y = x.astype(np.float64)
    y = y - y.mean(axis=0) if center == "feature" else y
    _, s, vt = np.linalg.svd(y, full_matrices=False)
    sub = engine.fit(x, 12, method="krylov", device=device, center=center)
    assert (sub.method, sub.exact, sub.spectrum, sub.passes) == ("krylov", False, "top", 1)
    assert sub.sigma_error is not None
    error = np.abs(sub.singular_values - s[:12])
    assert error.max() <= min(sub.sigma_error, 1e-6 * s[0])
    assert np.abs((sub.components * vt[:12]).sum(axis=1)).min() > 1 - 1e-6
    np.testing.assert_allclose(sub.components @ sub.components.T, np.eye(12), atol=1e-12)
    np.testing.assert_allclose(sub.mean, x.astype(np.float64).mean(axis=0), atol=1e-7)
    assert sub.total_variance == pytest.approx((s**2).sum() / (N - 1), rel=1e-6)
    if center == "feature":
        assert sub.choices["gavish-donoho"].k == 12 and sub.noise == pytest.approx(1.0, rel=0.02)


def test_a_rule_decides() -> None:
    assert engine.fit(spiked(), method="krylov", device="cpu").n_components == 12


@pytest.mark.parametrize("shape", [(1, 5), (3, 40), (40, 3), (41, 40)])
def test_small_shapes(shape: tuple[int, int]) -> None:
    rank = min(shape[0] - 1, shape[1])
    x = prescribed(*shape, np.linspace(3, 2, rank), 1.0)[0] if rank else np.ones(shape)
    sub = engine.fit(x, rank, method="krylov", device="cpu")
    np.testing.assert_allclose(sub.singular_values[:rank], np.linspace(3, 2, rank), rtol=1e-4)


def test_not_finite_and_the_rows_are_left_alone() -> None:
    x = np.random.default_rng(0).standard_normal((60, 20)).astype(np.float32)
    before = x.copy()
    engine.fit(x, 3, method="krylov")
    np.testing.assert_array_equal(x, before)
    x[5, 5] = np.nan
    with pytest.raises(EigenzooError, match="NaN"), np.errstate(all="ignore"):
        engine.fit(x, 3, method="krylov")


def test_auto_takes_it_where_it_pays() -> None:
    top = Wanted(components=24, spectrum="top")

    def chosen(n: int, width: int, dtype: str = "float16", wanted: Wanted = top, memory: int | None = None) -> Any:
        matrix = Matrix(n, width, 512, dtype, 4 if dtype == "float32" else 2)
        return choose_method(matrix, wanted, device="cpu", memory=memory).must("x").method

    assert chosen(16000, 4096) == "krylov"
    assert chosen(16000, 4096, memory=2**28) == "randomized"
    assert chosen(100_000, 4096) == "moments"
    assert chosen(16000, 1024) == "moments" and chosen(16000, 4096, "float32") == "moments"
    assert chosen(16000, 4096, wanted=Wanted(components=24)) == "moments"
    assert plan_fit(as_rows(np.zeros((WIDTH, WIDTH))), device="cpu").method == "moments"


@pytest.mark.parametrize("scale", [1e-24, 1e19])
def test_any_scale(scale: float) -> None:
    x = (spiked(400, 100, 4) * scale).astype(ml_dtypes.bfloat16)
    y = x.astype(np.float64)
    s = np.linalg.svd(y - y.mean(axis=0), compute_uv=False)
    sub = engine.fit(x, 4, method="krylov", device="cpu")
    np.testing.assert_allclose(sub.singular_values, s[:4], rtol=1e-5)


def test_other_threads_bfloat16_products_do_not_reach_these() -> None:
    torch = pytest.importorskip("torch")
    import threading

    from engine.backends import get_backend
    from engine.backends.matrix_units import bfloat16_products

    b, inside, leave = get_backend("torch"), threading.Event(), threading.Event()

    def hold() -> None:
        with bfloat16_products():
            inside.set()
            leave.wait(0.3)

    a = torch.randn(300, 300)
    expected = (a.double() @ a.double()).float()
    other = threading.Thread(target=hold)
    other.start()
    inside.wait()
    found = b.matmul(a, a)
    other.join()
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()

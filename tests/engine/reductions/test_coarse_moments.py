"""16-bit rows multiplied with float32 results: within the floor that is stated, whatever the blocks and the mean."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.backends import get_backend
from engine.backends.protocol import Backend
from engine.reductions import moments
from engine.reductions.moments import Moments, MomentsState
from engine.spectrum import rounding

ml_dtypes = pytest.importorskip("ml_dtypes")
DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def backend(name: str) -> Backend:
    if name == "torch":
        pytest.importorskip("torch")
    return get_backend(name)


def kinds() -> list[Any]:
    cases = [(device, dtype, "float32") for device in ("cpu", "torch") for dtype in DTYPES]
    return [pytest.param(*case, id="-".join(case)) for case in (*cases, ("torch", "bfloat16", "bfloat16"))]


def rows_of(n: int, width: int, ratio: float, dtype: str, seed: int) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    scale = np.logspace(0, -1, width)
    x = rng.standard_normal((n, width)) * scale + ratio * rng.standard_normal(width)
    return np.asarray(x.astype(DTYPES[dtype]))


def exact(x: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y = x.astype(np.float64)
    mean = y.mean(axis=0)
    return mean, (y - mean).T @ (y - mean)


def lower(state: MomentsState) -> NDArray[np.float64]:
    c = np.tril(np.asarray(state.scatter))
    return np.asarray(c + np.tril(c, -1).T)


@pytest.mark.parametrize(("device", "dtype", "products"), kinds())
@settings(max_examples=25, deadline=None)
@given(
    counts=st.lists(st.integers(1, 300), min_size=1, max_size=6),
    ratio=st.sampled_from([0.0, 1.0, 30.0, 200.0]),
    flush=st.sampled_from([64, 200, 16384]),
    merges=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_within_the_stated_floor(
    device: str, dtype: str, products: str, counts: list[int], ratio: float, flush: int, merges: bool, seed: int
) -> None:
    reduction = Moments(24, backend(device), products)
    x = rows_of(sum(counts), 24, ratio, dtype, seed)
    blocks = np.split(x, np.cumsum(counts)[:-1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "FLUSH_ROWS", flush)
        state = reduction.start()
        for block in blocks:
            if merges:
                state = reduction.combine(state, reduction.step(reduction.start(), block))
            else:
                state = reduction.step(state, block)
        state = reduction.finish(state)
    mean, scatter = exact(x)
    assert state.n == len(x) and state.coarse == len(x)
    np.testing.assert_allclose(np.asarray(state.mean), mean, atol=1e-9 * np.abs(x.astype(float)).max(), rtol=0)
    values = np.linalg.eigvalsh(scatter)
    stated = rounding(state, np.diagonal(scatter), mean, values[::-1])
    assert np.abs(np.linalg.eigvalsh(lower(state)) - values).max() <= stated
    assert state.sumsq == pytest.approx((x.astype(np.float64) ** 2).sum(), rel=3e-6)


@pytest.mark.parametrize(("device", "dtype", "products"), kinds())
def test_a_mean_that_dwarfs_the_spread_is_shifted_away(device: str, dtype: str, products: str) -> None:
    x = rows_of(2000, 24, 100.0, dtype, 0)
    reduction = Moments(24, backend(device), products)
    state = reduction.step(reduction.start(), x)
    assert state.partial is not None and state.partial.products == "float32"
    state = reduction.finish(state)
    values = np.linalg.eigvalsh(exact(x)[1])
    assert state.offset.sum() < values[-1]
    np.testing.assert_allclose(np.linalg.eigvalsh(lower(state)), values, atol=1e-7 * values[-1])


def test_the_right_state_is_left_alone_and_states_travel() -> None:
    reduction = Moments(8, backend("cpu"), "float32")
    left = reduction.step(reduction.start(), rows_of(50, 8, 1.0, "float16", 1))
    right = reduction.step(reduction.start(), rows_of(70, 8, 1.0, "float16", 2))
    before = pickle.dumps(right)
    reduction.combine(left, pickle.loads(before))
    reduction.combine(left, right)
    assert pickle.dumps(right) == before
    twice = reduction.finish(left)
    assert twice.n == 190 and twice.coarse == 190


def test_values_too_small_or_large_for_float32_squares_are_multiplied_in_float64() -> None:
    for scale in (1e-20, 1e20):
        x = (np.random.default_rng(0).standard_normal((60, 6)) * scale).astype(ml_dtypes.bfloat16)
        reduction = Moments(6, backend("cpu"), "float32")
        state = reduction.finish(reduction.step(reduction.start(), x))
        assert state.coarse == 0
        np.testing.assert_allclose(lower(state), exact(x)[1], rtol=1e-12, atol=1e-12 * scale**2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite(bad: float) -> None:
    from ingest.errors import EigenzooError

    x = np.ones((400, 3), np.float16)
    x[123, 1] = bad
    reduction = Moments(3, backend("cpu"), "float32")
    with pytest.raises(EigenzooError, match="NaN, Inf"), np.errstate(all="ignore"):
        reduction.finish(reduction.step(reduction.start(), x))


def test_constant_columns_are_counted() -> None:
    import engine

    x = np.random.default_rng(3).standard_normal((3000, 600)).astype(np.float16)
    x[:, 7], x[:, 9] = 0.1, 0
    for device in ("cpu", "torch"):
        for values in (x, x.astype(ml_dtypes.bfloat16)):
            sub = engine.fit(values, 1, device=device)
            assert sub.n_zero_variance_columns == 2 and sub.products != "float64"


@pytest.mark.parametrize("device", ["cpu", "torch"])
@pytest.mark.parametrize("dtype", list(DTYPES))
def test_columns_of_little_spread_about_a_large_mean_are_columns(device: str, dtype: str) -> None:
    import engine

    backend(device)
    x = 0.01 * np.random.default_rng(4).standard_normal((3000, 600))
    x[:, :5] += 4
    stored = x.astype(DTYPES[dtype])
    sub = engine.fit(stored, 1, device=device)
    varying = int(np.count_nonzero(stored.astype(np.float64).std(axis=0)))
    assert sub.products != "float64" and sub.n_zero_variance_columns == 600 - varying
    assert sub.choices["gavish-donoho"].k is not None

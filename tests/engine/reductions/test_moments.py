from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.backends import get_backend
from engine.reductions.moments import Moments, MomentsState
from ingest.errors import EigenzooError

CPU = get_backend("cpu")


def state_of(x: NDArray[np.float64]) -> MomentsState:
    reduction = Moments(x.shape[1], CPU)
    return reduction.finish(reduction.step(reduction.start(), x))


def batch(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y = x.astype(np.longdouble)
    mean = y.mean(axis=0)
    return mean.astype(np.float64), ((y - mean).T @ (y - mean)).astype(np.float64)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(lambda counts: sum(counts) > 0),
    width=st.integers(1, 12),
    offset=st.sampled_from([0.0, 1.0, 1e4]),
    seed=st.integers(0, 2**32 - 1),
    pairwise=st.booleans(),
)
def test_merge_is_batch(counts: list[int], width: int, offset: float, seed: int, pairwise: bool) -> None:
    rng = np.random.default_rng(seed)
    blocks = [rng.standard_normal((n, width)) + offset * rng.standard_normal(width) for n in counts]
    rng.shuffle(blocks)  # type: ignore[arg-type]
    reduction = Moments(width, CPU)
    if pairwise:
        states = [reduction.step(reduction.start(), block) for block in blocks]
        while len(states) > 1:
            i = int(rng.integers(len(states) - 1))
            states[i : i + 2] = [reduction.combine(states[i], states[i + 1])]
        state = states[0]
    else:
        state = reduction.start()
        for block in blocks:
            state = reduction.step(state, block)
    state = reduction.finish(state)
    x = np.concatenate(blocks)
    mean, scatter = batch(x)
    assert state.n == len(x)
    size = np.abs(x).max()
    np.testing.assert_allclose(state.mean, mean, atol=1e-14 * size, rtol=0)
    # What the rounding of the means costs: ulp(mean) against the spread between and within blocks.
    slack = 1e-13 * max(np.abs(scatter).max(), size * np.sqrt(np.abs(scatter).max() * len(x)), 1e-300)
    np.testing.assert_allclose(np.tril(state.scatter), np.tril(scatter), atol=slack, rtol=0)
    assert state.sumsq == pytest.approx((x**2).sum(), rel=1e-13)
    gram = np.tril(reduction.gram(state))
    np.testing.assert_allclose(gram, np.tril(x.T @ x), atol=1e-12 * (x**2).sum(), rtol=0)


def test_combine_leaves_the_right_state_alone() -> None:
    rng = np.random.default_rng(0)
    reduction = Moments(4, CPU)
    left, right = state_of(rng.standard_normal((5, 4))), state_of(rng.standard_normal((6, 4)))
    mean, scatter, n, sumsq = right.mean.copy(), right.scatter.copy(), right.n, right.sumsq
    copy = reduction.combine(reduction.start(), right)
    np.testing.assert_array_equal(copy.scatter, scatter)  # bit for bit: the empty state is neutral
    np.testing.assert_array_equal(copy.mean, mean)
    reduction.combine(copy, left)
    reduction.combine(left, right)
    np.testing.assert_array_equal(right.scatter, scatter)
    np.testing.assert_array_equal(right.mean, mean)
    assert (right.n, right.sumsq) == (n, sumsq)


def test_the_scatter_is_updated_where_it_lies() -> None:
    rng = np.random.default_rng(1)
    reduction = Moments(9, CPU)
    state, other = reduction.start(), state_of(rng.standard_normal((5, 9)))
    where = state.scatter.ctypes.data
    for _ in range(3):
        state = reduction.step(state, rng.standard_normal((4, 9)).astype(np.float32))
    state = reduction.combine(state, other)
    assert state.scatter.ctypes.data == where


def test_constant_columns_are_exactly_zero() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((1000, 6))
    x[:, 2], x[:, 5] = 0.1, -1e9 / 3
    reduction = Moments(6, CPU)
    state = reduction.start()
    for block in np.array_split(x, [1, 2, 40, 333, 900]):
        state = reduction.combine(state, reduction.step(reduction.start(), block))
    assert state.mean[2] == 0.1 and state.mean[5] == -1e9 / 3
    assert not np.tril(state.scatter)[[2, 5]].any()
    assert np.diagonal(state.scatter)[[0, 1, 3, 4]].min() > 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_not_finite(bad: float) -> None:
    x = np.ones((10, 3))
    x[4, 1] = bad
    with pytest.raises(EigenzooError, match="NaN, Inf"), np.errstate(all="ignore"):
        state_of(x)

"""The reductions that keep centred rows: whatever the blocks, the order and the tree, the state is that of all rows."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.backends import get_backend
from engine.reductions import centring, incremental
from engine.reductions.incremental import MergeTruncate, stacked_rows
from engine.reductions.range_sketch import RangeSketch
from engine.reductions.tsqr import Tsqr
from ingest.errors import EigenzooError

CPU = get_backend("cpu")
Rows = NDArray[np.float64]


def sketch(width: int) -> RangeSketch:
    block = np.linalg.qr(np.random.default_rng(5).standard_normal((width, min(width, 3))))[0]
    return RangeSketch(width, CPU, block, True)


def tsqr(width: int) -> Tsqr:
    return Tsqr(width, CPU)


def merge(width: int) -> MergeTruncate:
    return MergeTruncate(width, CPU, 4)


KINDS: dict[str, Callable[[int], Any]] = {"sketch": sketch, "tsqr": tsqr, "merge": merge}
kinds = pytest.mark.parametrize("kind", KINDS)


def batch(x: Rows) -> tuple[Rows, Rows]:
    y = x.astype(np.longdouble)
    mean = y.mean(axis=0)
    return mean.astype(np.float64), ((y - mean).T @ (y - mean)).astype(np.float64)


def tree_of(reduction: Any, blocks: list[Rows], rng: np.random.Generator, *, pairwise: bool) -> Any:
    if not pairwise:
        state = reduction.start()
        for block in blocks:
            state = reduction.step(state, block)
        return state
    states = [reduction.step(reduction.start(), block) for block in blocks]
    while len(states) > 1:
        i = int(rng.integers(len(states) - 1))
        states[i : i + 2] = [reduction.combine(states[i], pickle.loads(pickle.dumps(states[i + 1])))]
    return states[0]


@kinds
@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(lambda counts: sum(counts) > 0),
    width=st.integers(1, 12),
    offset=st.sampled_from([0.0, 1.0, 1e4]),
    seed=st.integers(0, 2**32 - 1),
    pairwise=st.booleans(),
)
def test_merge_is_batch(kind: str, counts: list[int], width: int, offset: float, seed: int, pairwise: bool) -> None:
    rng = np.random.default_rng(seed)
    blocks = [rng.standard_normal((n, width)) + offset * rng.standard_normal(width) for n in counts]
    reduction = KINDS[kind](width)
    state = tree_of(reduction, blocks, rng, pairwise=pairwise)
    x = np.concatenate(blocks)
    mean, scatter = batch(x)
    assert state.centre.n == len(x)
    size = np.abs(x).max()
    np.testing.assert_allclose(state.centre.mean, mean, atol=1e-14 * size, rtol=0)
    slack = 1e-13 * max(np.abs(scatter).max(), size * np.sqrt(np.abs(scatter).max() * len(x)), 1e-300)
    if kind == "sketch":
        np.testing.assert_allclose(state.product, scatter @ reduction.block, atol=4 * slack, rtol=0)
        gram = x.T @ (x @ reduction.block)
        np.testing.assert_allclose(reduction.gram_product(state), gram, atol=1e-12 * (x**2).sum(), rtol=0)
    elif kind == "tsqr":
        assert not np.tril(state.r, -1).any()
        np.testing.assert_allclose(state.r.T @ state.r, scatter, atol=4 * slack, rtol=0)
    else:
        assert len(state.rows) <= 4
        gone = np.linalg.eigvalsh(scatter - state.rows.T @ state.rows)  # the bound, and that nothing was added
        assert gone[0] >= -20 * slack and gone[-1] <= state.dropped + 20 * slack
        assert state.truncations if state.dropped else len(x) <= 5 or width <= 4
    if kind != "tsqr":
        np.testing.assert_allclose(state.squares, np.diagonal(scatter), atol=4 * slack, rtol=0)


@kinds
def test_an_empty_state_is_neutral_bit_for_bit_and_right_stays(kind: str) -> None:
    rng = np.random.default_rng(0)
    reduction = KINDS[kind](6)
    right = reduction.step(reduction.start(), rng.standard_normal((9, 6)))
    before = pickle.dumps(right)
    copy = reduction.combine(reduction.start(), right)
    assert pickle.dumps(copy.centre) == pickle.dumps(right.centre)
    for name in {"sketch": ["product", "squares"], "tsqr": ["r"], "merge": ["rows", "squares"]}[kind]:
        np.testing.assert_array_equal(getattr(copy, name), getattr(right, name))
    reduction.combine(reduction.step(copy, rng.standard_normal((5, 6))), right)
    reduction.combine(reduction.combine(reduction.start(), right), reduction.start())
    assert pickle.dumps(right) == before


@kinds
def test_constant_columns_are_exactly_zero(kind: str) -> None:
    x = np.random.default_rng(2).standard_normal((1000, 6))
    x[:, 2], x[:, 5] = 0.1, -1e9 / 3
    reduction = KINDS[kind](6)
    state = reduction.start()
    for block in np.array_split(x, [1, 2, 40, 333, 900]):
        state = reduction.combine(state, reduction.step(reduction.start(), block))
    assert state.centre.mean[2] == 0.1 and state.centre.mean[5] == -1e9 / 3
    squares = (state.r**2).sum(axis=0) if kind == "tsqr" else state.squares
    assert not squares[[2, 5]].any() and squares[[0, 1, 3, 4]].min() > 0


@kinds
def test_blocks_are_not_changed(kind: str) -> None:
    x = np.random.default_rng(3).standard_normal((50, 5))
    before = x.copy()
    reduction = KINDS[kind](5)
    reduction.step(reduction.step(reduction.start(), x), x)
    np.testing.assert_array_equal(x, before)


@kinds
def test_pieces_make_no_difference(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(4).standard_normal((101, 4)) + 7
    reduction = KINDS[kind](4)
    whole = reduction.step(reduction.start(), x)
    monkeypatch.setattr(centring, "PIECE_BYTES", 8 * 4 * 10)
    monkeypatch.setattr(incremental, "PIECE_RANKS", 2)
    parts = reduction.step(reduction.start(), x)
    assert parts.centre.n == 101
    for name in {"sketch": ["product"], "tsqr": [], "merge": []}[kind]:
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), atol=1e-12)


@pytest.mark.parametrize("kind", ["tsqr", "merge"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_not_finite(kind: str, bad: float) -> None:
    x = np.ones((10, 3))
    x[4, 1] = bad
    reduction = KINDS[kind](3)
    with pytest.raises(EigenzooError, match="NaN, Inf"), np.errstate(all="ignore"):
        reduction.step(reduction.start(), x)


def test_rows_stacked_at_once_stay_within_a_piece() -> None:
    assert stacked_rows(100, 8) == 32
    assert stacked_rows(10**6, 256) == 256
    assert stacked_rows(32768, 100) == 128

"""Held-out errors against fitting the others anew; controls against what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import engine
from engine.analysis.folds import UpTo, deal
from engine.analysis.heldout import HeldOut, held_out_error, representatives
from engine.analysis.null_rows import NullRows
from engine.analysis.whole_adapters import ChosenRows, WholeAdapters
from engine.runners.threads import ThreadsRunner
from ingest.errors import EigenzooError
from tests.engine.analysis.zoo_rows import AdapterArray, shared

MIXED = [3, 1, 2, 4] * 8
SPIKES = (30.0, 20.0, 12.0, 8.0)


Errors = tuple[NDArray[np.float64], NDArray[np.float64]]


def refitted(rows: AdapterArray, folds: Sequence[Sequence[int]], ks: Sequence[int], center: str) -> Errors:
    """Each adapter's error (n_adapters, len(ks)), and all of theirs (len(ks),), by fitting what is not in its fold."""
    errors, totals = np.zeros((len(rows.offsets) - 1, len(ks))), np.zeros(len(rows.offsets) - 1)
    for fold in folds:
        sub = engine.fit(rows.without(fold), UpTo(max(ks)), center=center, device="cpu", products="float64")
        for i in fold:
            x = rows.x[rows.of(i)].astype(np.float64)
            for j, k in enumerate(ks):
                v = sub.components[:k]
                y = x - sub.offset
                errors[i, j] = np.square(y - (y @ v.T) @ v).sum()
            totals[i] = np.square(x).sum()
    return errors / np.where(totals > 0, totals, np.nan)[:, None], errors.sum(axis=0) / totals.sum()


def check(rows: AdapterArray, k: int, center: str = "feature", **settings: Any) -> HeldOut:
    """Leave-one-out errors equal those of refitting, at K and along the curve."""
    found = held_out_error(rows, k, center=center, null=False, **settings)
    ks = [each for each, _ in found.curve]
    errors, totals = refitted(rows, [[i] for i in range(len(rows.offsets) - 1)], ks, center)
    np.testing.assert_allclose([total for _, total in found.curve], totals, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.errors, errors[:, ks.index(k)], rtol=1e-9, atol=1e-12)
    assert found.method == "leave-one-out" and found.total == dict(found.curve)[k]
    assert found.controls.mean_only == found.curve[0][1]
    return found


@pytest.mark.parametrize("center", ["feature", "none"])
def test_leave_one_out_equals_refitting(center: str) -> None:
    rows = shared(MIXED, 60, SPIKES, mean=0.5)
    found = check(rows, 4, center, ks=(1, 3))
    assert found.n_whole == found.n_refits == 0 and [k for k, _ in found.curve] == [0, 1, 3, 4]
    assert found.in_sample < found.total
    assert found.explained == pytest.approx(1 - found.total / found.controls.mean_only, rel=1e-9)


def test_beyond_the_planted_directions() -> None:
    assert check(shared(MIXED, 72, SPIKES, seed=1), 16, ks=()).n_whole < len(MIXED) // 4


@pytest.mark.parametrize("center", ["feature", "none"])
def test_narrow_matrices(center: str) -> None:
    found = check(shared([2, 1, 3] * 7, 12, (5.0, 3.0), mean=1.0), 3, center)
    assert found.n_whole == 21


@pytest.mark.parametrize("center", ["feature", "none"])
@pytest.mark.parametrize("width", [160, 81])
def test_fewer_rows_than_columns(center: str, width: int) -> None:
    rows = shared(MIXED, width, (60.0, 40.0, 30.0), mean=0.5, seed=2)
    found = check(rows, 3, center)
    assert found.n_whole == 0


def test_adapters_that_are_there_twice() -> None:
    rows = shared(MIXED, 60, SPIKES, seed=3)
    twice = AdapterArray(np.vstack([rows.x, rows.x]), [*MIXED, *MIXED])
    found = check(twice, 4, ks=(2,))
    np.testing.assert_allclose(found.errors[: len(MIXED)], found.errors[len(MIXED) :], rtol=1e-9)
    assert found.n_whole == 0


@pytest.mark.parametrize("center", ["feature", "none"])
@pytest.mark.parametrize("width", [50, 100])
def test_zoos_of_few_directions(center: str, width: int) -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((sum(MIXED), 6)) @ rng.standard_normal((6, width))
    rows = AdapterArray(x, MIXED)
    found = check(rows, 9, center, ks=(2, 6))  # more than there are
    assert found.total < 1e-12


def test_values_in_a_cluster() -> None:
    """Four directions of exactly equal strength: K in their midst has no answer, K behind them has."""
    rng = np.random.default_rng(5)
    x = np.linalg.qr(rng.standard_normal((90, 60)))[0]
    basis = np.linalg.qr(rng.standard_normal((60, 60)))[0]
    sigma = np.concatenate([[20.0], [10.0] * 4, np.linspace(1.0, 0.2, 55)])
    check(AdapterArray((x * sigma) @ basis.T, [3] * 30), 5, "none", ks=(1,))


def test_an_adapter_that_outweighs_the_others_is_refitted() -> None:
    rows = shared(MIXED, 60, SPIKES, seed=6)
    rows.x[rows.of(7)] *= 1e4
    found = check(rows, 4)
    assert found.n_refits == 1
    wide = shared(MIXED, 100, SPIKES, seed=6)
    wide.x[wide.of(7)] *= 1e4
    assert check(wide, 4).n_refits == len(MIXED), "beside it, all others are lost in the rounding of the Gram"


@pytest.mark.parametrize("center", ["feature", "none"])
@pytest.mark.parametrize("width", [60, 100])
def test_an_adapter_of_zeros(center: str, width: int) -> None:
    rows = shared(MIXED, width, SPIKES, mean=0.5, seed=7)
    rows.x[rows.of(5)] = 0.0
    with np.errstate(divide="raise", invalid="raise"):
        found = check(rows, 4, center)
    assert np.flatnonzero(np.isnan(found.errors)).tolist() == [5] and found.worst != 5
    assert np.isfinite(found.mean) and np.isfinite(found.median)


def test_stored_in_sixteen_bits() -> None:
    rows = shared(MIXED, 60, SPIKES, seed=8)
    check(AdapterArray(rows.x.astype(ml_dtypes.bfloat16), MIXED), 4)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 6), min_size=2, max_size=9), st.integers(1, 40), st.integers(2, 20), st.booleans())
def test_odd_splits(sizes: list[int], block_rows: int, width: int, centred: bool) -> None:
    rows = shared(sizes, width, (6.0,), mean=1.0, seed=sum(sizes))
    rows.block_rows = block_rows
    check(rows, 1, "feature" if centred else "none")


@pytest.mark.parametrize("center", ["feature", "none"])
@pytest.mark.parametrize("width", [40, 100])
def test_folds_equal_refitting(center: str, width: int) -> None:
    rows = shared(MIXED, width, (30.0, 20.0, 12.0), mean=0.5, seed=9)
    groups = [(0, 1, 2), (5, 20)]
    found = held_out_error(rows, 3, center=center, folds=4, groups=groups, seed=3, null=False)
    dealt = deal(len(MIXED), 4, groups, seed=3)
    errors, totals = refitted(rows, dealt, [k for k, _ in found.curve], center)
    np.testing.assert_allclose([total for _, total in found.curve], totals, rtol=1e-9)
    np.testing.assert_allclose(found.errors, errors[:, -1], rtol=1e-9)
    assert found.method == "4-fold" and found.n_refits == 0
    everything = engine.fit(rows.x, 3, center=center)
    x = rows.x - everything.inverse_transform(everything.transform(rows.x))
    assert found.in_sample == pytest.approx(np.square(x).sum() / np.square(rows.x).sum(), rel=1e-9)


def test_a_fold_that_outweighs_the_others_is_refitted() -> None:
    rows = shared(MIXED, 40, SPIKES, seed=10)
    rows.x[rows.of(7)] *= 1e4
    found = held_out_error(rows, 3, folds=5, null=False)
    errors, _ = refitted(rows, deal(len(MIXED), 5), [3], "feature")
    np.testing.assert_allclose(found.errors, errors[:, 0], rtol=1e-9)
    assert found.n_refits == 1


def test_folds_are_dealt_evenly_and_groups_stay_together() -> None:
    folds = deal(23, 5, [(0, 9), (3, 4, 5)], seed=1)
    assert sorted(i for fold in folds for i in fold) == list(range(23))
    assert {len(fold) for fold in folds} <= {4, 5}
    for group in ((0, 9), (3, 4, 5)):
        assert sum(set(group) <= set(fold) for fold in folds) == 1
    assert deal(23, 5, seed=1) == deal(23, 5, seed=1) != deal(23, 5, seed=2)
    for wrong in (1, 22):
        with pytest.raises(EigenzooError, match="folds"):
            deal(23, wrong, [(0, 1, 2)])
    with pytest.raises(EigenzooError, match="groups"):
        deal(5, 2, [(0, 1), (1, 2)])


def test_the_runner_and_the_reads_do_not_matter() -> None:
    rows = shared(MIXED, 60, SPIKES, mean=0.5, seed=11)
    here = held_out_error(rows, 4)
    rows.block_rows = 64
    with ThreadsRunner(2) as runner:
        there = held_out_error(rows, 4, runner=runner)
    np.testing.assert_allclose(there.errors, here.errors, rtol=1e-10)
    assert there.controls.null == pytest.approx(here.controls.null, rel=1e-10)


def test_rows_are_read_twice() -> None:
    rows = shared(MIXED, 60, SPIKES, seed=12)
    held_out_error(rows, 4, null=False)
    assert rows.reads == 2 * len(rows.x)
    wide = shared(MIXED, 100, SPIKES, seed=12)
    held_out_error(wide, 4, null=False)
    assert wide.reads == len(wide.x)


def test_a_random_basis_keeps_its_share() -> None:
    rows = shared(MIXED, 60, SPIKES, mean=0.5, seed=13)
    found = held_out_error(rows, 6, null=False)
    rng = np.random.default_rng(0)
    means = [rows.without([i]).mean(axis=0) for i in range(len(MIXED))]
    y = np.vstack([rows.x[rows.of(i)] - mean for i, mean in enumerate(means)])
    drawn = []
    for _ in range(300):
        q = np.linalg.qr(rng.standard_normal((60, 6)))[0]
        drawn.append(np.square(y - (y @ q) @ q.T).sum() / np.square(rows.x).sum())
    spread = np.std(drawn) / np.sqrt(len(drawn))
    assert abs(found.controls.random_basis - np.mean(drawn)) < 4 * spread
    assert spread < 0.01 * found.controls.random_basis


def test_the_null_keeps_each_adapter_and_nothing_shared() -> None:
    rows = shared(MIXED, 60, SPIKES, mean=0.5, seed=14)
    about = rows.x.mean(axis=0)
    null = NullRows(rows, about, seed=2)
    whole = null.read(0, len(rows.x))
    for i in range(len(MIXED)):
        ours, theirs = rows.x[rows.of(i)] - about, whole[rows.of(i)] - about
        np.testing.assert_allclose(theirs @ theirs.T, ours @ ours.T, rtol=1e-9, atol=1e-9)
    pieces = [null.read(start, min(start + 13, len(whole))) for start in range(0, len(whole), 13)]
    np.testing.assert_array_equal(np.vstack(pieces), whole)
    assert not np.allclose(NullRows(rows, about, seed=3).read(0, 5), whole[:5])
    # More rows than columns: a rotation of the whole space.
    tall = shared([9, 1], 4, (), seed=14)
    turned = NullRows(tall, np.zeros(4)).read(0, 10)
    np.testing.assert_allclose(turned[:9] @ turned[:9].T, tall.x[:9] @ tall.x[:9].T, atol=1e-12)


def test_what_is_shared_tells_from_the_null() -> None:
    found = held_out_error(shared([4] * 60, 100, SPIKES, seed=15), 4)
    null = found.controls.null
    assert null is not None and found.total < 0.5 * null
    assert found.in_sample < found.total < null < found.controls.mean_only * 1.02
    # Independent adapters are their own null: held out they gain nothing, though in sample they seem to.
    rng = np.random.default_rng(16)
    own = 5 * rng.standard_normal((60, 4, 1)) * rng.standard_normal((60, 1, 100)) + rng.standard_normal((60, 4, 100))
    alone = held_out_error(AdapterArray(own.reshape(240, 100), [4] * 60), 4, center="none")
    assert alone.controls.null == pytest.approx(alone.total, rel=0.03)
    assert alone.total == pytest.approx(alone.controls.random_basis, rel=0.05)
    assert alone.in_sample < 0.92 * alone.total


def test_one_adapter_per_seed() -> None:
    """Half of the adapters are one adapter: left out one by one, they vouch for each other."""
    rng = np.random.default_rng(17)
    start = 3 * rng.standard_normal((4, 100))
    x = rng.standard_normal((60, 4, 100))
    x[:30] = start + 0.1 * x[:30]
    rows = AdapterArray(x.reshape(240, 100), [4] * 60)
    group = tuple(range(30))
    found = held_out_error(rows, 4, groups=[group], null=False)
    assert found.errors[:30].max() < 0.02
    controls = found.controls
    assert controls.n_per_seed == 31 and controls.one_per_seed is not None and controls.one_per_seed > 0.9
    alone = held_out_error(ChosenRows(rows, [0, *range(30, 60)]), 4, null=False)
    assert controls.one_per_seed == pytest.approx(alone.total, rel=1e-12)
    folds = held_out_error(rows, 4, groups=[group], folds=3, null=False)
    assert folds.errors[:30].min() > 0.8, "a seed group is held out as one"
    assert representatives(6, [(1, 4), (5, 2, 0)]) == [0, 1, 3]


def test_some_adapters_and_whole_adapters() -> None:
    rows = shared(MIXED, 12, (3.0,), seed=18)
    chosen = ChosenRows(rows, [4, 5, 6, 2, 30])
    expected = np.vstack([rows.x[rows.of(i)] for i in (4, 5, 6, 2, 30)])
    for start in range(len(expected) + 1):
        for stop in range(start, len(expected) + 1):
            np.testing.assert_array_equal(chosen.read(start, stop), expected[start:stop])
    by_chunks = AdapterArray(rows.x, MIXED, block_rows=20)
    assert np.array_equal(ChosenRows(by_chunks, [4, 5, 6, 2, 30]).read(0, len(expected)), expected)
    blocks = WholeAdapters(chosen).read(1, 4)
    assert [len(each) for each in blocks] == [MIXED[i] for i in (5, 6, 2)]
    np.testing.assert_array_equal(np.vstack(list(blocks)), np.vstack([rows.x[rows.of(i)] for i in (5, 6, 2)]))
    for wrong in ([], [1, 1], [60], [-1]):
        with pytest.raises(EigenzooError, match="adapters"):
            ChosenRows(rows, wrong)


def test_a_chunk_is_read_once_for_all_that_are_chosen_of_it() -> None:
    class Told(AdapterArray):
        ranges: list[tuple[int, int]]

        def read(self, start: int, stop: int) -> NDArray[Any]:
            self.ranges.append((start, stop))
            return super().read(start, stop)

    rows = Told(np.random.default_rng(20).standard_normal((80, 3)), [2] * 40, block_rows=16)
    for chosen, ranges in (
        (range(0, 40, 2), [(0, 14), (16, 30), (32, 46), (48, 62), (64, 78)]),  # every other one: chunk by chunk
        ([3, 11, 19], [(6, 8), (22, 24), (38, 40)]),  # one of a chunk: nothing in vain
        ([i for i in range(40) if i % 8 != 2], [(0, 80)]),  # less than a chunk is left out in all
        ([i for i in range(40) if i % 8 not in (2, 4)], [(0, 56), (58, 80)]),  # more is, so two reads
        ([5, 4, 9, 7], [(10, 12), (8, 10), (18, 20), (14, 16)]),  # in the order that was asked for
    ):
        rows.ranges = []
        found = ChosenRows(rows, list(chosen)).read(0, 2 * len(chosen))
        np.testing.assert_array_equal(found, np.vstack([rows.x[rows.of(i)] for i in chosen]))
        assert rows.ranges == ranges


def test_what_cannot_be_asked() -> None:
    rows = shared([2, 3], 6, (3.0,))
    for wrong in ({"k": -1}, {"k": 1, "center": "row"}, {"k": 1, "folds": 3}, {"k": 1, "folds": 1}):
        with pytest.raises(EigenzooError):
            held_out_error(rows, **wrong)  # type: ignore[arg-type]
    with pytest.raises(EigenzooError, match="others to fit"):
        held_out_error(rows.x, 1)


def test_on_workers(dask_runner: Any) -> None:
    rows = shared(MIXED, 60, SPIKES, mean=0.5, seed=19)
    here, there = held_out_error(rows, 4), held_out_error(rows, 4, runner=dask_runner)
    np.testing.assert_allclose(there.errors, here.errors, rtol=1e-10)
    assert there.controls.null == pytest.approx(here.controls.null, rel=1e-10)
    wide = shared(MIXED, 100, SPIKES, seed=19)
    folds = held_out_error(wide, 4, folds=3, runner=dask_runner)
    assert folds.total == pytest.approx(held_out_error(wide, 4, folds=3).total, rel=1e-10)

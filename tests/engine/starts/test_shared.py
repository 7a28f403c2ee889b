"""Groups of one start: planted ones and no others, whatever the ranks, the sketches and the blocks."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.by_adapter import ByAdapter, pieces
from engine.runners.threads import ThreadsRunner
from engine.starts import linkage, row_cosines, shared
from engine.starts.chance import exceeded, unmatched
from engine.starts.shared import shared_starts
from engine.starts.sketch import LeadingRows, Sketches
from ingest.errors import EigenzooError
from tests.engine.analysis.arrays import rows_of, started

WIDTH = 640


def planted(labels: list[int | None]) -> tuple[tuple[int, ...], ...]:
    found: dict[int, list[int]] = {}
    for place, label in enumerate(labels):
        if label is not None:
            found.setdefault(label, []).append(place)
    return tuple(sorted((tuple(g) for g in found.values() if len(g) > 1), key=lambda g: (-len(g), g)))


RANKS = [(8,), (4, 16, 8), (2, 3, 64), (1, 16)]
# Sketched, and as they are; 80 numbers are alike by chance too often to be told apart.
CASES = [(ranks, width) for ranks in RANKS for width in (WIDTH, 40) if min(ranks) * width > 100]


@pytest.mark.parametrize(("ranks", "width"), CASES)
@pytest.mark.parametrize("drift", [0.0, 0.3])
def test_planted_groups_are_found_whatever_the_ranks(ranks: tuple[int, ...], drift: float, width: int) -> None:
    rng = np.random.default_rng(1)
    labels: list[int | None] = [0] * 9 + [1] * 5 + [2, 2] + [None] * 14
    labels = [labels[i] for i in rng.permutation(len(labels))]
    made = started(rng, labels, [ranks[i % len(ranks)] for i in range(len(labels))], width, drift)
    found = shared_starts(rows_of(made))
    assert found.groups == planted(labels)
    assert found.weakest is not None and found.strongest is not None
    assert found.weakest > 0.8 and found.strongest < found.bar < found.weakest


def test_cosines_are_those_of_the_rows() -> None:
    rng = np.random.default_rng(2)
    made = started(rng, [0, 0, 0, None, None], [8] * 5, WIDTH, 0.5)
    found = shared_starts(rows_of(made))

    def cosine(i: int, j: int) -> float:
        return float(np.vdot(made[i], made[j]) / np.linalg.norm(made[i]) / np.linalg.norm(made[j]))

    assert found.groups == ((0, 1, 2),)
    assert found.weakest == pytest.approx(min(cosine(0, 1), cosine(0, 2)), abs=1e-12)
    apart = [cosine(i, j) for i in range(5) for j in (3, 4) if i < j]
    assert found.strongest == pytest.approx(max(apart), abs=1e-12)


def test_who_drifted_too_far_is_left_out() -> None:
    rng = np.random.default_rng(3)
    made = started(rng, [0] * 6, [8] * 6, WIDTH, 0.1)
    made[2] = made[2] + 3 * rng.standard_normal(made[2].shape)  # cosine about 0.3
    assert shared_starts(rows_of(made)).groups == ((0, 1, 3, 4, 5),)
    assert shared_starts(rows_of(made), min_cosine=0.2).groups == ((0, 1, 2, 3, 4, 5),)
    assert shared_starts(rows_of(made), min_cosine=0.995).groups == ()


def test_neither_blocks_nor_runner_nor_seed_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    labels: list[int | None] = [0, None, 1, 0, 1, None, 0, 2, 2, None]
    made = started(rng, labels, [4, 8, 8, 16, 4, 4, 8, 16, 8, 4], WIDTH)
    found = [shared_starts(rows_of(made, block), seed=seed) for block, seed in ((1, 0), (7, 1), (1000, 2))]
    with ThreadsRunner(2) as runner:
        found.append(shared_starts(rows_of(made), runner=runner))
    monkeypatch.setattr(linkage, "TILE", 3)
    monkeypatch.setattr(row_cosines, "HELD_BYTES", 1)
    monkeypatch.setattr("engine.by_adapter.PIECE_BYTES", 1)
    found.append(shared_starts(rows_of(made)))
    assert {each.groups for each in found} == {((0, 3, 6), (2, 4), (7, 8))}
    assert np.ptp([each.weakest for each in found]) < 1e-12


def test_sketches_that_collide_join_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were every sketch like every other, the rows would still tell."""
    rng = np.random.default_rng(5)
    labels: list[int | None] = [None, 0, 1, None, 0, 1, 1, None]
    made = started(rng, labels, [4] * 8, WIDTH)
    monkeypatch.setattr(LeadingRows, "__call__", _all_alike)
    found = shared_starts(rows_of(made))
    assert found.groups == ((2, 5, 6), (1, 4))


def _all_alike(self: LeadingRows, block: NDArray[Any], offsets: NDArray[np.int64]) -> NDArray[Any]:
    return np.ones((len(offsets) - 1, self.width), np.float32)


def test_a_common_mean_and_common_directions_are_no_start() -> None:
    rng = np.random.default_rng(6)
    directions = np.linalg.qr(rng.standard_normal((WIDTH, 6)))[0].T
    strength = np.linspace(3.0, 1.5, 6)[:, None] * np.sqrt(WIDTH)
    for shift in (0.0, 1.0, 5.0):
        mean = shift * rng.standard_normal(WIDTH)
        made = [
            mean + rng.standard_normal((r, 6)) @ (strength * directions) + rng.standard_normal((r, WIDTH))
            for r in [4, 8, 16] * 20
        ]
        found = shared_starts(rows_of(made))
        assert found.groups == () and found.bar > 0.5, shift
        alike = [x + 0.02 * rng.standard_normal(x.shape) for x in (made[2], made[2], made[5])]
        assert shared_starts(rows_of([*made, *alike])).groups == ((2, 60, 61), (5, 62)), shift


def test_where_nothing_tells_chance_more_is_asked() -> None:
    """Adapters of rank 1 have no unmatched rows: a large common mean would else pass for a start."""
    rng = np.random.default_rng(10)
    mean = 1.5 * rng.standard_normal(WIDTH)
    made = [mean + rng.standard_normal((1, WIDTH)) for _ in range(30)]
    found = shared_starts(rows_of(made))
    assert found.groups == () and found.bar == 0.95
    assert found.strongest is not None and found.strongest > 0.65
    alike = [made[4] + 0.1 * rng.standard_normal((1, WIDTH)) for _ in range(2)]
    assert shared_starts(rows_of([*made, *alike])).groups == ((4, 30, 31),)
    assert shared_starts(rows_of(made), min_cosine=0.97).bar == 0.97
    assert not unmatched(rows_of(made)).known and unmatched(rows_of([*made, np.ones((2, WIDTH))])).known


def test_nothing_is_like_zeros() -> None:
    rng = np.random.default_rng(7)
    made = started(rng, [0, 0, None], [4] * 3, WIDTH)
    zeros = [np.zeros((4, WIDTH))] * 3
    assert shared_starts(rows_of([*zeros, *made])).groups == ((3, 4),)
    assert shared_starts(rows_of(zeros)).groups == ()
    assert shared_starts(rows_of(made[:1])) == shared.Starts((), shared_starts(rows_of(made[:1])).bar, None, None)


@pytest.mark.parametrize("wrong", [0.0, 1.0, -0.5, float("nan")])
def test_a_threshold_that_is_none_is_refused(wrong: float) -> None:
    with pytest.raises(EigenzooError, match="from 0.2 to below 1"):
        shared_starts(rows_of([np.ones((2, 4))]), min_cosine=wrong)


def test_sketches_keep_cosines() -> None:
    rng = np.random.default_rng(8)
    ranks = [2, 4, 4, 8, 2]
    made = started(rng, [0, 0, 0, 0, None], ranks, 4096, 0.5)
    rows = rows_of(made)
    maker = LeadingRows(4096, (2, 4, 8))
    sketched = Sketches(maker, np.array(ranks), ByAdapter(rows, maker).read(0, 5).astype(np.float32))
    assert sketched.numbers.shape == (5, 2 * 512 + 2 * 256 + 4 * 128)
    for one, other in ((3, 0), (3, 1), (3, 2), (3, 4), (1, 0)):
        both = min(ranks[one], ranks[other])
        x, y = made[one][:both], made[other][:both]
        exact = np.vdot(x, y) / np.linalg.norm(x) / np.linalg.norm(y)
        assert abs(sketched.cosines(one, np.array([other]))[0] - exact) < maker.slack(both, exact)
    assert pickle.loads(pickle.dumps(ByAdapter(rows, maker))).shape == (5, maker.width)


def test_pieces_are_all_adapters_in_order() -> None:
    rows = rows_of([np.ones((r, 8)) for r in (1, 5, 2, 9, 1, 1)])
    for nbytes in (1, 64 * 6, 10**9):
        ranges = list(pieces(rows, 0, 6, nbytes))
        assert [i for first, last in ranges for i in range(first, last)] == list(range(6))
        assert all(
            last == first + 1 or rows.offsets[last] - rows.offsets[first] <= nbytes // 64 for first, last in ranges
        )


def test_chance_is_that_of_independent_vectors() -> None:
    rng = np.random.default_rng(9)
    x = rng.standard_normal((2, 200_000, 12))
    cosines = (x[0] * x[1]).sum(1) / np.linalg.norm(x[0], axis=1) / np.linalg.norm(x[1], axis=1)
    for probability in (0.1, 0.01, 0.001):
        assert (cosines > exceeded(12, probability)).mean() == pytest.approx(probability, rel=0.25)
    assert exceeded(1.0, 1e-6) == 1.0 and exceeded(1e6, 1e-6) < 0.005
    null = unmatched(rows_of(started(rng, [None] * 40, [8] * 40, WIDTH)))
    assert null.mean < 0.01 and null.variance == pytest.approx(1 / WIDTH, rel=0.1)

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

import engine
from bench.planted import planted
from engine.analysis.parallel import DrawnRows, FlippedRows, LargestValue, parallel_analysis
from engine.backends import get_backend
from engine.eigen import SMALLEST
from engine.rank.marchenko_pastur import edge
from engine.rank.needs_rows import Parallel
from engine.reductions.moments import Moments
from engine.rows import ArrayRows, RowSource
from engine.runners.serial import SerialRunner
from engine.runners.threads import ThreadsRunner
from ingest.errors import EigenzooError

SHAPE = (500, 60)


class Blocks(ArrayRows):
    """Rows in blocks of a given size."""

    def __init__(self, array: np.ndarray, block_rows: int) -> None:
        super().__init__(array)
        self.block_rows = block_rows


@pytest.mark.parametrize("kind", ["white", "adapters", "columns"])
@pytest.mark.parametrize("shape", [SHAPE, (60, 300)])
def test_planted_directions_are_found_in_noise_of_any_levels(kind: str, shape: tuple[int, int]) -> None:
    choice = parallel_analysis(planted(kind, *shape, 3, (6.0, 5.0), 1) + 0.5, n_draws=9)
    assert (choice.k, choice.rule, choice.note) == (3, "parallel:9", "")
    alone = [parallel_analysis(planted(kind, *shape, seed=seed), n_draws=9).k for seed in range(6)]
    assert sum(k != 0 for k in alone) <= 2 and max(k or 0 for k in alone) <= 1


def test_the_threshold_is_the_edge_of_the_noise_alone() -> None:
    x = planted("white", *SHAPE)
    assert parallel_analysis(x, n_draws=9).threshold == pytest.approx(edge(SHAPE), rel=0.1)
    lower = parallel_analysis(x, n_draws=9, quantile=0.0)
    assert lower.threshold < parallel_analysis(x, n_draws=9, quantile=0.5).threshold


@pytest.mark.parametrize("null", ["flip", "init"])
def test_blocks_and_runners_do_not_matter(null: str) -> None:
    x = planted("white", *SHAPE, 3, seed=2).astype(np.float32)
    levels = np.linspace(0.5, 1.5, SHAPE[0])
    options = {"n_draws": 3, "null": null, "levels": levels if null == "init" else None}
    one = parallel_analysis(x, **options)
    for block_rows in (1, 7, 64, 333):
        other = parallel_analysis(Blocks(x, block_rows), **options)
        assert other.k == one.k and other.threshold == pytest.approx(one.threshold, rel=1e-12)
    with ThreadsRunner(2) as runner:
        threaded = parallel_analysis(Blocks(x, 50), runner=runner, **options)
    assert threaded.threshold == pytest.approx(one.threshold, rel=1e-12)
    assert parallel_analysis(x, seed=1, **options).threshold != pytest.approx(one.threshold, rel=1e-6)


def test_reads_do_not_depend_on_where_they_begin() -> None:
    x = planted("columns", 200, 13)
    drawn: list[RowSource] = [
        FlippedRows(ArrayRows(x), np.full(13, 0.25), 5, 2),
        DrawnRows((200, 13), np.linspace(1, 2, 200), np.array([0, 200]), 64, 5, 2),
    ]
    for rows in drawn:
        whole = rows.read(0, 200)
        for start, stop in ((0, 1), (63, 65), (64, 128), (10, 190), (199, 200)):
            np.testing.assert_array_equal(rows.read(start, stop), whole[start:stop])
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(rows)).read(5, 150), whole[5:150])
    flipped = drawn[0].read(0, 200)
    np.testing.assert_allclose(np.abs(flipped), np.abs(x - 0.25))
    assert 0.45 < (flipped * (x - 0.25) > 0).mean() < 0.55
    again = replace(drawn[0], draw=3).read(0, 200)  # type: ignore[type-var]
    assert 0.4 < (again == flipped).mean() < 0.6


def test_flipped_rows_are_where_the_rows_are() -> None:
    rows = ArrayRows(np.ones((200, 13), np.float32))
    flipped = FlippedRows(rows, np.zeros(13), 0, 0)
    assert flipped.in_memory and flipped.location == rows.location
    assert flipped.read_bytes == rows.block_rows * 13 * 4
    assert FlippedRows(flipped, np.zeros(13), 0, 0).read_bytes == rows.block_rows * 13 * (4 + 8)


def test_the_largest_value_of_rows_whose_squares_float32_cannot_hold() -> None:
    x = np.random.default_rng(0).standard_normal((200, SMALLEST))
    largest = LargestValue(Moments(SMALLEST, get_backend("cpu")), centred=False)
    expected = np.linalg.svd(x, compute_uv=False)[0]
    for factor in (1e25, 1.0, 1e-30):
        assert SerialRunner().run(largest, ArrayRows(factor * x)) == pytest.approx(factor * expected, rel=5e-5)
    assert SerialRunner().run(largest, ArrayRows(np.zeros((3, SMALLEST)))) == 0.0


def test_draws_of_the_known_start_take_levels_by_row() -> None:
    levels = np.exp(0.6 * np.random.default_rng(3).standard_normal(50)).repeat(16)
    alone = planted("white", 800, 100, seed=3)
    x = alone * levels[:, None] + planted("white", 800, 100, 3, (4.0, 3.0), 3) - alone
    choice = parallel_analysis(x, null="init", levels=levels, n_draws=9)
    assert (choice.k, choice.rule) == (3, "parallel:init:9")
    assert (engine.gavish_donoho(np.linalg.svd(x, compute_uv=False), (800, 100)).k or 0) > 3
    flat = parallel_analysis(planted("white", 800, 100), null="init", levels=1.0, n_draws=9, center="none")
    assert flat.k == 0 and flat.threshold == pytest.approx(edge((800, 100)), rel=0.03)


def test_a_subspace_at_hand_is_not_sought_again() -> None:
    x = planted("white", *SHAPE, 3)
    subspace = engine.fit(x)
    assert parallel_analysis(x, subspace=subspace, n_draws=3) == parallel_analysis(x, n_draws=3)
    with pytest.raises(EigenzooError, match="leave it out"):
        parallel_analysis(x, subspace=subspace, center="none")


def test_refusals_and_declining() -> None:
    x = np.random.default_rng(0).standard_normal((20, 5))
    for wrong, match in (
        ({"n_draws": 0}, "at least 1"),
        ({"quantile": 1.5}, "between 0 and 1"),
        ({"null": "none"}, "flip or init"),
        ({"center": "row"}, "feature or none"),
        ({"null": "init"}, "needs the levels"),
        ({"null": "init", "levels": np.ones(3)}, "one for every row"),
        ({"null": "init", "levels": 0.0}, "above 0"),
    ):
        with pytest.raises(EigenzooError, match=match):
            parallel_analysis(x, **wrong)
    assert parallel_analysis(np.ones((9, 4))).k is None


@pytest.mark.parametrize(
    ("argument", "rule"),
    [("", Parallel()), ("9", Parallel("flip", 9)), ("init", Parallel("init")), ("init:5", Parallel("init", 5))],
)
def test_names_read_back(argument: str, rule: Parallel) -> None:
    assert Parallel.parse(argument) == rule
    assert Parallel.parse(rule.name.removeprefix("parallel").removeprefix(":")) == rule
    for bad in ("0", "x", "init:x", "-1"):
        with pytest.raises(EigenzooError, match="^k: 'parallel:"):
            Parallel.parse(bad)

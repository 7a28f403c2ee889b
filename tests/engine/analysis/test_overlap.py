"""Overlap against chance: its value from all pairs, 1 for independent adapters, and no trace of the gauge."""

from __future__ import annotations

import tracemalloc
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.analysis.overlap import Overlap, between, overlap, overlap_of
from engine.runners.dask_ import DaskRunner
from engine.runners.serial import SerialRunner
from engine.runners.threads import ThreadsRunner
from engine.starts.groups import seed_groups
from ingest import shared_starts
from ingest.errors import EigenzooError
from ingest.pipeline import ingest
from ingest.shared_starts import Groups, Module, Settings
from ingest.store.reader import Zoo, open_zoo
from tests.engine.analysis.arrays import rows_of

LAYER = "layers.0.q_proj"
Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Zoo, dict[str, Groups]]:
    path = tmp_path_factory.mktemp("overlap")
    settings = Settings((Module(LAYER, 96, 64, shared=True),), adapters=16, groups=(6,), ranks=(4, 8))
    planted = shared_starts.write(path / "in", settings)
    ingest(path / "in", path / "z")
    return open_zoo(path / "z"), planted


def projector(x: Array) -> Array:
    u, s, vh = np.linalg.svd(x, full_matrices=False)
    return np.asarray(vh[s > 1e-9 * s[0]].T @ vh[s > 1e-9 * s[0]])


def of_pairs(matrices: list[Array], pairs: list[tuple[int, int]]) -> float:
    """The ratio as it is defined, pair by pair."""
    found = sum(float(np.sum(matrices[i] * matrices[j])) for i, j in pairs)
    chance = sum(float(np.trace(matrices[i]) * np.trace(matrices[j])) for i, j in pairs) / len(matrices[0])
    return found / chance


def factors(zoo: Zoo) -> list[tuple[Array, Array, float]]:
    return [
        (m.A.astype(np.float64), m.B.astype(np.float64), m.scale)
        for record in zoo.accepted
        for m in zoo.adapter(record.name)
    ]


def matrices_of(zoo: Zoo, side: str, space: str) -> list[Array]:
    out = []
    for a, b, scale in factors(zoo):
        delta = scale * b @ a
        whole = delta.T @ delta if side == "A" else delta @ delta.T
        out.append(projector(a if side == "A" else b.T) if space == "factor" else whole / np.trace(whole))
    return out


@pytest.mark.parametrize("side", ["A", "B"])
@pytest.mark.parametrize("space", ["factor", "delta"])
def test_the_sum_over_pairs_takes_no_pairs(made: tuple[Zoo, dict[str, Groups]], side: str, space: str) -> None:
    zoo, _ = made
    dense = matrices_of(zoo, side, space)
    for members in (range(16), range(0, 16, 5)):  # more rows than columns, and fewer
        pairs = list(combinations(members, 2))
        found = overlap(zoo, LAYER, side=side, space=space, members=list(members))
        assert found.ratio == pytest.approx(of_pairs(dense, pairs), rel=1e-10)
        assert found.n_adapters == len(members) and found.width == (96 if side == "A" else 64)
    groups = [[0, 3, 5], [1, 2], [7]]
    ratios = between(zoo, LAYER, groups, side=side, space=space).ratios
    for a, b in combinations(range(3), 2):
        pairs = [(i, j) for i in groups[a] for j in groups[b]]
        assert ratios[a, b] == ratios[b, a] == pytest.approx(of_pairs(dense, pairs), rel=1e-9)
    assert ratios[0, 0] == pytest.approx(of_pairs(dense, list(combinations(groups[0], 2))), rel=1e-9)
    assert np.isnan(ratios[2, 2])


def test_independent_adapters_overlap_by_chance_and_the_band_is_right() -> None:
    rng = np.random.default_rng(0)
    found = [overlap_of(rows_of([rng.standard_normal((r, 48)) for r in (4, 8, 2) * 4])) for _ in range(400)]
    ratios = np.array([each.ratio for each in found])
    assert len({round(each.std, 12) for each in found}) == 1  # a function of the dimensions alone
    assert ratios.mean() == pytest.approx(1.0, abs=4 * found[0].std / 20)
    assert ratios.std() == pytest.approx(found[0].std, rel=0.15)
    assert np.mean([each.by_chance for each in found]) > 0.97
    rotated = [
        overlap_of(rows_of([np.diag([5.0, 1, 0.1]) @ rng.standard_normal((3, 48)) for _ in range(6)]), space="delta")
        for _ in range(400)
    ]
    ratios = np.array([each.ratio for each in rotated])
    assert ratios.mean() == pytest.approx(1.0, abs=0.1)
    assert ratios.std() == pytest.approx(np.mean([each.std for each in rotated]), rel=0.2)


def test_a_shared_start_shows_until_one_of_each_is_kept(made: tuple[Zoo, dict[str, Groups]]) -> None:
    zoo, planted = made
    groups = seed_groups(zoo, LAYER)
    assert groups.groups == planted[LAYER]
    every, one = overlap(zoo, LAYER), overlap(zoo, LAYER, members=groups.one_each)
    assert every.ratio > every.high + 10 * every.std and not every.by_chance
    assert one.n_adapters == 11 and one.by_chance
    assert overlap(zoo, LAYER, side="B").by_chance, "B was trained on its own"
    others = [ordinal for ordinal in groups.adapters if ordinal not in groups.ordinals[0]]
    found = between(zoo, LAYER, [groups.ordinals[0], others])
    assert found.ratios[0, 0] > 5 and abs(found.ratios[0, 1] - 1) < 4 * found.std[0, 1]
    assert abs(found.ratios[1, 1] - 1) < 4 * found.std[1, 1]


def test_a_planted_subspace_is_far_above_chance() -> None:
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.standard_normal((200, 6)))[0].T
    same = overlap_of(rows_of([rng.standard_normal((6, 6)) @ basis for _ in range(5)]))
    assert same.ratio == pytest.approx(200 / 6, rel=1e-10)  # all are the one subspace
    inside = overlap_of(rows_of([rng.standard_normal((3, 6)) @ basis for _ in range(40)]))
    assert inside.ratio == pytest.approx(200 / 6, rel=0.1) and inside.high < 1.5
    orthogonal = overlap_of(rows_of([np.eye(200)[6 * i : 6 * i + 6] for i in range(5)]))
    assert orthogonal.ratio == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("width", [60, 600])
def test_the_gauge_is_not_seen(width: int, tmp_path: Path) -> None:
    from engine.delta import DeltaRows, PairedRows

    rng = np.random.default_rng(2)
    ranks = [3, 8, 5, 8, 4, 8, 8, 8, 8, 8]
    plain = [(rng.standard_normal((r, width)), rng.standard_normal((r, 50))) for r in ranks]
    turned = []
    for a, b in plain:  # (G A, B G⁻¹); rows of b are those of Bᵀ
        g = np.linalg.qr(rng.standard_normal((len(a), len(a))))[0] * rng.uniform(0.5, 2, len(a))
        turned.append((g @ a, np.linalg.inv(g).T @ b))
    found: list[list[Overlap]] = []
    for pairs in (plain, turned):
        a, b = rows_of([x for x, _ in pairs]), rows_of([y for _, y in pairs])
        both = PairedRows(a, b, np.linspace(0.5, 2, len(ranks)), np.arange(len(ranks)))
        found.append([overlap_of(a), overlap_of(b), *(overlap_of(DeltaRows(both, s), space="delta") for s in "AB")])
    for one, other in zip(*found, strict=True):
        assert one.ratio == pytest.approx(other.ratio, rel=1e-9) and one.std == pytest.approx(other.std, rel=1e-9)


def test_adapters_of_lower_rank_than_rows() -> None:
    rng = np.random.default_rng(3)
    x = [rng.standard_normal((3, 40)) for _ in range(4)]
    doubled = [np.concatenate([each, each[:2], np.zeros((1, 40))]) for each in x]
    assert overlap_of(rows_of(doubled)).ratio == pytest.approx(overlap_of(rows_of(x)).ratio, rel=1e-9)
    alone = overlap_of(rows_of(x[:1]))
    assert np.isnan(alone.ratio) and alone.n_adapters == 1
    nothing = overlap_of(rows_of([np.zeros((2, 40))] * 3))
    assert np.isnan(nothing.ratio)


@pytest.mark.parametrize("ranks", [[1] * 600 + [64], [8] * 600])
def test_blocks_are_bounded_and_counted(ranks: list[int]) -> None:
    """Every adapter is filled up to the highest rank: 600 of rank 1 beside one of 64 would be 150 MiB in a block."""
    rng = np.random.default_rng(4)
    rows = rows_of([rng.standard_normal((r, 512)) for r in ranks], block_rows=2000)
    asked: list[int] = []

    class Asked(SerialRunner):
        def check_memory(self, needed: int, what: str) -> None:
            asked.append(needed)

    tracemalloc.start()
    try:
        found = overlap_of(rows, runner=Asked())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100 * 2**20 and peak < asked[0] < 140 * 2**20
    assert found.n_adapters == len(ranks) and found.by_chance


def test_runners_agree(made: tuple[Zoo, dict[str, Groups]], dask_runner: DaskRunner) -> None:
    zoo, _ = made
    serial = overlap(zoo, LAYER, space="delta")
    with ThreadsRunner(2) as threads:
        for runner in (threads, dask_runner):
            other = overlap(zoo, LAYER, space="delta", runner=runner)
            assert other.ratio == pytest.approx(serial.ratio, rel=1e-12)


def test_what_is_refused(made: tuple[Zoo, dict[str, Groups]]) -> None:
    zoo, _ = made
    with pytest.raises(EigenzooError, match="choose factor or delta"):
        overlap(zoo, LAYER, space="gamma")
    with pytest.raises(EigenzooError, match="side"):
        overlap(zoo, LAYER, side="C")
    for groups in ([[0, 1], [1]], [[0], []]):
        with pytest.raises(EigenzooError, match="disjoint groups"):
            between(zoo, LAYER, groups)

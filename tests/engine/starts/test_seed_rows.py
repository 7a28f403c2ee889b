"""Fits that heed seed groups: whose rows they take, and what they know of it later."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

import engine
from engine.analysis.ranks import ranks_of
from engine.rank import read_rule
from engine.rank.gavish_donoho import gavish_donoho
from engine.runners.dask_ import DaskRunner
from engine.starts.groups import seed_groups
from engine.starts.less_starts import LessStarts
from engine.starts.seed_rows import SeedChoice, parse_seeds
from ingest import shared_starts
from ingest.errors import EigenzooError
from ingest.pipeline import ingest
from ingest.shared_starts import Groups, Module, Settings
from ingest.store.reader import Zoo, open_zoo

SHARED, OWN, TABLE = "layers.0.q_proj", "layers.0.v_proj", "embed_tokens"
SETTINGS = Settings(
    (
        Module(SHARED, 96, 64, shared=True),
        Module(OWN, 96, 64, shared=False),
        Module(TABLE, 80, 64, shared=True, embedding=True),
    ),
    adapters=18,
    groups=(6, 4),
    ranks=(8, 8, 16),
)
Made = tuple[Zoo, dict[str, Groups]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    path = tmp_path_factory.mktemp("seed-rows")
    planted = shared_starts.write(path / "in", SETTINGS)
    ingest(path / "in", path / "z")
    return open_zoo(path / "z"), planted


def names_of(zoo: Zoo) -> list[str]:
    return [record.name for record in zoo.accepted]


@pytest.mark.parametrize("side", ["A", "B"])
@pytest.mark.parametrize("space", ["factor", "delta"])
def test_one_of_each(made: Made, side: str, space: str, tmp_path: Path) -> None:
    zoo, planted = made
    run = engine.fit_zoo(zoo, tmp_path / "run", seeds="one-each", space=space, side=side)
    left_out = {name for group in planted[SHARED] for name in group[1:]}
    by_layer = {m.layer: m for m in run.matrices}
    assert by_layer[SHARED].n_adapters == 18 - 5 - 3 and by_layer[OWN].n_adapters == 18
    assert run.record.settings.seeds == "one-each"
    kept = [zoo.ordinal(name) for name in names_of(zoo) if name not in left_out]
    rows = zoo.rows(SHARED, side=side, members=kept)
    assert SeedChoice(zoo, "one-each").rows(SHARED, side).identity == rows.identity
    if space == "factor":
        expected = engine.fit(rows)
        assert np.array_equal(run.subspace(SHARED, side=side).singular_values, expected.singular_values)


def test_a_group_alone(made: Made, tmp_path: Path) -> None:
    zoo, planted = made
    told: list[str] = []
    run = engine.fit_zoo(zoo, tmp_path / "run", seeds="group:2", layers="layers.*", notice=told.append)
    assert {m.layer for m in run.matrices} == {SHARED} and run.planned(run.matrices) == 2
    assert all(m.n_adapters == 4 for m in run.matrices)
    assert any("1 of 2 modules have a group 2; the other 1 are left out" in line for line in told)
    assert SeedChoice(zoo, "group:2").adapters(SHARED) == planted[SHARED][1]
    with pytest.raises(EigenzooError, match="none of 2 modules has 3 groups; `eigenzoo seeds"):
        engine.fit_zoo(zoo, tmp_path / "none", seeds="group:3", layers="layers.*")
    assert not (tmp_path / "none").exists()
    with pytest.raises(EigenzooError, match="has 0 groups"):
        SeedChoice(zoo, "group:1").rows(OWN, "A")


def test_starts_are_subtracted(made: Made, tmp_path: Path, dask_runner: DaskRunner) -> None:
    zoo, planted = made
    run = engine.fit_zoo(zoo, tmp_path / "run", seeds="subtract", center="none")
    factors = {name: {m.layer: m for m in zoo.adapter(name)} for name in names_of(zoo)}
    for layer, side in ((SHARED, "A"), (SHARED, "B"), (TABLE, "A"), (TABLE, "B"), (OWN, "A")):
        parts = {n: (f[layer].A if side == "A" else f[layer].B.T).astype(np.float64) for n, f in factors.items()}
        drawn = "B" if layer == TABLE else "A"
        for group in planted[layer] if side == drawn else ():
            for rank in (8, 16):
                alike = [name for name in group if len(parts[name]) == rank]
                mean = np.mean([parts[name] for name in alike], axis=0) if len(alike) > 1 else 0.0
                parts |= {name: parts[name] - mean for name in alike}
        expected = np.concatenate([parts[name] for name in names_of(zoo)])
        rows = SeedChoice(zoo, "subtract").rows(layer, side)
        assert np.abs(rows.read(0, rows.shape[0]) - expected).max() < 1e-15
        assert np.abs(rows.read(5, 29) - expected[5:29]).max() < 1e-15
        s = np.linalg.svd(expected, compute_uv=False)
        assert np.abs(run.subspace(layer, side=side).singular_values - s[: len(s)]).max() <= 1e-10 * s[0]
    less = SeedChoice(zoo, "subtract").rows(SHARED, "A")
    assert isinstance(less, LessStarts) and less.identity != zoo.rows(SHARED, side="A").identity
    less.read(0, 4)
    assert len(pickle.dumps(less)) < 100_000 and pickle.loads(pickle.dumps(less)).identity == less.identity
    again = engine.fit_zoo(zoo, tmp_path / "dask", seeds="subtract", center="none", runner=dask_runner)
    for m in run.matrices:
        a, b = (each.subspace(m.layer, side=m.side).singular_values for each in (run, again))
        assert np.abs(a - b).max() <= 1e-12 * a[0]


def test_a_start_seems_a_shared_subspace_until_it_is_gone(made: Made, tmp_path: Path) -> None:
    zoo, _ = made
    k = {}
    for seeds in ("all", "one-each", "subtract"):
        run = engine.fit_zoo(zoo, tmp_path / seeds, seeds=seeds, side="A", layers=SHARED, method="moments")
        k[seeds] = run.matrices[0].k["gavish_donoho"]
    assert k["all"] is not None and (k["all"] >= 8) and k["one-each"] == 0 and k["subtract"] == 0, k


def test_a_run_keeps_to_its_choice(made: Made, tmp_path: Path) -> None:
    zoo, planted = made
    out = tmp_path / "run"
    engine.fit_zoo(zoo, out, seeds="one-each", side="A")
    with pytest.raises(EigenzooError, match="seeds: one-each → all.*--restart"):
        engine.fit_zoo(zoo, out, side="A")
    before = {m.layer: m.identity for m in engine.open_run(out).matrices}
    done: list[int] = []
    engine.fit_zoo(zoo, out, seeds="one-each", side="A", progress=lambda p: done.append(p.total - p.done))
    assert done == [0], "nothing is left to do"
    assert before[SHARED] != zoo.rows(SHARED, side="A").identity
    assert before[OWN] == zoo.rows(OWN, side="A").identity
    document = json.loads((out / "run.json").read_text())
    del document["settings"]["seeds"]  # as runs were before
    (out / "run.json").write_text(json.dumps(document))
    assert engine.open_run(out).record.settings.seeds == "all"


def test_another_member_is_noticed(tmp_path: Path) -> None:
    shared_starts.write(tmp_path / "in", SETTINGS)
    names = sorted(path.name for path in (tmp_path / "in").iterdir())
    ingest([tmp_path / "in" / name for name in names[:-1]], tmp_path / "z")
    engine.fit_zoo(tmp_path / "z", tmp_path / "run", seeds="subtract", side="A", layers=SHARED)
    ingest([tmp_path / "in" / names[-1]], tmp_path / "z")
    told: list[str] = []
    run = engine.fit_zoo(
        tmp_path / "z", tmp_path / "run", seeds="subtract", side="A", layers=SHARED, notice=told.append
    )
    assert run.matrices[0].n_adapters == 18 and any("other rows than at the last start" in line for line in told)


def test_what_does_not_go_together(made: Made, tmp_path: Path) -> None:
    zoo, _ = made
    for wrong in ("some", "group", "group:0", "group:-1", "group:x", "all:1", "one-each:2", ""):
        with pytest.raises(EigenzooError, match="seeds: got .*one-each, subtract, group:1"):
            engine.fit_zoo(zoo, tmp_path / "run", seeds=wrong)
    with pytest.raises(EigenzooError, match="cannot be subtracted in ΔW space"):
        engine.fit_zoo(zoo, tmp_path / "run", seeds="subtract", space="delta")
    with pytest.raises(EigenzooError, match="states are kept of all adapters"):
        engine.fit_zoo(zoo, tmp_path / "run", seeds="one-each", keep_state=True)
    assert not (tmp_path / "run").exists()
    assert parse_seeds("group:03").name == "group:3" and parse_seeds("one-each").name == "one-each"


def test_groups_are_looked_for_once(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo, planted = made
    choice = SeedChoice(zoo, "one-each")
    choice.members(SHARED)
    monkeypatch.setattr(choice, "_find", lambda layers: pytest.fail("looked again"))
    assert len(choice.adapters(SHARED)) == choice.rows(SHARED, "B").offsets.size - 1 == 10
    assert seed_groups(zoo, SHARED).groups == planted[SHARED]
    assert SeedChoice(zoo).members(SHARED) is None and len(SeedChoice(zoo).adapters(SHARED)) == 18


def test_the_level_of_the_start_is_that_of_the_adapters_fitted(tmp_path: Path) -> None:
    planted = shared_starts.write(tmp_path / "in", SETTINGS)
    group = planted[SHARED][0]
    for path in (tmp_path / "in").glob("*/adapter_config.json"):
        if path.parent.name not in group:
            path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": "orthogonal"}))
    ingest(tmp_path / "in", tmp_path / "z")
    zoo, rules = open_zoo(tmp_path / "z"), [read_rule("gavish-donoho:init"), read_rule("parallel:init:2")]
    level = 1 / np.sqrt(3 * 96)
    for seeds, known in (("group:1", True), ("all", False)):
        run = engine.fit_zoo(
            zoo, tmp_path / seeds.replace(":", "-"), layers=SHARED, side="A", seeds=seeds, k="gavish-donoho:init"
        )
        (found,) = ranks_of(run, rules)
        fitted, stored, drawn = run.subspace(SHARED, side="A").k_choice, *found.choices.values()
        assert stored == fitted and (fitted.k is not None, drawn.k is not None) == (known, known)
        if known:
            shape = (found.result.rows - 1, 96)
            assert fitted.threshold == gavish_donoho([1.0], shape, level).threshold
            assert drawn.threshold == pytest.approx(level * sum(np.sqrt(shape)), rel=0.1)
        else:
            assert "the random start of 12 of 18 adapters is unknown" in fitted.note and drawn.note in fitted.note
    with pytest.raises(EigenzooError, match="which seeds 'subtract' takes from the rows"):
        engine.fit_zoo(zoo, tmp_path / "none", layers=SHARED, seeds="subtract", k="gavish-donoho:init")
    run = engine.fit_zoo(zoo, tmp_path / "less", layers=SHARED, side="A", seeds="subtract", k=1)
    (found,) = ranks_of(run, rules)
    assert all(choice.k is None and "'subtract'" in choice.note for choice in found.choices.values())

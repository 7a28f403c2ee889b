"""`analyse`: every part as its own function finds it, kept beside the run, and gone on with where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import engine.analysis.whole_run as module
from engine.analysis.file import read_analysis
from engine.analysis.heldout import held_out
from engine.analysis.overlap import overlap
from engine.analysis.reconstruction import reconstruction
from engine.analysis.run_rows import zoo_of
from engine.analysis.whole_run import analyse
from engine.cli import main
from engine.job import open_job
from engine.run import Run
from engine.starts.groups import seeds
from engine.zoo_fit import fit_zoo
from ingest import shared_starts
from ingest.errors import EigenzooError
from ingest.pipeline import ingest
from ingest.remove import remove
from tests.ingest.builders import write_peft_folder


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    shared_starts.write(folder / "adapters", shared_starts.half_settings(12))
    ingest([folder / "adapters"], folder / "z")
    return folder / "z"


@pytest.fixture
def run(zoo: Path, tmp_path: Path) -> Run:
    return fit_zoo(zoo, tmp_path / "run", layers="layers.0.*,layers.1.*", k=3)


def test_parts_are_what_their_functions_say(run: Run) -> None:
    found, zoo = analyse(run), zoo_of(run)
    assert read_analysis(run) == found and found.zoo_version == zoo.commit.version
    assert [(m.layer, m.side) for m in found.matrices] == [m.key for m in run.matrices]
    groups = {g.layer: g for g in seeds(zoo)}
    errors = {e.layer: e for e in reconstruction(run, zoo=zoo).layers}
    assert any(layer.seeds and layer.seeds.groups for layer in found.layers)
    for layer in found.layers:
        assert layer.seeds and layer.seeds.groups == groups[layer.layer].groups
        assert layer.delta and layer.delta.worst == errors[layer.layer].delta.worst
    for result in run.matrices:
        each = found.of(result)
        assert each and each.overlap and each.heldout and each.reconstruction
        whole = overlap(zoo, result.layer, side=result.side)
        assert each.overlap.ratio == whole.ratio and each.overlap.low == whole.low
        alone = groups[result.layer]
        if alone.groups:
            expected = overlap(zoo, result.layer, side=result.side, members=alone.one_each).ratio
            assert each.overlap.one_per_seed == expected
            if result.side == alone.side:
                assert each.overlap.ratio > each.overlap.high and expected < each.overlap.ratio
        else:
            assert each.overlap.one_per_seed is None
        places = {ordinal: i for i, ordinal in enumerate(alone.adapters)}
        same = held_out(run, result.layer, result.side, groups=[[places[o] for o in g] for g in alone.ordinals])
        assert (each.heldout.error, each.heldout.null) == (same.total, same.controls.null)
        assert each.heldout.one_per_seed == same.controls.one_per_seed and each.heldout.method == "leave-one-out"


def test_a_second_start_goes_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def kill(done: int, total: int, last: str) -> None:
        if done == 1:
            raise Killed

    parts = ("seeds", "leverage")
    with pytest.raises(Killed):
        analyse(run, parts=parts, progress=kill)
    left = read_analysis(run)
    assert left is not None and len(left.layers) == 1
    looked: list[str] = []
    inner = module.seed_groups
    monkeypatch.setattr(
        module, "seed_groups", lambda zoo, layer, **how: looked.append(layer) or inner(zoo, layer, **how)
    )
    done = analyse(run, parts=parts)
    layers = list(dict.fromkeys(m.layer for m in run.matrices))
    assert (
        sorted(looked) == sorted({*layers} - {left.layers[0].layer}) and [each.layer for each in done.layers] == layers
    )
    assert analyse(run, parts=parts) == done and len(looked) == len(layers) - 1
    looked.clear()
    assert analyse(run, parts=parts, restart=True) == done and sorted(looked) == layers
    looked.clear()
    more = analyse(run, parts=("overlap", "leverage"))
    assert sorted(looked) == layers and [m.leverage for m in more.matrices] == [m.leverage for m in done.matrices]
    assert all(m.overlap for m in more.matrices) and [e.seeds for e in more.layers] == [e.seeds for e in done.layers]
    with pytest.raises(EigenzooError, match="made with automatic folds and seed 0, not .* seed 1; give the"):
        analyse(run, parts=parts, seed=1)
    assert read_analysis(run) == more


def test_another_fit_leaves_no_analysis(run: Run, zoo: Path) -> None:
    analyse(run, parts=["leverage"])
    again = fit_zoo(zoo, run.path, layers="layers.0.*", k=2, restart=True)
    assert read_analysis(again) is None
    with (
        open_job(zoo, run.path, layers="layers.0.*", k=2),
        pytest.raises(EigenzooError, match="another fit or analysis"),
    ):
        analyse(again)


def test_what_cannot_be_had(run: Run, zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(EigenzooError, match="parts: got 'sedes'; choose among seeds,"):
        analyse(run, parts=["sedes"])
    ingest([zoo.parent / "adapters"], tmp_path / "z")
    other = fit_zoo(tmp_path / "z", tmp_path / "other", layers="layers.0.*", k=2)
    remove(tmp_path / "z", [zoo_of(other).accepted[0].name])
    with pytest.raises(EigenzooError, match="was fitted to other rows than its zoo has now; run `eigenzoo fit` again"):
        analyse(other)


def test_a_choice_of_adapters_and_the_delta_space(zoo: Path, tmp_path: Path) -> None:
    alone = fit_zoo(zoo, tmp_path / "alone", layers="layers.1.*", seeds="one-each", k=2)
    found = analyse(alone, folds=3)
    assert all(m.overlap and m.overlap.one_per_seed is None for m in found.matrices)
    assert all(m.heldout and m.heldout.method == "3-fold" for m in found.matrices)
    assert all(each.seeds and not each.seeds.groups for each in found.layers), "one of each is no group"
    less = analyse(fit_zoo(zoo, tmp_path / "less", layers="layers.1.*", seeds="subtract", k=2))
    for m in less.matrices:
        assert m.heldout is None and m.reconstruction is None and m.overlap and m.overlap.one_per_seed is None
        if any(each.layer == m.layer and each.seeds and each.seeds.groups for each in less.layers) and m.side == "A":
            assert m.overlap.ratio < 2, "the start is taken out"
    delta = analyse(fit_zoo(zoo, tmp_path / "delta", layers="layers.1.*", space="delta", k=2))
    assert all(m.reconstruction is None and m.heldout for m in delta.matrices)
    assert [m.heldout.mean_only for m in delta.matrices if m.heldout] == pytest.approx([1.0] * len(delta.matrices))
    assert all(each.delta is not None for each in delta.layers)


def test_the_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyse", run.path, "--parts", "seeds,overlap,heldout", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["matrices"]) == len(run.matrices) and document["layers"][0]["delta"] is None
    assert main(["analyse", run.path, "--parts", "seeds,overlap,heldout"]) == 0
    printed = capsys.readouterr().out
    assert all(m.layer in printed for m in run.matrices) and "share a random start" in printed
    assert main(["analyse", run.path, "--parts", "sedes"]) == 2
    assert "choose" in capsys.readouterr().err


def test_more_folds_than_there_are_starts(tmp_path: Path) -> None:
    """Adapters of one start stay together: of six in one group there is nothing to deal."""
    rng = np.random.default_rng(0)
    start = rng.normal(size=(4, 40)).astype(np.float32)
    for i in range(6):
        a = start + 0.01 * rng.normal(size=start.shape).astype(np.float32)
        write_peft_folder(tmp_path / f"in/a{i}", {"layers.0.q": (a, rng.normal(size=(30, 4)).astype(np.float32))}, r=4)
    ingest(tmp_path / "in", tmp_path / "z")
    run = fit_zoo(tmp_path / "z", tmp_path / "run", k=2)
    found = analyse(run, folds=3, parts=["seeds", "heldout"])
    assert found.layers[0].seeds and [len(g) for g in found.layers[0].seeds.groups] == [6]
    assert all(m.heldout and m.heldout.method == "leave-one-out" for m in found.matrices)

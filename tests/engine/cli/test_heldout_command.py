"""`eigenzoo heldout`, over a run of a written zoo."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import engine
from engine.analysis.heldout import held_out_error
from engine.cli import main
from engine.cli.heldout import heldout_json
from ingest import synthetic
from ingest.errors import EigenzooError
from tests.engine.analysis.zoo_rows import AdapterArray

LAYER = "layers.0.q"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ingest.pipeline import ingest

    folder = tmp_path_factory.mktemp("heldout")
    layers = (synthetic.Layer(LAYER, 64, 48, 3, 2), synthetic.Layer("layers.1.q", 64, 300, 2, 3))
    synthetic.write(folder / "in", synthetic.Settings(layers, adapters=40, ranks=(2, 4), broken=False))
    ingest(folder / "in", folder / "zoo")
    engine.fit_zoo(folder / "zoo", folder / "run")
    return folder / "run"


def test_a_table_and_json(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["heldout", str(run), "--json", "--seeds"]) == 0
    matrices = json.loads(capfd.readouterr().out)["matrices"]
    assert [(m["layer"], m["side"], m["k"]) for m in matrices] == [
        (LAYER, "A", 3),
        (LAYER, "B", 2),
        ("layers.1.q", "A", 2),
        ("layers.1.q", "B", 3),
    ]
    for m in matrices:
        assert m["in_sample"] < m["error"] < m["null"] < 1.1 * m["mean_only"] and m["method"] == "leave-one-out"
        assert m["random_basis"] < m["mean_only"] and m["worst"] > m["median"]
        assert m["worst_adapter"].startswith("task-")
        assert m["n_per_seed"] == m["n_adapters"] == 40, "no two share a start"
        assert m["one_per_seed"] == pytest.approx(m["error"], rel=1e-12)
        assert m["curve"][0] == [0, m["mean_only"]] and m["curve"][-1] == [m["k"], m["error"]]
    assert main(["heldout", str(run), "--layers", LAYER, "--side", "A", "--k", "1", "--folds", "5", "--no-null"]) == 0
    head, _, line, *_ = capfd.readouterr().out.splitlines()
    assert head.split()[:3] == ["layer", "side", "K"] and "held out" in head
    assert line.split()[:3] == [LAYER, "A", "1"] and "–" in line


def test_what_cannot_be_had_is_one_line(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for arguments, code, message in (
        (["--folds", "1"], 2, "--folds"),
        (["--folds", "some"], 2, "--folds"),
        (["--folds", "41"], 1, "from 2 to 40"),
        (["--layers", "x*"], 1, "no finished matrix matches"),
        (["--side", "C"], 2, "A, B or both"),
    ):
        assert main(["heldout", str(run), *arguments]) == code
        out, err = capfd.readouterr()
        lines = [line for line in err.splitlines() if line.startswith("eigenzoo: ")]
        assert out == "" and len(lines) == 1 and message in lines[0]


def test_a_run_less_its_starts_is_refused(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    less = engine.fit_zoo(run.parent / "zoo", tmp_path / "less", layers=LAYER, side="A", seeds="subtract", k=2)
    with pytest.raises(EigenzooError, match="one-each") as caught:
        engine.held_out(less, LAYER, "A")
    capfd.readouterr()
    assert main(["heldout", less.path, "--json"]) == 1
    out, err = capfd.readouterr()
    assert out == "" and err == f"eigenzoo: {caught.value}\n" and "\n" not in str(caught.value)


def test_json_has_no_number_that_is_none() -> None:
    x = np.random.default_rng(0).standard_normal((12, 6))
    found = held_out_error(AdapterArray(x, [3] * 4), 2, groups=[(0, 1)])
    assert found.controls.null is not None
    bad = replace(
        found,
        errors=np.array([np.nan, np.inf, 1.0, 2.0]),
        total=math.nan,
        explained=-math.inf,
        in_sample=math.nan,
        curve=((0, math.inf), (2, 0.5)),
        in_sample_curve=((0, math.nan),),
        controls=replace(
            found.controls, mean_only=math.inf, random_basis=math.nan, null=math.inf, one_per_seed=math.nan
        ),
    )
    nothing = held_out_error(AdapterArray(np.zeros((12, 6)), [3] * 4), 2, groups=[(0, 1)])
    for each in (found, bad, nothing):
        json.dumps(heldout_json("q", "A", each), allow_nan=False)
    said = heldout_json("q", "A", bad)
    assert said["worst"] is said["error"] is said["null"] is None and said["curve"] == [[0, None], [2, 0.5]]
    assert heldout_json("q", "A", found)["worst"] == found.errors.max()


def test_a_run_by_its_matrix(run: Path) -> None:
    found = engine.held_out(engine.open_run(run), LAYER, "A", null=False)
    assert found.k == 3 and found.adapters[0] == "task-0000" and len(found.adapters) == len(found.errors) == 40
    assert found.worst is not None and found.errors[found.worst] == found.errors.max()

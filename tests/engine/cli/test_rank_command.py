"""`eigenzoo rank` with rules side by side."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.analysis.parallel import parallel_analysis
from engine.cli import main
from engine.zoo_fit import fit_zoo
from ingest import synthetic
from ingest.pipeline import ingest
from ingest.store.reader import open_zoo

LAYERS = (synthetic.Layer("layers.0.q", 48, 32, 3, 2), synthetic.Layer("layers.1.q", 64, 40, 2, 3))
PLANTED = [3, 2, 2, 3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rank")
    synthetic.write(path / "in", synthetic.Settings(LAYERS, adapters=40, broken=False, dtypes=("float32",)))
    ingest(path / "in", path / "z")
    fit_zoo(path / "z", path / "run")
    return path


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capfd.readouterr()
    code = main(["rank", *arguments])
    out, err = capfd.readouterr()
    return code, out, err


def read(capfd: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code, out, err = run(capfd, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_all_rules_side_by_side(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    document = read(capfd, str(folder / "run"), "--rules", "all")
    assert document.keys() == {"matrices", "planned"} and len(document["matrices"]) == 4
    for rule in ("gavish_donoho", "bulk_edge", "screenot", "shrinkage"):
        assert [m["k"][rule] for m in document["matrices"]] == PLANTED
    first = document["matrices"][0]
    assert first["k"].keys() >= {"elbow", "ev_0.5", "ev_0.8", "ev_0.95"}
    assert first["white"] is True and first["distance"] < first["critical"]
    assert first["thresholds"]["bulk_edge"] < first["thresholds"]["gavish_donoho"]
    assert "lowered" in first["notes"]["screenot"]
    code, out, _ = run(capfd, str(folder / "run"), "--rules", "gavish-donoho, bulk-edge,7,gavish-donoho")
    head, _, *rows = out.splitlines()
    assert code == 0 and head.count("K ") == 3 and "K bulk-edge" in head and "K 7" in head
    assert rows[0].split() == ["layers.0.q", "A", "360", "×", "48", "3", "3", "7", "white"]


def test_rules_that_read_the_zoo(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rules = "parallel:5,parallel:init:5,gavish-donoho:init"
    matrices = read(capfd, str(folder / "run"), "--rules", rules)["matrices"]
    zoo = open_zoo(folder / "z")
    direct = [parallel_analysis(zoo.rows(m["layer"], side=m["side"]), n_draws=5).k for m in matrices]
    assert [m["k"]["parallel_5"] for m in matrices] == direct and direct[::3] == PLANTED[::3]
    assert [m["k"]["gavish_donoho_init"] for m in matrices][1::2] == [None, None]
    assert "B starts at zero" in matrices[1]["notes"]["parallel_init_5"]
    assert matrices[0]["k"]["parallel_init_5"] is not None
    assert "kaiming-uniform" in matrices[0]["notes"]["gavish_donoho_init"]
    code, out, _ = run(capfd, str(folder / "run"), "--rules", rules)
    assert code == 0 and "gavish-donoho:init declines: B starts at zero" in out and "and 1 more" in out


def test_a_zoo_that_is_gone_or_has_changed(folder: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shutil.copytree(folder / "z", tmp_path / "z")
    fit_zoo(tmp_path / "z", tmp_path / "run", layers="layers.0.q")
    assert main(["remove", str(tmp_path / "z"), "task-0003"]) == 0
    notes = read(capfd, str(tmp_path / "run"), "--rules", "parallel:3")["matrices"][0]["notes"]
    assert "changed since the fit" in notes["parallel_3"]
    shutil.rmtree(tmp_path / "z")
    code, _, err = run(capfd, str(tmp_path / "run"), "--rules", "screenot,parallel")
    assert code == 1 and "its zoo is gone" in err and len(err.splitlines()) == 1
    assert run(capfd, str(tmp_path / "run"), "--rules", "screenot")[0] == 0


def test_the_table_of_rules(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capfd, "--list-rules")
    assert code == 0 and "screenot[:BOUND]" in out and "Zhu and Ghodsi 2006" in out and "assumes" in out
    listed = read(capfd, "--list-rules")["rules"]
    assert len(listed) == 8 and all(entry.keys() == {"rule", "reference", "assumes", "needs"} for entry in listed)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give a RUN"),
        (["run", "--rules", "nonsense"], "gavish-donoho"),
        (["run", "--rules", ","], "--list-rules"),
        (["run", "--rules", "screenot:x"], "upper bound"),
    ],
)
def test_wrong_usage(arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capfd, *arguments)
    assert code == 2 and said in err and len(err.splitlines()) == 1


def test_no_more_draws_side_by_side_than_there_is_memory_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    from engine.analysis.parallel import draw_bytes
    from engine.cli.rank import threads_for
    from engine.run import open_run

    opened = open_run(folder / "run")
    needed = max(draw_bytes(m.rows, m.width, m.rows, "cpu") for m in opened.matrices)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    for available, least, most in ((0, 1, 1), (10 * needed, 2, 16), (2**50, 64, 64)):
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=available: SimpleNamespace(available=free))
        assert least <= threads_for(opened, "cpu") <= most

"""The command line as a user meets it: exit codes, one-line errors, stable JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.cli import main
from ingest import synthetic

LAYERS = (synthetic.Layer("layers.0.q", 48, 32, 3, 2), synthetic.Layer("layers.1.q", 48, 32, 2, 3))
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli")
    synthetic.write(path / "in", synthetic.Settings(LAYERS, adapters=24))
    assert main(["ingest", str(path / "in"), "--zoo", str(path / "z")]) == 0
    assert main(["fit", str(path / "z"), "--out", str(path / "run"), "--workers", "1"]) == 0
    return path


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capfd.readouterr()
    code = main(list(arguments))
    out, err = capfd.readouterr()
    return code, out, err


def read(capfd: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code, out, _ = run(capfd, *arguments, "--json")
    assert code == 0
    return json.loads(out)


def test_info(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    info = read(capfd, "info", str(folder / "z"))
    assert info.keys() == {"base_model", "adapters", "matrices"} and info["base_model"] == synthetic.BASE
    ok = [a for a in info["adapters"] if a["status"] == "ok"]
    assert len(ok) == 24 and len(info["adapters"]) == 36
    assert {"name", "source", "status", "reason", "rank", "rows"} <= ok[0].keys()
    assert ok[0]["rank"] == 4 and ok[0]["rows"] == 8 and ok[0]["reason"] == ""
    assert info["matrices"][0] == {"layer": "layers.0.q", "side": "A", "rows": 216, "width": 48, "dtype": "float32"}


def test_rank(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    document = read(capfd, "rank", str(folder / "run"))
    matrices = document["matrices"]
    assert document.keys() == {"matrices", "planned"} and document["planned"] == 4
    assert [(m["layer"], m["side"]) for m in matrices] == [(f"layers.{i}.q", s) for i in (0, 1) for s in "AB"]
    first = matrices[0]
    assert (first["rows"], first["width"], first["n_adapters"]) == (216, 48, 24)
    assert first["method"] == "moments" and first["exact"] is True and first["threshold"] > 0
    assert [m["k"]["gavish_donoho"] for m in matrices] == [3, 2, 2, 3] and first["k"]["ev_0.8"] >= 1


def test_ingest_and_verify(folder: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    again = read(capfd, "ingest", str(folder / "in"), "--zoo", str(folder / "z"))
    assert again["added"] == [] and again["known"] == 24 and len(again["refused"]) == 12
    made = read(capfd, "ingest", str(folder / "in"), "--zoo", str(tmp_path / "new"), "--dry-run")
    assert not (tmp_path / "new").exists() and made["bytes"] == sum(m["bytes"] for m in made["matrices"])
    assert read(capfd, "verify", str(folder / "z"))["ok"] is True


def test_refusals_are_an_exit_code_under_strict(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for more in ([], ["--dry-run"]):
        assert run(capfd, "ingest", str(folder / "in"), "--zoo", str(folder / "z"), "--strict", *more)[0] == 3
    good = str(folder / "in/task-0000")
    assert run(capfd, "ingest", good, "--zoo", str(folder / "z"), "--strict")[0] == 0


def test_damage_is_an_exit_code(folder: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["ingest", str(folder / "in/task-0000"), "--zoo", str(tmp_path / "z")]) == 0
    (tmp_path / "z/layers/layers.0.q/A/c.0.0").unlink()
    code, out, _ = run(capfd, "verify", str(tmp_path / "z"))
    assert code == 1 and "task-0000" in out


def test_a_run_goes_on_and_says_what_changed(folder: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    zoo, out = str(tmp_path / "z"), str(tmp_path / "run")
    assert main(["ingest", *(str(folder / f"in/task-000{i}") for i in range(6)), "--zoo", zoo]) == 0
    assert main(["fit", zoo, "--out", out, "--workers", "1", "--layers", "layers.0.*"]) == 0
    code, _, err = run(capfd, "fit", zoo, "--out", out)
    assert code == 0 and "dask" in err, "the other layer is still missing"
    code, _, err = run(capfd, "fit", zoo, "--out", out)
    assert code == 0 and "dask" not in err, "nothing is left to do"
    code, _, err = run(capfd, "fit", zoo, "--out", out, "--center", "none")
    assert code == 1 and "center: feature → none" in err and "--restart" in err
    assert main(["ingest", str(folder / "in/task-0007"), "--zoo", zoo]) == 0
    code, _, err = run(capfd, "fit", zoo, "--out", out, "--workers", "1")
    assert code == 0 and "4 of 4 matrices have other rows" in err
    assert {m["n_adapters"] for m in read(capfd, "rank", out)["matrices"]} == {7}
    code, _, err = run(capfd, "fit", zoo, "--out", out, "--workers", "1", "--center", "none", "--restart")
    assert code == 0


def test_k_from_a_file(folder: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    table = {layer.name: {"A": 5, "B": 0} for layer in LAYERS}
    (tmp_path / "k.json").write_text(json.dumps(table))
    common = ["fit", str(folder / "z"), "--workers", "1", "--out"]
    code, out, _ = run(capfd, *common, str(tmp_path / "run"), "--k", str(tmp_path / "k.json"), "--json")
    assert code == 0 and [m["n_components"] for m in json.loads(out)["matrices"]] == [5, 0, 5, 0]
    head, *_, last = run(capfd, "rank", str(tmp_path / "run"))[1].splitlines()
    assert head.count("K ") == 3 and "K kept" in head and last == "K kept as given per matrix"
    del table["layers.1.q"]
    (tmp_path / "k.json").write_text(json.dumps(table))
    code, _, err = run(capfd, *common, str(tmp_path / "run2"), "--k", str(tmp_path / "k.json"))
    assert code == 1 and "layers.1.q A" in err


def test_a_run_that_is_not_finished_says_so(folder: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from engine.job import open_job

    out = str(tmp_path / "run")
    assert main(["fit", str(folder / "z"), "--out", out, "--layers", "layers.0.q", "--workers", "1"]) == 0
    code, text, err = run(capfd, "rank", out)
    assert code == 0 and err == "" and text.splitlines()[-1] == "K kept by gavish-donoho"
    with open_job(folder / "z", out):
        pass
    code, _, err = run(capfd, "rank", out)
    assert code == 0 and err.startswith("2 of 4 matrices are finished; run `eigenzoo fit ") and out in err
    assert read(capfd, "rank", out)["planned"] == 4
    assert main(["report", out, "--out", str(tmp_path / "r.html")]) == 0
    assert "2 of 4 matrices are finished" in (tmp_path / "r.html").read_text()
    with open_job(folder / "z", tmp_path / "none"):
        pass
    code, _, err = run(capfd, "report", str(tmp_path / "none"))
    assert code == 1 and "no finished matrix" in err and len(err.splitlines()) == 1


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capfd, "--version")
    assert code == 0 and out.startswith("eigenzoo") and len(out.splitlines()) == 1 and err == ""


def test_no_dashboard_is_named_where_there_is_none(
    folder: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.runners import dask_

    monkeypatch.setattr(dask_, "find_spec", lambda name: None)
    code, _, err = run(capfd, "fit", str(folder / "z"), "--out", str(tmp_path / "run"), "--workers", "1")
    assert code == 0 and "dask: 1 worker here" in err and "dask: dashboard" not in err


def test_a_run_that_is_being_written(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from engine.job import open_job

    with open_job(folder / "z", folder / "run"):
        code, out, err = run(capfd, "fit", str(folder / "z"), "--out", str(folder / "run"))
        assert code == 1 and out == "" and len(err.splitlines()) == 1
        assert "another fit or analysis is writing to this run" in err
        assert len(read(capfd, "rank", str(folder / "run"))["matrices"]) == 4, "who reads need not wait"


WRONG = [
    (["ingest"], 2, "SOURCE"),
    (["ingest", "x"], 2, "--zoo"),
    (["ingest", "nowhere", "--zoo", "z"], 1, "no such file or folder"),
    (["ingest", ".", "--zoo", "z", "--memory", "much"], 2, "512MiB"),
    (["ingest", "{z}", "--zoo", "z"], 1, "no adapter in it"),
    (["ingest", "{in}", "--zoo", "z", "--rename", "a"], 2, "OLD=NEW"),
    (["ingest", "nowhere", "--zoo", "z", "--rename", "a=b", "--rename", "a..b=c"], 2, "whole dotted components"),
    (["info", "nowhere"], 1, "no zoo there"),
    (["verify", "nowhere"], 1, "no zoo there"),
    (["fit", "nowhere", "--out", "r"], 1, "no zoo there"),
    (["fit", "{z}", "--out", "r", "--k", "many"], 2, "gavish-donoho"),
    (["fit", "{z}", "--out", "r", "--k", "ev:2"], 2, "--k: 'ev:2'"),
    (["fit", "{z}", "--out", "r", "--k", "gavish-donoho:0"], 2, "above 0"),
    (["fit", "{z}", "--out", "{in}/task-0000/adapter_config.json"], 1, "adapter_config.json: cannot write there"),
    (["demo", "--out", "{in}/task-0000/adapter_config.json/demo"], 1, "cannot write there (Not a directory)"),
    (["rank", "{z}"], 1, "that is a zoo"),
    (["report", "{z}"], 1, "that is a zoo"),
    (["info", "{run}"], 1, "that is a run"),
    (["verify", "{run}"], 1, "that is a run"),
    (["fit", "{run}", "--out", "r"], 1, "that is a run"),
    (["report", "{run}", "--out", "/dev/null"], 1, "not a file"),
    (["fit", "{z}", "--out", "r", "--k", "missing.json"], 2, "no such file"),
    (["fit", "{z}", "--out", "r", "--side", "C"], 2, "A, B or both"),
    (["fit", "{z}", "--out", "r", "--center", "row"], 2, "feature or none"),
    (["fit", "{z}", "--out", "r", "--layers", "x*"], 1, "matches none of 2 layers"),
    (["fit", "{z}", "--out", "r", "--device", "abacus"], 2, "abacus"),
    (["fit", "nowhere", "--out", "r", "--side", "C"], 2, "--side"),
    (["fit", "{z}", "--out", "r", "--k", "49"], 1, "49 components asked of layers.0.q A"),
    (["fit", "{z}", "--out", "r", "--workers", "0"], 2, "--workers"),
    (["fit", "{z}", "--out", "r", "--memory", "1MiB"], 1, "raise --memory"),
    (["fit", "{z}", "--out", "r", "--scheduler", "tcp://127.0.0.1:1"], 1, "no scheduler answers"),
    (["rank", "nowhere"], 1, "no run there"),
    (["report", "nowhere"], 1, "no run there"),
    (["nonsense"], 2, "nonsense"),
    (["info", "--nonsense", "x"], 2, "--nonsense"),
]


@pytest.mark.parametrize(
    ("arguments", "code", "message"), WRONG, ids=lambda v: " ".join(v) if isinstance(v, list) else ""
)
def test_wrong_input_gets_one_clear_line(
    arguments: list[str],
    code: int,
    message: str,
    folder: Path,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "1s")
    import dask

    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        places = {"{" + name + "}": str(folder / name) for name in ("z", "in", "run")}
        for short, path in places.items():
            arguments = [a.replace(short, path) for a in arguments]
        found, out, err = run(capfd, *arguments)
    lines = [line for line in err.splitlines() if line.startswith("eigenzoo: ")]
    assert found == code and out == "" and len(lines) == 1 and message in lines[0]
    assert "Traceback" not in err and not (tmp_path / "z").exists()


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from engine.cli import main; sys.exit(main(['info', 'x', '--debug']))"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_help_has_an_example(capfd: pytest.CaptureFixture[str]) -> None:
    for command in ("ingest", "info", "verify", "fit", "rank", "report", "demo"):
        code, out, _ = run(capfd, command, "--help")
        assert code == 0 and f"Example:  eigenzoo {command}" in out

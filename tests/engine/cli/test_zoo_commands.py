"""Commands about a zoo that changes: what they print, their JSON, their exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.cli import main
from tests.ingest.builders import factors, write_peft_folder


@pytest.fixture
def zoo(tmp_path: Path) -> str:
    for i, name in enumerate("abc"):
        rng = np.random.default_rng(i)
        write_peft_folder(tmp_path / "in" / name, {"layers.0.q": factors(rng, 4, 24, 16)})
    assert main(["ingest", str(tmp_path / "in"), "--zoo", str(tmp_path / "z")]) == 0
    return str(tmp_path / "z")


def out(capfd: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    capfd.readouterr()
    assert main(list(arguments)) == code
    return capfd.readouterr().out


def document(capfd: pytest.CaptureFixture[str], *arguments: str) -> Any:
    return json.loads(out(capfd, *arguments, "--json"))


def test_remove_compact_log_info(zoo: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert "  4     4  peft" in out(capfd, "info", zoo)
    assert out(capfd, "remove", zoo, "b").startswith("1 adapter removed; `eigenzoo compact` would free 640 B")
    assert "b had been removed before" in out(capfd, "remove", zoo, "b")
    told = out(capfd, "info", zoo)
    assert "adapters    2 (2 of rank 4)" in told and "removed     1" in told and "retired     640 B" in told
    assert document(capfd, "info", zoo)["matrices"][0]["rows"] == 8
    assert document(capfd, "compact", zoo)["dropped"] == 8
    assert "nothing to do" in out(capfd, "compact", zoo)
    assert "retired" not in out(capfd, "info", zoo)
    assert [(e["action"], e["added"], e["removed"]) for e in document(capfd, "log", zoo)] == [
        ("compact", 0, 0),
        ("remove", 0, 1),
        ("ingest", 3, 0),
        ("layout", 0, 0),
    ]
    assert out(capfd, "log", zoo).splitlines()[2].split()[2] == "compact"
    assert out(capfd, "verify", zoo).startswith("2 adapters, 2 arrays, ")


def test_an_unknown_name_removes_nothing(zoo: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["remove", zoo, "a", "nobody"]) == 1
    assert "'nobody'" in capfd.readouterr().err
    assert len(document(capfd, "info", zoo)["adapters"]) == 3


def test_exit_codes_of_ingest(zoo: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = str(tmp_path / "in")
    assert "3 in the zoo already" in out(capfd, "ingest", source, "--zoo", zoo)
    main(["remove", zoo, "a"])
    assert "a" in out(capfd, "ingest", source, "--zoo", zoo)
    assert "a" in out(capfd, "ingest", source, "--zoo", zoo, "--strict", code=3)
    (tmp_path / "bad" / "x").mkdir(parents=True)
    (tmp_path / "bad" / "x" / "x.safetensors").write_bytes(b"{}")
    assert "0 adapters added, 1 refused" in out(capfd, "ingest", str(tmp_path / "bad"), "--zoo", f"{zoo}2", code=1)
    assert main(["ingest", source, "--zoo", zoo, "--convert", "dora"]) == 2
    assert main(["ingest", source, "--zoo", zoo, "--unet-config", str(tmp_path / "nowhere.json")]) == 1
    assert "nowhere.json" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("s3://bucket/adapters", "a source cannot be a URL"),
        ("https://example.org/a/b", "a source cannot be a URL"),
        ("in/a/adapter_config.json", "give its folder"),
        ("empty.txt", "names no source"),
        ("hub:", "nothing on the Hub"),
    ],
)
def test_sources_that_are_none(
    zoo: str, tmp_path: Path, source: str, said: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    monkeypatch.chdir(tmp_path)
    assert main(["ingest", source, "--zoo", zoo]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert said in line


def test_a_run_is_no_url(zoo: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", zoo, "--out", "s3://bucket/run"]) == 1
    assert "a run is a local folder" in capfd.readouterr().err

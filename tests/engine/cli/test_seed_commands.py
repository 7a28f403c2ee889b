"""`eigenzoo seeds`, `eigenzoo overlap` and `eigenzoo fit --seeds` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.cli import main
from ingest import shared_starts
from ingest.shared_starts import Groups, Module, Settings

SHARED, OWN = "layers.0.q_proj", "layers.0.v_proj"
Made = tuple[str, dict[str, Groups]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    path = tmp_path_factory.mktemp("seeds-cli")
    settings = Settings((Module(SHARED, 96, 64, True), Module(OWN, 96, 64, False)), adapters=10, groups=(4, 2))
    planted = shared_starts.write(path / "in", settings)
    assert main(["ingest", str(path / "in"), "--zoo", str(path / "z")]) == 0
    return str(path / "z"), planted


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capfd.readouterr()
    code = main(list(arguments))
    out, err = capfd.readouterr()
    return code, out, err


def test_seeds(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    zoo, planted = made
    code, out, _ = run(capfd, "seeds", zoo)
    assert code == 0
    lines = out.splitlines()
    assert any(line.startswith(SHARED) and "4, 2" in line for line in lines)
    assert any(line.startswith(OWN) and "–" in line for line in lines)
    assert f"1 module, {OWN}: every adapter has a start of its own" in lines
    assert f"  4: {', '.join(planted[SHARED][0])}" in lines
    code, out, _ = run(capfd, "seeds", zoo, "--json", "--layers", SHARED)
    document = json.loads(out)
    (module,) = document["layers"]
    assert document["min_cosine"] == 0.5 and module["side"] == "A" and module["n_adapters"] == 10
    assert module["groups"] == [list(group) for group in planted[SHARED]]
    assert module["strongest"] < module["bar"] <= module["weakest"] <= 1
    assert document["partitions"] == [{"groups": module["groups"], "layers": [SHARED]}]
    code, out, _ = run(capfd, "seeds", zoo, "--json", "--min-cosine", "0.9999")
    assert all(module["groups"] == [] for module in json.loads(out)["layers"])
    code, _, err = run(capfd, "seeds", zoo, "--min-cosine", "2")
    assert code == 2 and "from 0.2 to below 1" in err


def test_overlap(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    zoo, _ = made
    code, out, _ = run(capfd, "overlap", zoo)
    assert code == 0 and len(out.splitlines()) == 6 and "ΔW in" in out.splitlines()[0]
    code, out, _ = run(capfd, "overlap", zoo, "--json", "--layers", SHARED)
    (module,) = json.loads(out)
    every, one = module["all"], module["one_per_start"]
    assert set(every) == {"A", "B", "delta_A", "delta_B"} and every["A"]["n_adapters"] == 10
    assert every["A"]["ratio"] > every["A"]["high"] and every["delta_A"]["ratio"] > every["delta_A"]["high"]
    assert one["A"]["n_adapters"] == 6 and one["A"]["low"] < one["A"]["ratio"] < one["A"]["high"]


def test_fit(made: Made, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    zoo, _ = made
    common = ("fit", zoo, "--workers", "1", "--side", "A", "--out", str(tmp_path / "run"))
    code, out, err = run(capfd, *common, "--seeds", "one-each", "--json")
    assert code == 0 and "seeds: 6 adapters share a start with another in 1 of 2 modules" in err
    assert [m["n_adapters"] for m in json.loads(out)["matrices"]] == [6, 10]
    assert run(capfd, "rank", str(tmp_path / "run"))[1].splitlines()[-1].endswith("one adapter per random start")
    code, _, err = run(capfd, *common)
    assert code == 1 and "seeds: one-each → all" in err
    code, _, err = run(capfd, *common, "--seeds", "two-each")
    assert code == 2 and "one-each, subtract, group:1" in err
    code, _, err = run(capfd, *common, "--seeds", "group:3")
    assert code == 1 and "has 3 groups" in err

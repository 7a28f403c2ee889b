"""ΔW space on the command line: fit, rank, plan, error, leverage, budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.analysis.budget import budget, curves_of, stored_bytes
from engine.analysis.reconstruction import reconstruction
from engine.cli import main
from engine.plan.rates import default_rates, save_rates
from engine.run import open_run
from engine.zoo_fit import fit_zoo
from ingest import synthetic
from ingest.store.reader import open_zoo

LAYERS = (synthetic.Layer("layers.0.q", 48, 32, 3, 2), synthetic.Layer("layers.1.q", 48, 32, 2, 3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli-delta")
    synthetic.write(path / "in", synthetic.Settings(LAYERS, adapters=24, broken=False))
    assert main(["ingest", str(path / "in"), "--zoo", str(path / "z")]) == 0
    fit_zoo(path / "z", path / "run", space="delta", k="ev:1")
    fit_zoo(path / "z", path / "factors", k=6)
    return path


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capfd.readouterr()
    code = main(list(arguments))
    out, err = capfd.readouterr()
    return code, out, err


def read(capfd: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code, out, err = run(capfd, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_rank_says_which_space(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert {m["space"] for m in read(capfd, "rank", str(folder / "run"))["matrices"]} == {"delta"}
    assert {m["space"] for m in read(capfd, "rank", str(folder / "factors"))["matrices"]} == {"factor"}
    assert run(capfd, "rank", str(folder / "run"))[1].splitlines()[-1] == "K kept by ev:1, in ΔW space"


def test_what_fit_refuses(folder: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    common = ["fit", str(folder / "z"), "--out", str(tmp_path / "r")]
    code, _, err = run(capfd, *common, "--space", "delta", "--center", "feature")
    assert code == 1 and "center: 'feature' in ΔW space" in err and len(err.splitlines()) == 1
    code, _, err = run(capfd, *common, "--space", "gauge")
    assert code == 2 and "choose factor or delta" in err
    code, _, err = run(capfd, "fit", str(folder / "z"), "--out", str(folder / "run"), "--k", "ev:1")
    assert code == 1 and "space: delta → factor" in err


def test_plan(folder: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    save_rates(tmp_path / "rates.json", {device: default_rates(device) for device in ("cpu", "torch")})
    common = ["plan", str(folder / "z"), "--workers", "1", "--rates", str(tmp_path / "rates.json")]
    plain, delta = (read(capfd, *common, "--space", s)["plans"][0]["groups"] for s in ("factor", "delta"))
    stated = [{(g["rows"], g["width"]): g["methods"][0]["task_bytes"] for g in groups} for groups in (plain, delta)]
    assert stated[0].keys() == stated[1].keys() and {g["dtype"] for g in delta} == {"float64"}
    assert all(stated[1][key] > stated[0][key] for key in stated[0])


def test_error(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = read(capfd, "error", str(folder / "factors"))
    assert found["space"] == "factor" and [e["layer"] for e in found["layers"]] == ["layers.0.q", "layers.1.q"]
    wanted = reconstruction(open_run(folder / "factors"))
    assert found["total"] == wanted.total and 0 < found["total"] < 1
    first = found["layers"][0]
    assert first["k"] == {"A": 6, "B": 6} and first["n_adapters"] == 24
    assert first["delta"]["worst_adapter"] == wanted.layers[0].delta.worst_adapter
    assert first["A"]["mean"] == wanted.layers[0].A.mean  # type: ignore[union-attr]
    delta = read(capfd, "error", str(folder / "run"), "--layers", "layers.1.*")["layers"]
    assert len(delta) == 1 and delta[0]["A"] is None and delta[0]["delta"]["total"] < 1e-6
    code, out, _ = run(capfd, "error", str(folder / "factors"))
    assert code == 0 and out.splitlines()[-1].endswith(f"{wanted.total:.4f}") and "layers.0.q" in out


def test_leverage(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capfd, "leverage", str(folder / "factors"))
    assert code == 0 and out == "no adapter dominates a component\n"
    found = read(capfd, "leverage", str(folder / "factors"), "--share", "0.1")["leverage"]
    assert found and all(f["share"] > 0.1 for f in found) and found[0]["share"] == max(f["share"] for f in found)
    code, out, _ = run(capfd, "leverage", str(folder / "factors"), "--share", "0.1")
    assert code == 0 and found[0]["adapter"] in out.splitlines()[2]


def test_budget(folder: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "k.json"
    common = ["budget", str(folder / "run"), "--out", str(out)]
    found = read(capfd, *common, "--bytes", "20KiB")
    three = found["allocations"]
    assert three["exact"]["bytes"] <= 20 * 1024 and found["proven"] is True and found["dtype"] == "f16"
    assert three["exact"]["tail"] <= min(three["greedy"]["tail"], three["uniform"]["tail"])
    assert json.loads(out.read_text()) == found["k"] and found["k"].keys() == {"layers.0.q", "layers.1.q"}
    opened = open_run(folder / "run")
    measured = reconstruction(opened, k=found["k"]).total
    assert measured <= three["exact"]["error_bound"] <= 2**0.5 * measured
    # the same K by a fit of the file
    again = ["fit", str(folder / "z"), "--space", "delta", "--k", str(out), "--workers", "1", "--out"]
    assert main([*again, str(tmp_path / "r")]) == 0
    assert reconstruction(open_run(tmp_path / "r")).total == pytest.approx(measured, rel=1e-9)

    stored = stored_bytes(opened, open_zoo(folder / "z"))
    assert read(capfd, *common, "--bytes", "18x")["allocations"]["exact"]["bytes"] <= stored / 18
    arrays = open_zoo(folder / "z").commit.arrays
    assert stored == sum(a.live * a.row_bytes for a in arrays)
    wide = read(capfd, *common, "--bytes", "20KiB", "--dtype", "f32")["allocations"]["exact"]
    assert wide["tail"] > three["exact"]["tail"]

    least = read(capfd, *common, "--max-error", "0.3")["allocations"]
    assert least["exact"]["error_bound"] <= 0.3 + 1e-12
    assert least["exact"]["bytes"] <= min(least["greedy"]["bytes"], least["uniform"]["bytes"])
    code, text, _ = run(capfd, *common, "--bytes", "20KiB")
    assert code == 0 and "one K for all" in text and str(out) in text


def test_what_budget_refuses(folder: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "k.json")]
    code, _, err = run(capfd, "budget", str(folder / "factors"), "--bytes", "1MiB", *out)
    assert code == 1 and "a run of the factors" in err and "--space delta" in err and len(err.splitlines()) == 1
    for more, says in (
        ([], "either --bytes or --max-error"),
        (["--bytes", "1MiB", "--max-error", "0.1"], "either --bytes or --max-error"),
        (["--max-error", "1.5"], "between 0 and 1"),
        (["--bytes", "many"], "--bytes 'many'"),
        (["--bytes", "0x"], "--bytes '0x'"),
        (["--bytes", "1MiB", "--dtype", "int4"], "f32, f16 or bf16"),
    ):
        code, _, err = run(capfd, "budget", str(folder / "run"), *more, *out)
        assert code == 2 and says in err, err
    fit_zoo(folder / "z", tmp_path / "a", space="delta", side="A")
    code, _, err = run(capfd, "budget", str(tmp_path / "a"), "--bytes", "1MiB", *out)
    assert code == 1 and "no result for layers.0.q B" in err
    assert not (tmp_path / "k.json").exists()


def test_the_energy_is_that_of_the_weights(folder: Path) -> None:
    opened, zoo = open_run(folder / "run"), open_zoo(folder / "z")
    wanted = 0.0
    for record in zoo.accepted:
        for m in zoo.adapter(record.name):
            wanted += m.scale**2 * float(((m.B.astype(float) @ m.A.astype(float)) ** 2).sum())
    assert curves_of(opened).energy == pytest.approx(wanted, rel=1e-9)
    assert budget(opened, nbytes=0).curves.bound(budget(opened, nbytes=0).exact) == 1.0


def test_a_truncated_spectrum_knows_what_it_does_not_list(folder: Path, tmp_path: Path) -> None:
    whole = curves_of(open_run(folder / "run"))
    top = curves_of(fit_zoo(folder / "z", tmp_path / "top", space="delta", method="randomized", k=4))
    assert top.energy == pytest.approx(whole.energy, rel=1e-9)
    for a, b in zip(whole.curves, top.curves, strict=True):
        assert b.useful <= a.useful and b.tail(4) == pytest.approx(a.tail(4), rel=1e-6)
    assert any(c.beyond > 0 for c in top.curves)

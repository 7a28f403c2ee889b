"""`eigenzoo plan`, and what `eigenzoo fit` makes of method, spectrum and memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.cli import main
from engine.job import open_job, within
from engine.plan.rates import DEFAULTS, save_rates
from engine.run import RUN, RunSettings, open_run
from engine.zoo_fit import Progress, fit_zoo
from ingest import synthetic
from ingest.errors import EigenzooError

LAYERS = (
    synthetic.Layer("layers.0.q", 600, 32, 3, 2),
    synthetic.Layer("layers.1.q", 600, 32, 2, 3),
)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plan")
    synthetic.write(path / "in", synthetic.Settings(LAYERS, adapters=90))
    assert main(["ingest", str(path / "in"), "--zoo", str(path / "z")]) == 0
    return str(path / "z")


@pytest.fixture
def rates(tmp_path: Path) -> str:
    """The documented rates in a file, so that nothing is measured."""
    save_rates(tmp_path / "rates.json", DEFAULTS)
    return str(tmp_path / "rates.json")


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capfd.readouterr()
    code = main(list(arguments))
    return code, *capfd.readouterr()


def read(capfd: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code, out, _ = run(capfd, *arguments, "--json")
    assert code == 0
    return json.loads(out)


def test_a_zoo_is_planned_shape_by_shape(zoo: str, rates: str, capfd: pytest.CaptureFixture[str]) -> None:
    plan = read(capfd, "plan", zoo, "--rates", rates, "--workers", "1,4", "--device", "cpu")
    assert plan.keys() == {"zoo", "rates", "plans"} and plan["zoo"] == zoo and plan["rates"].keys() == {"cpu"}
    one, four = plan["plans"]
    assert (one["workers"], four["workers"]) == (1, 4) and one["allowed_bytes"] is None
    assert [(g["rows"], g["width"], g["count"], g["first"]) for g in one["groups"]] == [
        (804, 600, 2, "layers.0.q A"),
        (804, 32, 2, "layers.0.q B"),
    ]
    group = one["groups"][0]
    assert group["method"] == "moments" and group["why"].startswith("moments: exact, one pass")
    methods = {m["method"]: m for m in group["methods"]}
    assert methods.keys() == {"moments", "dual", "krylov", "randomized", "incremental", "tsqr"}
    assert methods["moments"]["fold_flops"] == 804 * 600**2 and methods["moments"]["bytes_read"] == 4 * 804 * 600
    assert (
        methods["moments"]["exact"] and methods["moments"]["spectrum"] == "full" and not methods["moments"]["refusal"]
    )
    assert methods["randomized"]["passes"] == [5, 8] and methods["randomized"]["spectrum"] == "top"
    assert "fewer rows than columns" in methods["dual"]["refusal"]
    assert four["total"]["seconds"] <= one["total"]["seconds"] and one["total"]["bytes_moved"] == 0
    assert one["total"]["bytes_read"] == 4 * 804 * 632 * 2


def test_what_is_planned_as_people_read_it(zoo: str, rates: str, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capfd, "plan", zoo, "--rates", rates, "--side", "A", "--layers", "layers.0.q")
    assert code == 0 and "rates of cpu: assumed" in err and "within a factor of" in err
    assert "1 of 804 × 600 float32, layers.0.q A: moments: exact, one pass, " in out
    assert "for fewer rows than columns only" in out and "approximate, top spectrum" in out
    assert "GiB a task allowed" in out or "MiB a task allowed" in out
    marked = [line for line in out.splitlines() if "  *  " in line]
    assert len(marked) == 1 and "moments" in marked[0]


def test_a_zoo_that_is_not_there(rates: str, capfd: pytest.CaptureFixture[str]) -> None:
    shapes = ["--shape", "160000x4096:128", "--shape", "160000x1024:64:bfloat16"]
    plan = read(capfd, "plan", *shapes, "--rates", rates, "--workers", "2,8,64", "--device", "torch")
    assert plan["zoo"] is None and [g["count"] for g in plan["plans"][0]["groups"]] == [128, 64]
    seconds = [p["total"]["seconds"] for p in plan["plans"]]
    assert seconds == sorted(seconds, reverse=True) and seconds[0] / seconds[2] == pytest.approx(32, rel=0.2)
    gpu = read(capfd, "plan", *shapes, "--device", "cuda")
    assert gpu["rates"]["cuda"]["source"].startswith("assumed, not measured") and gpu["plans"][0]["workers"] == 1
    assert gpu["plans"][0]["total"]["within"] > 2
    one = read(capfd, "plan", "--shape", "20x30", "--rates", rates, "--device", "cpu", "--k", "4")
    assert one["plans"][0]["groups"][0]["method"] == "dual"


def test_memory_makes_it_choose_another(rates: str, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "--shape", "20000x128256", "--rates", rates, "--device", "cpu", "--k", "16"]
    group = read(capfd, *arguments, "--workers", "4", "--memory", "16GiB")["plans"][0]["groups"][0]
    assert group["method"] == "randomized" and "moments needs" in group["why"]
    refused = {m["method"] for m in group["methods"] if m["refusal"]}
    assert refused == {"moments", "dual", "krylov", "tsqr"}
    code, out, _ = run(capfd, *arguments, "--workers", "4", "--memory", "64MiB")
    assert code == 1 and "which takes least, needs" in out and "no method fits" in out
    code, out, _ = run(capfd, *arguments, "--workers", "1,64", "--memory", "900GiB", "--products", "float64")
    assert code == 0 and "1 shape by another method than above" in out


def test_rates_are_measured_here_and_kept(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "here.json"
    made = read(capfd, "plan", "--shape", "5000x600:2", "--device", "cpu", "--save", str(path))
    assert made["rates"]["cpu"]["measured"] and "measured here" in made["rates"]["cpu"]["source"]
    again = read(capfd, "plan", "--shape", "5000x600:2", "--device", "cpu", "--rates", str(path))
    assert again["rates"]["cpu"]["gram_flops_per_s"] == made["rates"]["cpu"]["gram_flops_per_s"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "give a ZOO, or --shape"),
        (["--shape", "10by20"], 2, "give ROWSxWIDTH:COUNT:DTYPE"),
        (["--shape", "10x20:3:int64"], 1, "dtype 'int64'"),
        (["--shape", "0x20"], 1, "at least one row"),
        (["--shape", "10x20", "--workers", "two"], 2, "2,8,64"),
        (["--shape", "10x20", "--workers", "2,0"], 2, "2,8,64"),
        (["--shape", "10x20", "--method", "pca"], 2, "choose auto, moments"),
        (["--shape", "10x20", "--spectrum", "half"], 2, "full or top"),
        (["--shape", "10x20", "--rates", "missing.json"], 1, "cannot be read"),
        (["missing"], 1, "missing"),
    ],
)
def test_refusals(arguments: list[str], code: int, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    found, out, err = run(capfd, "plan", *arguments)
    assert found == code and said in err and len(err.strip().splitlines()) == 1 and not out


def test_a_fit_takes_the_method_that_is_asked_for(zoo: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    arguments = ["fit", zoo, "--out", out, "--layers", "layers.0.q", "--workers", "1", "--k", "3"]
    fitted = read(capfd, *arguments, "--method", "incremental", "--spectrum", "top", "--no-refine", "--side", "A")
    assert [(m["method"], m["exact"]) for m in fitted["matrices"]] == [("incremental", False)]
    settings = open_run(out).record.settings
    assert (settings.method, settings.spectrum, settings.refine) == ("incremental", "top", False)
    code, _, err = run(capfd, *arguments, "--method", "incremental", "--spectrum", "top", "--side", "A")
    assert code == 1 and "refine: False → None" in err
    assert (
        run(capfd, *arguments, "--method", "dual", "--side", "A", "--restart")[2].count("fewer rows than columns") == 1
    )


def test_a_zoo_is_fitted_within_the_memory_and_says_by_what(zoo: str, tmp_path: Path) -> None:
    said: list[str] = []
    with open_job(zoo, tmp_path / "plan", side="A", k=3, refine=False, device="cpu") as job:
        need = {each.plan.task_bytes for each in job.waiting}.pop()
        assert {each.plan.method for each in job.waiting} == {"moments"}
        assert within(job, None) is job and within(job, need) is job
        with pytest.raises(EigenzooError, match="layers.0.q A: .* raise --memory"):
            within(job, 2**20)
        small = within(job, need - 1)
        for each in small.waiting:
            assert each.plan.method in ("randomized", "incremental") and each.plan.task_bytes < need

    def tell(p: Progress) -> None:
        assert p.last is None or not p.last.exact

    run = fit_zoo(
        zoo,
        tmp_path / "run",
        side="A",
        k=3,
        refine=False,
        device="cpu",
        memory=need - 1,
        progress=tell,
        notice=said.append,
    )
    assert {m.method for m in run.matrices} == {small.waiting[0].plan.method}
    assert len(said) == 1 and said[0].startswith("2 matrices (layers.0.q A first) by ") and "moments needs" in said[0]


def test_runs_of_before_these_settings_go_on(zoo: str, tmp_path: Path) -> None:
    fit_zoo(zoo, tmp_path, layers="layers.0.q", device="cpu")
    document = json.loads((tmp_path / RUN).read_text())
    document["settings"] = {"center": "feature", "k": "gavish-donoho"}
    (tmp_path / RUN).write_text(json.dumps(document))
    assert open_run(tmp_path).record.settings == RunSettings()
    run = fit_zoo(zoo, tmp_path, device="cpu")
    assert len(run.matrices) == 4
    with pytest.raises(EigenzooError, match="spectrum: full → top"):
        fit_zoo(zoo, tmp_path, device="cpu", spectrum="top")
    with pytest.raises(EigenzooError, match="method: got 'pca'"):
        fit_zoo(zoo, tmp_path, method="pca")
    with pytest.raises(EigenzooError, match="products: got 'int8'"):
        fit_zoo(zoo, tmp_path, products="int8")

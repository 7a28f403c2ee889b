"""A run directory through its starts: one writer, one zoo, and a K that its matrices can have."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.job import open_job
from engine.run import open_run, read_record, write_record
from engine.zoo_fit import fit_zoo
from ingest import synthetic
from ingest.errors import EigenzooError
from ingest.pipeline import ingest
from ingest.store.reader import Zoo, open_zoo

ROOT = Path(__file__).resolve().parents[2]
NARROW = synthetic.Layer("layers.0.q", 24, 16, 2, 2)
WIDE = synthetic.Layer("layers.1.q", 40, 32, 2, 2)
HOLD = """
import sys, time
from engine.job import open_job
with open_job(sys.argv[1], sys.argv[2]):
    print("held", flush=True)
    time.sleep(600)
"""


def make(path: Path, *layers: synthetic.Layer, seed: int = 0) -> Path:
    source = path.with_name(f"{path.name}-{seed}.in")
    synthetic.write(source, synthetic.Settings(layers, adapters=12, broken=False, seed=seed))
    ingest(source, path)
    return path


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("job") / "zoo", NARROW, WIDE)


def with_uuid(path: Path, uuid: str) -> Zoo:
    document = json.loads((path / "zarr.json").read_text())
    document["attributes"]["eigenzoo"]["uuid"] = uuid
    (path / "zarr.json").write_text(json.dumps(document))
    return open_zoo(path)


def test_a_zoo_rebuilt_at_the_same_path_is_another_zoo(tmp_path: Path) -> None:
    path, out = make(tmp_path / "zoo", NARROW, WIDE), tmp_path / "run"
    fit_zoo(with_uuid(path, "one"), out)
    record = read_record(str(out))
    assert record is not None and record.zoo_uuid == "one"
    shutil.rmtree(path)
    other = with_uuid(make(path, WIDE, seed=1), "two")
    with pytest.raises(EigenzooError, match="another zoo at the same path.*--out, or --restart") as caught:
        fit_zoo(other, out)
    assert "\n" not in str(caught.value) and len(open_run(out).matrices) == 4
    assert [m.key for m in fit_zoo(other, out, restart=True).matrices] == [("layers.1.q", "A"), ("layers.1.q", "B")]


def test_a_run_that_knows_no_uuid_goes_on_and_learns_it(tmp_path: Path, zoo: Path) -> None:
    out = tmp_path / "run"
    fit_zoo(with_uuid(zoo, ""), out)
    fit_zoo(with_uuid(zoo, "one"), out)
    record = read_record(str(out))
    assert record is not None and record.zoo_uuid == "one"


def test_a_zoo_that_moved_is_the_same_zoo(tmp_path: Path) -> None:
    path, out = make(tmp_path / "zoo", NARROW, WIDE), tmp_path / "run"
    fit_zoo(with_uuid(path, "one"), out, layers="layers.0.*")
    moved, told = path.rename(tmp_path / "moved"), list[str]()
    with pytest.raises(EigenzooError, match="zoo: .*zoo → .*moved"):
        fit_zoo(with_uuid(moved, "two"), out)
    with pytest.raises(EigenzooError, match="zoo: .*zoo → .*moved"):
        fit_zoo(with_uuid(moved, ""), out)
    run = fit_zoo(with_uuid(moved, "one"), out, notice=told.append)
    assert len(run.matrices) == 4 and run.record.zoo == str(moved)
    assert len(told) == 1 and str(path) in told[0] and str(moved) in told[0]


def test_a_run_knows_what_was_asked_of_it(tmp_path: Path, zoo: Path) -> None:
    out = tmp_path / "run"
    with open_job(zoo, out, layers="layers.0.*"):
        pass
    assert (run := open_run(out)).matrices == [] and run.planned([]) == 2
    run = fit_zoo(zoo, out, layers="layers.1.*", side="A")
    assert len(run.matrices) == 1 and run.planned(run.matrices) == 3
    document = json.loads((out / "run.json").read_text())
    del document["planned"]  # as before runs kept it
    (out / "run.json").write_text(json.dumps(document))
    assert (run := open_run(out)).record.planned == () and run.planned(run.matrices) == 1


def test_results_that_the_zoo_no_longer_has_are_dropped_aloud(tmp_path: Path) -> None:
    path, out = make(tmp_path / "zoo", NARROW, WIDE), tmp_path / "run"
    run = fit_zoo(path, out)
    write_record(str(out), dataclasses.replace(run.record, zoo_uuid=""))  # as before zoos had one
    shutil.rmtree(path)
    make(path, WIDE, seed=1)
    told: list[str] = []
    run = fit_zoo(path, out, notice=told.append)
    assert [m.key for m in run.matrices] == [("layers.1.q", "A"), ("layers.1.q", "B")]
    assert any("no longer has 2 matrices" in line and "layers.0.q" in line for line in told)
    assert not list(out.rglob("*layers.0.q*"))
    told.clear()
    assert len(fit_zoo(path, out, layers="nothing,layers.1.*", side="A", notice=told.append).matrices) == 2
    assert told == [], "a matrix that is not chosen this time is still the zoo's"


def test_one_fit_at_a_time(tmp_path: Path, zoo: Path) -> None:
    out = tmp_path / "run"
    with open_job(zoo, out) as job:
        assert len(job.waiting) == 4
        for restart in (False, True):
            with pytest.raises(EigenzooError, match="another fit or analysis is writing to this run; wait") as caught:
                fit_zoo(zoo, out, restart=restart)
            assert "\n" not in str(caught.value)
    assert len(fit_zoo(zoo, out).matrices) == 4


def test_a_killed_fit_lets_go_of_its_run(tmp_path: Path, zoo: Path) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(zoo), str(out)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(EigenzooError, match="another fit"), open_job(zoo, out):
            pass
    finally:
        process.kill()
        process.wait()
    assert len(fit_zoo(zoo, out).matrices) == 4


def test_a_folder_of_something_else_is_left_as_it_was(tmp_path: Path, zoo: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("x")
    with pytest.raises(EigenzooError, match="a folder with other files"):
        fit_zoo(zoo, tmp_path / "mine")
    assert os.listdir(tmp_path / "mine") == ["notes.txt"]
    with pytest.raises(EigenzooError, match="cannot write there"):
        fit_zoo(zoo, tmp_path / "mine/notes.txt")


@pytest.mark.parametrize("center", ["feature", "none"])
def test_a_k_that_no_matrix_can_have_is_refused_before_anything_is_done(center: str, tmp_path: Path, zoo: Path) -> None:
    # Rows are more than columns here, so the width is the bound.
    with pytest.raises(EigenzooError, match=r"25 components asked of layers\.0\.q A.* at most 24; .*2 of 4") as caught:
        fit_zoo(zoo, tmp_path / "run", k=25, center=center)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()
    table = {"layers.0.q": {"A": np.int64(24), "B": 16}, "layers.1.q": {"A": 41, "B": 32}}
    with pytest.raises(EigenzooError, match=r"41 components asked of layers\.1\.q A.* at most 40; .*1 of 4"):
        fit_zoo(zoo, tmp_path / "run", k=table, center=center)
    assert fit_zoo(zoo, tmp_path / "run", k=24, layers="layers.0.*", side="A", center=center).matrices[0].k["24"] == 24


def test_centring_takes_a_row_from_the_possible_k(tmp_path: Path) -> None:
    path = make(tmp_path / "zoo", synthetic.Layer("layers.0.q", 400, 300, 2, 2))
    rows = open_zoo(path).matrices[0].rows
    assert rows < 300
    with pytest.raises(EigenzooError, match=f"at most {rows - 1}; .*2 of 2"):
        fit_zoo(path, tmp_path / "run", k=rows)
    with open_job(path, tmp_path / "run", k=rows, center="none") as job:
        assert len(job.waiting) == 2


def test_settings_are_kept_exactly(tmp_path: Path, zoo: Path) -> None:
    for i, k in enumerate(("ev:0.9999999", "gavish-donoho:0.0123456789", "ev:0.8")):
        run = fit_zoo(zoo, tmp_path / f"run{i}", k=k, layers="layers.0.*", side="A")
        assert run.record.settings.k == k and run.matrices[0].chosen == k
    assert run.matrices[0].k.keys() == {"gavish_donoho", "ev_0.8"}
    with pytest.raises(EigenzooError, match=r"k: ev:0\.8 → ev:0\.8000001"):
        fit_zoo(zoo, tmp_path / "run2", k="ev:0.8000001")


def test_a_damaged_result_is_fitted_again(tmp_path: Path, zoo: Path) -> None:
    run = fit_zoo(zoo, tmp_path / "run", layers="layers.0.*", side="A")
    (result,) = (tmp_path / "run" / "matrices").glob("*.safetensors")
    whole = result.read_bytes()
    for cut in (0, 5, 300, len(whole) - 1):
        result.write_bytes(whole[:cut])
        fit_zoo(zoo, tmp_path / "run", layers="layers.0.*", side="A")
        assert result.read_bytes() == whole
    (marker,) = (tmp_path / "run" / "matrices").glob("*.json")
    marker.write_text("{not json")
    with pytest.raises(EigenzooError, match="damaged .* mends it"):
        print(run.matrices)
    assert len(fit_zoo(zoo, tmp_path / "run", layers="layers.0.*", side="A").matrices) == 1


def test_what_cannot_be_done_claims_no_folder(tmp_path: Path, zoo: Path) -> None:
    for settings, what in ({"method": "tsqr", "spectrum": "top"}, "spectrum"), ({"method": "dual"}, "fewer rows"):
        with pytest.raises(EigenzooError, match=what):
            fit_zoo(zoo, tmp_path / "run", **settings)  # type: ignore[arg-type]
        assert not (tmp_path / "run").exists()
    assert len(fit_zoo(zoo, tmp_path / "run", method="tsqr", keep_state=True, layers="layers.0.*").matrices) == 2

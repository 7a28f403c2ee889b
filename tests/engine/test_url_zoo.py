"""A zoo by URL under the engine: the same subspaces as on a disk, on workers too, and runs that follow its changes."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.run import Run
from engine.runners.dask_ import DaskRunner
from engine.zoo_fit import fit_zoo
from ingest import synthetic
from ingest.compact import compact
from ingest.errors import EigenzooError
from ingest.pipeline import ingest
from ingest.remove import remove
from ingest.store.reader import open_zoo
from ingest.store.root import Compacted

LAYERS = (synthetic.Layer("layers.0.q", 24, 16, 2, 2), synthetic.Layer("layers.1.q", 40, 32, 2, 2))


@pytest.fixture(scope="module")
def runner(s3_server: str) -> Iterator[DaskRunner]:
    with DaskRunner(workers=2) as runner:
        yield runner


@pytest.fixture
def source(tmp_path: Path) -> Path:
    synthetic.write(tmp_path / "in", synthetic.Settings(LAYERS, adapters=8, broken=False))
    return tmp_path / "in"


def values(run: Run) -> dict[tuple[str, str], list[np.ndarray]]:
    found = {}
    for m in run.matrices:
        subspace = run.subspace(m.layer, side=m.side)
        found[m.key] = [subspace.mean, subspace.components, subspace.singular_values]
    return found


def stamps(path: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in path.rglob("*.safetensors")}


def test_workers_fit_what_one_process_fits_on_a_disk(
    source: Path, tmp_path: Path, s3_url: str, runner: DaskRunner
) -> None:
    ingest(source, tmp_path / "zoo")
    ingest(source, s3_url)
    wanted = values(fit_zoo(tmp_path / "zoo", tmp_path / "serial"))
    found = values(fit_zoo(s3_url, tmp_path / "dask", runner=runner))
    assert found.keys() == wanted.keys() and len(wanted) == 4
    for key, arrays in wanted.items():
        for mine, theirs in zip(found[key], arrays, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-12)


def test_rows_travel_and_a_compaction_is_one_line_there(source: Path, s3_url: str, runner: DaskRunner) -> None:
    ingest(source, s3_url)
    rows = open_zoo(s3_url).rows("layers.0.q", side="A")
    here = rows.read(0, rows.shape[0])
    data = pickle.dumps(rows)
    there = runner._client.submit(lambda data: pickle.loads(data).read(0, rows.shape[0]), data, pure=False)
    assert there.result(60).tobytes() == here.tobytes()
    remove(s3_url, [open_zoo(s3_url).accepted[0].name])
    compact(s3_url)
    late = runner._client.submit(lambda data: pickle.loads(data).read(0, 1), data, pure=False)
    error = late.exception(60)
    assert isinstance(error, Compacted)
    assert str(error) == f"{s3_url}: the zoo was compacted since it was opened; open it again"


def test_a_fit_of_a_snapshot_that_was_compacted_is_one_line(
    source: Path, tmp_path: Path, s3_url: str, runner: DaskRunner
) -> None:
    ingest(source, s3_url)
    old = open_zoo(s3_url)
    for m in old.matrices:
        old.rows(m.layer, side=m.side)
    remove(s3_url, [old.accepted[0].name])
    compact(s3_url)
    with pytest.raises(EigenzooError, match="the zoo was compacted since it was opened; open it again") as caught:
        fit_zoo(old, tmp_path / "run", runner=runner)
    assert "\n" not in str(caught.value)


def test_a_run_is_fitted_anew_where_rows_changed_alone(source: Path, tmp_path: Path, s3_url: str) -> None:
    ingest(source, s3_url)
    fit_zoo(s3_url, tmp_path / "run")
    first = stamps(tmp_path / "run")
    fit_zoo(s3_url, tmp_path / "run")
    assert first and stamps(tmp_path / "run") == first
    remove(s3_url, [open_zoo(s3_url).accepted[0].name])
    run = fit_zoo(s3_url, tmp_path / "run")
    second = stamps(tmp_path / "run")
    assert second.keys() == first.keys() and all(second[name] != first[name] for name in first)
    assert {m.rows for m in run.matrices} == {m.rows for m in open_zoo(s3_url).matrices}
    compact(s3_url)
    fit_zoo(s3_url, tmp_path / "run")
    assert stamps(tmp_path / "run") == second

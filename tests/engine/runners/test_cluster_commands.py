"""`eigenzoo fit` on clusters that people bring."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from engine.cli import main
from ingest import synthetic
from ingest.pipeline import ingest


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("cluster")
    layers = (synthetic.Layer("layers.0.q", 24, 16, 2, 2),)
    synthetic.write(folder / "in", synthetic.Settings(layers, adapters=12, broken=False))
    ingest(folder / "in", folder / "z")
    return str(folder / "z")


def cluster(memory_limit: Any) -> Any:
    from distributed import LocalCluster

    return LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, memory_limit=memory_limit
    )


def test_a_worker_with_too_little_memory_is_refused_before_anything_runs(
    zoo: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with cluster("160MiB") as small:
        code = main(["fit", zoo, "--out", str(tmp_path / "run"), "--scheduler", small.scheduler_address])
    lines = [line for line in capfd.readouterr().err.splitlines() if "limited to" in line]
    assert code == 1 and len(lines) == 1
    assert re.search(r"layers\.0\.q A: needs \d+ MiB per task, but worker inproc:\S+ is limited to 160 MiB", lines[0])


def test_a_performance_report_is_saved(zoo: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("bokeh")
    page = tmp_path / "dask.html"
    with cluster(0) as large:
        common = ["fit", zoo, "--out", str(tmp_path / "run"), "--scheduler", large.scheduler_address]
        assert main([*common, "--performance-report", str(tmp_path / "nowhere" / "dask.html")]) == 1
        assert "no folder" in capfd.readouterr().err
        assert main([*common, "--performance-report", str(page)]) == 0
    assert "dask: 1 worker" in capfd.readouterr().err
    assert "fold_matrix" in page.read_text(encoding="utf-8")

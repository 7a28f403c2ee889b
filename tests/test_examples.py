"""Every example does what it says: the local ones really, those for a queue and a cloud on stand-ins.

The stand-ins take exactly the arguments that the examples give and start workers in this process. Where dask-jobqueue
is installed, the one for SLURM also runs with it, and with an `sbatch` that starts a job at once.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.run import open_run
from ingest import synthetic
from ingest.pipeline import ingest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
ROOT = EXAMPLES.parent

SBATCH = """#!/bin/sh
script="{jobs}.$$"
cp "$1" "$script"
setsid sh "$script" >/dev/null 2>&1 &
echo $! >> "{jobs}"
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
for job in "$@"; do kill -- "-$job" 2>/dev/null; done
exit 0
"""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("examples")
    layers = tuple(synthetic.Layer(f"layers.{i}.q", 24, 16, 2, 2) for i in range(2))
    synthetic.write(folder / "in", synthetic.Settings(layers, adapters=12, broken=False))
    ingest(folder / "in", folder / "z")
    return str(folder / "z")


def fitted(path: Path) -> bool:
    return len(open_run(path).matrices) == 4


def start(name: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(EXAMPLES / name), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), **environment},
    )


def test_all_examples_are_tested() -> None:
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert names == {"local_cluster.py", "scheduler_address.py", "slurm.py", "kubernetes.py"}
    for name in names:
        text = (EXAMPLES / name).read_text(encoding="utf-8")
        assert compile(text, name, "exec") and f"python examples/{name} " in text


def test_local_cluster(zoo: str, tmp_path: Path) -> None:
    process = start("local_cluster.py", zoo, str(tmp_path / "run"))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "4 matrices in" in out and fitted(tmp_path / "run")


def test_scheduler_address(zoo: str, tmp_path: Path) -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        main = runpy.run_path(str(EXAMPLES / "scheduler_address.py"))["main"]
        main(zoo, str(tmp_path / "run"), cluster.scheduler.address)
        assert fitted(tmp_path / "run") and cluster.scheduler.workers, "the cluster stays"


class StandIn:
    """A cluster that begins without workers; `calls` are those of the class it stands for."""

    def __new__(cls, calls: list[tuple[str, dict[str, Any]]], **options: Any) -> Any:
        from distributed import LocalCluster

        class Cluster(LocalCluster):
            def adapt(self, **bounds: int) -> Any:
                calls.append(("adapt", bounds))
                return super().adapt(minimum=0, maximum=2, interval="50ms")

        calls.append(("made", options))
        return Cluster(n_workers=0, threads_per_worker=1, processes=False, dashboard_address=None)


def run_on_stand_in(
    name: str, module: str, cluster: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> list[tuple[str, dict[str, Any]]]:
    from distributed import Client

    from engine.runners import dask_

    calls: list[tuple[str, dict[str, Any]]] = []

    class Recorded(dask_.DaskRunner):
        def __init__(self, cluster: Any, **options: Any) -> None:
            assert isinstance(cluster, Client)
            calls.append(("runner", options))
            super().__init__(cluster, **options)

    stand_in = SimpleNamespace(**{cluster: lambda **options: StandIn(calls, **options)})
    for part in (module, module.split(".")[0]):
        monkeypatch.setitem(sys.modules, part, stand_in)  # type: ignore[arg-type]
    monkeypatch.setattr(dask_, "DaskRunner", Recorded)
    runpy.run_path(str(EXAMPLES / name))["main"](*arguments)
    return calls


def test_slurm(zoo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [zoo, str(tmp_path / "run")]
    made, adapt, runner = run_on_stand_in("slurm.py", "dask_jobqueue", "SLURMCluster", arguments, monkeypatch)
    assert made[1]["cores"] == made[1]["processes"] == 1 and made[1]["memory"]
    assert adapt == ("adapt", {"minimum_jobs": 0, "maximum_jobs": 32})
    assert runner[1]["patience"] >= 600 and fitted(tmp_path / "run")


def test_kubernetes(zoo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [zoo, str(tmp_path / "run"), "my-image"]
    made, adapt, runner = run_on_stand_in(
        "kubernetes.py", "dask_kubernetes.operator", "KubeCluster", arguments, monkeypatch
    )
    assert made[1]["image"] == "my-image" and "--nthreads" in made[1]["worker_command"]
    assert adapt == ("adapt", {"minimum": 1, "maximum": 16})
    assert runner[1]["patience"] >= 600 and fitted(tmp_path / "run")


@pytest.mark.skipif(sys.platform != "linux", reason="setsid")
def test_slurm_with_jobs(zoo: str, tmp_path: Path) -> None:
    pytest.importorskip("dask_jobqueue")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (programs / name).write_text(text.format(jobs=tmp_path / "jobs"))
        (programs / name).chmod(0o755)
    process = start("slurm.py", zoo, str(tmp_path / "run"), PATH=f"{programs}{os.pathsep}{os.environ['PATH']}")
    try:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert "4 matrices in" in out and fitted(tmp_path / "run")
        assert len((tmp_path / "jobs").read_text().split()) >= 1
    finally:
        process.kill()
        for job in (tmp_path / "jobs").read_text().split() if (tmp_path / "jobs").exists() else ():
            subprocess.run([programs / "scancel", job], check=True)

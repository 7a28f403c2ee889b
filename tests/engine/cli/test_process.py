"""The command line as a process of its own: what reaches standard error, and Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ingest import synthetic
from ingest.pipeline import ingest

ROOT = Path(__file__).resolve().parents[3]
LAYERS = tuple(synthetic.Layer(f"layers.{i}.q", 24, 16, 2, 2) for i in range(3))
MAIN = "import sys; from engine.cli import main; sys.exit(main())"
# Every matrix takes ten seconds, on whichever worker.
SLOW_FIT = """
import sys
from pathlib import Path
from engine.cli import main
from ingest.store.reader import Zoo
from tests.engine.spectra import FileRows
Zoo.rows = lambda self, layer, *, side, members=None: FileRows(Path("x.npy").absolute(), 50, 10.0)
if __name__ == "__main__":
    sys.exit(main())
"""
SLOW_INGEST = """
import sys, time
import ingest.pipeline
from engine.cli import main
def run(*_, **__):
    print("begun", file=sys.stderr, flush=True)
    time.sleep(60)
ingest.pipeline.run = run
sys.exit(main())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("process")
    synthetic.write(path / "in", synthetic.Settings(LAYERS, adapters=12, broken=False))
    ingest(path / "in", path / "z")
    np.save(path / "x.npy", np.random.default_rng(0).standard_normal((50, 8)))
    return path


def start(folder: Path, code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )


def interrupt(process: subprocess.Popen[str], after: str) -> list[str]:
    """Wait for a line, then do what a terminal does on Ctrl-C; the lines that follow."""
    assert process.stderr is not None
    try:
        while after not in (line := process.stderr.readline()):
            assert line, "ended before its time"
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        return process.communicate(timeout=60)[1].splitlines()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("damage", ["nan", "truncated"])
def test_a_task_that_fails_is_one_line(damage: str, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "z", tmp_path / "z")
    chunk = tmp_path / "z/layers/layers.1.q/A/c.0.0"
    content = chunk.read_bytes()
    chunk.write_bytes(np.float32("nan").tobytes() + content[4:] if damage == "nan" else content[:100])
    process = start(tmp_path, MAIN, "fit", "z", "--out", "run", "--workers", "1")
    lines = process.communicate(timeout=120)[1].splitlines()
    assert process.returncode == 1
    lines = [line for line in lines if not line.startswith("dask: ")]
    assert len(lines) == 1 and lines[0].startswith("eigenzoo: layers.1.q A: ")


def test_an_interrupted_fit_is_one_line(folder: Path) -> None:
    process = start(folder, SLOW_FIT, "fit", "z", "--out", "run", "--workers", "2")
    lines = [line for line in interrupt(process, "dask: 2 workers") if not line.startswith("dask: ")]
    assert lines == ["eigenzoo: interrupted; the same command goes on from here"] and process.returncode == 130
    assert len(json.loads((folder / "run/run.json").read_text())["planned"]) == 6


def test_an_interrupted_ingest_is_one_line(folder: Path) -> None:
    process = start(folder, SLOW_INGEST, "ingest", "in", "--zoo", "new")
    assert interrupt(process, "begun") == ["eigenzoo: interrupted; the same command goes on from here"]
    assert process.returncode == 130

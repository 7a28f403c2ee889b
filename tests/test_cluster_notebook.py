"""The notebook about clusters runs from top to bottom; its stored outputs are small and say nothing of a machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "cluster.ipynb"


def code() -> list[str]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_the_notebook_runs(tmp_path: Path) -> None:
    pytest.importorskip("bokeh")
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code())],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = re.findall(r"planted (\d+), found (\d+)", done.stdout)
    assert len(found) == 6 and all(planted == k for planted, k in found)
    assert "K of white noise: 0" in done.stdout and "bytes put on disk: 0" in done.stdout
    moved = re.search(r"moved: ([0-9.]+) states", done.stdout)
    assert moved and 0.9 < float(moved[1]) <= 4


def test_stored_outputs() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 20_000 and '"output_type": "error"' not in text
    assert not re.search(r"/(tmp|home|root|work)/|127\.0\.0\.1|tcp://", text)

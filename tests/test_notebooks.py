"""Every analysis notebook runs from top to bottom, on the demo zoo and on real adapters; what cells end in is shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ingest import synthetic
from ingest.pipeline import ingest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ANALYSES = ("variance", "choosing_k", "seed_artefacts", "budget")
OF_A_ZOO = ("variance", "choosing_k", "budget")
SECONDS = 120
REAL = os.environ.get("EIGENZOO_REAL_ZOO", "")
pytestmark = pytest.mark.xdist_group("notebooks")

# Cell by cell, as a kernel does: what a cell ends in is shown by its own rich representation.
RUN = """
import ast, json, sys
names = {"__name__": "__main__"}
for source in json.load(sys.stdin):
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        show = getattr(value, "_repr_html_", None) or getattr(value, "to_dict", None)
        print(type(value).__name__, len(str(show())) if show else repr(value))
"""


def code(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def run(name: str, folder: Path, zoo: Path | None) -> str:
    pytest.importorskip("pandas")
    pytest.importorskip("altair")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    if zoo is not None:
        env["EIGENZOO_ZOO"] = str(zoo)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", RUN],
        input=json.dumps(code(ROOT / "notebooks" / f"{name}.ipynb")),
        capture_output=True,
        text=True,
        cwd=folder,
        env=env,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < SECONDS, "a notebook is to run in two minutes on two cores"
    return done.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    synthetic.write(folder / "adapters")
    ingest([folder / "adapters"], folder / "zoo.zarr")
    return folder / "zoo.zarr"


@pytest.mark.parametrize("name", ANALYSES)
def test_on_the_demo(name: str, demo: Path, tmp_path: Path) -> None:
    shown = run(name, tmp_path, demo)
    assert "DataFrame" in shown
    if name in OF_A_ZOO:
        assert "Chart" in shown and "Zoo" in shown


@pytest.mark.skipif(not REAL, reason="EIGENZOO_REAL_ZOO is not set")
@pytest.mark.parametrize("name", OF_A_ZOO)
def test_on_real_adapters(name: str, tmp_path: Path) -> None:
    ingest(f"{REAL}/gpt2__*", tmp_path / "zoo")
    assert "DataFrame" in run(name, tmp_path, tmp_path / "zoo")


def test_outputs_are_stripped() -> None:
    assert {path.stem for path in NOTEBOOKS} == {*ANALYSES, "cluster"}
    for path in NOTEBOOKS:
        if path.stem in ANALYSES:
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            assert all(not c.get("outputs") and c.get("execution_count") is None for c in cells), path.name

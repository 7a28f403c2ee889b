from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import engine


def test_import_costs_numpy_at_most() -> None:
    code = (
        "import sys, engine\n"
        "heavy = {'scipy', 'dask', 'distributed', 'zarr', 'torch', 'ml_dtypes', 'safetensors'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "engine.gavish_donoho([3.0, 1.0, 0.9], (3, 5))\n"
        "engine.Subspace, engine.fit, engine.explained_variance\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_the_function_wins_over_any_module_of_its_name() -> None:
    from engine.fitting import fit, plan_fit  # noqa: F401

    assert engine.fit is fit


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        engine.nonsense  # noqa: B018

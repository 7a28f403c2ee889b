"""Whoever executes the passes, the result is the serial runner's, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from engine.fitting import fit_reduction
from engine.runners import partition
from engine.runners.serial import SerialRunner
from tests.engine.spectra import FileRows

if TYPE_CHECKING:
    from engine.runners.dask_ import DaskRunner


@pytest.mark.parametrize("method", ["randomized", "incremental", "tsqr"])
def test_dask_is_serial(method: str, dask_runner: DaskRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from threadpoolctl import threadpool_limits

    monkeypatch.setattr(partition, "TASK_WORK", 1)
    x = np.random.default_rng(0).standard_normal((3000, 60)) * np.linspace(3, 1, 60) + 4
    np.save(tmp_path / "x.npy", x)
    rows = FileRows(tmp_path / "x.npy", 50)
    assert len(partition.ranges_of(rows)) > 4
    reduction = fit_reduction(rows, 3, method=method, device="cpu")
    reduction.start()
    with threadpool_limits(1):
        expected = SerialRunner().run(reduction, rows)
        found = dict(dask_runner.run_many((i, reduction, rows) for i in range(6)))[0]  # the last ones are shared
    for name in ("mean", "components", "singular_values"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for name in ("sigma_error", "total_variance", "passes", "note", "noise", "choices"):
        assert getattr(found, name) == getattr(expected, name)

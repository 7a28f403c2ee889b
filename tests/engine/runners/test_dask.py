"""What only a cluster can do wrong."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from engine.fitting import fit_reduction
from engine.runners import dask_, partition
from engine.runners.serial import SerialRunner
from ingest.errors import EigenzooError
from tests.engine.spectra import FileRows

if TYPE_CHECKING:
    from engine.runners.dask_ import DaskRunner


def test_a_killed_worker_changes_nothing(
    dask_runner: DaskRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from threadpoolctl import threadpool_limits

    monkeypatch.setattr(partition, "TASK_WORK", 1)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((2400, 24)))
    marks = tmp_path / "marks"
    marks.mkdir()
    rows = FileRows(tmp_path / "x.npy", 100, delay=0.1, marks=marks)
    reduction = fit_reduction(rows, 5, device="cpu")
    reduction.start()
    with threadpool_limits(1):
        expected = SerialRunner().run(reduction, FileRows(tmp_path / "x.npy", 100))
    killed = []

    def kill() -> None:
        while len(list(marks.iterdir())) < 8:  # some ranges are folded, some are not
            time.sleep(0.01)
        killed.append(int(next(marks.iterdir()).name.split("-")[0]))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    found = dask_runner.run(reduction, rows)
    killer.join()
    pids = {mark.name.split("-")[0] for mark in marks.iterdir()}
    assert len(pids) >= 2 and str(os.getpid()) not in pids  # read on workers, by more than one
    np.testing.assert_array_equal(found.singular_values, expected.singular_values)
    np.testing.assert_array_equal(found.components, expected.components)


def test_rows_a_worker_cannot_see(dask_runner: DaskRunner, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((5, 3)))
    rows = FileRows(tmp_path / "x.npy", 5)
    dask_runner.check_visible(rows)
    (tmp_path / "x.npy").unlink()
    with pytest.raises(EigenzooError, match=r"worker tcp://\S+ cannot read .*x\.npy") as caught:
        dask_runner.check_visible(rows)
    assert "\n" not in str(caught.value)


def test_an_existing_cluster_by_address_or_client(
    dask_runner: DaskRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dask
    from distributed import Client

    from engine.runners.dask_ import DaskRunner as Runner

    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((50, 6)))
    rows = FileRows(tmp_path / "x.npy", 5)
    reduction = fit_reduction(rows, 2, device="cpu")
    client = dask_runner._client
    address = client.scheduler.address
    with Runner(address) as by_address:
        assert dask_runner.is_local and not by_address.is_local
        assert by_address.run(reduction, rows).n_rows == 50
    # What DASK_SCHEDULER_ADDRESS sets, since it is read at dask's import.
    with dask.config.set({"scheduler-address": address}), Runner() as by_environment:
        assert by_environment._client.scheduler.address == address
    with Runner(client) as by_client:
        assert by_client.n_workers >= 1
    assert isinstance(client, Client) and client.status == "running"  # not ours to close
    assert dask_runner.dashboard_link.startswith("http") == (find_spec("bokeh") is not None)

    (tmp_path / "x.npy").unlink()
    with Runner(address) as remote, pytest.raises(EigenzooError, match=r"cannot read .*x\.npy"):
        remote.run(reduction, rows)


def test_no_scheduler_there() -> None:
    import dask

    from engine.runners.dask_ import DaskRunner as Runner

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(EigenzooError, match="no scheduler answers at tcp://127.0.0.1:1"),
    ):
        Runner("tcp://127.0.0.1:1")


def test_what_is_sent_with_a_task_is_small(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((5000, 64)))
    rows = FileRows(tmp_path / "x.npy", 100)
    assert len(pickle.dumps((fit_reduction(rows, "gavish-donoho", device="cpu"), rows))) < 4000


def test_a_scheduler_without_workers_is_not_waited_for_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import LocalCluster

    monkeypatch.setattr(dask_, "WORKERS_SECONDS", 0.2)
    with (
        LocalCluster(n_workers=0, dashboard_address=None) as cluster,
        pytest.raises(EigenzooError, match="no worker at tcp"),
    ):
        dask_.DaskRunner(cluster.scheduler_address)


def test_workers_do_not_hear_what_a_terminal_sends(dask_runner: DaskRunner) -> None:
    def masks() -> set[int]:
        return {int(s) for s in signal.pthread_sigmask(signal.SIG_BLOCK, [])}

    found = dask_runner._client.run(masks)
    assert found and all(signal.SIGINT in mask for mask in found.values())
    assert signal.SIGINT not in masks(), "this process still does"

"""What only a cluster can do wrong."""

from __future__ import annotations

import os
import pickle
import re
import signal
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest

from engine.fitting import fit_reduction
from engine.rows import ArrayRows, as_rows
from engine.runners import dask_, partition, tasks
from engine.runners.serial import SerialRunner
from ingest.errors import EigenzooError
from tests.engine.runners.passes import Means
from tests.engine.spectra import FileRows, assert_alike

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
    rows = FileRows(tmp_path / "x.npy", 100, delay=1.0, marks=marks)
    reduction = fit_reduction(rows, 5, device="cpu")
    reduction.start()
    with threadpool_limits(1):
        expected = SerialRunner().run(reduction, FileRows(tmp_path / "x.npy", 100))
    killed = []

    def kill() -> None:
        while len(list(marks.iterdir())) < 2:  # each worker reads its part
            time.sleep(0.01)
        killed.append(int(next(marks.iterdir()).name.split("-")[0]))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    found = dask_runner.run(reduction, rows)
    killer.join()
    pids = {mark.name.split("-")[0] for mark in marks.iterdir()}
    assert len(pids) >= 2 and str(os.getpid()) not in pids  # read on workers, by more than one
    assert_alike(found, expected)


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


def test_workers_do_not_hear_what_a_terminal_sends(dask_runner: DaskRunner) -> None:
    def masks() -> set[int]:
        return {int(s) for s in signal.pthread_sigmask(signal.SIG_BLOCK, [])}

    found = dask_runner._client.run(masks)
    assert found and all(signal.SIGINT in mask for mask in found.values())
    assert signal.SIGINT not in masks(), "this process still does"


def in_process(n: int, **options: Any) -> Any:
    """A cluster whose workers are threads of this process: quick to start."""
    from distributed import LocalCluster

    settings = {"n_workers": n, "threads_per_worker": 1, "processes": False, "dashboard_address": None} | options
    # Such a worker takes the memory of the whole test run for its own, and would pause at four fifths of its limit.
    with dask.config.set({"distributed.worker.memory.pause": False, "distributed.worker.memory.spill": False}):
        return LocalCluster(**settings)


@pytest.mark.parametrize("n_workers", [1, 2, 3])
@pytest.mark.parametrize("n_rows", [1400, 130])
def test_results_are_the_same_on_any_number_of_workers(
    n_workers: int, n_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from threadpoolctl import threadpool_limits

    from engine.runners.dask_ import DaskRunner as Runner

    monkeypatch.setattr(partition, "TASK_WORK", 1)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((n_rows, 24)))
    rows = FileRows(tmp_path / "x.npy", 20)
    reduction = fit_reduction(rows, 5, device="cpu")
    reduction.start()
    with threadpool_limits(1):
        expected = SerialRunner().run(reduction, rows)
    with in_process(n_workers) as cluster, Runner(cluster) as runner:
        for i, found in runner.run_many((i, reduction, rows) for i in range(5)):
            assert_alike(found, expected)
            if i == 0:  # not among the last, which are shared: the same bits
                assert found.components.tobytes() == expected.components.tobytes()
        np.testing.assert_allclose(runner.run(Means(24), rows), SerialRunner().run(Means(24), rows), rtol=1e-12)


def test_a_worker_lost_between_passes(dask_runner: DaskRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "TASK_WORK", 1)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((1200, 24)))
    marks = tmp_path / "marks"
    marks.mkdir()

    def kill() -> None:
        while not (ended := list(marks.iterdir())):
            time.sleep(0.005)
        os.kill(int(ended[0].name.split("-")[1]), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    found = dask_runner.run(Means(24, 2**20, marks), FileRows(tmp_path / "x.npy", 100, delay=0.1))
    killer.join()
    assert len(list(marks.iterdir())) == 2, "the first pass ended twice"
    np.testing.assert_allclose(found, SerialRunner().run(Means(24), FileRows(tmp_path / "x.npy", 100)), rtol=1e-12)


def test_bytes_between_workers(dask_runner: DaskRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most two states per worker and matrix, nothing of a matrix that one task does; and nothing is spilled."""
    monkeypatch.setattr(partition, "TASK_WORK", 1)
    width = 512
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((20_000, width)).astype(np.float32))
    rows = FileRows(tmp_path / "x.npy", 256)
    assert len(partition.ranges_of(rows)) == 9
    state = 8 * width * width
    wait_for(lambda: dask_runner.n_workers == 2)
    for n_matrices in (1, 6):
        before = dask_runner.bytes_moved
        work = [(i, fit_reduction(rows, 3, device="cpu"), rows) for i in range(n_matrices)]
        assert len(list(dask_runner.run_many(work))) == n_matrices
        moved = dask_runner.bytes_moved - before
        assert (0 if n_matrices > 1 else state) <= moved <= 2 * dask_runner.n_workers * state
    before, ballast = dask_runner.bytes_moved, 16 * 2**20
    dask_runner.run(Means(width, ballast), rows)
    assert dask_runner.bytes_moved - before < ballast + 2**20, "a basis goes to the other worker once, if at all"
    assert all(spilled == 0 for _, spilled in dask_runner._client.run(tasks.traffic).values())


def test_what_a_pass_hands_to_the_next_does_not_come_here(
    dask_runner: DaskRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import Future

    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((300, 8)))
    came = []
    result = Future.result

    def record(self: Any, *args: Any, **kwargs: Any) -> Any:
        came.append(result(self, *args, **kwargs))
        return came[-1]

    monkeypatch.setattr(Future, "result", record)
    assert dask_runner.run(Means(8, 2**20), FileRows(tmp_path / "x.npy", 10)).shape == (8,)
    assert [got.nbytes for got in came] == [64]


def test_a_parcel_says_how_large_it_is() -> None:
    from dask.sizeof import sizeof

    rows = ArrayRows(np.ones((40, 30)))
    for method in ("moments", "dual"):
        solver = fit_reduction(rows, 1, device="cpu", method=method).solver
        state = solver.step(solver.start(), rows.read(0, 40))
        content = len(pickle.dumps(state))
        assert 0.8 * content < sizeof(tasks.Parcel(state)) < 1.2 * content
    assert sizeof(tasks.NextPass(Means(3).finish(Means(3, 8000).step(Means(3).start(), np.ones((2, 3)))))) > 64


def wait_for(condition: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_cluster_that_begins_with_no_worker_and_scales(tmp_path: Path) -> None:
    from engine.runners.dask_ import DaskRunner as Runner

    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((60, 8)))
    rows = FileRows(tmp_path / "x.npy", 10, delay=0.05)
    with in_process(0) as cluster:
        cluster.adapt(minimum=0, maximum=2, interval="50ms", target_duration="100ms")
        with Runner(cluster) as runner:
            assert runner.n_workers == 0
            runner.check_memory(2**60, "unknown yet")
            with pytest.raises(EigenzooError, match="unknown yet: needs"):
                runner.run(fit_reduction(rows, 1, device="cpu"), rows)
        with Runner(cluster) as runner:
            most = 0
            for _, sub in runner.run_many((i, fit_reduction(rows, 1, device="cpu"), rows) for i in range(20)):
                assert sub.n_rows == 60
                most = max(most, runner.n_workers)
            assert most == 2
            array = as_rows(np.ones((30, 3)))
            wait_for(lambda: runner.n_workers == 0)
            assert runner.run(fit_reduction(array, 0, device="cpu"), array).n_rows == 30, "sent to whoever comes"


def test_a_cluster_without_workers_is_not_waited_for_in_silence(tmp_path: Path) -> None:
    from engine.runners.dask_ import DaskRunner as Runner

    np.save(tmp_path / "x.npy", np.ones((5, 3)))
    rows = FileRows(tmp_path / "x.npy", 5)
    work = fit_reduction(rows, 0, device="cpu")
    with in_process(0) as cluster:
        for place in (cluster, cluster.scheduler_address):
            with Runner(place, patience=0.3) as runner, pytest.raises(EigenzooError, match=r"no worker at .* 0\.3 s"):
                runner.run(work, rows)
        with Runner(cluster) as runner, Runner(cluster.scheduler_address) as by_address:
            assert (runner._patience, by_address._patience) == (dask_.SCALING_SECONDS, dask_.WORKERS_SECONDS)


def test_all_workers_gone_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.runners.dask_ import DaskRunner as Runner

    monkeypatch.setattr(dask_, "POLL_SECONDS", 0.1)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((50, 3)))
    rows = FileRows(tmp_path / "x.npy", 5, delay=0.2)
    with in_process(1) as cluster, Runner(cluster, patience=0.5) as runner:
        results = runner.run_many((i, fit_reduction(rows, 1, device="cpu"), rows) for i in range(20))
        next(results)
        cluster.scale(0)
        with pytest.raises(EigenzooError, match="no worker at"):
            list(results)


def test_workers_with_several_threads_share_their_memory(tmp_path: Path) -> None:
    from engine.runners.dask_ import DaskRunner as Runner

    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((400, 8)))
    rows = FileRows(tmp_path / "x.npy", 10)
    with (
        in_process(1, threads_per_worker=2, memory_limit="1GiB") as cluster,
        Runner(cluster) as runner,
    ):
        runner.check_memory(300 * 2**20, "q A")
        with pytest.raises(EigenzooError) as caught:
            runner.check_memory(500 * 2**20, "q A")
        assert re.fullmatch(
            r"q A: needs 500 MiB per task, but worker \S+ is limited to 1024 MiB for 2 tasks at a time, of which "
            r"423 MiB are left for a task; start fewer workers with more memory each",
            str(caught.value),
        )
        assert runner.run(fit_reduction(rows, 1, device="cpu"), rows).n_rows == 400
    with in_process(1, memory_limit=0) as cluster, Runner(cluster) as runner:
        runner.check_memory(2**60, "no limit is known")


def test_a_performance_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bokeh")
    from engine.runners.dask_ import DaskRunner as Runner

    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((50, 3)))
    rows = FileRows(tmp_path / "x.npy", 5)
    with in_process(1) as cluster, Runner(cluster) as runner:
        with runner.performance_report(tmp_path / "report.html"):
            runner.run(fit_reduction(rows, 1, device="cpu"), rows)
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert "fold_matrix" in page and "</html>" in page
        with pytest.raises(EigenzooError, match="no folder"), runner.performance_report(tmp_path / "no" / "r.html"):
            pass
        monkeypatch.setattr(dask_, "find_spec", lambda name: None)
        with pytest.raises(EigenzooError, match=r"bokeh.*dashboard"), runner.performance_report("r.html"):
            pass


@pytest.mark.parametrize(("gpus", "installed"), [(1, True), (3, True), (3, False)])
def test_a_worker_for_each_gpu(gpus: int, installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from types import SimpleNamespace

    import distributed

    from engine.runners import cluster

    made: dict[str, Any] = {}

    def maker(kind: str) -> Any:
        return lambda **options: made.update(options, kind=kind)

    monkeypatch.setattr(cluster, "n_gpus", lambda device: gpus if device == "cuda" else 0)
    monkeypatch.setattr(cluster, "find_spec", lambda name: installed or None)
    monkeypatch.setitem(sys.modules, "dask_cuda", SimpleNamespace(LocalCUDACluster=maker("cuda")))
    monkeypatch.setattr(distributed, "LocalCluster", maker("plain"))
    note = cluster.start_local(None, "auto", "cuda").note
    several = gpus > 1 and installed
    assert made["kind"] == ("cuda" if several else "plain") and made["threads_per_worker"] == 1
    assert not several or made["n_workers"] == gpus
    assert ("install dask-cuda" in note) == (gpus > 1 and not installed)
    assert cluster.start_local(2, "auto", "cpu").note == "" and made["kind"] == "plain" and made["n_workers"] == 2

"""What only threads can do wrong."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.fitting import fit_reduction
from engine.runners import partition
from engine.runners.blas import one_blas_thread
from engine.runners.serial import SerialRunner
from engine.runners.threads import ThreadsRunner
from ingest.errors import EigenzooError
from tests.engine.spectra import BrokenRows, FileRows, assert_alike


class Slow(FileRows):
    """Knows how many reads go on at once, and how many there were."""

    def __init__(self, path: Path, block_rows: int, delay: float) -> None:
        super().__init__(path, block_rows, delay)
        self.lock, self.now, self.most, self.reads = threading.Lock(), 0, 0, 0

    def read(self, start: int, stop: int) -> Any:
        with self.lock:
            self.now += 1
            self.most, self.reads = max(self.most, self.now), self.reads + 1
        try:
            return super().read(start, stop)
        finally:
            with self.lock:
                self.now -= 1


@pytest.fixture
def x(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(partition, "TASK_WORK", 1)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((2000, 16)))
    return tmp_path / "x.npy"


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_one_matrix_is_shared_by_all_threads_and_is_the_same(x: Path, threads: int) -> None:
    rows = Slow(x, 60, 0.02)
    with ThreadsRunner(threads) as runner:
        found = runner.run(fit_reduction(rows, 3, device="cpu"), rows)
    assert rows.most == threads
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        expected = SerialRunner().run(fit_reduction(rows, 3, device="cpu"), rows)
    assert_alike(found, expected)


def test_what_nobody_waits_for_stops(x: Path) -> None:
    slow, bad = Slow(x, 20, 0.05), BrokenRows(x, 2000)
    begin = time.monotonic()
    with ThreadsRunner(2) as runner, pytest.raises(EigenzooError, match="bad: OSError"):
        list(
            runner.run_many(
                [
                    (name, fit_reduction(rows, 1, device="cpu"), rows)
                    for name, rows in (("slow", slow), ("bad", bad), ("later", slow))
                ]
            )
        )
    assert time.monotonic() - begin < 2 and slow.reads < 20, "of 200 reads of 0.05 s"


def test_a_consumer_that_leaves_early(x: Path) -> None:
    rows = Slow(x, 20, 0.01)
    with ThreadsRunner(2) as runner:
        results = runner.run_many((i, fit_reduction(rows, 1, device="cpu"), rows) for i in range(50))
        next(results)
        results.close()  # type: ignore[attr-defined]
        assert runner.run(fit_reduction(rows, 2, device="cpu"), rows).n_rows == 2000


def test_no_threads() -> None:
    with pytest.raises(EigenzooError, match="threads: got 0"):
        ThreadsRunner(0)


def test_the_blas_limit_lasts_as_long_as_anyone_relies_on_it(x: Path) -> None:
    from threadpoolctl import threadpool_info, threadpool_limits

    def blas() -> set[int]:
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    rows = FileRows(x, 20)
    reduction = fit_reduction(rows, 1, device="cpu")
    reduction.start()
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with one_blas_thread(reduction):
            entered.set()
            leave.wait(20)

    with threadpool_limits(2):
        before = blas()
        thread = threading.Thread(target=other)
        with one_blas_thread(reduction), one_blas_thread(reduction):
            thread.start()
            assert entered.wait(20) and blas() == {1}
        assert blas() == {1}
        leave.set()
        thread.join()
        assert blas() == before

"""Threads: several tasks of one process at a time, for a machine without a cluster.

One BLAS thread per task. Matrices first, row ranges second
(`deal`): the last matrices are forked into subtrees, which whichever thread is free takes over.

Threads share one interpreter lock: what a backend computes runs side by side as far as its library lets go of the lock.
Reads do.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Self

from engine.reductions.protocol import Again
from engine.runners.blas import one_blas_thread
from engine.runners.deal import Dealer
from engine.runners.partition import Ranges, fold_ranges, ranges_of, split
from engine.runners.protocol import Key, R, describe, failure
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.reductions.protocol import Reduction
    from engine.rows import RowSource


class ThreadsRunner:
    """Executes reductions in threads of this process.

    Parameters
    ----------
    threads : tasks at a time; by default one per core. Each holds its own states and blocks.
    """

    def __init__(self, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise EigenzooError(f"threads: got {threads}; give at least 1")
        self.n_threads = threads or _cores()
        self._pool = ThreadPoolExecutor(self.n_threads, "eigenzoo")

    def run(self, reduction: Reduction[Any, R], rows: RowSource) -> R:
        return next(self.run_many([(describe(rows), reduction, rows)]))[1]

    def run_many(self, work: Iterable[tuple[Key, Reduction[Any, R], RowSource]]) -> Iterator[tuple[Key, R]]:
        dealer, pending = Dealer(work), dict[Future[R], Key]()
        given_up = threading.Event()
        try:
            while True:
                for (key, reduction, rows), parts in dealer.hand_out(self.n_threads, len(pending)):
                    watched: Any = _Watched(rows, given_up)
                    pending[self._pool.submit(self._reduce, reduction, watched, parts)] = key
                if not pending:
                    return
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    key = pending.pop(future)
                    try:
                        result = future.result()
                    except Exception as problem:
                        raise failure(key, problem) from problem
                    yield key, result
        finally:
            given_up.set()
            for future in pending:
                future.cancel()
            wait(pending)

    def check_memory(self, needed: int, what: str) -> None:
        pass

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _reduce(self, reduction: Reduction[Any, R], rows: RowSource, parts: int) -> R:
        while True:
            with one_blas_thread(reduction), own_stream(reduction):
                result = reduction.finish(self._fork(reduction, rows, ranges_of(rows), parts))
            if not isinstance(result, Again):
                return result
            reduction = result.reduction

    def _fork(self, reduction: Reduction[Any, Any], rows: RowSource, ranges: Ranges, parts: int) -> Any:
        """`cut`, of which another thread may take the right half."""
        if min(parts, len(ranges)) <= 1:
            with one_blas_thread(reduction), own_stream(reduction):
                return fold_ranges(reduction, rows, ranges)
        (ours, our_parts), (theirs, their_parts) = split(ranges, parts)
        later = self._pool.submit(self._fork, reduction, rows, theirs, their_parts)
        try:
            left = self._fork(reduction, rows, ours, our_parts)
            # Nobody began with it: all threads have work. Waiting for them could be waiting for ourselves.
            taken = not later.cancel()
            right = later.result() if taken else self._fork(reduction, rows, theirs, their_parts)
        finally:
            later.cancel()
        # A stream of its own, however deep: the right state belongs to another thread's.
        with own_stream(reduction):
            return reduction.combine(left, right)


def own_stream(reduction: Any) -> contextlib.AbstractContextManager[None]:
    """The calling thread's own stream of the device that a reduction computes on; nothing on the host."""
    backend: Any = getattr(reduction, "backend", None)
    stream: contextlib.AbstractContextManager[None] = backend.stream() if backend else contextlib.nullcontext()
    return stream


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Watched:
    """Rows that are no longer read once the run was given up."""

    def __init__(self, rows: RowSource, given_up: threading.Event) -> None:
        self._rows, self._given_up = rows, given_up

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rows, name)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        if self._given_up.is_set():
            raise EigenzooError("given up")
        return self._rows.read(start, stop)

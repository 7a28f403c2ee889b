"""Dask: ranges of rows folded on workers, states combined in a tree, only the result comes back.

Rows are read on the worker that folds them. Tasks are a function of the data's shape alone (`partition`), so
results do not depend on how many workers there are or which of them died on the way. No task changes what
another made: a state may be needed again when a worker is lost.
"""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Self

from engine.runners import tasks
from engine.runners.partition import ranges_of, tree
from engine.runners.protocol import Key, R, describe, failure
from engine.runners.signals import deaf_children
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from engine.reductions.protocol import Reduction
    from engine.rows import RowSource

# A task is given up after this many workers died on it. Distributed's own 3 is soon reached by tasks that
# merely were on a worker when another matrix exhausted it.
ALLOWED_FAILURES = 10
WORKERS_SECONDS = 30  # how long a running scheduler's first worker is waited for
STOP_SECONDS = 0.5  # how long the workers of a run that failed or was interrupted may take to stop
_PER_WORKER = 2  # matrices in flight for each worker: one computed, one waiting


class DaskRunner:
    """Executes reductions on a Dask cluster.

    Parameters
    ----------
    cluster : a `distributed.Client`, a scheduler's address, or None: the scheduler named by
        DASK_SCHEDULER_ADDRESS if that is set, else a local cluster of one-threaded worker processes.
    workers : processes of the local cluster; by default one per core.
    memory_limit : of each local worker, in bytes or as in "4GiB"; by default an equal share of the machine.

    Notes
    -----
    A script that starts a local cluster needs `if __name__ == "__main__":`, because workers are spawned.
    About 1.5 ms of scheduler time per task; tasks are sized for half a second and more.
    """

    def __init__(self, cluster: Any = None, *, workers: int | None = None, memory_limit: int | str = "auto") -> None:
        import dask

        self._owned: list[Any] = []
        self._submitted = 0
        self._local = cluster is None and not dask.config.get("scheduler-address", None)
        self._checked = self._local
        try:
            self._connect(cluster, workers, memory_limit)
        except BaseException:
            self._stop_workers()
            self.close()
            raise

    def _connect(self, cluster: Any, workers: int | None, memory_limit: int | str) -> None:
        import dask
        from dask.system import CPU_COUNT
        from distributed import Client, LocalCluster

        if self._local:
            with dask.config.set({"distributed.scheduler.allowed-failures": ALLOWED_FAILURES}), deaf_children():
                cluster = LocalCluster(
                    n_workers=workers or CPU_COUNT,
                    threads_per_worker=1,
                    processes=True,
                    memory_limit=memory_limit,
                    dashboard_address=":0",
                    # What goes wrong in a task comes back as an exception, which says it once.
                    silence_logs=logging.CRITICAL,
                )
                self._owned.append(cluster)
        if isinstance(cluster, Client):
            self._client = cluster
            return
        try:
            self._client = Client(cluster) if cluster is not None else Client()
        except (OSError, TimeoutError, ValueError) as problem:
            place = cluster or dask.config.get("scheduler-address")
            raise EigenzooError(
                f"dask: no scheduler answers at {place} ({' '.join(str(problem).split())}); "
                "check the address, or leave it out to use this machine"
            ) from problem
        self._owned.insert(0, self._client)
        if not self._local:
            self._await_workers()

    @property
    def is_local(self) -> bool:
        """Whether the workers are processes this runner started on this machine."""
        return self._local

    @property
    def dashboard_link(self) -> str:
        """URL of the cluster's dashboard; "" where there is none, as without bokeh for a cluster started here."""
        if self._local and find_spec("bokeh") is None:
            return ""
        return str(self._client.dashboard_link or "")

    @property
    def n_workers(self) -> int:
        """Workers connected now."""
        return len(self._client.nthreads())

    def _await_workers(self) -> None:
        address = self._client.scheduler.address
        try:
            self._client.wait_for_workers(1, timeout=WORKERS_SECONDS)
        except TimeoutError as problem:
            self.close()
            raise EigenzooError(
                f"dask: no worker at {address} within {WORKERS_SECONDS} s; start some with `dask worker {address}`"
            ) from problem

    def run(self, reduction: Reduction[Any, R], rows: RowSource) -> R:
        return next(self.run_many([(describe(rows), reduction, rows)]))[1]

    def run_many(self, work: Iterable[tuple[Key, Reduction[Any, R], RowSource]]) -> Iterator[tuple[Key, R]]:
        from distributed import wait

        queue, pending = iter(work), dict[Any, Key]()
        more = True
        try:
            while True:
                while more and len(pending) < _PER_WORKER * max(1, self.n_workers):
                    item = next(queue, None)
                    more = item is not None
                    if item is not None:
                        key, reduction, rows = item
                        if not self._checked:
                            self.check_visible(rows)
                        pending[self._submit(reduction, rows)] = key
                if not pending:
                    return
                for future in wait(list(pending), return_when="FIRST_COMPLETED").done:
                    key = pending.pop(future)
                    yield key, self._result(key, future)
        finally:
            self._client.cancel(list(pending))

    def check_visible(self, rows: RowSource) -> None:
        """Have every worker read one row.

        Raises
        ------
        EigenzooError
            Naming the first worker that cannot, and the data's place.
        """
        self._checked = True
        if getattr(rows, "in_memory", False):
            return
        for address, problem in sorted(self._client.run(tasks.probe, rows, on_error="return").items()):
            if problem is not None:
                place = getattr(rows, "location", "") or rows.identity or "its rows"
                raise EigenzooError(
                    f"dask: worker {address} cannot read {place} ({' '.join(str(problem).split())}); "
                    "put the data where every worker sees it under the same path"
                )

    def close(self) -> None:
        """Shut down what this runner started; a client that was passed in stays open."""
        for part in self._owned:
            part.close()
        self._owned.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if any(exc):
            self._stop_workers()
        self.close()

    def _stop_workers(self) -> None:
        """Have workers that this runner started leave what they are at: nobody waits for it any more."""
        import asyncio

        cluster = self._owned[-1] if self._local and self._owned else None
        if cluster is None:
            return

        async def stop() -> None:
            nannies = list(cluster.workers.values())
            await asyncio.gather(*(n.close(timeout=STOP_SECONDS) for n in nannies), return_exceptions=True)

        cluster.sync(stop)

    def _submit(self, reduction: Reduction[Any, Any], rows: RowSource) -> Any:
        client, source, leaves = self._client, rows, ranges_of(rows)
        if getattr(rows, "in_memory", False):
            # Rows that exist only in this process have to travel. To every worker, because what is
            # scattered to one is lost with it.
            source = client.scatter(rows, broadcast=True, hash=False)

        def submit(task: Any, *arguments: Any) -> Any:
            # Depth first: a join comes before the next leaf, or states would pile up on the workers.
            self._submitted += 1
            return client.submit(task, reduction, *arguments, pure=False, priority=-self._submitted)

        def leaf(start: int, stop: int) -> Any:
            return submit(tasks.fold_part, source, start, stop)

        def join(left: Any, right: Any) -> Any:
            return submit(tasks.combine, left, right)

        if len(leaves) == 1:
            return submit(tasks.fold_and_finish, source, *leaves[0])
        half = len(leaves) // 2
        left, right = tree(leaves[:half], leaf, join), tree(leaves[half:], leaf, join)
        return submit(tasks.combine_and_finish, left, right)

    def _result(self, key: Key, future: Any) -> Any:
        from distributed import KilledWorker

        try:
            return future.result()
        except KilledWorker as problem:
            raise EigenzooError(
                f"{key}: workers kept dying on this matrix, most often for want of memory; "
                "run fewer workers with more memory each"
            ) from problem
        except (Exception, CancelledError) as problem:
            raise failure(key, problem) from problem

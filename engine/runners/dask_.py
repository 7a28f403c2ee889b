"""Dask: matrices folded on workers, the last few in parts that are joined in a tree; only the result comes back.

Rows are read on the worker that folds them. The arithmetic is a function of the data's shape and of how many tasks
share the matrix (`partition`), not of which workers died on the way. No task changes what another made: a state may be
needed again when a worker is lost. A reduction that asks for another pass stays on the workers.
"""

from __future__ import annotations

import contextlib
import os
import time
from asyncio import CancelledError
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Generic, Self

from engine.runners import tasks
from engine.runners.cluster import most_slots, start_local, workers_of
from engine.runners.deal import Dealer
from engine.runners.partition import cut, ranges_of
from engine.runners.protocol import Key, R, describe, failure
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from engine.reductions.protocol import Reduction
    from engine.rows import RowSource

WORKERS_SECONDS = 30  # how long a running scheduler's first worker is waited for
SCALING_SECONDS = 600  # the same where the cluster can start workers itself: a queue, a cloud
POLL_SECONDS = 1.0  # how often it is looked whether workers came or all went
STOP_SECONDS = 0.5  # how long the workers of a run that failed or was interrupted may take to stop


@dataclass(slots=True)
class _Pass(Generic[Key]):
    """A matrix in flight. `reduction` and `rows` are what tasks are given: themselves, or futures of them."""

    key: Key
    number: int
    shape_of: RowSource
    rows: Any
    reduction: Any
    n_tasks: int = 0


class DaskRunner:
    """Executes reductions on a Dask cluster.

    Parameters
    ----------
    cluster : a `distributed.Client`, a cluster object, a scheduler's address, or None: the scheduler named by
        DASK_SCHEDULER_ADDRESS if that is set, else a local cluster of one-threaded worker processes.
    workers : processes of the local cluster; by default one per core.
    memory_limit : of each local worker, in bytes or as in "4GiB"; by default an equal share of the machine.
    device : of the work; for "cuda" the local cluster has a worker for each GPU, where dask-cuda is installed.
    patience : seconds that a cluster without any worker is waited for; by default 30, or 600 where the cluster can
        start workers itself. Tasks are submitted before that, as clusters that scale by demand need them to start.

    Notes
    -----
    A script that starts a local cluster needs `if __name__ == "__main__":`, because workers are spawned.
    About 1.5 ms of scheduler time per task. Workers may come and go: their number is read when it is needed.
    """

    def __init__(
        self,
        cluster: Any = None,
        *,
        workers: int | None = None,
        memory_limit: int | str = "auto",
        device: str = "cpu",
        patience: float | None = None,
    ) -> None:
        import dask

        self._owned: list[Any] = []
        self._submitted = 0
        self._largest = (0, "")
        self._local = cluster is None and not dask.config.get("scheduler-address", None)
        self._checked = self._local
        self.note = ""
        try:
            self._connect(cluster, workers, memory_limit, device)
        except BaseException:
            self._stop_workers()
            self.close()
            raise
        scales = not self._local and getattr(self._client, "cluster", None) is not None
        self._patience = patience if patience is not None else SCALING_SECONDS if scales else WORKERS_SECONDS

    def _connect(self, cluster: Any, workers: int | None, memory_limit: int | str, device: str) -> None:
        import dask
        from distributed import Client

        if self._local:
            cluster, self.note = start_local(workers, memory_limit, device)
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

    @property
    def bytes_moved(self) -> int:
        """Bytes that went between workers: the last thousand transfers to each that is connected now."""
        return sum(fetched for fetched, _ in self._client.run(tasks.traffic).values())

    def run(self, reduction: Reduction[Any, R], rows: RowSource) -> R:
        return next(self.run_many([(describe(rows), reduction, rows)]))[1]

    def run_many(self, work: Iterable[tuple[Key, Reduction[Any, R], RowSource]]) -> Iterator[tuple[Key, R]]:
        dealer, pending = Dealer(work), dict[Any, _Pass[Key]]()
        try:
            while True:
                slots = most_slots(self._client)
                for (key, reduction, rows), parts in dealer.hand_out(slots, len(pending)):
                    begun = self._begin(key, reduction, rows)
                    pending[self._submit_pass(begun, parts)] = begun
                if not pending:
                    return
                for future in self._some_done(pending):
                    done = pending.pop(future)
                    if future.status == "finished" and future.type is tasks.NextPass:
                        done.reduction = future
                        parts = dealer.parts(slots, len(pending) + 1)
                        pending[self._submit_pass(done, parts)] = done
                    else:
                        yield done.key, self._result(done.key, future)
        finally:
            self._client.cancel(list(pending))

    @property
    def task_bytes(self) -> int | None:
        """What a task may use on the worker with the least memory; None where no worker has a limit."""
        return min((w.task_bytes for w in workers_of(self._client) if w.memory), default=None)

    def check_memory(self, needed: int, what: str) -> None:
        """Refuse a task that would end a worker; where there is none yet, it is refused when the first has come.

        Raises
        ------
        EigenzooError
            Naming the worker with the least memory, its limit, and the need.
        """
        limited = [w for w in workers_of(self._client) if w.memory]
        least = min(limited, key=lambda w: w.task_bytes, default=None)
        if least is not None and needed > least.task_bytes:
            shared = f" for {least.threads} tasks at a time" if least.threads > 1 else ""
            raise EigenzooError(
                f"{what}: needs {_mib(needed)} per task, but worker {least.address} is limited to "
                f"{_mib(least.memory)}{shared}, of which {_mib(least.task_bytes)} are left for a task; "
                "start fewer workers with more memory each"
            )
        self._largest = max(self._largest, (needed, what))

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
        self._await_worker()
        for address, problem in sorted(self._client.run(tasks.probe, rows, on_error="return").items()):
            if problem is not None:
                place = getattr(rows, "location", "") or rows.identity or "its rows"
                raise EigenzooError(
                    f"dask: worker {address} cannot read {place} ({' '.join(str(problem).split())}); "
                    "put the data where every worker sees it under the same path"
                )

    @contextlib.contextmanager
    def performance_report(self, path: str | os.PathLike[str]) -> Iterator[None]:
        """Save Dask's own report of what is run within the context: a page with task streams and profiles.

        Raises
        ------
        EigenzooError
            Before anything is run, if bokeh is missing or there is no such folder.
        """
        from distributed import performance_report

        path = os.path.abspath(path)
        if find_spec("bokeh") is None:
            raise EigenzooError("dask: a performance report needs bokeh; install eigenzoo[dashboard]")
        if not os.path.isdir(os.path.dirname(path)):
            raise EigenzooError(f"dask: no folder {os.path.dirname(path)} for the performance report; make it first")
        with self._client.as_current(), performance_report(filename=path, mode="inline"):
            yield

    def close(self) -> None:
        """Shut down what this runner started; a client or cluster that was passed in stays open."""
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

    def _begin(self, key: Key, reduction: Reduction[Any, Any], rows: RowSource) -> _Pass[Key]:
        in_memory = getattr(rows, "in_memory", False)
        if (in_memory or not self._checked) and not self.n_workers:
            self._await_worker()
        if not self._checked:
            self.check_visible(rows)
            self.check_memory(*self._largest)
        source: Any = rows
        if in_memory:
            # Rows that exist only in this process have to travel. To every worker, because what is
            # scattered to one is lost with it.
            source = self._client.scatter(rows, broadcast=True, hash=False)
        self._submitted += 1
        return _Pass(key, self._submitted, rows, source, reduction)

    def _submit_pass(self, m: _Pass[Any], parts: int) -> Any:
        def submit(task: Any, *arguments: Any) -> Any:
            # Matrices in their order, all passes of one before the next; within a pass depth first: a join comes
            # before the next part, or states would pile up on the workers.
            m.n_tasks += 1
            priority = -(m.number + m.n_tasks * 1e-6)
            return self._client.submit(task, m.reduction, *arguments, pure=False, priority=priority)

        ranges = ranges_of(m.shape_of)
        if parts <= 1 or len(ranges) == 1:
            return submit(tasks.fold_matrix, m.rows, ranges)
        state = cut(
            ranges,
            parts,
            lambda some: submit(tasks.fold_part, m.rows, some),
            lambda left, right: submit(tasks.combine, left, right),
        )
        return submit(tasks.finish, state)

    def _some_done(self, pending: dict[Any, Any]) -> list[Any]:
        """What is done by now; after a moment nothing, so that workers that came are given work."""
        from distributed import wait

        begin = time.monotonic()
        while True:
            with contextlib.suppress(TimeoutError):
                return list(wait(list(pending), POLL_SECONDS, "FIRST_COMPLETED").done)
            if self.n_workers:
                return []
            if time.monotonic() - begin > self._patience:
                raise self._no_worker()

    def _await_worker(self) -> None:
        try:
            self._client.submit(tasks.wake, pure=False).result(timeout=self._patience)
        except TimeoutError as problem:
            raise self._no_worker() from problem

    def _no_worker(self) -> EigenzooError:
        address = self._client.scheduler.address
        return EigenzooError(
            f"dask: no worker at {address} within {self._patience:g} s; start some with `dask worker {address}`"
        )

    def _result(self, key: Hashable, future: Any) -> Any:
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


def _mib(nbytes: int) -> str:
    return f"{-(-nbytes // 2**20)} MiB"

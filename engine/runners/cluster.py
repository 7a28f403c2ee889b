"""Clusters: the one that is started here, and what any cluster says of its workers."""

from __future__ import annotations

import logging
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

from engine.runners.signals import deaf_children

# A task is given up after this many workers died on it. Distributed's own 3 is soon reached by tasks that
# merely were on a worker when another matrix exhausted it.
ALLOWED_FAILURES = 10
IDLE_BYTES = 128 * 2**20  # a worker that has imported all and done nothing: 97 MiB were measured


class Local(NamedTuple):
    """A cluster of this machine, and a line about what it could not be; "" for nothing."""

    cluster: Any
    note: str


class Worker(NamedTuple):
    """Address, tasks at a time, and memory in bytes (0: no limit)."""

    address: str
    threads: int
    memory: int

    @property
    def task_bytes(self) -> int:
        """What one of its tasks may use before the worker is ended for it."""
        import dask

        share = float(dask.config.get("distributed.worker.memory.terminate") or 1.0)
        return max(0, int(self.memory * share) - IDLE_BYTES) // max(1, self.threads)


def start_local(workers: int | None, memory_limit: int | str, device: str) -> Local:
    """One-threaded worker processes on this machine; a GPU each where there are several and dask-cuda is installed."""
    import dask
    from dask.system import CPU_COUNT
    from distributed import LocalCluster

    gpus = n_gpus(device)
    kind: Any = LocalCluster
    wanted, note = workers or CPU_COUNT, ""
    if gpus > 1 and find_spec("dask_cuda") is not None:
        kind, wanted = import_module("dask_cuda").LocalCUDACluster, min(workers or gpus, gpus)
    elif gpus > 1:
        note = f"{gpus} GPUs are visible and the first is used; install dask-cuda for a worker on each"
    with dask.config.set({"distributed.scheduler.allowed-failures": ALLOWED_FAILURES}), deaf_children():
        cluster = kind(
            n_workers=wanted,
            threads_per_worker=1,
            processes=True,
            memory_limit=memory_limit,
            dashboard_address=":0",
            # What goes wrong in a task comes back as an exception, which says it once.
            silence_logs=logging.CRITICAL,
        )
    return Local(cluster, note)


def n_gpus(device: str) -> int:
    """Devices that "cuda" or "cupy" may mean here; 0 for a device with a number, and for the CPU."""
    from engine.backends import BACKENDS

    kind = BACKENDS.get(device)
    return kind.count() if kind is not None and kind.count is not None else 0


def most_slots(client: Any) -> int:
    """Tasks that the cluster can do at a time; for one that `adapt` scales, as many as it may come to.

    Where its maximum is not known here, a cluster is asked to double.
    """
    threads: dict[str, int] = client.nthreads()
    now = max(1, sum(threads.values()))
    adaptive = getattr(getattr(client, "cluster", None), "_adaptive", None)
    if adaptive is None:
        return now
    if adaptive.maximum == float("inf"):
        return 2 * now
    return max(now, int(adaptive.maximum) * max(threads.values(), default=1))


def workers_of(client: Any) -> list[Worker]:
    """The workers connected now."""
    try:
        known = client.scheduler_info(n_workers=-1)["workers"]
    except TypeError:  # older versions give all of them and take no number
        known = client.scheduler_info()["workers"]
    return [Worker(a, int(w["nthreads"]), int(w.get("memory_limit") or 0)) for a, w in sorted(known.items())]

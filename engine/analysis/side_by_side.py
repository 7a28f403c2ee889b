"""Independent pieces of work on one machine, as many at a time as there are cores and as memory holds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

T = TypeVar("T")


def side_by_side(jobs: Sequence[Callable[[], T]], device: str = "auto", nbytes: int = 0) -> Iterator[tuple[int, T]]:
    """Do all of them, in threads; yields each one's place and result as they come.

    Parameters
    ----------
    jobs : functions without arguments, whose time goes into BLAS and LAPACK.
    device : whose library is held to one thread per job where there are several: threads of small products wait for one
        another, and on a busy machine for much longer than the products take. On a GPU there is one job at a time.
    nbytes : what a job needs; so many are done at a time as four fifths of the free memory hold, but always one.

    Notes
    -----
    Whatever a job raises ends all of it; jobs that are under way are waited for. A job has one core, the last one too.
    """
    from engine.backends import choose

    workers = min(len(os.sched_getaffinity(0)), len(jobs))
    if nbytes and workers > 1:
        import psutil

        workers = min(workers, int(psutil.virtual_memory().available * 0.8) // nbytes)
    if choose(device).startswith(("cuda", "cupy")):
        workers = 1
    if workers <= 1:
        for place, job in enumerate(jobs):
            yield place, job()
        return
    with ThreadPoolExecutor(workers, "eigenzoo") as pool:
        pending: dict[Future[T], int] = {pool.submit(_alone, job, device): i for i, job in enumerate(jobs)}
        try:
            while pending:
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    yield pending.pop(future), future.result()
        finally:
            for future in pending:
                future.cancel()


def _alone(job: Callable[[], T], device: str) -> T:
    from engine.runners.blas import one_blas_thread

    loads: Any = _Loads(device)
    with one_blas_thread(loads):
        return job()


class _Loads:
    """What `one_blas_thread` asks of a reduction: to have loaded its library."""

    def __init__(self, device: str) -> None:
        self._device = device

    def start(self) -> None:
        import numpy
        from scipy.linalg import lapack  # noqa: F401

        from engine.backends import choose, get_backend

        numpy.ones((2, 2)) @ numpy.ones((2, 2))
        get_backend(choose(self._device))

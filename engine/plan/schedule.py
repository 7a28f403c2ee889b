"""How long a number of matrices take on a number of workers: matrices first, row ranges second.

As `engine.runners.deal` deals: while there is a matrix for every worker each is one task; the last ones, fewer than
there are workers, are cut into ranges of rows that are folded side by side and joined. Solving is never shared.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.plan.choice import Estimate
    from engine.plan.rates import Rates


@dataclass(frozen=True, slots=True)
class Makespan:
    """What a whole zoo takes.

    Attributes
    ----------
    workers : tasks at a time.
    seconds : from the first task to the last, longest matrices first; starting the workers comes on top.
    busy_seconds : of all tasks together.
    bound_seconds : what no order of the tasks could beat: their mean per worker, or the longest of those that cannot
        be shared.
    bytes_read : from storage.
    bytes_moved : between workers.
    n_cut : matrices whose rows were shared.
    start_seconds : of a worker process.
    """

    workers: int
    seconds: float
    busy_seconds: float
    bound_seconds: float
    bytes_read: int
    bytes_moved: int
    n_cut: int
    start_seconds: float


def makespan(matrices: Sequence[tuple[Estimate, int]], workers: int, rates: Rates) -> Makespan:
    """Simulate the tasks of matrices, given as (estimate, how many of them), on workers."""
    each = sorted((e for e, count in matrices for _ in range(count)), key=lambda e: -e.seconds)
    free = [0.0] * workers
    end = busy = bound = 0.0
    moved = n_cut = 0
    for place, e in enumerate(each):
        left = len(each) - place
        parts = 1 if left >= workers else min(-(-workers // left), e.work.n_ranges)
        shared, joining = e.fold_seconds / parts, rates.join_seconds(e.work, parts)
        ends = [_run(free, 0.0, shared) for _ in range(parts)]
        # The task that folded the only part solves too; else whoever is free once all parts are there.
        last = ends[0] + e.solve_seconds if parts == 1 else 0.0
        if parts == 1:
            free.remove(ends[0])
            heapq.heapify(free)
            heapq.heappush(free, last)
        else:
            last = _run(free, max(ends), joining + e.solve_seconds)
            n_cut += 1
            moved += e.work.moved_bytes(parts)
        end, busy = max(end, last), busy + shared * parts + joining + e.solve_seconds
        bound = max(bound, e.fold_seconds / min(workers, e.work.n_ranges) + e.solve_seconds)
    return Makespan(
        workers=workers,
        seconds=end,
        busy_seconds=busy,
        bound_seconds=max(bound, busy / workers),
        bytes_read=sum(e.work.bytes_read for e in each),
        bytes_moved=moved,
        n_cut=n_cut,
        start_seconds=rates.start_us * 1e-6,
    )


def _run(free: list[float], earliest: float, seconds: float) -> float:
    """Give a task to the worker that is free first; when it ends."""
    end = max(heapq.heappop(free), earliest) + seconds
    heapq.heappush(free, end)
    return end

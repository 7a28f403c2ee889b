"""What a worker of a cluster is told to do: functions of a module, so that they are sent by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.runners.partition import fold

if TYPE_CHECKING:
    from engine.reductions.protocol import Reduction
    from engine.rows import RowSource


def fold_part(reduction: Reduction[Any, Any], rows: RowSource, start: int, stop: int) -> Any:
    with _one_thread(reduction):
        return fold(reduction, rows, start, stop)


def combine(reduction: Reduction[Any, Any], left: Any, right: Any) -> Any:
    with _one_thread(reduction):
        # Into an empty state: left belongs to the task that made it, and may be a read-only buffer here.
        return reduction.combine(reduction.combine(reduction.start(), left), right)


def fold_and_finish(reduction: Reduction[Any, Any], rows: RowSource, start: int, stop: int) -> Any:
    with _one_thread(reduction):
        return reduction.finish(fold(reduction, rows, start, stop))


def combine_and_finish(reduction: Reduction[Any, Any], left: Any, right: Any) -> Any:
    with _one_thread(reduction):
        return reduction.finish(reduction.combine(reduction.combine(reduction.start(), left), right))


def _one_thread(reduction: Reduction[Any, Any]) -> Any:
    from threadpoolctl import threadpool_limits

    reduction.start()  # loads the library: limits reach only what is loaded
    return threadpool_limits(1)


def probe(rows: RowSource) -> str | None:
    try:
        rows.read(0, 1)
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"
    return None

"""What a worker of a cluster is told to do: functions of a module, so that they are sent by name.

What a task hands to another stays on the workers, in a `Parcel` that says how large it is. A reduction is given as it
is in a first pass, and as the `NextPass` that an earlier one ended with in a later pass.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from engine.reductions.protocol import Again
from engine.runners.blas import one_blas_thread
from engine.runners.partition import Ranges, fold_ranges

if TYPE_CHECKING:
    from engine.reductions.protocol import Reduction
    from engine.rows import RowSource


class Parcel:
    """A state. Dask asks for its size to decide where the next task goes and what a worker still has room for."""

    __slots__ = ("content",)

    def __init__(self, content: Any) -> None:
        self.content = content

    def __sizeof__(self) -> int:
        return 64 + nbytes(self.content)


class NextPass(Parcel):
    """The reduction of one more pass. That it is one the client sees from the type, which comes without the content."""

    __slots__ = ()


def nbytes(thing: Any) -> int:
    """Bytes of the arrays in a state or a reduction."""
    if hasattr(thing, "nbytes"):
        return int(thing.nbytes)
    if is_dataclass(thing):
        return sum(nbytes(getattr(thing, field.name)) for field in fields(thing))
    if isinstance(thing, list | tuple):
        return sum(map(nbytes, thing))
    return 0


def fold_matrix(given: Any, rows: RowSource, ranges: Ranges) -> Any:
    """A whole pass over a matrix."""
    reduction = _reduction(given)
    with one_blas_thread(reduction):
        return _finished(reduction, fold_ranges(reduction, rows, ranges))


def fold_part(given: Any, rows: RowSource, ranges: Ranges) -> Parcel:
    """The state of a part of a matrix."""
    reduction = _reduction(given)
    with one_blas_thread(reduction):
        return Parcel(fold_ranges(reduction, rows, ranges))


def combine(given: Any, left: Parcel, right: Parcel) -> Parcel:
    """The state of two parts that follow one another."""
    reduction = _reduction(given)
    with one_blas_thread(reduction):
        return Parcel(reduction.combine(_own(reduction, left), right.content))


def finish(given: Any, state: Parcel) -> Any:
    """The end of a pass."""
    reduction = _reduction(given)
    with one_blas_thread(reduction):
        return _finished(reduction, _own(reduction, state))


def _own(reduction: Reduction[Any, Any], state: Parcel) -> Any:
    # A copy: the state belongs to the task that made it, and may be a read-only buffer here.
    return reduction.combine(reduction.start(), state.content)


def _reduction(given: Any) -> Reduction[Any, Any]:
    reduction: Reduction[Any, Any] = given.content if isinstance(given, NextPass) else given
    return reduction


def _finished(reduction: Reduction[Any, Any], state: Any) -> Any:
    result = reduction.finish(state)
    return NextPass(result.reduction) if isinstance(result, Again) else result


def probe(rows: RowSource) -> str | None:
    """Whether a row can be read here; None if so."""
    try:
        rows.read(0, 1)
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"
    return None


def wake() -> None:
    """Nothing: a task that waits for a worker is what makes a cluster that scales start one."""


def traffic(dask_worker: Any) -> tuple[int, int]:
    """Bytes that this worker has fetched from others (in the last thousand transfers), and has put on disk."""
    fetched = sum(int(transfer["total"]) for transfer in dask_worker.transfer_incoming_log)
    spilled = getattr(dask_worker.data, "cumulative_metrics", {})
    return fetched, int(spilled.get(("disk-write", "bytes"), 0))

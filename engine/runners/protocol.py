"""What a runner offers."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from engine.reductions.protocol import Reduction
    from engine.rows import RowSource

Key = TypeVar("Key", bound=Hashable)
R = TypeVar("R")


class Runner(Protocol):
    """Executes reductions over row sources. A context manager; `close` frees what it holds."""

    def run(self, reduction: Reduction[Any, R], rows: RowSource) -> R:
        """The result for one matrix."""

    def run_many(self, work: Iterable[tuple[Key, Reduction[Any, R], RowSource]]) -> Iterator[tuple[Key, R]]:
        """(key, result) for every matrix, in the order of completion.

        `work` is consumed as capacity allows. A failure is raised as an `EigenzooError` of one line that
        begins with the key, the original exception as its cause.
        """

    def check_memory(self, needed: int, what: str) -> None:
        """Refuse, in one line, a task of `needed` bytes that whoever would execute it cannot hold."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


def failure(key: Hashable, problem: BaseException) -> EigenzooError:
    """`problem` as one line that names the matrix."""
    text = " ".join(str(problem).split()) or "no further message"
    kind = "" if isinstance(problem, EigenzooError) else f"{type(problem).__name__}: "
    return EigenzooError(f"{key}: {kind}{text}")


def describe(rows: RowSource) -> str:
    """A name for a matrix that has none: its shape and where it is."""
    place = getattr(rows, "location", "") or rows.identity
    return f"matrix {rows.shape[0]} × {rows.shape[1]}" + (f" ({place})" if place else "")

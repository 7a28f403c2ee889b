"""The reference runner: one process, one matrix after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self

from engine.reductions.protocol import Again
from engine.runners.partition import fold_ranges, ranges_of
from engine.runners.protocol import Key, R, describe, failure

if TYPE_CHECKING:
    from engine.reductions.protocol import Reduction
    from engine.rows import RowSource


class SerialRunner:
    """Folds, combines and finishes in the calling process, with the BLAS threads it finds."""

    def run(self, reduction: Reduction[Any, R], rows: RowSource) -> R:
        return next(self.run_many([(describe(rows), reduction, rows)]))[1]

    def run_many(self, work: Iterable[tuple[Key, Reduction[Any, R], RowSource]]) -> Iterator[tuple[Key, R]]:
        for key, reduction, rows in work:
            try:
                result = _reduce(reduction, rows)
            except Exception as problem:
                raise failure(key, problem) from problem
            yield key, result

    def check_memory(self, needed: int, what: str) -> None:
        pass

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _reduce(reduction: Reduction[Any, R], rows: RowSource) -> R:
    while True:
        result = reduction.finish(fold_ranges(reduction, rows, ranges_of(rows)))
        if not isinstance(result, Again):
            return result
        reduction = result.reduction

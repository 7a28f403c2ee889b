"""How the rows of a matrix are dealt into ranges, and the ranges to tasks.

The ranges are a function of the data's shape only. A task folds neighbouring ranges into one running state, so that a
matrix that one task does holds one state however many rows it has; where several tasks share a matrix, their states
are joined by a balanced binary tree. Results are the same bits for the same number of tasks per matrix, whichever
runner, worker or thread does them, and agree to the rounding of the sums otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from engine.runners.reading import read_ahead

if TYPE_CHECKING:
    from engine.reductions.protocol import Reduction
    from engine.rows import RowSource

S = TypeVar("S")
T = TypeVar("T")
Ranges = list[tuple[int, int]]

# rows · width² of a range: two seconds at the 6e10 multiply-adds per second one core was measured to do.
TASK_WORK = 12 * 10**10
# A range becomes width² numbers, so it should have read several times that many.
ROWS_PER_WIDTH = 4
READ_BYTES = 12 * 2**20  # read at once: a product of few rows is bound by the square that it is added to


def partition(n_rows: int, block_rows: int, width: int) -> Ranges:
    """Ranges of rows, in order; all but the last hold whole blocks."""
    wanted = max(TASK_WORK // (width * width), ROWS_PER_WIDTH * width)
    n_blocks = -(-n_rows // block_rows)
    n_ranges = max(1, min(n_blocks, n_rows // wanted))
    edges = [n_blocks * i // n_ranges * block_rows for i in range(n_ranges)] + [n_rows]
    return list(zip(edges[:-1], edges[1:], strict=True))


def read_rows(block_rows: int, width: int, itemsize: int) -> int:
    """Rows read at once: whole blocks, about `READ_BYTES`, at least one block."""
    return block_rows * max(1, READ_BYTES // (block_rows * width * itemsize))


def ranges_of(rows: RowSource) -> Ranges:
    """`partition` of a row source."""
    return partition(rows.shape[0], rows.block_rows, rows.shape[1])


def fold(reduction: Reduction[S, Any], rows: RowSource, start: int, stop: int) -> S:
    """The state of rows start … stop − 1."""
    state = reduction.start()
    step = read_rows(rows.block_rows, rows.shape[1], rows.dtype.itemsize)
    for block in read_ahead(rows, start, stop, step):
        state = reduction.step(state, block)
        del block  # before the next read begins: a read and a block are held, not two blocks and a read
    return state


def fold_ranges(reduction: Reduction[S, Any], rows: RowSource, ranges: Ranges) -> S:
    """The state of several ranges that follow one another."""
    return fold(reduction, rows, ranges[0][0], ranges[-1][1])


def cut(ranges: Ranges, parts: int, part: Callable[[Ranges], T], join: Callable[[T, T], T]) -> T:
    """Neighbouring ranges in at most `parts` groups of about equal size, each made by `part`, joined in their order."""
    if min(parts, len(ranges)) <= 1:
        return part(ranges)
    (left, left_parts), (right, right_parts) = split(ranges, parts)
    return join(cut(left, left_parts, part, join), cut(right, right_parts, part, join))


def split(ranges: Ranges, parts: int) -> tuple[tuple[Ranges, int], tuple[Ranges, int]]:
    """The left and the right half of the groups, each with how many it is to be cut into; for two and more ranges."""
    parts = min(parts, len(ranges))
    left = parts - parts // 2
    at = min(max(left, len(ranges) * left // parts), len(ranges) - parts // 2)
    return (ranges[:at], left), (ranges[at:], parts // 2)

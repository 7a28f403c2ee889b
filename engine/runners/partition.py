"""How the rows of a matrix are dealt into tasks, and tasks into reads.

A function of the data's shape only, never of workers, so that results are the same bits on every runner, on
every number of workers, and run after run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from engine.reductions.protocol import Reduction
    from engine.rows import RowSource

S = TypeVar("S")
T = TypeVar("T")

# rows · width² of a task: two seconds at the 6e10 multiply-adds per second one core was measured to do.
TASK_WORK = 12 * 10**10
# A task returns width² numbers, so it should have read several times that many.
ROWS_PER_WIDTH = 4
READ_VALUES = 2**21  # numbers read at once: 4 MiB of bfloat16


def partition(n_rows: int, block_rows: int, width: int) -> list[tuple[int, int]]:
    """Ranges of rows, in order, one per task; all but the last hold whole blocks."""
    wanted = max(TASK_WORK // (width * width), ROWS_PER_WIDTH * width)
    n_blocks = -(-n_rows // block_rows)
    n_ranges = max(1, min(n_blocks, n_rows // wanted))
    edges = [n_blocks * i // n_ranges * block_rows for i in range(n_ranges)] + [n_rows]
    return list(zip(edges[:-1], edges[1:], strict=True))


def read_rows(block_rows: int, width: int) -> int:
    """Rows read at once: whole blocks, about `READ_VALUES` numbers, at least one block."""
    return block_rows * max(1, READ_VALUES // (block_rows * width))


def ranges_of(rows: RowSource) -> list[tuple[int, int]]:
    """`partition` of a row source."""
    return partition(rows.shape[0], rows.block_rows, rows.shape[1])


def fold(reduction: Reduction[S, Any], rows: RowSource, start: int, stop: int) -> S:
    """The state of rows start … stop − 1."""
    state = reduction.start()
    step = read_rows(rows.block_rows, rows.shape[1])
    for first in range(start, stop, step):
        state = reduction.step(state, rows.read(first, min(first + step, stop)))
    return state


def tree(leaves: list[tuple[int, int]], leaf: Callable[[int, int], T], join: Callable[[T, T], T]) -> T:
    """Join leaves pairwise in their order, depth first: log₂ of their number are held at once."""
    if len(leaves) == 1:
        return leaf(*leaves[0])
    half = len(leaves) // 2
    return join(tree(leaves[:half], leaf, join), tree(leaves[half:], leaf, join))


def depth(n_leaves: int) -> int:
    """States `tree` holds at once when its leaves are made one after the other."""
    return 1 + max(0, (n_leaves - 1).bit_length())

"""Bytes a task needs, in plain integers, before it starts. A test shows measured ≤ stated.

Not counted: the interpreter with its libraries, and whatever the array given to `fit` occupies itself.
"""

from __future__ import annotations

from engine.reductions.dual import tile_columns
from engine.reductions.moments import piece_rows
from engine.runners.partition import depth, partition, read_rows
from ingest.errors import EigenzooError

MIB = 2**20
_SLACK = 48 * MIB  # BLAS packing buffers, the allocator's rounding
# A scatter solved for all its vectors: reflectors, vectors of the tridiagonal, their transform, the result.
_SOLVE_SQUARES = 5
# A combine on a worker holds left, right and their fresh sum.
_COMBINE_SQUARES = 3


def primal_task_bytes(n_rows: int, width: int, block_rows: int, itemsize: int) -> int:
    """Peak of a task that folds, combines or solves moments: O(width²) plus one read."""
    square = 8 * width * width
    held = depth(len(partition(n_rows, block_rows, width)))
    read = min(n_rows, read_rows(block_rows, width)) * width * itemsize
    piece = min(n_rows, piece_rows(width)) * width * 8
    folding = held * square + 2 * read + 2 * piece
    return max(folding, _COMBINE_SQUARES * square, _SOLVE_SQUARES * square) + _SLACK


def dual_task_bytes(n_rows: int, width: int, itemsize: int) -> int:
    """Peak of a task that gathers rows and solves their Gram: O(n_rows · width) plus O(n_rows²)."""
    rows = n_rows * width * itemsize
    tile = n_rows * tile_columns(n_rows, width) * 8
    square = 8 * n_rows * n_rows
    # Components at most (n_rows, width): as computed, as orthonormalised (twice inside QR), as signed.
    components = 4 * 8 * n_rows * width
    return 2 * rows + 4 * tile + _SOLVE_SQUARES * square + components + _SLACK


def check(needed: int, allowed: int | None, what: str) -> None:
    """Refuse a task that would not fit.

    Raises
    ------
    EigenzooError
        When `needed` exceeds `allowed` bytes; None allows everything.
    """
    if allowed is not None and needed > allowed:
        raise EigenzooError(
            f"{what}: needs {-(-needed // MIB)} MiB per task, allowed {allowed // MIB} MiB; "
            "raise --memory, or run fewer workers with more each"
        )

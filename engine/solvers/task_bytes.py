"""Bytes a task of these methods needs, in plain integers. A test shows measured ≤ stated.

Not counted, as in `engine.memory`: the interpreter with its libraries, and whatever the array given occupies itself.
Sides are in float64 values; a read is what a runner reads at once.
"""

from __future__ import annotations

from engine.eigen import BLOCK, STEPS
from engine.reductions.centring import piece_rows
from engine.reductions.incremental import stacked_rows
from engine.runners.partition import read_rows
from engine.solvers.incremental import begin_rank
from engine.solvers.krylov import KNOWN
from engine.solvers.randomized import MAX_PASSES, block_columns

_FLOAT = 8
_SLACK = 48 * 2**20  # BLAS packing buffers, the allocator's rounding
_HELD = 3  # states: where several tasks share a matrix, the one that joins has left, right and their sum
_SOLVE_SQUARES = 9  # tsqr: R, its copy for LAPACK, U, Vᵀ, and the work space of the divide-and-conquer SVD


def gathered_task_bytes(n_rows: int, width: int, block_rows: int, itemsize: int, components: int | None) -> int:
    """Peak of a task: the rows as stored and in float32, a block's squares, and Lanczos vectors with their images."""
    columns = max(BLOCK, (components or KNOWN) * 5 // 4 + 8)
    vectors = (2 * STEPS + 8) * width * columns
    reads = 5 * _read(n_rows, width, block_rows, max(itemsize, 4))
    return n_rows * width * (itemsize + 4) + _FLOAT * vectors + reads + _SLACK


def randomized_task_bytes(n_rows: int, width: int, block_rows: int, itemsize: int, components: int | None) -> int:
    """Peak of a task: O(l · width) to fold, O(passes · l · width) to solve.

    Parameters
    ----------
    n_rows, width, block_rows, itemsize : the matrix, rows of a chunk, bytes of a stored value.
    components : as in `Wanted.components`.
    """
    columns = block_columns(n_rows, width, components)
    basis = min(width, MAX_PASSES * columns)
    rows = min(n_rows, piece_rows(width))
    # States, and beside them the vectors as held and as multiplied, a piece's product, the sum.
    sketches = (_HELD + 4) * width * columns
    folding = sketches + 2 * rows * width + rows * columns + width * basis
    # The basis before and after; the product, what is outside the basis, its SVD and the next block.
    solving = 2 * width * basis + 8 * width * columns + 4 * basis * basis
    return _FLOAT * max(folding, solving) + 3 * _read(n_rows, width, block_rows, itemsize) + _SLACK


def incremental_task_bytes(n_rows: int, width: int, block_rows: int, itemsize: int, components: int | None) -> int:
    """Peak of a task: O(max_rank · width)."""
    _, kept = begin_rank(width, components)
    fresh = min(n_rows, stacked_rows(width, kept))
    stacked = kept + fresh + 1
    # States; the fresh rows, their squares, the stack, what is kept of it; the stack's Gram and its eigenvectors.
    folding = _HELD * kept * width
    folding += (2 * fresh + stacked + kept) * width + 5 * stacked * stacked
    solving = 5 * kept * width
    return _FLOAT * max(folding, solving) + 3 * _read(n_rows, width, block_rows, itemsize) + _SLACK


def tsqr_task_bytes(n_rows: int, width: int, block_rows: int, itemsize: int) -> int:
    """Peak of a task: O(width²)."""
    rows, square = min(n_rows, piece_rows(width)), width * width
    # States; a piece, its copy in the other order, and where there is no tpqrt R and piece together, twice.
    folding = (_HELD + 3) * square + 4 * rows * width
    return _FLOAT * max(folding, _SOLVE_SQUARES * square) + 3 * _read(n_rows, width, block_rows, itemsize) + _SLACK


def _read(n_rows: int, width: int, block_rows: int, itemsize: int) -> int:
    return min(n_rows, read_rows(block_rows, width, itemsize)) * width * itemsize

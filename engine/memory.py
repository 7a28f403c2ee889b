"""Bytes a task needs, in plain integers, before it starts. A test shows measured ≤ stated.

Not counted: the interpreter with its libraries, and whatever the array given to `fit` occupies itself. On a GPU the
number is that of its memory and the host's together.

What the numbers are made of (d is the width, in float64 squares of 8 · d² bytes unless said otherwise): a state of
moments is one square, and where products are coarse half a square of float32 sums beside it. A task holds one state,
the block it folds, the one that is read ahead, what that read needs, and the operands. Then it solves; see
`solve_bytes`.
"""

from __future__ import annotations

from engine.reductions.dual import tile_columns
from engine.reductions.moments import piece_rows
from engine.runners.partition import partition, read_rows
from engine.solvers.task_bytes import (
    gathered_task_bytes,
    incremental_task_bytes,
    randomized_task_bytes,
    tsqr_task_bytes,
)
from ingest.errors import EigenzooError

MIB = 2**20
TORCH_BYTES = 165 * MIB  # what a process that has imported torch holds, beyond one that has not
SLACK = 48 * MIB  # BLAS packing buffers, panels, the allocator's rounding
_SAMPLE_ROWS = 512  # rows of a piece, at most, that are looked at in float64 before float32 sums begin
# With torch: the matrix, its copy that becomes the vectors, the work space of divide and conquer, vectors in order.
_TORCH_SQUARES = 6
# The largest block Lanczos space: half as wide as the matrix, with its images; its projection, solved with vectors.
_LANCZOS_SQUARES = 3
# One more pass on all components: basis, the Gram as summed, copied and scaled, its vectors, their root, and the SVD
# of that with its copy, factors and work space.
_REFINE_SQUARES = 16


def task_bytes(
    method: str,
    n_rows: int,
    width: int,
    block_rows: int,
    itemsize: int,
    *,
    device: str = "cpu",
    coarse: bool = False,
    components: int | None = None,
    spectrum: str = "full",
    refine: bool | None = False,
) -> int:
    """Peak of any task of a method: one that folds, combines or solves.

    Parameters
    ----------
    method : name in `engine.methods.METHODS`.
    n_rows, width, block_rows, itemsize : the matrix, rows of a chunk, bytes of a stored value.
    device : name of the backend.
    coarse : whether rows are multiplied with float32 results.
    components : how many will be wanted, where that is known; None where a rule decides.
    spectrum : "full" or "top".
    refine : None, "where it is called for", needs the room that True needs.
    """
    if method == "dual":
        return dual_task_bytes(n_rows, width, itemsize, components)
    if method == "krylov":
        return gathered_task_bytes(n_rows, width, block_rows, itemsize, components)
    if method == "randomized":
        return randomized_task_bytes(n_rows, width, block_rows, itemsize, components)
    if method == "incremental":
        return incremental_task_bytes(n_rows, width, block_rows, itemsize, components)
    if method == "tsqr":
        return tsqr_task_bytes(n_rows, width, block_rows, itemsize)
    moments = moments_task_bytes(
        n_rows,
        width,
        block_rows,
        itemsize,
        coarse=coarse,
        device=device,
        components=components,
        spectrum=spectrum,
    )
    return moments if refine is False else max(moments, refined_task_bytes(n_rows, width, block_rows, itemsize))


def moments_task_bytes(
    n_rows: int,
    width: int,
    block_rows: int,
    itemsize: int,
    *,
    coarse: bool = False,
    device: str = "cpu",
    components: int | None = None,
    spectrum: str = "full",
) -> int:
    """Peak of a task that folds, combines or solves moments: O(width²) plus three reads."""
    square = 8 * width * width
    state = square + (square // 2 if coarse else 0)
    n_ranges = len(partition(n_rows, block_rows, width))
    folding = state + 3 * _read_bytes(n_rows, width, block_rows, itemsize)
    folding += _piece_bytes(n_rows, width, block_rows, itemsize, coarse)
    # On a worker that combines: left, right and their fresh sum.
    combining = 2 * state + square if n_ranges > 1 else 0
    # Where ranges were folded by several workers, the worker that solves keeps the sum as well, which another may
    # have to ask for again.
    solving = solve_bytes(width, device, components, spectrum) + (square if n_ranges > 1 else 0)
    return max(folding, combining, solving) + SLACK


def solve_bytes(width: int, device: str = "cpu", components: int | None = None, spectrum: str = "full") -> int:
    """Peak of the eigenproblem of a scatter, which it counts in.

    scipy holds the reflectors, copies them where vectors are wanted, and has these three times. torch may have to
    fall back on all vectors however few are wanted: the matrix, its vectors, two squares of work space, and one of
    copies. Block Lanczos comes first, where the largest are sought apart from the rest.
    """
    square = 8 * width * width
    lanczos = _LANCZOS_SQUARES * square
    if device not in ("cpu", "numpy"):
        return _TORCH_SQUARES * square
    k = width if components is None else min(components, width)
    whole = 2 * square + 3 * 8 * width * k
    return max(whole, lanczos) if spectrum == "top" else whole


def refined_task_bytes(n_rows: int, width: int, block_rows: int, itemsize: int) -> int:
    """Peak of the pass that renews small singular values, with the solution it starts from."""
    square = 8 * width * width
    # The basis as held and as multiplied, beside the states.
    folding = 3 * square + 3 * _read_bytes(n_rows, width, block_rows, itemsize)
    folding += 2 * _piece_bytes(n_rows, width, block_rows, itemsize, coarse=False)
    return max(folding, _REFINE_SQUARES * square) + SLACK


def dual_task_bytes(n_rows: int, width: int, itemsize: int, components: int | None = None) -> int:
    """Peak of a task that gathers rows and solves their Gram: O(n_rows · width) plus O(n_rows²)."""
    rows = n_rows * width * itemsize
    tile = n_rows * tile_columns(n_rows, width) * 8
    square = 8 * n_rows * n_rows
    k = n_rows if components is None else min(components, n_rows)
    # Components (k, width): as computed, as orthonormalised (twice inside QR), as signed.
    return 2 * rows + 4 * tile + _TORCH_SQUARES * square + 4 * 8 * k * width + SLACK


def check(needed: int, allowed: int | None, what: str) -> None:
    """Refuse a task that would not fit.

    Raises
    ------
    EigenzooError
        When `needed` exceeds `allowed` bytes; None allows everything.
    """
    if allowed is not None and needed > allowed:
        raise EigenzooError(f"{what}: {refusal(needed, allowed)}")


def refusal(needed: int, allowed: int) -> str:
    """That a task does not fit, and what can be done."""
    return (
        f"needs {-(-needed // MIB)} MiB per task, allowed {allowed // MIB} MiB; "
        "raise --memory, or run fewer workers with more each"
    )


def size_text(nbytes: int) -> str:
    """Bytes in a unit that reads well, for a line of reasons."""
    gib = nbytes / 2**30
    if gib >= 1:
        return f"{gib:.1f} GiB" if gib < 100 else f"{gib:.0f} GiB"
    return f"{-(-nbytes // MIB)} MiB"


def _read_bytes(n_rows: int, width: int, block_rows: int, itemsize: int) -> int:
    return min(n_rows, read_rows(block_rows, width, itemsize)) * width * itemsize


def _piece_bytes(n_rows: int, width: int, block_rows: int, itemsize: int, coarse: bool) -> int:
    """Operands, and what is worked out of them beside them. A piece is part of what was read."""
    most = min(n_rows, read_rows(block_rows, width, itemsize))
    if not coarse:
        return 2 * min(most, piece_rows(width)) * width * 8
    # A piece of float32, or the same rows in float64 where float32 has no room for their squares.
    rows = min(most, piece_rows(width, "float32"))
    return (rows + min(rows, _SAMPLE_ROWS)) * width * 8

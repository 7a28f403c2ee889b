r"""What reductions that keep centred rows share: pieces of a block, their mean, and how two means are joined.

A piece is centred by its own first row and then by the mean of what remains: a constant column becomes exactly 0,
which no rounded sum of equal values promises, and the second mean is small, hence accurate. Nothing is ever
subtracted from sums of large squares. Two centred parts are joined by the pairwise update of Chan, Golub and LeVeque
(1979): the scatter about the common mean is the sum of both plus that of one more row,

.. math:: \sqrt{n_a n_b / (n_a + n_b)} \; (\mu_b - \mu_a),

the mean-correction row of Ross, Lim, Lin and Yang, "Incremental learning for robust visual tracking" (2008).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.backends.protocol import Array, Backend

PIECE_BYTES = 32 * 2**20  # float64 bytes of the rows in work at once


@dataclass(frozen=True, slots=True)
class Centre:
    """Number and mean (width,) of rows already folded; the mean is never changed in place."""

    n: int
    mean: Array


def piece_rows(width: int) -> int:
    """Rows in work at once, so that a piece in float64 stays near `PIECE_BYTES`."""
    return max(1, PIECE_BYTES // (8 * width))


def pieces(block: NDArray[Any], rows: int) -> Iterator[NDArray[Any]]:
    """The block's rows in order, `rows` at a time."""
    for start in range(0, len(block), rows):
        yield block[start : start + rows]


def centred(b: Backend, piece: NDArray[Any], *, twice: bool = False) -> tuple[Array, Centre]:
    """The piece in float64 less its mean row, and that centre.

    Sums of many rows leave a mean of a few ε, worth √n of these in a singular value: what squares nothing sees it, and
    has it taken out `twice`.
    """
    x = b.matrix(piece)
    first = x[0] + 0.0
    b.subtract_row(x, first)
    rest = b.column_mean(x)
    b.subtract_row(x, rest)
    if twice:
        left = b.column_mean(x)
        b.subtract_row(x, left)
        rest = rest + left
    return x, Centre(len(piece), first + rest)


def joined(left: Centre, right: Centre) -> tuple[Centre, Array | None]:
    """The common centre, and the mean-correction row (width,); None where one side has no rows."""
    if not left.n or not right.n:
        return (left if left.n else right), None
    total = left.n + right.n
    delta = right.mean - left.mean
    row = delta * math.sqrt(left.n * right.n / total)
    return Centre(total, left.mean + delta * (right.n / total)), row


def check_finite(*numbers: float) -> None:
    """Refuse rows whose sum of squares is no number.

    Raises
    ------
    EigenzooError
        When one of `numbers` is NaN or infinite.
    """
    if not all(map(math.isfinite, numbers)):
        raise EigenzooError("rows hold NaN, Inf or values beyond 1e154; remove the rows that do")

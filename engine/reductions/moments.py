r"""Exact moments of a matrix of rows: the additive state from which spectra follow.

The scatter is kept about the running mean and merged by the pairwise update of Chan, Golub and LeVeque,
"Updating formulae and a pairwise algorithm for computing sample variances" (1979):

.. math:: M_2 = M_2^a + M_2^b + \delta\delta^\top \frac{n_a n_b}{n_a + n_b}, \qquad \delta = \mu_b - \mu_a.

Raw moments (XᵀX − nμμᵀ) lose the spread once the mean exceeds it: at mean/std = 1e6 everything.

Rows stored in 16 bits may be multiplied with float32 results, in which every product is exact. The sums of at most
`FLUSH_ROWS` rows are float32; across these they are float64:

.. math:: M_2 = \sum (x-s)^\top(x-s) - n\,d^\top d, \qquad d = \mu - s.

The shift s is 0, as it must be where matrix units multiply the values as stored. Where the mean dwarfs the spread
(`DWARFED`) that would cost all digits: then s is near the mean of the first rows, and the operands are float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.backends.protocol import Array, Backend

# Bytes of the operands multiplied at once: below the 32 MiB from which glibc asks the kernel for fresh pages each time.
PIECE_BYTES = 24 * 2**20
FLUSH_ROWS = 16384  # rows summed in float32; a flush costs as much as about 1,000 rows
DWARFED = 16.0  # n·‖mean‖² / trace of the scatter, from which operands as stored are too coarse
ROOM = (1e-12, 1e12)  # root mean squares whose squares float32 sums well


@dataclass(slots=True)
class Partial:
    """Float32 sums of `n` rows about `shift`.

    Attributes
    ----------
    n : number of rows.
    products : what the operands are.
    shift : (width,) float64, exactly representable as the rows are; None for none, and always where the operands are
        the values as stored.
    total : (width,) float64, Σ x.
    gram : (width, width) float32, Σ (x − shift)ᵀ(x − shift); only the lower triangle is meaningful.
    """

    n: int
    products: str
    shift: Array | None
    total: Array
    gram: Array


@dataclass(slots=True)
class MomentsState:
    """Moments of `n` rows, float64, on the backend's device, and what is not yet among them.

    Attributes
    ----------
    n : number of rows.
    mean : (width,).
    scatter : (width, width), Σ (x − mean)ᵀ(x − mean); only the lower triangle is meaningful.
    sumsq : Σ ‖x‖², about zero.
    offset : (width,) on the host, Σ n·(mean − shift)² of all float32 sums that went in: what their rounding is
        relative to, beside the scatter's diagonal; zeros where all products were float64.
    coarse : rows that were multiplied with float32 results.
    partial : float32 sums that wait for the flush; None without any.
    first, constant : a row on the host, and the columns in which all coarse rows are equal to it: rounded sums cannot
        tell; None without coarse rows, or when nobody knows.
    """

    n: int
    mean: Array
    scatter: Array
    sumsq: float
    offset: NDArray[np.float64]
    coarse: int = 0
    partial: Partial | None = None
    first: NDArray[Any] | None = None
    constant: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class Moments:
    """Rows → `MomentsState`. One width × width scatter per state, updated in place; O(n · width²) time.

    Attributes
    ----------
    width, backend : the matrix's columns, and who computes.
    products : one of `engine.backends.protocol.PRODUCTS`; all but "float64" need a float32 square more.
    """

    width: int
    backend: Backend
    products: str = "float64"

    def start(self) -> MomentsState:
        self.backend.load()
        b = self.backend
        return MomentsState(0, b.vector(self.width), b.square(self.width), 0.0, np.zeros(self.width))

    def step(self, state: MomentsState, block: NDArray[Any], /) -> MomentsState:
        coarse = self.products != "float64"
        fold = self._fold_coarse if coarse else self._fold
        rows = piece_rows(self.width, self.products)
        for start in range(0, len(block), rows):
            fold(state, block[start : start + rows])
        return state

    def combine(self, left: MomentsState, right: MomentsState) -> MomentsState:
        self.flush(left)
        self.backend.add(left.scatter, right.scatter)
        self._move_mean(left, right.n, right.mean)
        left.sumsq += right.sumsq
        left.offset = left.offset + right.offset
        left.coarse += right.coarse
        if right.partial is not None:
            self._take(left, right.partial)
        if left.first is None:
            left.first, left.constant = right.first, right.constant
        elif right.first is not None and left.constant is not None and right.constant is not None:
            both = np.intersect1d(left.constant, right.constant)
            left.constant = both[left.first[both] == right.first[both]]
        return left

    def finish(self, state: MomentsState) -> MomentsState:
        self.flush(state)
        state.partial = None
        if not math.isfinite(state.sumsq):
            raise EigenzooError("rows hold NaN, Inf or values beyond 1e154; remove the rows that do")
        return state

    def flush(self, state: MomentsState) -> None:
        """Have the float32 sums that wait join the float64 ones."""
        partial = state.partial
        if partial is not None and partial.n:
            self._take(state, partial)
            partial.n = 0  # the square is kept for the next rows, and cleared by them

    def gram(self, state: MomentsState) -> Array:
        """The uncentred Σ xᵀx = scatter + n · meanᵀmean, in place of the scatter."""
        self.backend.add_outer(state.scatter, state.mean, float(state.n))
        return state.scatter

    def _fold(self, state: MomentsState, piece: NDArray[Any]) -> None:
        """Float64 products. Two looks at the operands beside the product: one subtracts, one finds what is left."""
        b, m = self.backend, len(piece)
        # About the mean so far, at first about the first row: a constant column becomes exactly 0, which no rounded
        # sum of equal values promises, and the mean of what is left is small, hence accurate.
        shift = state.mean if state.n else b.matrix(piece[:1])[0]
        x = b.less(piece, shift)
        rest = b.column_mean(x)
        if not state.n:
            b.subtract_row(x, rest)
        before = float(b.diagonal(state.scatter).sum())
        b.add_gram(state.scatter, x)
        mean = b.to_host(shift + rest)
        spread = float(b.diagonal(state.scatter).sum()) - before
        total = state.n + m
        if state.n:
            # Chan's update of sums about the old mean: m·δδᵀ too much, n·m/(n + m)·δδᵀ too little.
            delta = b.to_host(rest)
            spread -= m * float(delta @ delta)
            b.add_outer(state.scatter, rest, -(m * m / total))
        state.sumsq += spread + m * float(mean @ mean)
        state.mean = shift + rest * (m / total)
        state.n = total

    def _fold_coarse(self, state: MomentsState, piece: NDArray[Any]) -> None:
        b, partial = self.backend, state.partial
        _note_constant(state, piece)
        if partial is None or not partial.n:
            partial = self._begun(state, piece)
            if partial is None:
                self._fold(state, piece)
                return
            state.partial = partial
        x = b.matrix(piece, partial.products)
        # Before the shift: sums of 16-bit values lose next to nothing.
        partial.total = partial.total + b.column_sum(x, partial.products)
        if partial.shift is not None:
            b.subtract_row(x, partial.shift)
        b.add_gram(partial.gram, x, partial.products)
        partial.n += len(piece)
        state.coarse += len(piece)
        if partial.n >= FLUSH_ROWS:
            self.flush(state)

    def _begun(self, state: MomentsState, piece: NDArray[Any]) -> Partial | None:
        """Empty sums, with a shift and products that suit the rows to come as far as `piece` tells.

        None where float32 has no room for the squares, so that this piece is multiplied in float64.
        """
        b = self.backend
        sample = b.matrix(piece[:: max(1, len(piece) // 256)])
        size = math.sqrt(b.square_sum(sample) / (len(sample) * self.width))
        if not ROOM[0] < size < ROOM[1]:
            return None
        if state.partial is None:
            gram = b.square(self.width, "float32")
        else:
            gram = state.partial.gram
            b.clear(gram)
        mean = b.column_mean(sample)
        energy = float(b.to_host(mean) @ b.to_host(mean)) * len(sample)
        b.subtract_row(sample, mean)
        if energy <= DWARFED * b.square_sum(sample):
            return Partial(0, self.products, None, b.vector(self.width), gram)
        # A row of the data: of two 16-bit values the difference is exact in float32 whenever they are alike.
        near = piece[:1] if len(sample) == 1 else b.to_host(mean)[None].astype(piece.dtype)
        middle = b.matrix(near.astype(np.float32))[0]
        return Partial(0, "float32", middle, b.vector(self.width), gram)

    def _take(self, state: MomentsState, partial: Partial) -> None:
        """Add a partial's sums, which stay as they are."""
        if not partial.n:
            return
        b, n = self.backend, partial.n
        inner = mean = partial.total * (1.0 / n)
        state.sumsq += float(b.diagonal(partial.gram).sum())
        if partial.shift is not None:
            inner = mean - partial.shift
            shift = b.to_host(partial.shift)
            state.sumsq += n * float(shift @ (2 * b.to_host(inner) + shift))
        d = b.to_host(inner)
        state.offset = state.offset + n * d * d
        b.add(state.scatter, partial.gram)
        b.add_outer(state.scatter, inner, -float(n))
        self._move_mean(state, n, mean)

    def _move_mean(self, state: MomentsState, n: int, mean: Array) -> None:
        """Chan's update of a state whose scatter already holds both sums."""
        total = state.n + n
        if n == 0:
            return
        delta = mean - state.mean
        if state.n:
            self.backend.add_outer(state.scatter, delta, state.n * n / total)
        state.mean = state.mean + delta * (n / total)
        state.n = total


def _note_constant(state: MomentsState, piece: NDArray[Any]) -> None:
    if state.first is None:
        state.first, state.constant = piece[0].copy(), np.arange(piece.shape[1])
    if state.constant is None:
        return
    for start in (0, 64):  # few rows tell most columns apart
        rows = piece[start : start + 64 if start == 0 else None]
        at = state.constant
        if len(at) and len(rows):
            state.constant = at[(rows[:, at] == state.first[at]).all(axis=0)]


def piece_rows(width: int, products: str = "float64") -> int:
    """Rows multiplied at once, so that a piece of operands stays near `PIECE_BYTES`."""
    return max(1, PIECE_BYTES // ((8 if products == "float64" else 4) * width))

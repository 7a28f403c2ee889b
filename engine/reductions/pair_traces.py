r"""Traces of products between adapters, of all pairs at the cost of one sum.

Of symmetric matrices M₁ … M_N,

.. math:: \sum_{s \ne t} \operatorname{tr} M_s M_t = \Big\| \sum_s M_s \Big\|_F^2 - \sum_s \| M_s \|_F^2,

and the sum is a Gram of rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.backends.protocol import Array, Backend


@dataclass(frozen=True, slots=True)
class TraceSums:
    """Sums over adapters of their matrices M (width × width).

    Attributes
    ----------
    total : ‖Σ M‖²
    traces, squares : tr M and ‖M‖² of each adapter, (n_adapters,)
    """

    total: float
    traces: NDArray[np.float64]
    squares: NDArray[np.float64]

    @property
    def between(self) -> float:
        """Σ tr MₛMₜ over all ordered pairs of different adapters."""
        return self.total - float(self.squares.sum())


@dataclass(slots=True)
class TraceState:
    """Σ M as its lower triangle, or where there are fewer rows than columns the rows themselves; and of each adapter
    trace and square, as they came."""

    gram: Array | None
    rows: list[NDArray[np.float64]] = field(default_factory=list)
    traces: list[NDArray[np.float64]] = field(default_factory=list)
    squares: list[NDArray[np.float64]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PairTraces:
    """A `Reduction` from adapters, each the rows Y of M = YᵀY in one long row, to `TraceSums`.

    O(n_rows · width · min(n_rows, width)) time; 8 · width · min(n_rows, width) bytes.

    Attributes
    ----------
    rank, row_width : of the rows Y; a long row has rank · row_width numbers.
    n_rows : rows of all adapters together.
    backend : who computes.
    """

    rank: int
    row_width: int
    n_rows: int
    backend: Backend

    def start(self) -> TraceState:
        self.backend.load()
        return TraceState(None if self._few else self.backend.square(self.row_width))

    def step(self, state: TraceState, block: NDArray[Any], /) -> TraceState:
        y = block.reshape(len(block), self.rank, self.row_width)
        inner = y @ y.transpose(0, 2, 1)
        state.traces.append(np.einsum("nii->n", inner).copy())
        state.squares.append(np.einsum("nij,nij->n", inner, inner))
        flat = y.reshape(-1, self.row_width)
        flat = flat[flat.any(axis=1)]  # rows of zeros fill up adapters of a lower rank
        if state.gram is None:
            state.rows.append(flat)
        elif len(flat):
            self.backend.add_gram(state.gram, self.backend.matrix(flat))
        return state

    def combine(self, left: TraceState, right: TraceState) -> TraceState:
        if left.gram is not None:
            self.backend.add(left.gram, right.gram)
        left.rows.extend(right.rows)
        left.traces.extend(right.traces)
        left.squares.extend(right.squares)
        return left

    def finish(self, state: TraceState) -> TraceSums:
        b, gram = self.backend, state.gram
        if gram is None:
            y = np.concatenate([np.zeros((1, self.row_width)), *state.rows])  # a row of zeros, were there no other
            gram = b.square(len(y))
            b.add_gram(gram, b.matrix(y).T)
        b.mirror(gram)
        total = float(b.square_sum(gram))
        if not np.isfinite(total):
            raise EigenzooError("rows hold NaN, Inf or values beyond 1e77; remove the rows that do")
        none = np.empty(0)
        return TraceSums(total, np.concatenate([none, *state.traces]), np.concatenate([none, *state.squares]))

    @property
    def _few(self) -> bool:
        return self.n_rows < self.row_width


def pair_traces_bytes(n_rows: int, row_width: int, block_bytes: int = 0) -> int:
    """Peak of a task: its state, what is made of it at its end, or a second one that joins it; and its blocks.

    Of `block_bytes` each: one in work and a copy of its rows, one that is read ahead, and what that is made of, in
    float64 with its factors (measured: up to seven in all).
    """
    few = min(n_rows, row_width)
    return 4 * 8 * row_width * few + 8 * block_bytes

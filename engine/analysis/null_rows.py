"""The size- and strength-matched null: every adapter keeps its own geometry, and shares nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.rows import RowSource


@dataclass(frozen=True, eq=False)
class NullRows:
    """A `RowSource` of float64: each adapter's rows turned about `about` by a rotation of its own, drawn at random.

    Norms and inner products of an adapter's rows about that point are kept, with them its rank, its strength and its
    own spectrum; directions are independent from adapter to adapter, and uniform. What a subspace explains of these
    rows held out is what it would explain of adapters of these sizes that share nothing.

    Attributes
    ----------
    rows : what is turned.
    about : (width,), the mean where one is subtracted, else zeros.
    seed : adapter i's rotation depends on it and on i alone.

    Notes
    -----
    R − about = LQ with orthonormal rows of Q; the rotated rows are about + LQ', Q' uniform on the orthonormal frames
    (Haar; QR of a normal matrix with the signs of R: Mezzadri, "How to generate random matrices from the classical
    compact groups", 2007). O(rank² · width) time an adapter, at every read.
    """

    rows: RowSource
    about: NDArray[np.float64]
    seed: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float64)

    @property
    def offsets(self) -> NDArray[np.int64]:
        return self.rows.offsets

    @property
    def block_rows(self) -> int:
        return self.rows.block_rows

    @property
    def identity(self) -> str:
        return ""

    @property
    def location(self) -> str:
        """Where the rows are, in words for a message."""
        return f"null of {getattr(self.rows, 'location', '') or 'rows'}"

    @property
    def in_memory(self) -> bool:
        """Whether the rows travel inside this object."""
        return bool(getattr(self.rows, "in_memory", False))

    def read(self, start: int, stop: int) -> NDArray[np.float64]:
        """Rows start … stop − 1, (stop − start, width); the whole of every adapter among them is read."""
        offsets = self.offsets
        first = int(np.searchsorted(offsets, start, side="right")) - 1
        last = int(np.searchsorted(offsets, stop, side="left"))
        begin = int(offsets[first])
        block = self.rows.read(begin, int(offsets[last])).astype(np.float64)
        for i in range(first, last):
            at = slice(int(offsets[i]) - begin, int(offsets[i + 1]) - begin)
            block[at] = self.about + rotated(block[at] - self.about, np.random.default_rng([self.seed, i]))
        return block[start - begin : stop - begin]


def rotated(rows: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """`rows` (n, width) times a uniformly random rotation: rows of the same Gram in random directions."""
    _, upper = np.linalg.qr(rows.T)
    lower = upper.T
    q, r = np.linalg.qr(rng.standard_normal((rows.shape[1], lower.shape[1])))
    return np.asarray(lower @ (q * np.where(np.diagonal(r) < 0, -1.0, 1.0)).T)

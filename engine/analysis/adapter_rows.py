r"""What is compared of adapters: their subspaces, or where the energy of their ΔW lies; both free of the gauge.

Each adapter becomes a symmetric matrix :math:`M_s = Y_s^\top Y_s` (width × width), of which only the rows Y are ever
made. Of a subspace Y is an orthonormal basis and M the projector; of ΔW's rows s·R·A, B = QR, it is
ΔWᵀΔW / ‖ΔW‖². Another basis of the same row space, as a gauge makes it, changes Y by a rotation from the left and M not
at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

RANK_FLOOR = 1e-10  # of an adapter's largest singular value: below it a direction is rounding


@dataclass(frozen=True, slots=True)
class Bases:
    """An `AdapterMap`: an orthonormal basis of the space that an adapter's rows span, rows of zeros behind it.

    Attributes
    ----------
    row_width : columns of the rows.
    rank : the highest of any adapter.
    """

    row_width: int
    rank: int

    @property
    def width(self) -> int:
        """A basis, row after row."""
        return self.rank * self.row_width

    @property
    def dtype(self) -> str:
        return "float64"

    def __call__(self, block: NDArray[Any], offsets: NDArray[np.int64], /) -> NDArray[Any]:
        out = np.zeros((len(offsets) - 1, self.rank, self.row_width))
        for here, x in _by_rank(block, offsets):
            # Rows may be near one another: QR first, then what of its small factor is no rounding.
            q, r = np.linalg.qr(x.transpose(0, 2, 1))
            u, s, _ = np.linalg.svd(r)
            basis = (q @ u[:, :, : s.shape[1]]).transpose(0, 2, 1)
            kept = (s > RANK_FLOOR * s[:, :1]) & (s > 0)
            out[here, : basis.shape[1]] = basis * kept[:, :, None]
        return out.reshape(len(out), -1)


@dataclass(frozen=True, slots=True)
class Energies:
    """An `AdapterMap`: an adapter's rows over their norm, so that each adapter weighs the same; zeros stay zeros.

    Attributes
    ----------
    row_width, rank : as of `Bases`.
    """

    row_width: int
    rank: int

    @property
    def width(self) -> int:
        """All rows, one after the other."""
        return self.rank * self.row_width

    @property
    def dtype(self) -> str:
        return "float64"

    def __call__(self, block: NDArray[Any], offsets: NDArray[np.int64], /) -> NDArray[Any]:
        out = np.zeros((len(offsets) - 1, self.rank, self.row_width))
        for here, x in _by_rank(block, offsets):
            norms = np.sqrt(np.einsum("nij,nij->n", x, x))
            out[here, : x.shape[1]] = x / np.where(norms > 0, norms, 1.0)[:, None, None]
        return out.reshape(len(out), -1)


def _by_rank(
    block: NDArray[Any], offsets: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Adapters of one rank together: their places, and their rows in float64 (n, rank, width)."""
    ranks = np.diff(offsets)
    for rank in np.unique(ranks).tolist():
        here = np.flatnonzero(ranks == rank)
        rows = offsets[:-1][here][:, None] + np.arange(rank)
        yield here, block[rows].astype(np.float64)

r"""ΔW space: rows whose uncentred Gram is Σ ΔWᵀΔW or Σ ΔWΔWᵀ, made from the factors without any ΔW.

An adapter changes a layer's weight by :math:`\Delta W = s B A`, and :math:`(BG^{-1}, GA)` is the same adapter for every
invertible G: the factors carry a gauge, ΔW does not. With :math:`B = QR`,

.. math::
    \Delta W^\top \Delta W = s^2 A^\top B^\top B A = (sRA)^\top (sRA),

so the rows sRA stand for the adapter on side "A" (width: in), and with :math:`A^\top = QR` the rows sRBᵀ on side "B"
(width: out). R is fixed up to a rotation from the left only, hence the mean of these rows says nothing: ΔW space is
never centred. R comes by QR rather than by Cholesky of the r × r Gram, which would lose half of its digits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.rows import RowSource
    from ingest.store.reader import Zoo

SPACES = ("factor", "delta")
_BATCH_BYTES = 8 * 2**20  # of both sides' rows in float64, held at once


@dataclass(frozen=True, slots=True, eq=False)
class PairedRows:
    """Both factors of one layer, adapter by adapter.

    Attributes
    ----------
    A : RowSource, (Σ ranks, in), the rows of lora_A; with kernels flattened.
    B : RowSource, (Σ ranks, out), the rows of lora_Bᵀ, with the same offsets.
    scales : (n_adapters,) float64; ΔW = scale · B · A.
    members : (n_adapters,) int64, who they are: ordinals of a zoo.

    Raises
    ------
    EigenzooError
        Where the sides do not belong together.
    """

    A: RowSource
    B: RowSource
    scales: NDArray[np.float64]
    members: NDArray[np.int64] = field(repr=False)

    def __post_init__(self) -> None:
        if not np.array_equal(self.A.offsets, self.B.offsets):
            raise EigenzooError("paired rows: the adapters' ranks on sides A and B differ; give both of one layer")
        if not len(self.scales) == len(self.members) == len(self.offsets) - 1:
            raise EigenzooError(
                f"paired rows: {len(self.scales)} scales and {len(self.members)} members for "
                f"{len(self.offsets) - 1} adapters; give one each"
            )

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where each adapter's rows begin, on either side, (n_adapters + 1,)."""
        return self.A.offsets

    @property
    def read_bytes(self) -> int:
        """Bytes that are held while a batch is read and worked on: as stored, in float64, and inside QR."""
        widths = self.A.shape[1], self.B.shape[1]
        stored = sum(w * (8 + rows.dtype.itemsize) for w, rows in zip(widths, (self.A, self.B), strict=True))
        return self._batch_rows() * stored + 4 * 8 * self._max_rank() * max(widths)

    def batches(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """Adapters first … stop − 1 as ranges small enough to be held, in order; at least one adapter each."""
        yield from batches(self.offsets, first, stop, self._batch_rows())

    def read(self, first: int, stop: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """All rows of adapters first … stop − 1 in float64: of A (rows, in), of B (rows, out)."""
        start, end = int(self.offsets[first]), int(self.offsets[stop])
        a = np.asarray(self.A.read(start, end), dtype=np.float64)
        return a, np.asarray(self.B.read(start, end), dtype=np.float64)

    def _max_rank(self) -> int:
        return int(np.diff(self.offsets).max(initial=1))

    def _batch_rows(self) -> int:
        rows = max(self._max_rank(), _BATCH_BYTES // (8 * (self.A.shape[1] + self.B.shape[1])))
        return min(rows, max(int(self.offsets[-1]), 1))


@dataclass(frozen=True, slots=True, eq=False)
class DeltaRows:
    """The rows of one side in ΔW space: a `RowSource` of float64.

    Parameters
    ----------
    pair : PairedRows
    side : {"A", "B"}
        "A": Σ ranks × in, Gram Σ ΔWᵀΔW; "B": Σ ranks × out, Gram Σ ΔWΔWᵀ.

    Notes
    -----
    A read takes the rows of both sides of every adapter it touches, a batch of `PairedRows.read_bytes` at a time, and
    one QR of the other factor per adapter: O(rank² · other width). Rows are the same bits however they are read. R has
    no negative diagonal, and rows of zeros below where the other factor has more rows than columns.
    """

    pair: PairedRows
    side: str

    def __post_init__(self) -> None:
        if self.side not in ("A", "B"):
            raise EigenzooError(f"side {self.side!r}: give 'A' or 'B'")

    @property
    def space(self) -> str:
        """The name of this space."""
        return "delta"

    @property
    def shape(self) -> tuple[int, int]:
        return self._own.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float64)

    @property
    def offsets(self) -> NDArray[np.int64]:
        return self.pair.offsets

    @property
    def block_rows(self) -> int:
        return self._own.block_rows

    @property
    def identity(self) -> str:
        """A digest of both sides' contents and the scales; "" where one of them is unknown."""
        a, b = self.pair.A.identity, self.pair.B.identity
        if not a or not b:
            return ""
        digest = hashlib.sha256(f"delta\0{self.side}\0{a}\0{b}\0".encode())
        digest.update(np.ascontiguousarray(self.pair.scales, "<f8").tobytes())
        return digest.hexdigest()[:32]

    @property
    def read_bytes(self) -> int:
        """Bytes that a read holds beside its result."""
        return self.pair.read_bytes

    @property
    def in_memory(self) -> bool:
        """Whether the rows travel inside this object."""
        return any(getattr(rows, "in_memory", False) for rows in (self.pair.A, self.pair.B))

    @property
    def location(self) -> str:
        """Where the rows are, in words for a message."""
        place = getattr(self._own, "location", "")
        return f"ΔW from {place}" if place else ""

    def read(self, start: int, stop: int) -> NDArray[np.float64]:
        """Rows start … stop − 1, (stop − start, width).

        Raises
        ------
        EigenzooError
            If the range is not within the matrix, or a factor cannot be read.
        """
        n_rows, width = self.shape
        if not 0 <= start <= stop <= n_rows:
            raise EigenzooError(f"rows {start}:{stop} of side {self.side} in ΔW space: there are {n_rows} rows")
        out = np.empty((stop - start, width))
        if start == stop:
            return out
        offsets = self.offsets
        first = int(np.searchsorted(offsets, start, side="right")) - 1
        last = int(np.searchsorted(offsets, stop, side="left"))
        for lo, hi in self.pair.batches(first, last):
            a, b = self.pair.read(lo, hi)
            own, other = (a, b) if self.side == "A" else (b, a)
            for i in range(lo, hi):
                begin, end = int(offsets[i]), int(offsets[i + 1])
                at = slice(begin - int(offsets[lo]), end - int(offsets[lo]))
                rows = weights(other[at], float(self.pair.scales[i])) @ own[at]
                keep = slice(max(start, begin), min(stop, end))
                out[keep.start - start : keep.stop - start] = rows[keep.start - begin : keep.stop - begin]
            del a, b, own, other  # before the next batch is read
        return out

    @property
    def _own(self) -> RowSource:
        return self.pair.A if self.side == "A" else self.pair.B


def weights(other: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """What the rows of one factor are multiplied by: s·R of the other one's QR, (rank, rank).

    Parameters
    ----------
    other : (rank, width), the rows of the other factor.
    scale : s.
    """
    rank = len(other)
    r = np.linalg.qr(other.T, mode="r")
    out = np.zeros((rank, rank))
    out[: len(r)] = r * np.where(np.diagonal(r) < 0, -scale, scale)[:, None]
    return out


def batches(offsets: NDArray[np.int64], first: int, stop: int, rows: int) -> Iterator[tuple[int, int]]:
    """Adapters first … stop − 1 as consecutive ranges of at most `rows` rows, at least one adapter each."""
    while first < stop:
        last = int(np.searchsorted(offsets, offsets[first] + rows, side="right")) - 1
        last = min(max(last, first + 1), stop)
        yield first, last
        first = last


def paired_rows(zoo: Zoo, layer: str, members: Collection[int] | None = None) -> PairedRows:
    """Both factors of one layer of a zoo.

    Parameters
    ----------
    zoo : Zoo
    layer : canonical name.
    members : ordinals of the adapters wanted, as for `Zoo.rows`; without it the live ones.

    Raises
    ------
    EigenzooError
        For an unknown layer or ordinal.
    """
    sides = [zoo.rows(layer, side=side, members=members) for side in ("A", "B")]
    entries = zoo.entries(zoo.layer(layer))
    if members is not None:
        entries = entries[np.isin(entries["adapter"], list(members))]
    elif any(array.retired for array in zoo.commit.arrays):  # else everybody is live: no need to read who is
        entries = entries[np.array([s.live for s in zoo.stored], bool)[entries["adapter"]]]
    scales = entries["scale"].astype(np.float64)
    return PairedRows(sides[0], sides[1], scales, entries["adapter"].astype(np.int64))


def delta_rows(zoo: Zoo, layer: str, side: str, members: Collection[int] | None = None) -> DeltaRows:
    """The rows of one layer and side of a zoo in ΔW space.

    Parameters
    ----------
    zoo, layer, members : as for `paired_rows`.
    side : {"A", "B"}

    Returns
    -------
    DeltaRows
        A row source for `engine.fit(..., center="none")`.

    Raises
    ------
    EigenzooError
        For an unknown layer, side or ordinal.
    """
    return DeltaRows(paired_rows(zoo, layer, members), side)


def rows_in(space: str, zoo: Zoo, layer: str, side: str, members: Collection[int] | None = None) -> RowSource:
    """The rows of one layer and side of a zoo, in the space of that name: as stored, or `delta_rows`.

    Raises
    ------
    EigenzooError
        For an unknown space, layer, side or ordinal.
    """
    if space not in SPACES:
        raise EigenzooError(f"space: got {space!r}; choose {' or '.join(SPACES)}")
    if space == "delta":
        return delta_rows(zoo, layer, side, members)
    return zoo.rows(layer, side=side, members=members)


def default_center(space: str) -> str:
    """How rows of a space are centred unless it is said: "feature", or "none" in ΔW space."""
    return "none" if space == "delta" else "feature"


def check_center(space: str, center: str) -> None:
    """Refuse rows of ΔW space that are to be centred.

    Raises
    ------
    EigenzooError
        With the reason.
    """
    if space == "delta" and center != "none":
        raise EigenzooError(
            f"center: {center!r} in ΔW space, where the mean row depends on how ΔW is split into factors; "
            "leave it out, or give 'none'"
        )

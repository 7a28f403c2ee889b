"""The rows of one matrix, read from the store block by block."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ingest.errors import EigenzooError
from ingest.store import schema
from ingest.store.catalog import ArrayRecord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Run:
    """A run of committed rows ``start:stop`` of one array."""

    array: ArrayRecord
    start: int
    stop: int


@dataclass(frozen=True)
class ZooRows:
    """The rows of one matrix, adapter after adapter, read from the store block by block.

    Attributes
    ----------
    shape : (int, int)
        Rows × width.
    dtype : numpy.dtype
        Holds every stored value exactly; bfloat16 as ``ml_dtypes.bfloat16``.
    offsets : ndarray of int64, shape (n_adapters + 1,)
        Where each adapter's rows begin.
    block_rows : int
        Rows per stored chunk.
    identity : str
        Digest of the values and their order.
    """

    path: str
    layer: str
    side: str
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    offsets: NDArray[np.int64] = field(repr=False)
    block_rows: int
    identity: str
    runs: tuple[Run, ...] = field(repr=False)

    @property
    def location(self) -> str:
        """Where the rows are, in words for a message."""
        return f"{self.layer} {self.side} of {self.path}"

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start:stop`` in `dtype`, as a new array (stop − start) × width.

        Raises
        ------
        EigenzooError
            If the range is not within the matrix, or the store cannot be read.
        """
        import numpy as np

        if not 0 <= start <= stop <= self.shape[0]:
            raise EigenzooError(f"rows {start}:{stop} of {self.layer} {self.side}: there are {self.shape[0]} rows")
        out = np.empty((stop - start, self.shape[1]), self.dtype)
        pieces: dict[ArrayRecord, list[tuple[int, int, int]]] = {}
        begin = 0
        for run in self.runs:
            lo, hi = max(start, begin), min(stop, begin + run.stop - run.start)
            if lo < hi:
                pieces.setdefault(run.array, []).append((lo - start, hi - start, run.start + lo - begin))
            begin += run.stop - run.start
        for array, parts in pieces.items():  # one read an array, however its rows alternate with another's
            first = parts[0][2]
            values = read_array(self.path, array, first, parts[-1][2] + parts[-1][1] - parts[-1][0])
            for lo, hi, at in parts:
                out[lo:hi] = values[at - first : at - first + hi - lo]
        return out


def read_array(path: str, array: ArrayRecord, start: int, stop: int) -> NDArray[Any]:
    """Rows ``start:stop`` of one array, in its own dtype.

    Raises
    ------
    EigenzooError
        If the store is not there, or a chunk of it is missing or damaged.
    """
    try:
        # zarr reads a missing chunk as zeros, which would pass for weights.
        for chunk in range(start // array.chunk, -(-stop // array.chunk)):
            os.stat(os.path.join(path, array.path, f"c.{chunk}.0"))
        values = _handle(path, array)[start:stop]
    except (OSError, ValueError, KeyError) as error:
        raise EigenzooError(
            f"{path}: cannot read rows {start}:{stop} of {array.path} ({error}); see what `eigenzoo verify` says"
        ) from error
    return values.view(schema.numpy_dtype(array.dtype))  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=64)
def _handle(path: str, array: ArrayRecord) -> Any:
    import zarr
    from zarr.storage import LocalStore, StorePath

    document = schema.array_document(array.rows, array.width, array.dtype, array.chunk, {})
    return zarr.Array.from_dict(StorePath(LocalStore(path, read_only=True), array.path), document)

"""A tall matrix as blocks of rows: the one thing the engine asks of its data.

Anything with the attributes of `RowSource` will do (a zoo's rows satisfy it by shape alone);
`as_rows` wraps the arrays people already have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK_BYTES = 4 * 2**20  # a read from an array that has no chunks of its own

FLOATS = ("float64", "float32", "float16", "bfloat16")
_EXACT_INTS = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32")


@runtime_checkable
class RowSource(Protocol):
    """A matrix whose rows are read block by block, wherever the reader happens to run.

    Implementations are picklable and open their store lazily, in the process that reads.
    """

    @property
    def shape(self) -> tuple[int, int]:
        """(n_rows, width)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """As stored; `ml_dtypes.bfloat16` for bfloat16."""

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where each adapter's rows begin, (n_adapters + 1,): first 0, last n_rows."""

    @property
    def block_rows(self) -> int:
        """Rows of the natural unit of reading (a chunk)."""

    @property
    def identity(self) -> str:
        """A digest of the contents; "" when unknown."""

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows start … stop − 1 in their stored dtype, (stop − start, width)."""


class ArrayRows:
    """Rows of a numpy, zarr or dask array (or a torch tensor on the CPU), as one block of `offsets`.

    Parameters
    ----------
    array : two-dimensional array, (n_rows, width), of float16, bfloat16, float32 or float64, or of
        integers of at most 32 bits, which float64 holds exactly.

    Raises
    ------
    EigenzooError
        For another number of dimensions, another dtype, no rows or no columns.

    Notes
    -----
    A zarr array is opened anew by the process that unpickles this object, before its first read: a
    process that cannot see the store would otherwise read the fill value, zeros, without an error.
    A dask array is computed slice by slice with the synchronous scheduler, in the process that reads.
    """

    def __init__(self, array: Any) -> None:
        array = _from_torch(array) if _made_by(array, "torch") else array
        dtype, shape = _checked(array)
        self._array = array
        self._kind = next((kind for kind in ("zarr", "dask") if _made_by(array, kind)), "memory")
        self._opened = True
        self.shape: tuple[int, int] = shape
        self.dtype: np.dtype[Any] = dtype
        self.identity = ""
        self.offsets: NDArray[np.int64] = np.array([0, shape[0]], dtype=np.int64)
        self.block_rows = self._natural_block()

    @property
    def in_memory(self) -> bool:
        """Whether the rows travel inside this object rather than being read from a store."""
        return self._kind == "memory"

    @property
    def location(self) -> str:
        """Where the rows are, in words for a message."""
        if self._kind == "zarr":
            return str(self._array.store_path)
        return f"{self._kind} array {self.shape[0]} × {self.shape[1]}"

    def read(self, start: int, stop: int) -> NDArray[Any]:
        if self._kind == "dask":
            return _native(np.asarray(self._array[start:stop].compute(scheduler="synchronous")))
        if not self._opened:
            self._open_again()
        return _native(np.asarray(self._array[start:stop]))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": False}

    def __repr__(self) -> str:
        return f"ArrayRows({self.location}, {self.dtype.name})"

    def _natural_block(self) -> int:
        n_rows, width = self.shape
        if self._kind == "zarr":
            return min(int(self._array.chunks[0]), n_rows)
        if self._kind == "dask":
            return int(max(self._array.chunks[0]))
        return max(1, min(n_rows, _BLOCK_BYTES // (width * self.dtype.itemsize)))

    def _open_again(self) -> None:
        if self._kind == "zarr":
            import zarr

            try:
                self._array = zarr.open_array(self._array.store_path, mode="r")
            except Exception as problem:
                raise EigenzooError(
                    f"rows not visible here: {self.location} cannot be opened ({problem}); "
                    "put the store where every worker sees it under the same path"
                ) from problem
        self._opened = True


def as_rows(x: Any) -> RowSource:
    """`x` itself if it already is a `RowSource`, else an `ArrayRows` over it."""
    if isinstance(x, RowSource):
        n_rows, width = x.shape
        if n_rows < 1 or width < 1:
            raise EigenzooError(f"rows: shape {n_rows} × {width}; at least one row and one column are needed")
        return x
    return ArrayRows(x)


def _made_by(array: Any, library: str) -> bool:
    # By the type's module, so that no library is imported to ask.
    return type(array).__module__.split(".")[0] == library


def _native(block: NDArray[Any]) -> NDArray[Any]:
    """The block in this machine's byte order."""
    return block if block.dtype.isnative else block.astype(block.dtype.newbyteorder("="))


def _from_torch(tensor: Any) -> NDArray[Any]:
    if tensor.device.type != "cpu":
        raise EigenzooError(f"rows: a tensor on {tensor.device}; move it with .cpu() first")
    tensor = tensor.detach()
    if str(tensor.dtype) == "torch.bfloat16":
        import ml_dtypes
        import torch

        bits: NDArray[Any] = tensor.contiguous().view(torch.uint16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    return np.asarray(tensor.numpy())


def _checked(array: Any) -> tuple[np.dtype[Any], tuple[int, int]]:
    shape, dtype = getattr(array, "shape", None), getattr(array, "dtype", None)
    if shape is None or dtype is None or _made_by(array, "scipy"):  # scipy's sparse matrices have neither rows nor len
        raise EigenzooError(f"rows: got {type(array).__name__}; give a numpy, zarr or dask array, or a RowSource")
    if len(shape) != 2:
        raise EigenzooError(f"rows: got {len(shape)} dimensions {tuple(shape)}; give a matrix (rows × width)")
    dtype = np.dtype(dtype)
    if dtype.name not in FLOATS + _EXACT_INTS:
        raise EigenzooError(
            f"rows: dtype {dtype.name} is not taken; give {', '.join(FLOATS)} or integers up to 32 bits"
        )
    if not all(float(side) >= 1 for side in shape):  # a dask array of unknown length has NaN here
        raise EigenzooError(
            f"rows: shape {shape[0]} × {shape[1]}; rows and columns must be known, and at least one each"
        )
    return dtype, (int(shape[0]), int(shape[1]))

"""A matrix as a plan sees it: shape, dtype, chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from engine.rows import RowSource

ITEMSIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows and columns, rows of a chunk, dtype as stored, bytes of a value, and what a read holds beside its rows."""

    n_rows: int
    width: int
    block_rows: int
    dtype: str
    itemsize: int
    read_bytes: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return self.n_rows * self.width * self.itemsize

    def __str__(self) -> str:
        return f"{self.n_rows} × {self.width} {self.dtype}"


def matrix_of(rows: RowSource) -> Matrix:
    """What a plan needs to know of rows."""
    beside = getattr(rows, "read_bytes", 0)
    return Matrix(*rows.shape, rows.block_rows, rows.dtype.name, rows.dtype.itemsize, beside)


def matrix_stored(n_rows: int, width: int, dtype: str = "bfloat16") -> Matrix:
    """A matrix as a zoo would store it.

    Raises
    ------
    EigenzooError
        For another dtype than a zoo holds, or no rows or columns.
    """
    from ingest.store.schema import chunk_rows

    if dtype not in ITEMSIZES:
        raise EigenzooError(f"shape: dtype {dtype!r}; give {', '.join(ITEMSIZES)}")
    if n_rows < 1 or width < 1:
        raise EigenzooError(f"shape: {n_rows} × {width}; at least one row and one column are needed")
    return Matrix(n_rows, width, chunk_rows(width, dtype, n_rows), dtype, ITEMSIZES[dtype])

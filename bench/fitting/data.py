"""The matrices: spiked noise with a mean, drawn and stored row block by row block in the layout of a zoo's arrays."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.store import schema
from ingest.store.catalog import ArrayRecord
from ingest.store.rows import Run, ZooRows

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]  # children start here, so that they find `bench`
SIZES = {
    "M": (16_000, 4096),
    "L": (100_000, 4096),
    "XL": (400_000, 2048),
    "quick": (2000, 256),
    # What every contestant solves before its clock starts; wide enough for all that is imported late.
    "tiny": (2600, 2048),
}
K = 24
RANK = 16  # rows of one adapter
RECIPE = 1  # count up when the values change, so that cached ones are drawn again
_ARRAY = "X"
_DRAW_ROWS = 2048  # drawn at once; a multiple of every chunk here
_COPY_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Store:
    """One stored matrix.

    Attributes
    ----------
    folder : where it lies; the zarr array is its child `X`.
    size, dtype : names, as in `SIZES` and `ingest.store.schema.FACTOR_DTYPES`.
    rows, width : the matrix.
    """

    folder: str
    size: str
    dtype: str
    rows: int
    width: int

    @property
    def name(self) -> str:
        return f"{self.size} {self.dtype}"

    @property
    def array_path(self) -> Path:
        return Path(self.folder) / _ARRAY

    @property
    def chunk(self) -> int:
        """Rows of one chunk file."""
        return schema.chunk_rows(self.width, self.dtype, self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return self.rows * self.width * schema.itemsize(self.dtype)

    def files(self) -> list[Path]:
        """The chunk files, in order."""
        return [self.array_path / f"c.{i}.0" for i in range(-(-self.rows // self.chunk))]

    def zoo_rows(self) -> ZooRows:
        """The matrix as a zoo hands it to the engine: `RowSource` over plain reads of the chunk files."""
        array = ArrayRecord(_ARRAY, "bench", "A", self.dtype, self.rows, self.width, self.chunk)
        offsets = np.append(np.arange(0, self.rows, RANK, dtype=np.int64), self.rows)
        dtype = schema.numpy_dtype(self.dtype)
        shape = (self.rows, self.width)
        run = Run(array, 0, self.rows)
        return ZooRows(self.folder, "bench", "A", shape, dtype, offsets, self.chunk, self.name, (run,))

    def zarr(self) -> Any:
        """The array as any zarr reader sees it; bfloat16 as uint16."""
        import zarr

        return zarr.open_array(str(self.array_path), mode="r")

    def blocks(self, rows: int = _COPY_ROWS, dtype: str = "float32") -> Iterator[NDArray[Any]]:
        """Row blocks in another dtype, read through zarr."""
        array = self.zarr()
        for start in range(0, self.rows, rows):
            yield widened(array[start : start + rows], dtype)

    def whole(self, dtype: str) -> NDArray[Any]:
        """The whole matrix in another dtype, read through zarr without a second whole copy beside it."""
        array, out = self.zarr(), np.empty((self.rows, self.width), dtype)
        for start in range(0, self.rows, _COPY_ROWS):
            out[start : start + _COPY_ROWS] = widened(array[start : start + _COPY_ROWS], dtype)
        return out

    def warm(self) -> None:
        """Bring the files into the page cache."""
        buffer = bytearray(schema.MAX_CHUNK_BYTES)
        for path in self.files():
            with open(path, "rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


def widened(block: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Stored values (bfloat16 as uint16) as float32 or float64: the fastest exact way numpy has."""
    if block.dtype == np.uint16:
        bits: NDArray[Any] = np.left_shift(block, 16, dtype=np.uint32)
        block = bits.view(np.float32)
    elif block.dtype == np.float16:
        block = block.astype(np.float32)  # float16 to float64 at once takes ten times as long
    return block.astype(dtype, copy=False)


def prepare(data: Path, size: str, dtype: str) -> Store:
    """The store of that name below `data`, drawn anew unless it is there and whole."""
    rows, width = SIZES[size]
    store = Store(str(data / f"{size}-{dtype}"), size, dtype, rows, width)
    recipe = {**asdict(store), "recipe": RECIPE, "k": K, "chunk": store.chunk}
    del recipe["folder"]
    marker = Path(store.folder) / "recipe.json"
    if marker.is_file() and json.loads(marker.read_text()) == recipe:
        return store
    shutil.rmtree(store.folder, ignore_errors=True)
    store.array_path.mkdir(parents=True)
    _write(store)
    marker.write_text(json.dumps(recipe))
    return store


def _write(store: Store) -> None:
    group = schema.group_document({})
    (Path(store.folder) / schema.ROOT).write_text(json.dumps(group))
    document = schema.array_document(store.rows, store.width, store.dtype, store.chunk, {})
    (store.array_path / schema.ROOT).write_text(json.dumps(document))
    dtype, files = schema.numpy_dtype(store.dtype), iter(store.files())
    for values in _draw(store.size, store.rows, store.width):
        values = values.astype(dtype)
        for start in range(0, len(values), store.chunk):
            part = values[start : start + store.chunk]
            chunk = np.zeros((store.chunk, store.width), dtype)
            chunk[: len(part)] = part
            next(files).write_bytes(chunk.tobytes())


def _draw(size: str, rows: int, width: int) -> Iterator[NDArray[np.float32]]:
    r"""Blocks of X = 1μᵀ + U·diag(θ)·Vᵀ + noise, the same for every dtype.

    Noise is kaiming-uniform, of variance 1/(3·width); θ_k = 20·k^-0.815 times the edge of its bulk,
    sd·(√rows + √width); ‖μ‖ = 3·θ₁/√rows. U is Gaussian, hence orthonormal to about 1/√rows.
    """
    seed = sum(map(ord, size))
    rng = np.random.default_rng(seed)
    edge = (np.sqrt(rows) + np.sqrt(width)) / np.sqrt(3 * width)
    theta = 20 * edge * np.arange(1, K + 1) ** -0.815
    directions = np.linalg.qr(rng.standard_normal((width, K)))[0]
    mean = rng.standard_normal(width)
    mean *= 3 * theta[0] / np.sqrt(rows) / np.linalg.norm(mean)
    loads = (directions * (theta / np.sqrt(rows))).T.astype(np.float32)
    bound = np.float32(1 / np.sqrt(width))
    for number, start in enumerate(range(0, rows, _DRAW_ROWS)):
        rng = np.random.default_rng((seed, number))
        n = min(_DRAW_ROWS, rows - start)
        block = rng.random((n, width), np.float32)
        block *= 2 * bound
        block -= bound
        block += rng.standard_normal((n, K), np.float32) @ loads
        block += mean.astype(np.float32)
        yield block

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.rows import ArrayRows, RowSource, as_rows
from ingest.errors import EigenzooError

X = np.arange(60, dtype=np.float32).reshape(20, 3)


def _numpy(_: Path) -> Any:
    return X


def _zarr(folder: Path) -> Any:
    zarr = pytest.importorskip("zarr")
    array = zarr.create_array(folder / "x.zarr", shape=X.shape, chunks=(6, 3), dtype=X.dtype)
    array[:] = X
    return array


def _dask(_: Path) -> Any:
    return pytest.importorskip("dask.array").from_array(X, chunks=(7, 2))


def _torch(_: Path) -> Any:
    return pytest.importorskip("torch").from_numpy(X.copy())


@pytest.mark.parametrize("make", [_numpy, _zarr, _dask, _torch])
def test_every_array_is_a_row_source(make: Any, tmp_path: Path) -> None:
    rows = as_rows(make(tmp_path))
    for source in (rows, pickle.loads(pickle.dumps(rows))):
        assert isinstance(source, RowSource)
        assert source.shape == X.shape and source.dtype == X.dtype
        assert list(source.offsets) == [0, 20]
        assert 1 <= source.block_rows <= 20
        part = source.read(5, 17)
        assert isinstance(part, np.ndarray)
        np.testing.assert_array_equal(part, X[5:17])


def test_blocks_follow_chunks(tmp_path: Path) -> None:
    assert as_rows(_zarr(tmp_path)).block_rows == 6
    assert as_rows(_dask(tmp_path)).block_rows == 7


def test_a_row_source_is_taken_as_it_is() -> None:
    rows = ArrayRows(X)
    assert as_rows(rows) is rows


def test_bfloat16_tensor_keeps_its_bits() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.tensor([[1.0, -2.5], [3.14, 1e-30]], dtype=torch.bfloat16)
    rows = as_rows(tensor)
    assert rows.dtype.name == "bfloat16"
    np.testing.assert_array_equal(rows.read(0, 2).astype(np.float64), tensor.double().numpy())


def test_a_store_out_of_sight_is_an_error_not_zeros(tmp_path: Path) -> None:
    sent = pickle.dumps(as_rows(_zarr(tmp_path)))
    shutil.rmtree(tmp_path / "x.zarr")
    with pytest.raises(EigenzooError, match=r"not visible here: .*x\.zarr"):
        pickle.loads(sent).read(0, 1)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros(3), "1 dimensions"),
        (np.zeros((2, 2, 2)), "3 dimensions"),
        (np.zeros((0, 3)), "shape 0 × 3"),
        (np.zeros((3, 0)), "shape 3 × 0"),
        (np.zeros((2, 2), dtype=complex), "complex128"),
        (np.zeros((2, 2), dtype=object), "object"),
        (np.zeros((2, 2), dtype=np.int64), "int64"),
        ([[1.0, 2.0]], "got list"),
    ],
)
def test_refusals(x: Any, message: str) -> None:
    with pytest.raises(EigenzooError, match=message) as caught:
        as_rows(x)
    assert "\n" not in str(caught.value)


def test_rows_come_in_native_byte_order() -> None:
    x = np.arange(12.0).reshape(4, 3)
    for kind in (">f4", ">f8", ">i4"):
        block = as_rows(x.astype(kind)).read(1, 3)
        assert block.dtype.isnative
        np.testing.assert_array_equal(block, x[1:3])

"""Matrices with prescribed spectra, and row sources to feed them through."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def orthonormal(n: int, k: int, seed: int, *, centred: bool = False) -> NDArray[np.float64]:
    """(n, k) with orthonormal columns, each of mean 0 when centred (then k ≤ n − 1)."""
    x = np.random.default_rng(seed).standard_normal((n, k))
    if centred:
        x -= x.mean(axis=0)
    return np.linalg.qr(x)[0]


def prescribed(
    n: int, width: int, sigma: NDArray[np.float64], mean: Any = 0.0, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(X, V): X − mean(X) has exactly the singular values `sigma` and right vectors V (k, width)."""
    u = orthonormal(n, len(sigma), seed, centred=True)
    v = orthonormal(width, len(sigma), seed + 1).T
    return (u * sigma) @ v + mean, v


def reference(x: NDArray[Any]) -> NDArray[np.float64]:
    """Singular values of the centred rows, by LAPACK."""
    y = np.asarray(x, dtype=np.float64)
    return np.linalg.svd(y - y.mean(axis=0), compute_uv=False)


class FileRows:
    """Rows of a .npy file, opened by whoever reads; `delay` seconds per read, `touch` marks each read."""

    def __init__(self, path: Path, block_rows: int, delay: float = 0.0, marks: Path | None = None) -> None:
        array = np.load(path, mmap_mode="r")
        self.shape = array.shape
        self.dtype = array.dtype
        self.offsets = np.array([0, array.shape[0]])
        self.block_rows = block_rows
        self.identity = "file"
        self.location = str(path)
        self.delay, self.marks = delay, marks

    def read(self, start: int, stop: int) -> NDArray[Any]:
        import os

        if self.marks is not None:
            (self.marks / f"{os.getpid()}-{start}").touch()
        time.sleep(self.delay)
        return np.array(np.load(self.location, mmap_mode="r")[start:stop])


class BrokenRows(FileRows):
    """Fails on its last row."""

    def read(self, start: int, stop: int) -> NDArray[Any]:
        if stop == self.shape[0]:
            raise OSError("the disk\nis gone")
        return super().read(start, stop)


def assert_alike(found: Any, expected: Any, rtol: float = 1e-12) -> None:
    """Two fits of the same rows, equal up to the order in which sums were rounded."""
    scale = float(expected.singular_values[0])
    np.testing.assert_allclose(found.singular_values, expected.singular_values, atol=rtol * scale, rtol=0)
    np.testing.assert_allclose(found.mean, expected.mean, atol=rtol * (1 + np.abs(expected.mean).max()))
    np.testing.assert_allclose(found.components, expected.components, atol=1e3 * rtol)
    np.testing.assert_allclose(found.total_variance, expected.total_variance, rtol=rtol)
    assert {name: c.k for name, c in found.choices.items()} == {name: c.k for name, c in expected.choices.items()}

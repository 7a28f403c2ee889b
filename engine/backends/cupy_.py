"""The verbs over cupy: cuBLAS's own syrk and ger on a CUDA device, for where torch is not wanted.

What cupy lacks
---------------
* bfloat16: values are sent as 16 bits and widened to float32 on the device, which is exact.
* Products of 16-bit operands with float32 results through the tensor cores: its gemm takes float32 and float64 only.
  So 16-bit rows are multiplied as float32, by syrk, which never uses TF32 unless the environment forces it.
* Tridiagonal eigenproblems: as with torch, all vectors are computed and the wanted ones handed out.

cupy itself copies a host array through pinned memory, asynchronously.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.backends.numpy_ import GROUP

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.backends.protocol import Array

PANEL = 512

_of_thread = threading.local()


@dataclass(frozen=True, slots=True)
class CupyBackend:
    """Matrices are row-ordered here; cuBLAS sees their transposes, and its upper triangle is the lower one.

    Attributes
    ----------
    device : "cupy" (the current device) or "cupy:1" and so on.

    Notes
    -----
    cupy makes an array on the device that is current in its thread: `load` and every verb that makes one from nothing
    make this one current. An array that leaves the process goes through the host.
    """

    device: str = "cupy"

    @property
    def name(self) -> str:
        return self.device

    def load(self) -> None:
        import cupy.cublas
        import cupy.linalg  # noqa: F401

        self._use()

    def products(self, dtype: str) -> str:
        return "float32" if dtype in ("float16", "bfloat16") else "float64"

    def matrix(self, block: NDArray[Any], products: str = "float64") -> Array:
        import cupy

        self._use()
        dtype = np.float64 if products == "float64" else np.float32
        if block.dtype.name == "bfloat16":
            bits = cupy.array(block.view(np.uint16), order="C")
            wide = (bits.astype(np.uint32) << 16).view(np.float32)
            return wide.astype(dtype, copy=False)
        return cupy.array(block, order="C").astype(dtype, copy=False)

    def less(self, block: NDArray[Any], row: Array) -> Array:
        x = self.matrix(block)
        x -= row
        return x

    def square(self, n: int, dtype: str = "float64") -> Array:
        import cupy

        self._use()
        return cupy.zeros((n, n), dtype)

    def vector(self, n: int) -> Array:
        import cupy

        self._use()
        return cupy.zeros(n, np.float64)

    def column_mean(self, x: Array) -> Array:
        return self.column_sum(x) / len(x)

    def column_sum(self, x: Array, products: str = "") -> Array:
        if x.dtype == np.float64:
            return x.sum(axis=0)
        whole = len(x) // GROUP * GROUP
        groups = x[:whole].reshape(-1, GROUP, x.shape[1]).sum(axis=1)
        return groups.sum(axis=0, dtype=np.float64) + x[whole:].sum(axis=0, dtype=np.float64)

    def subtract_row(self, x: Array, row: Array) -> None:
        x -= row.astype(x.dtype, copy=False)

    def square_sum(self, x: Array) -> float:
        import cupy

        flat = cupy.ascontiguousarray(x).reshape(-1)
        return float(flat.dot(flat))

    def add_gram(self, c: Array, x: Array, products: str = "float64") -> None:
        from cupy import cublas

        cublas.syrk("T", x, out=c, alpha=1.0, beta=1.0, lower=True)

    def add_outer(self, c: Array, row: Array, weight: float) -> None:
        import cupy
        from cupy import cublas

        row = cupy.ascontiguousarray(row)  # ger takes any other for a contiguous one
        cublas.ger(weight, row, row, c)

    def add(self, c: Array, other: Array) -> None:
        c += other

    def clear(self, c: Array) -> None:
        c.fill(0)

    def diagonal(self, c: Array) -> NDArray[np.float64]:
        return self.to_host(c.diagonal().astype(np.float64))

    def mirror(self, c: Array) -> None:
        import cupy

        for left in range(0, len(c), PANEL):
            right = min(left + PANEL, len(c))
            c[left:right, right:] = c[right:, left:right].T
            corner = c[left:right, left:right]
            corner[...] = cupy.tril(corner) + cupy.tril(corner, -1).T

    def deflated(self, c: Array, a: Array, dtype: str) -> Array:
        import cupy

        out = cupy.empty(c.shape, dtype)
        for left in range(0, len(c), PANEL):
            out[left : left + PANEL] = c[left : left + PANEL] - a[left : left + PANEL] @ a.T
        return out

    def eigen(self, c: Array) -> CupyEigen:
        import cupy

        values, vectors = cupy.linalg.eigh(c, UPLO="L")
        return CupyEigen(self.to_host(values[::-1]), vectors)

    def eigenvalues(self, c: Array, dtype: str) -> NDArray[np.float64]:
        import cupy

        values = cupy.linalg.eigvalsh(c.astype(dtype, copy=False), UPLO="L")
        return self.to_host(values[::-1].astype(np.float64))

    @property
    def values_alone(self) -> bool:
        return True

    def matmul(self, a: Array, b: Array) -> Array:
        return a @ b

    def orthonormalise(self, x: Array) -> Array:
        import cupy

        q, r = cupy.linalg.qr(x)
        return q * cupy.where(r.diagonal() < 0, -1.0, 1.0)

    def to_host(self, x: Array) -> NDArray[np.float64]:
        import cupy

        return np.asarray(cupy.asnumpy(x))

    def stack(self, parts: Sequence[Array]) -> Array:
        import cupy

        return cupy.concatenate(list(parts))

    def qr_append(self, r: Array, x: Array) -> Array:
        import cupy

        return cupy.linalg.qr(cupy.concatenate([r, x]), mode="r")

    @contextlib.contextmanager
    def stream(self) -> Iterator[None]:
        import cupy

        self._use()
        kept: dict[str, Any] = _of_thread.__dict__
        if self.device not in kept:
            kept[self.device] = cupy.cuda.Stream(non_blocking=True)
        stream = kept[self.device]
        stream.wait_event(cupy.cuda.get_current_stream().record())
        with stream:
            try:
                yield
            finally:
                stream.synchronize()

    def _use(self) -> None:
        import cupy

        _, _, number = self.device.partition(":")
        if number:
            cupy.cuda.Device(int(number)).use()


@dataclass(frozen=True, slots=True)
class CupyEigen:
    """All values, and all vectors in rising order."""

    values: NDArray[np.float64]
    all_vectors: Array

    def vectors(self, k: int) -> Array:
        return self.all_vectors[:, len(self.values) - k :][:, ::-1]

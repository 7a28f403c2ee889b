"""The verbs over numpy and scipy's BLAS and LAPACK."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

GROUP = 8  # rows summed in float32 before float64 takes over
PANEL = 512
ORTHONORMAL = 1e-12
QR_PANEL = 32


@dataclass(frozen=True, slots=True)
class NumpyBackend:
    """scipy's BLAS reaches the in-place, one-triangle routines (dsyrk, dsyr) that numpy has no name for."""

    name: str = "numpy"

    def load(self) -> None:
        import scipy.linalg.blas
        import scipy.linalg.lapack  # noqa: F401

    def products(self, dtype: str) -> str:
        return "float32" if dtype in ("float16", "bfloat16") else "float64"

    def matrix(self, block: NDArray[Any], products: str = "float64") -> NDArray[Any]:
        return np.array(block, dtype=np.float64 if products == "float64" else np.float32, order="C", copy=True)

    def less(self, block: NDArray[Any], row: NDArray[np.float64]) -> NDArray[np.float64]:
        return less(block, row)

    def square(self, n: int, dtype: str = "float64") -> NDArray[Any]:
        return np.zeros((n, n), dtype, order="F")

    def vector(self, n: int) -> NDArray[np.float64]:
        return np.zeros(n)

    def column_mean(self, x: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray(self.column_sum(x) / len(x))

    def column_sum(self, x: NDArray[Any], products: str = "") -> NDArray[np.float64]:
        return column_sum(x)

    def subtract_row(self, x: NDArray[Any], row: NDArray[Any]) -> None:
        x -= row.astype(x.dtype, copy=False)

    def square_sum(self, x: NDArray[np.float64]) -> float:
        flat = x.ravel(order="K")
        return float(flat @ flat)

    def add_gram(self, c: NDArray[Any], x: NDArray[Any], products: str = "float64") -> None:
        add_gram(c, x)

    def add_outer(self, c: NDArray[np.float64], row: NDArray[np.float64], weight: float) -> None:
        from scipy.linalg.blas import dsyr

        _must_be(dsyr(weight, row, a=c, lower=1, overwrite_a=1), c)

    def add(self, c: NDArray[np.float64], other: NDArray[Any]) -> None:
        c += other

    def clear(self, c: NDArray[Any]) -> None:
        c[...] = 0

    def diagonal(self, c: NDArray[Any]) -> NDArray[np.float64]:
        return np.diagonal(c).astype(np.float64)

    def mirror(self, c: NDArray[np.float64]) -> None:
        for left in range(0, len(c), PANEL):
            right = min(left + PANEL, len(c))
            c[left:right, right:] = c[right:, left:right].T
            corner = c[left:right, left:right]
            corner[...] = np.tril(corner) + np.tril(corner, -1).T

    def deflated(self, c: NDArray[np.float64], a: NDArray[np.float64], dtype: str) -> NDArray[Any]:
        out = np.empty(c.shape, dtype, order="F")
        for left in range(0, len(c), PANEL):
            out[:, left : left + PANEL] = c[:, left : left + PANEL] - a @ a[left : left + PANEL].T
        return out

    def eigen(self, c: NDArray[np.float64]) -> TridiagonalEigen:
        from scipy.linalg import eigvalsh_tridiagonal

        reflectors, d, e, tau = _tridiagonal(c, overwrite=True)
        values = eigvalsh_tridiagonal(d, e, lapack_driver="sterf") if len(d) > 1 else d
        return TridiagonalEigen(reflectors, d, e, tau, values[::-1].copy())

    def eigenvalues(self, c: NDArray[np.float64], dtype: str) -> NDArray[np.float64]:
        from scipy.linalg import eigvalsh_tridiagonal

        _, d, e, _ = _tridiagonal(c.astype(dtype, order="F"), overwrite=True)
        if len(d) == 1:
            return d.astype(np.float64)
        # The tridiagonal's own values in float64 whatever it was made in: in float32, QL loses 100 times more.
        values = eigvalsh_tridiagonal(d.astype(np.float64), e.astype(np.float64), lapack_driver="sterf")
        return np.asarray(values[::-1].copy())

    @property
    def values_alone(self) -> bool:
        return False

    def matmul(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(a @ b)

    def orthonormalise(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        q, r = np.linalg.qr(x)
        return np.asarray(q * np.where(np.diagonal(r) < 0, -1.0, 1.0).astype(q.dtype))

    def to_host(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return x

    def stack(self, parts: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        return np.concatenate(parts)

    def qr_append(self, r: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        from scipy.linalg.lapack import dtpqrt

        # tpqrt leaves the triangle's zeros alone, so rows cost as if r were not there.
        panel = min(QR_PANEL, len(r))
        result, _, _, _ = dtpqrt(0, panel, r, np.asfortranarray(x), overwrite_a=1, overwrite_b=1)
        _must_be(result, r)
        return r

    def stream(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def less(block: NDArray[Any], row: NDArray[np.float64]) -> NDArray[np.float64]:
    """block − row, widened on the way."""
    if block.dtype.name == "bfloat16":  # a ufunc would not take it beside float64
        block = block.astype(np.float32)
    return np.asarray(np.subtract(block, row, order="C", dtype=np.float64))


def column_sum(x: NDArray[Any]) -> NDArray[np.float64]:
    """Sum of each column of float64 or float32, in float64."""
    if x.dtype == np.float64:
        return np.asarray(x.sum(axis=0))
    # Few float32 are summed before float64 takes over: next to nothing is lost of values that have 11 bits.
    whole = len(x) // GROUP * GROUP
    groups = x[:whole].reshape(-1, GROUP, x.shape[1]).sum(axis=1)
    return np.asarray(groups.sum(axis=0, dtype=np.float64) + x[whole:].sum(axis=0, dtype=np.float64))


def add_gram(c: NDArray[Any], x: NDArray[Any], *, lower: bool = True) -> None:
    """c ← c + xᵀx on one triangle of a Fortran-ordered c, both float64 or both float32."""
    from scipy.linalg.blas import dsyrk, ssyrk

    syrk = dsyrk if c.dtype == np.float64 else ssyrk
    # syrk wants Fortran order: a C-ordered x is its transpose, so neither order is copied.
    if x.flags.c_contiguous:
        result = syrk(1.0, x.T, beta=1.0, c=c, trans=0, lower=int(lower), overwrite_c=1)
    else:
        result = syrk(1.0, x, beta=1.0, c=c, trans=1, lower=int(lower), overwrite_c=1)
    _must_be(result, c)


def _tridiagonal(c: NDArray[Any], *, overwrite: bool) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """(reflectors, diagonal, off-diagonal, tau) of c = QTQᵀ, in c's dtype."""
    from scipy.linalg import lapack

    letter = "d" if c.dtype == np.float64 else "s"
    lwork, _ = getattr(lapack, f"{letter}sytrd_lwork")(len(c), lower=1)
    reflectors, d, e, tau, _ = getattr(lapack, f"{letter}sytrd")(c, lower=1, lwork=int(lwork), overwrite_a=overwrite)
    return reflectors, d, e, tau


@dataclass(frozen=True, slots=True)
class TridiagonalEigen:
    """A = QTQᵀ with T tridiagonal: all values come from T at once, vectors only as far as wanted.

    The reduction is the O(n³) part and is done once; k vectors cost O(n²k) more. At width 2048 this is
    half the time of a full `eigh`.
    """

    reflectors: NDArray[np.float64]
    d: NDArray[np.float64]
    e: NDArray[np.float64]
    tau: NDArray[np.float64]
    values: NDArray[np.float64]

    def vectors(self, k: int) -> NDArray[np.float64]:
        from scipy.linalg.lapack import dormqr

        n = len(self.d)
        if k == 0 or n == 1:
            return np.ones((n, k))
        z = np.asfortranarray(self._of_tridiagonal(k)[:, ::-1])
        # Q = diag(1, H₁…H_{n−1}): the reflectors below the first subdiagonal are a QR's, one row down.
        below = np.asfortranarray(self.reflectors[1:, :-1])
        part = np.asfortranarray(z[1:])
        _, work, _ = dormqr("L", "N", below, self.tau, part, lwork=-1)
        z[1:], _, _ = dormqr("L", "N", below, self.tau, part, lwork=int(work[0]), overwrite_c=1)
        return z

    def _of_tridiagonal(self, k: int) -> NDArray[np.float64]:
        from scipy.linalg import LinAlgError, eigh_tridiagonal

        n = len(self.d)
        wanted: dict[str, Any] = {"select": "i", "select_range": (n - k, n - 1)}
        try:
            _, z = eigh_tridiagonal(self.d, self.e, lapack_driver="stemr", **wanted)
        except LinAlgError:  # MRRR gives up on rare matrices; bisection with inverse iteration does not
            _, z = eigh_tridiagonal(self.d, self.e, lapack_driver="stebz", **wanted)
        # Vectors of values that are repeated many times may lean on each other by 1e-9 (either driver's).
        if np.abs(z.T @ z - np.eye(k)).max() > ORTHONORMAL:
            q, r = np.linalg.qr(z[:, ::-1])  # the largest values' vectors first: they are changed least
            z = (q * np.where(np.diagonal(r) < 0, -1.0, 1.0))[:, ::-1]
        return np.asarray(z)


def _must_be(result: Any, c: NDArray[np.float64]) -> None:
    # BLAS copies silently what is not Fortran-ordered float64; a lost update must not pass for a small one.
    if result is not c:
        raise ValueError(f"only a Fortran-ordered matrix is updated in place, got {c.dtype} {c.strides}")

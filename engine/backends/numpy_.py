"""The verbs over numpy and scipy's BLAS and LAPACK, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class NumpyBackend:
    """scipy's BLAS reaches the in-place, one-triangle routines (dsyrk, dsyr) that numpy has no name for."""

    name: str = "numpy"

    def load(self) -> None:
        import scipy.linalg.blas
        import scipy.linalg.lapack  # noqa: F401

    def matrix(self, block: NDArray[Any]) -> NDArray[np.float64]:
        return np.array(block, dtype=np.float64, order="C", copy=True)

    def square(self, n: int) -> NDArray[np.float64]:
        return np.zeros((n, n), order="F")

    def vector(self, n: int) -> NDArray[np.float64]:
        return np.zeros(n)

    def column_mean(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(x.mean(axis=0))

    def subtract_row(self, x: NDArray[np.float64], row: NDArray[np.float64]) -> None:
        x -= row

    def square_sum(self, x: NDArray[np.float64]) -> float:
        flat = x.ravel(order="K")
        return float(flat @ flat)

    def add_gram(self, c: NDArray[np.float64], x: NDArray[np.float64]) -> None:
        from scipy.linalg.blas import dsyrk

        # dsyrk wants Fortran order: a C-ordered x is its transpose, so neither order is copied.
        if x.flags.c_contiguous:
            result = dsyrk(1.0, x.T, beta=1.0, c=c, trans=0, lower=1, overwrite_c=1)
        else:
            result = dsyrk(1.0, x, beta=1.0, c=c, trans=1, lower=1, overwrite_c=1)
        _must_be(result, c)

    def add_outer(self, c: NDArray[np.float64], row: NDArray[np.float64], weight: float) -> None:
        from scipy.linalg.blas import dsyr

        _must_be(dsyr(weight, row, a=c, lower=1, overwrite_a=1), c)

    def add(self, c: NDArray[np.float64], other: NDArray[np.float64]) -> None:
        c += other

    def diagonal(self, c: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.diagonal(c).copy()

    def eigen(self, c: NDArray[np.float64]) -> TridiagonalEigen:
        from scipy.linalg import eigvalsh_tridiagonal
        from scipy.linalg.lapack import dsytrd, dsytrd_lwork

        n = len(c)
        lwork, _ = dsytrd_lwork(n, lower=1)
        reflectors, d, e, tau, _ = dsytrd(c, lower=1, lwork=int(lwork), overwrite_a=1)
        values = eigvalsh_tridiagonal(d, e, lapack_driver="sterf") if n > 1 else d
        return TridiagonalEigen(reflectors, d, e, tau, values[::-1].copy())

    def matmul(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(a @ b)

    def orthonormalise(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        q, r = np.linalg.qr(x)
        return np.asarray(q * np.where(np.diagonal(r) < 0, -1.0, 1.0))

    def to_host(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return x


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
        return np.asarray(z)


def _must_be(result: Any, c: NDArray[np.float64]) -> None:
    # BLAS copies silently what is not Fortran-ordered float64; a lost update must not pass for a small one.
    if result is not c:
        raise ValueError(f"only Fortran-ordered float64 is updated in place, got {c.dtype} {c.strides}")

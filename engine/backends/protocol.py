"""The verbs every array library must offer. What is written above says these, never which library."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# On the backend's device; float64 unless a verb says otherwise. Typed openly because the siblings share no array
# type; slicing, +, - and * by a scalar or a row are the only operators used on one.
Array: TypeAlias = Any

# What rows may be multiplied in. The last two are the values as stored, through the machine's matrix units, with
# float32 results: their products are exact in float32.
PRODUCTS = ("float64", "float32", "bfloat16", "float16")


class Eigen(Protocol):
    """A solved symmetric eigenproblem: every value, and as many vectors as are asked for."""

    @property
    def values(self) -> NDArray[np.float64]:
        """All eigenvalues, (n,), largest first, on the host."""

    def vectors(self, k: int) -> Array:
        """Orthonormal eigenvectors of the k largest values as columns, (n, k)."""


class Backend(Protocol):
    """A small frozen object: picklable, cheap to send, loads its library in `load`."""

    @property
    def name(self) -> str: ...

    def load(self) -> None:
        """Import the library now (so that thread limits set after this reach it)."""

    def products(self, dtype: str) -> str:
        """The cheapest of `PRODUCTS` that is exact in float32 for rows of this dtype, here; else "float64"."""

    def matrix(self, block: NDArray[Any], products: str = "float64") -> Array:
        """A fresh copy of a host block as `products` wants its operands, exact for "float64".

        "float64" and "float32" give arrays of these dtypes; "bfloat16" and "float16" whatever `add_gram` multiplies
        through the matrix units, from a block of that very dtype.
        """

    def less(self, block: NDArray[Any], row: Array) -> Array:
        """block − row as a fresh float64 copy, for a float64 row."""

    def square(self, n: int, dtype: str = "float64") -> Array:
        """n × n zeros of float64 or float32, in the layout `add_gram` updates in place."""

    def vector(self, n: int) -> Array:
        """n zeros."""

    def column_mean(self, x: Array) -> Array:
        """Mean of each column, float64."""

    def column_sum(self, x: Array, products: str = "") -> Array:
        """Sum of each column in float64, next to exact for values of 16 bits.

        `products` says in what x is multiplied before and after, if it is: whose threads are about.
        """

    def subtract_row(self, x: Array, row: Array) -> None:
        """x ← x − row, in place; float64 or float32."""

    def square_sum(self, x: Array) -> float:
        """Sum of all squared entries."""

    def add_gram(self, c: Array, x: Array, products: str = "float64") -> None:
        """c ← c + xᵀx in place, c of float64 for "float64" and of float32 for the others.

        Only the lower triangle of c is meaningful, here and below.
        """

    def add_outer(self, c: Array, row: Array, weight: float) -> None:
        """c ← c + weight · rowᵀrow in place."""

    def add(self, c: Array, other: Array) -> None:
        """c ← c + other in place; a float32 `other` is added to a float64 c exactly rounded."""

    def clear(self, c: Array) -> None:
        """c ← 0 in place."""

    def diagonal(self, c: Array) -> NDArray[np.float64]:
        """The diagonal of c, on the host."""

    def mirror(self, c: Array) -> None:
        """Copy the lower triangle of c onto the upper one, in place."""

    def deflated(self, c: Array, a: Array, dtype: str) -> Array:
        """c − a·aᵀ as a new matrix of `dtype`, for a (n, k); c has both triangles, and stays as it is."""

    def eigen(self, c: Array) -> Eigen:
        """Solve the symmetric eigenproblem of c, which is used up."""

    def eigenvalues(self, c: Array, dtype: str) -> NDArray[np.float64]:
        """All eigenvalues of c, largest first, on the host, worked out in `dtype`; c stays as it is."""

    @property
    def values_alone(self) -> bool:
        """Whether eigenvalues alone cost much less than `eigen`, so that few vectors are sought apart."""

    def matmul(self, a: Array, b: Array) -> Array:
        """a · b."""

    def orthonormalise(self, x: Array) -> Array:
        """Columns of x made orthonormal in their order (the Q of x = QR), signs kept."""

    def to_host(self, x: Array) -> NDArray[np.float64]:
        """As a numpy array."""

    def stack(self, parts: Sequence[Array]) -> Array:
        """Rows of the parts under each other, a fresh array."""

    def qr_append(self, r: Array, x: Array) -> Array:
        """The R of the QR of r (n × n, upper triangular) with the rows of x (m × n) under it: O(m · n²).

        `r`, from `square` or from here, and `x` are used up. Signs are as LAPACK leaves them; a column that is 0 in
        both stays exactly 0.
        """

    def stream(self) -> AbstractContextManager[None]:
        """Within the context, this thread's work on the device waits for no other thread's, and is done at its end.

        Arrays may go to another thread only from one such context to the next. Nothing on the host.
        """

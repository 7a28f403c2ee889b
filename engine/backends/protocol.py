"""The verbs every array library must offer. What is written above says these, never which library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# float64 and on the backend's device. Typed openly because the siblings share no array type; slicing,
# + and * by a scalar are the only operators used on one.
Array: TypeAlias = Any


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

    def matrix(self, block: NDArray[Any]) -> Array:
        """A fresh float64 copy of a host block, exact for every stored dtype."""

    def square(self, n: int) -> Array:
        """n × n zeros, in the layout `add_gram` updates in place."""

    def vector(self, n: int) -> Array:
        """n zeros."""

    def column_mean(self, x: Array) -> Array:
        """Mean of each column."""

    def subtract_row(self, x: Array, row: Array) -> None:
        """x ← x − row, in place."""

    def square_sum(self, x: Array) -> float:
        """Sum of all squared entries."""

    def add_gram(self, c: Array, x: Array) -> None:
        """c ← c + xᵀx in place. Only the lower triangle of c is meaningful, here and below."""

    def add_outer(self, c: Array, row: Array, weight: float) -> None:
        """c ← c + weight · rowᵀrow in place."""

    def add(self, c: Array, other: Array) -> None:
        """c ← c + other in place."""

    def diagonal(self, c: Array) -> NDArray[np.float64]:
        """The diagonal of c, on the host."""

    def eigen(self, c: Array) -> Eigen:
        """Solve the symmetric eigenproblem of c, which is used up."""

    def matmul(self, a: Array, b: Array) -> Array:
        """a · b."""

    def orthonormalise(self, x: Array) -> Array:
        """Columns of x made orthonormal in their order (the Q of x = QR), signs kept."""

    def to_host(self, x: Array) -> NDArray[np.float64]:
        """As a numpy array."""

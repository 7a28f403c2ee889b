"""The few largest eigenpairs of a symmetric matrix, and all its eigenvalues with a few vectors.

Block Lanczos with full orthogonalisation and restarts (Golub and Underwood, 1977): a matrix of width 4096 is read 12
times a sweep, where tridiagonalising it costs as much as reading it 200 times. Values alone come from the backend's
`eigenvalues`; those that the block method found to full precision replace theirs.

Why the spikes are deflated before float32 looks at the rest: its error is a share of the largest value it sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.backends.protocol import Array, Backend

SMALLEST = 768  # widths below are solved whole, in a few hundredths of a second
BLOCK = 32
STEPS, FEW_STEPS = 12, 5
RESTARTS = 8
CONVERGED = 1e-11  # residual over the largest value
# Of eigenvalues found in float32, over the largest that float32 saw: any of them (its QL iteration's, measured 5e-6 at
# width 1024 to 3.5e-5 at 4096), and those near zero (measured 4e-7 … 8e-7).
FLOAT32_ERROR, FLOAT32_NULL = 5e-5, 4e-6


@dataclass(frozen=True, slots=True)
class Pairs:
    """Largest eigenpairs of a matrix: values (k,) falling, on the host; vectors (width, k) on the device.

    `following` is a lower bound of the value that comes next, None where nothing is known of it; `residual` the largest
    ‖Cv − λv‖, by which a value may be off at most.
    """

    values: NDArray[np.float64]
    vectors: Array
    following: float | None = None
    residual: float = 0.0


def top_pairs(b: Backend, c: Array, wanted: int | None = None, *, block: int = BLOCK) -> Pairs:
    """The largest eigenpairs of a whole (mirrored) symmetric matrix, by block Lanczos.

    Parameters
    ----------
    b : Backend
    c : (width, width) float64, both triangles.
    wanted : how many are needed; None: those that converge within one sweep, which are the ones that stand apart.
    block : vectors multiplied at once, at least `wanted` rounded up when that is given.

    Returns
    -------
    Pairs
        The leading pairs whose residual ‖Cv − λv‖ is at most `CONVERGED` times the largest value. Fewer than wanted
        where `RESTARTS` sweeps did not do.

    Notes
    -----
    Time O(sweeps · steps · width² · block); memory O(width · block · steps). Deterministic: the start is drawn from
    a fixed seed.
    """
    width = len(b.diagonal(c))
    block = min(max(block, _rounded(wanted or 0)), width)
    v, found = _start(b, width, block, "float64"), Pairs(np.zeros(0), None)
    for _ in range(RESTARTS if wanted else 1):
        values, vectors, residuals = _sweep(b, lambda x: b.matmul(c, x), v, _steps(width, block), "float64")
        n_good = _leading(residuals <= CONVERGED * max(float(values[0]), 0.0))
        following = float(values[n_good]) if n_good < block else None
        found = Pairs(values[:n_good], vectors[:, :n_good], following, float(residuals[:n_good].max(initial=0.0)))
        if wanted is None or n_good >= wanted:
            break
        v = b.orthonormalise(vectors)
    return found


def top_of(
    b: Backend, multiply: Callable[[Array], Array], width: int, wanted: int, *, dtype: str, converged: float
) -> Array:
    """Vectors (width, block) of `dtype` that span the `wanted` largest eigenpairs of v → Av, and some more roughly.

    They are as good as `RESTARTS` sweeps of `FEW_STEPS` make them where the residuals stay above `converged`.
    """
    block = max(BLOCK, _rounded(wanted))
    steps = min(FEW_STEPS, _steps(width, block))
    if steps * block > width:  # all directions are fewer
        return _start(b, width, width, dtype)
    v = _start(b, width, block, dtype)
    for _ in range(RESTARTS):
        values, v, residuals = _sweep(b, multiply, v, steps, dtype)
        if _leading(residuals <= converged * max(float(values[0]), 0.0)) >= min(wanted, block):
            break
        v = b.orthonormalise(v)
    return v


def _start(b: Backend, width: int, block: int, dtype: str) -> Array:
    return b.orthonormalise(b.matrix(np.random.default_rng(0).standard_normal((width, block)), dtype))


def _steps(width: int, block: int) -> int:
    return max(2, min(STEPS, width // (2 * block)))


def _leading(good: NDArray[np.bool_]) -> int:
    """How many hold before the first that does not."""
    return len(good) if good.all() else int(np.argmin(good))


def _sweep(
    b: Backend, multiply: Callable[[Array], Array], v: Array, steps: int, dtype: str
) -> tuple[NDArray[np.float64], Array, NDArray[np.float64]]:
    """Ritz values (block,), vectors (width, block) and residual norms from the Krylov space of a block."""
    basis, images = [v], [multiply(v)]
    for _ in range(steps - 1):
        w = _outside(b, basis, _outside(b, basis, images[-1]))  # twice is enough (Kahan)
        # Of a block without full rank QR makes directions up, which may lie anywhere.
        basis.append(b.orthonormalise(_outside(b, basis, b.orthonormalise(w))))
        images.append(multiply(basis[-1]))
    block = v.shape[1]
    small = np.empty((steps * block, steps * block))
    for i, q in enumerate(basis):
        for j, image in enumerate(images[i:], start=i):
            part = b.to_host(b.matmul(q.T, image))
            small[i * block : (i + 1) * block, j * block : (j + 1) * block] = part
            small[j * block : (j + 1) * block, i * block : (i + 1) * block] = part.T
    theta, s = np.linalg.eigh((small + small.T) / 2)
    theta, s = theta[::-1][:block].copy(), s[:, ::-1][:, :block]
    mix = [b.matrix(np.ascontiguousarray(s[i * block : (i + 1) * block]), dtype) for i in range(steps)]
    vectors = _combined(b, basis, mix)
    rest = _combined(b, images, mix) - vectors * b.matrix(theta[None], dtype)[0]
    residuals = np.sqrt(b.to_host(b.column_sum(rest * rest)))
    return theta, vectors, residuals


def _outside(b: Backend, basis: list[Array], w: Array) -> Array:
    for q in basis:
        w = w - b.matmul(q, b.matmul(q.T, w))
    return w


def _combined(b: Backend, parts: list[Array], mix: list[Array]) -> Array:
    out = b.matmul(parts[0], mix[0])
    for part, m in zip(parts[1:], mix[1:], strict=True):
        out = out + b.matmul(part, m)
    return out


def _rounded(k: int) -> int:
    # Some more than wanted, so that the last wanted one is not the block's slowest.
    return -(-(k + max(4, k // 4)) // 8) * 8 if k else 0


@dataclass(slots=True)
class ApartEigen:
    """All values, and vectors sought only as far as they are wanted. As `engine.backends.protocol.Eigen`.

    Attributes
    ----------
    values : (width,) float64, falling.
    error : how far a value may be off by the eigensolver, absolute.
    null_error : the same for values near zero.
    """

    b: Backend
    c: Array
    top: Pairs
    values: NDArray[np.float64]
    error: float
    null_error: float

    def vectors(self, k: int) -> Array:
        if k > len(self.top.values) and k <= len(self.values) // 12:
            self.top = top_pairs(self.b, self.c, k)
        if k > len(self.top.values):  # many, or too close together to be told apart one by one
            whole = self.b.eigen(self.c)
            self.top = Pairs(whole.values, whole.vectors(k))
        return self.top.vectors[:, :k]


def solve_apart(b: Backend, c: Array, *, dtype: str) -> ApartEigen:
    """All eigenvalues of c in `dtype`, its leading ones in float64 always. c is mirrored, and kept for the vectors."""
    b.mirror(c)
    top = top_pairs(b, c)
    if dtype == "float64":
        values = b.eigenvalues(c, dtype)
        error = 32 * float(np.finfo(np.float64).eps) * float(values[0])
        return ApartEigen(b, c, top, values, error, error)
    k = len(top.values)
    rest = b.deflated(c, top.vectors * b.matrix(np.sqrt(np.abs(top.values))[None])[0], dtype)
    values = b.eigenvalues(rest, dtype)
    del rest
    size = float(values[0])
    # The deflated directions are zeros now, and stand last among values that are not negative.
    values = np.sort(np.concatenate([top.values, values[: len(values) - k]]))[::-1]
    return ApartEigen(b, c, top, values.copy(), FLOAT32_ERROR * size, FLOAT32_NULL * size)

r"""The largest eigenpairs of T = Λ − ZᵀZ: what a known eigendecomposition becomes when a few rows are taken out.

In the eigenbasis of a scatter, taking out an adapter of rank r leaves a diagonal matrix less one of rank r. The
coordinates are split into a head, the m largest λ, and the tail. Eliminating the tail (the spectral Schur complement
of Bekas and Saad, "Computation of smallest eigenvalues using spectral Schur complements", 2005) leaves, for every x
above the tail, the m × m matrix

.. math:: F(x) = \Lambda_h - x - Z_h^\top G(x)^{-1} Z_h, \qquad G(x) = I + Z_t (x - \Lambda_t)^{-1} Z_t^\top \succeq I,

and (v, t) with :math:`t = -(x - \Lambda_t)^{-1} Z_t^\top G(x)^{-1} Z_h v` is an eigenvector of T for x exactly where
F(x)v = 0. There is no pole to meet: by interlacing T's k largest eigenvalues lie above the tail as soon as m > k + r.
G varies slowly with x, so that F at one x has nearly the right vectors. They are lifted by the formula, made the best
within their span (Rayleigh and Ritz), and corrected by their residuals; all k at a time, in products of d × k matrices.

What was found is proved: small residuals and orthonormal vectors say that these are k eigenpairs, and the inertia of
the r × r matrix S(x) = I − Z(Λ − x)⁻¹Zᵀ that T has no more of them above,

.. math:: \#\{\lambda(T) > x\} = \#\{\lambda > x\} - n_-(S(x))

(Arbenz and Golub, "On the spectral decomposition of Hermitian matrices modified by low rank perturbations", 1988).
Where that fails (values that are repeated or too close together, ranks near the width), T is solved whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

GUARD = 4  # pairs sought beyond those wanted: the last wanted one is then not the slowest
SPARE = 4  # of the head, beyond what interlacing asks for
ROUNDS = 12
# Residuals ‖Tu − xu‖ that are accepted: this share of the distance to the nearest value, by which a vector is off then;
# or, where values are close together, what rounding leaves, over λ₁.
CONVERGED, ROUNDING = 1e-11, 4e-15
STILL = 1e-12  # of the distance to the tail: values that moved less are lifted as before
ORTHONORMAL = 1e-12
APART = 1e-9  # of λ₁: what the values sought keep from the tail
PAIRS_BYTES = 32 * 2**20  # of the products of all pairs of rows, r(r + 1)/2 · d numbers, up to which these are kept


@dataclass(frozen=True, slots=True, eq=False)
class Top:
    """The largest eigenpairs of a downdated matrix.

    Attributes
    ----------
    values : (k,) falling.
    vectors : (d, k) orthonormal columns, in the coordinates of the eigenbasis.
    whole : whether they came from solving the whole d × d matrix.
    """

    values: NDArray[np.float64]
    vectors: NDArray[np.float64]
    whole: bool


def largest(values: NDArray[np.float64], z: NDArray[np.float64], k: int) -> Top:
    """The k largest eigenpairs of diag(values) − zᵀz.

    Parameters
    ----------
    values : (d,) falling, none negative.
    z : (r, d), the rows that are taken out, in the eigenbasis.
    k : at most d.

    Returns
    -------
    Top

    Notes
    -----
    O(d·r²·k) time for the products of pairs of rows and O(d·k²) a round, a few rounds; O(d·(r² + k)) memory. Where T
    has to be solved whole, O(d³) and O(d²).
    """
    if k == 0 or len(z) == 0:
        return Top(values[:k].copy(), np.eye(len(values), k), False)
    m = k + GUARD + len(z) + SPARE
    found = _sought(values, z, k, m) if 2 * m <= len(values) else None
    return found or whole(values, z, k)


def whole(values: NDArray[np.float64], z: NDArray[np.float64], k: int) -> Top:
    """The same by LAPACK, of the whole matrix."""
    from scipy.linalg import eigh

    d = len(values)
    t = np.diag(values) - z.T @ z
    found, vectors = eigh(t, subset_by_index=(d - k, d - 1), overwrite_a=True, check_finite=False)
    return Top(found[::-1].copy(), np.ascontiguousarray(vectors[:, ::-1]), True)


def _sought(values: NDArray[np.float64], z: NDArray[np.float64], k: int, m: int) -> Top | None:
    """The pairs by way of the head; None where they are not proved to be the largest."""
    apart = APART * float(values[0])
    tail = _Tail(values[m:], z[:, m:], apart, _pairs(z[:, m:]))
    if not float(values[k - 1]) > tail.above:
        return None
    head, zh = values[:m], z[:, :m]
    x = np.full(1, values[k - 1])
    first = np.diag(head) - zh.T @ np.linalg.solve(tail.at(x).g[0], zh)
    theta, basis = np.linalg.eigh(first)
    theta, basis = theta[::-1], basis[:, ::-1]
    wanted = min(k + GUARD, int(np.count_nonzero(theta > tail.above)))
    x, v = theta[:wanted], basis[:, :wanted]
    beyond, their = basis[:, wanted:], theta[wanted:, None]
    lift = None
    for _ in range(ROUNDS):
        there = int(np.count_nonzero(x > tail.above))
        if there < k:
            return None
        x, v = x[:there], v[:, :there]
        if lift is None or lift.moved(x, k, tail.above):
            # The guards' own tails would be large, so near the tail's values, and get into the others.
            lift = tail.at(np.maximum(x, x[k - 1]))
        ritz = _best(values, z, np.concatenate([v, lift(zh @ v)]))
        if ritz is None:
            return None
        x, u, rest = ritz
        following = float(x[k]) if there > k else tail.above
        if (np.linalg.norm(rest[:, :k], axis=0) <= _accepted(x[:k], following, float(values[0]))).all():
            return _proved(values, z, x[:k], u[:, :k], following)
        # One step of F(x)δ = −F(x)v outside the span, with F as it was at the first x.
        gap = np.maximum(x - their, (x[k - 1] - theta[-1]) / m)
        v = u[:m] + beyond @ (beyond.T @ rest[:m] / gap)
    return None


@dataclass(frozen=True, slots=True, eq=False)
class _Tail:
    """The tail's λ, the rows there, and the products of all pairs of rows, where these are not too many."""

    values: NDArray[np.float64]
    z: NDArray[np.float64]
    apart: float
    pairs: NDArray[np.float64] | None

    @property
    def above(self) -> float:
        """What lies above this is apart from the tail."""
        return float(self.values[0]) + self.apart

    def at(self, x: NDArray[np.float64]) -> _Lift:
        """What lifts vectors for the values x."""
        weights, r = 1.0 / (x - self.values[:, None]), len(self.z)
        if self.pairs is None:
            g = np.stack([(self.z * w) @ self.z.T for w in weights.T])
        else:
            i, j = np.triu_indices(r)
            g = np.empty((len(x), r, r))
            g[:, i, j] = g[:, j, i] = (self.pairs @ weights).T
        return _Lift(self.z, x, weights, g + np.eye(r))


@dataclass(frozen=True, slots=True, eq=False)
class _Lift:
    """The tails of vectors, for one value each.

    Attributes
    ----------
    z : (r, tail)
    x : (k,) the values.
    weights : (tail, k), 1/(x − λ).
    g : (k, r, r), G at every x.
    """

    z: NDArray[np.float64]
    x: NDArray[np.float64]
    weights: NDArray[np.float64]
    g: NDArray[np.float64]

    def __call__(self, zv: NDArray[np.float64]) -> NDArray[np.float64]:
        """The tails (tail, k) of vectors whose heads have Z_h v = `zv`, (r, k)."""
        c = np.linalg.solve(self.g, zv.T[:, :, None])[:, :, 0]
        return -(self.z.T @ c.T) * self.weights

    def moved(self, x: NDArray[np.float64], k: int, tail: float) -> bool:
        """Whether the first k values are so far from these that their tails differ."""
        return len(x) < len(self.x) or bool((np.abs(x - self.x)[:k] > STILL * (x[:k] - tail)).any())


def _pairs(z: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """z_i · z_j for i ≤ j, (r(r + 1)/2, d), so that all sums Σ z_i z_j w are one product."""
    r, d = z.shape
    if 8 * d * r * (r + 1) // 2 > PAIRS_BYTES:
        return None
    out, at = np.empty((r * (r + 1) // 2, d)), 0
    for i in range(r):
        np.multiply(z[i], z[i:], out=out[at : at + r - i])
        at += r - i
    return out


def _best(
    values: NDArray[np.float64], z: NDArray[np.float64], u: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]] | None:
    """Ritz values (falling), orthonormal Ritz vectors and their residuals from the span of u; None where it is thin."""
    from scipy.linalg import LinAlgError, eigh

    zu = z @ u
    try:
        x, s = eigh((u * values[:, None]).T @ u - zu.T @ zu, u.T @ u, check_finite=False, overwrite_a=True)
    except (LinAlgError, ValueError):
        return None
    s = s[:, ::-1]
    x, u = x[::-1].copy(), u @ s
    return x, u, u * (values[:, None] - x) - z.T @ (zu @ s)


def _accepted(x: NDArray[np.float64], following: float, size: float) -> NDArray[np.float64]:
    """Residuals (k,) that will do for values x, the next one being `following` and the largest of all `size`."""
    below = x - np.append(x[1:], following)
    nearest = np.minimum(below, np.append(np.inf, below[:-1]))
    return np.asarray(np.maximum(CONVERGED * nearest, ROUNDING * size))


def _proved(
    values: NDArray[np.float64],
    z: NDArray[np.float64],
    x: NDArray[np.float64],
    u: NDArray[np.float64],
    following: float,
) -> Top | None:
    """The pairs, if they are orthonormal and none is missing above the last of them; `following` comes next."""
    k, u = len(x), np.ascontiguousarray(u)
    if np.abs(u.T @ u - np.eye(k)).max() > ORTHONORMAL:
        return None
    below = float(x[k - 1]) - max(1e-3 * (float(x[k - 1]) - following), 1e-12 * float(values[0]))
    return Top(x.copy(), u, False) if count_above(values, z, below) == k else None


def count_above(values: NDArray[np.float64], z: NDArray[np.float64], x: float) -> int:
    """How many eigenvalues of diag(values) − zᵀz are above x, which is none of `values`."""
    s = np.eye(len(z)) - (z / (values - x)) @ z.T
    return int(np.count_nonzero(values > x) - np.count_nonzero(np.linalg.eigvalsh(s) < 0))

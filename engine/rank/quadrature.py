r"""The median of a spectrum from products with a few vectors, by stochastic Lanczos quadrature.

S. Ubaru, J. Chen and Y. Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature", SIAM Journal on Matrix
Analysis and Applications 38 (2017). For a symmetric A of dimension d and a vector v of d random signs, v/√d sees the
eigenvalues with weights that are 1/d on average. m steps of Lanczos from it give a tridiagonal matrix whose eigenvalues
θⱼ and squared first components ωⱼ of its eigenvectors are the nodes and weights of Gauss's rule for that measure (G. H.
Golub and G. Meurant, "Matrices, moments and quadrature", 1993). Its distribution function at a node lies between Σ of
the weights below and that sum with the node's own (Chebyshev, Markov and Stieltjes), so half of the node's own weight
is counted, and what lies between nodes is interpolated.

The quantile is that of the mean over probes. Its error is twice the standard error, by leaving out one probe after the
other, and half the distance of the nodes around it, divided by the number of probes, whose nodes interleave.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.rank.estimate import Estimate
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MatMat = Callable[["NDArray[np.float64]"], "NDArray[np.float64]"]
_EXHAUSTED = 1e-12  # of the first product's size: nothing is left outside the Krylov space


def lanczos_median(matmat: MatMat, dim: int, *, n_probes: int = 16, n_steps: int = 100, seed: int = 0) -> Estimate:
    """The median eigenvalue of a symmetric operator; see `lanczos_quantile`."""
    return lanczos_quantile(matmat, dim, 0.5, n_probes=n_probes, n_steps=n_steps, seed=seed)


def lanczos_quantile(
    matmat: MatMat, dim: int, share: float, *, n_probes: int = 16, n_steps: int = 100, seed: int = 0
) -> Estimate:
    """The eigenvalue that a given share of all eigenvalues lies below.

    Parameters
    ----------
    matmat : (dim, m) float64 → (dim, m), the products of a symmetric matrix with m vectors.
    dim : its dimension.
    share : between 0 and 1.
    n_probes : random vectors, at least 2, multiplied all at once.
    n_steps : products with each of them.
    seed : of the vectors.

    Returns
    -------
    Estimate
        The error is two standard errors over the probes, and the resolution of the quadrature.

    Raises
    ------
    EigenzooError
        For numbers that are out of range.

    Notes
    -----
    n_steps products with (dim, n_probes), and O(n_probes · n_steps² · dim) time for full reorthogonalisation;
    8 · n_probes · n_steps · dim bytes.
    """
    if dim < 1 or n_probes < 2 or n_steps < 1:
        raise EigenzooError(
            f"quadrature: got dimension {dim}, {n_probes} probes and {n_steps} steps; give at least 1, 2 and 1"
        )
    if not 0 < share < 1:
        raise EigenzooError(f"quadrature: the share must lie between 0 and 1, got {share}")
    signs = np.random.default_rng(seed).integers(0, 2, (dim, n_probes)).astype(np.float64)
    rules = _rules(matmat, (2 * signs - 1) / math.sqrt(dim), min(n_steps, dim))
    value = _quantile(rules, share)
    leaving = [_quantile(rules[:i] + rules[i + 1 :], share) for i in range(n_probes)]
    spread = math.sqrt((n_probes - 1) / n_probes * float(((np.array(leaving) - np.mean(leaving)) ** 2).sum()))
    return Estimate(value, 2 * spread + _resolution(rules, value))


@dataclass(frozen=True, slots=True, eq=False)
class _Rule:
    """Nodes (m,) rising, and the distribution function at them."""

    nodes: NDArray[np.float64]
    below: NDArray[np.float64]

    def at(self, x: float) -> float:
        return float(np.interp(x, self.nodes, self.below, left=0.0, right=1.0))


def _rules(matmat: MatMat, start: NDArray[np.float64], n_steps: int) -> list[_Rule]:
    """Gauss's rule of every probe: Lanczos on all columns of `start` side by side."""
    dim, n_probes = start.shape
    basis = np.zeros((n_probes, n_steps, dim))
    alpha, beta = np.zeros((n_probes, n_steps)), np.zeros((n_probes, n_steps))
    length = np.full(n_probes, n_steps)
    q = np.ascontiguousarray(start.T)
    size = np.zeros(n_probes)
    for step in range(n_steps):
        basis[:, step] = q
        w = np.ascontiguousarray(matmat(np.ascontiguousarray(q.T)).T)
        alpha[:, step] = np.einsum("pd,pd->p", q, w)
        size = np.maximum(size, np.linalg.norm(w, axis=1))
        known = basis[:, : step + 1]
        for _ in range(2):  # twice is enough (Kahan)
            w = w - np.matmul(np.matmul(known, w[:, :, None])[:, None, :, 0], known)[:, 0]
        norms = np.linalg.norm(w, axis=1)
        ended = norms <= _EXHAUSTED * size
        length = np.where(ended & (length > step + 1), step + 1, length)
        beta[:, step] = np.where(ended, 0.0, norms)
        q = np.where(ended[:, None], 0.0, w / np.where(ended, 1.0, norms)[:, None])
        if (length <= step + 1).all():
            break
    return [_rule(alpha[p, :m], beta[p, : m - 1]) for p, m in enumerate(length.tolist())]


def _rule(alpha: NDArray[np.float64], beta: NDArray[np.float64]) -> _Rule:
    nodes, vectors = np.linalg.eigh(np.diag(alpha) + np.diag(beta, 1) + np.diag(beta, -1))
    weights = vectors[0] ** 2
    return _Rule(nodes, np.cumsum(weights) - weights / 2)


def _quantile(rules: list[_Rule], share: float) -> float:
    low = min(float(rule.nodes[0]) for rule in rules)
    high = max(float(rule.nodes[-1]) for rule in rules)
    for _ in range(100):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        below = sum(rule.at(middle) for rule in rules) / len(rules)
        low, high = (middle, high) if below < share else (low, middle)
    return high


def _resolution(rules: list[_Rule], value: float) -> float:
    """Half the distance of the nodes around a value, as the probes together have it."""
    gaps = []
    for rule in rules:
        at = min(max(int(np.searchsorted(rule.nodes, value)), 1), len(rule.nodes) - 1)
        gaps.append(float(rule.nodes[at] - rule.nodes[at - 1]) if len(rule.nodes) > 1 else 0.0)
    return float(np.mean(gaps)) / 2 / len(rules)

"""The truth: the centred scatter in float64 of the values as stored, and its whole eigenproblem."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.fitting.answer import Truth
from bench.fitting.data import RECIPE, K, Store

_ROWS = 4096


def reference(store: Store) -> Truth:
    """From the file beside the data, or computed: two passes, rows · width² flops by dsyrk, and LAPACK's `dsyevd`."""
    from engine import gavish_donoho

    path = Path(store.folder) / f"reference-{RECIPE}.npz"
    if not path.is_file():
        sigma, components = _solve(store)
        np.savez(path.with_suffix(".part.npz"), sigma=sigma, components=components)
        path.with_suffix(".part.npz").replace(path)
    with np.load(path) as saved:
        sigma, components = saved["sigma"], saved["components"]
    choice = gavish_donoho(sigma, (store.rows - 1, store.width))
    return Truth(sigma, components, choice.k, (store.rows, store.width))


def _solve(store: Store) -> tuple[np.ndarray, np.ndarray]:
    from scipy.linalg import eigh
    from scipy.linalg.blas import dsyrk

    mean = np.zeros(store.width)
    for block in store.blocks(_ROWS, "float64"):
        mean += block.sum(axis=0)
    mean /= store.rows
    scatter = np.zeros((store.width, store.width), order="F")
    for block in store.blocks(_ROWS, "float64"):
        scatter = dsyrk(1.0, (block - mean).T, beta=1.0, c=scatter, lower=1, overwrite_c=1)
    values, vectors = eigh(scatter, lower=True, overwrite_a=True, check_finite=False, driver="evd")
    sigma = np.sqrt(np.maximum(values[::-1], 0.0))
    return sigma, np.ascontiguousarray(vectors[:, : -K - 1 : -1].T)

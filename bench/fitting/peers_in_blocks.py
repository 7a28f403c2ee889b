"""Peers that take the matrix block by block: a plain Gram loop, dask, and the incremental ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.fitting.answer import Answer, Contestant
from bench.fitting.data import K, Store, widened

_DASK_BLOCK = 128 << 20  # bytes of float32: the size dask's documentation asks for
_POWER = 4


def gram_loop(store: Store) -> Callable[[], Answer]:
    """What one would write by hand: numpy, float64, XᵀX and the mean, then the whole eigenproblem."""

    def solve() -> Answer:
        gram, total = np.zeros((store.width, store.width)), np.zeros(store.width)
        for block in store.blocks(dtype="float64"):
            gram += block.T @ block
            total += block.sum(axis=0)
        gram -= np.outer(total, total / store.rows)
        values, vectors = np.linalg.eigh(gram)
        sigma = np.sqrt(np.maximum(values[::-1], 0.0))
        return Answer(sigma, vectors[:, : -K - 1 : -1].T, passes=1)

    return solve


def _dask_array(store: Store, centred: bool, dtype: str = "float32") -> Any:
    """Blocks of whole chunks near the documented size, and tall enough for QR where there are rows enough."""
    import dask.array as da

    rows = max(store.chunk, _DASK_BLOCK // (4 * store.width) // store.chunk * store.chunk)
    x = da.from_zarr(str(store.array_path), chunks=(rows, store.width))
    x = x.map_blocks(widened, dtype, dtype=np.dtype(dtype))
    return x - x.mean(axis=0) if centred else x


def dask_svd_compressed(store: Store) -> Callable[[], Answer]:
    import dask
    import dask.array as da

    def solve() -> Answer:
        x = _dask_array(store, centred=True)
        _, s, v = da.linalg.svd_compressed(x, k=K, iterator="QR", n_power_iter=_POWER, seed=0)
        sigma, components = dask.compute(s, v)
        return Answer(sigma, components)

    return solve


def dask_svd(store: Store) -> Callable[[], Answer]:
    """TSQR, then LAPACK's SVD of R."""
    import dask
    import dask.array as da

    def solve() -> Answer:
        _, s, v = da.linalg.svd(_dask_array(store, centred=True))
        sigma, components = dask.compute(s, v[:K])
        return Answer(sigma, components)

    return solve


def dask_ml_pca(store: Store) -> Callable[[], Answer]:
    """In float64: it powers the matrix without orthonormalising, and in float32 the last components are lost."""
    from dask_ml.decomposition import PCA

    def solve() -> Answer:
        pca = PCA(n_components=K, svd_solver="randomized", iterated_power=_POWER, random_state=0)
        pca.fit(_dask_array(store, centred=False, dtype="float64"))
        return Answer(np.asarray(pca.singular_values_), np.asarray(pca.components_))

    return solve


def sklearn_incremental(store: Store) -> Callable[[], Answer]:
    """Batches of five times the width, its default."""
    from sklearn.decomposition import IncrementalPCA

    def solve() -> Answer:
        pca = IncrementalPCA(n_components=K, copy=False)
        for block in _batches(store, 5 * store.width):
            pca.partial_fit(block)
        return Answer(pca.singular_values_, pca.components_, passes=1)

    return solve


def torch_incremental(store: Store) -> Callable[[], Answer]:
    """Its Gram backend, in wide batches: the case its documentation recommends it for."""
    import torch
    from torch_incremental_pca import IncrementalPCA

    def solve() -> Answer:
        pca = IncrementalPCA(n_components=K, copy=False, gram=True)
        for block in _batches(store, store.width // 2):
            pca.partial_fit(torch.from_numpy(block))
        return Answer(pca.singular_values_.numpy(), pca.components_.numpy(), passes=1)

    return solve


def gensim_lsi(store: Store) -> Callable[[], Answer]:
    """It takes sparse documents and centres nothing: a first pass for the mean, then centred chunks."""
    from gensim.models import LsiModel

    def solve() -> Answer:
        mean = np.zeros(store.width)
        for block in store.blocks():
            mean += block.sum(axis=0, dtype=np.float64)
        centre = (mean / store.rows).astype(np.float32)
        words = {i: str(i) for i in range(store.width)}
        model = LsiModel(num_topics=K, id2word=words, power_iters=_POWER, dtype=np.float32, random_seed=0)
        for block in _batches(store, model.chunksize):
            model.add_documents(_documents(block - centre))
        return Answer(model.projection.s, model.projection.u.T, passes=2)

    return solve


def _documents(block: Any) -> Any:
    """Rows as the columns of a sparse matrix with no entry left out."""
    from scipy.sparse import csc_matrix

    n, width = block.shape
    indices = np.tile(np.arange(width, dtype=np.int32), n)
    return csc_matrix((block.reshape(-1), indices, np.arange(0, n * width + 1, width)), shape=(width, n))


def _batches(store: Store, rows: int) -> Any:
    """Batches of at least `rows` rows each: a last one that is shorter goes with the one before it."""
    edges = [*range(0, max(1, store.rows - rows + 1), rows), store.rows]
    array = store.zarr()
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        yield widened(array[start:stop], "float32")


_DASK = ("dask", "dask.array")
IN_BLOCKS = (
    Contestant("numpy gram loop", "exact", ("numpy", "numpy"), gram_loop),
    Contestant("dask svd (tsqr)", "exact", _DASK, dask_svd, one_thread=True),
    Contestant("dask svd_compressed", "approximate", _DASK, dask_svd_compressed, one_thread=True),
    Contestant("dask-ml PCA", "approximate", ("dask-ml", "dask_ml"), dask_ml_pca, one_thread=True),
    Contestant("sklearn IncrementalPCA", "approximate", ("scikit-learn", "sklearn"), sklearn_incremental),
    Contestant(
        "torch-incremental-pca", "approximate", ("torch-incremental-pca", "torch_incremental_pca"), torch_incremental
    ),
    Contestant("gensim LsiModel", "approximate", ("gensim", "gensim"), gensim_lsi),
)

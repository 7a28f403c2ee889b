"""Peers that hold the whole matrix as float32 or float64; reading it is part of their time unless they say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.fitting.answer import Answer, Contestant, Prepare
from bench.fitting.data import K, Store

_OVERSAMPLED = K + 10
_POWER = 4  # iterations of the randomized ones: what engine's own floor asks for


def sklearn_pca(module: str, dtype: str, **settings: Any) -> Prepare:
    """`PCA` of scikit-learn, or of whoever offers it under the same name."""

    def prepare(store: Store) -> Callable[[], Answer]:
        from importlib import import_module

        pca_class = import_module(module).PCA

        def solve() -> Answer:
            # The matrix is not needed afterwards, so nothing is gained by a copy.
            pca = pca_class(**settings, copy=False).fit(store.whole(dtype))
            return Answer(pca.singular_values_, pca.components_, passes=1)

        return solve

    return prepare


def fbpca(store: Store) -> Callable[[], Answer]:
    from fbpca import pca

    def solve() -> Answer:
        _, sigma, components = pca(store.whole("float32"), k=K, raw=False, n_iter=_POWER, l=_OVERSAMPLED)
        return Answer(sigma, components, passes=1)

    return solve


def xeofs(store: Store) -> Callable[[], Answer]:
    import numpy as np
    import xarray
    from xeofs.single import EOF

    def solve() -> Answer:
        coords = {"row": np.arange(store.rows), "column": np.arange(store.width)}
        x = xarray.DataArray(store.whole("float32"), coords, dims=("row", "column"))
        model = EOF(n_modes=K, random_state=0, check_nans=False).fit(x, dim="row")
        components = model.components().transpose("mode", "column")
        return Answer(model.singular_values().values, components.values, passes=1)

    return solve


def torch_svd_lowrank(store: Store) -> Callable[[], Answer]:
    """The array is in memory before the clock starts; the mean is subtracted in place."""
    import torch

    torch.manual_seed(0)
    x = torch.from_numpy(store.whole("float32"))

    def solve() -> Answer:
        x.sub_(x.mean(dim=0))
        _, sigma, v = torch.svd_lowrank(x, q=_OVERSAMPLED, niter=6)
        return Answer(sigma[:K].numpy(), v[:, :K].T.numpy())

    return solve


_SKLEARN = ("scikit-learn", "sklearn")
_INTEL = ("scikit-learn-intelex", "sklearnex")
_TOP: dict[str, Any] = {"n_components": K, "random_state": 0}


def _cov(module: str, dtype: str) -> Prepare:
    return sklearn_pca(module, dtype, svd_solver="covariance_eigh")


IN_MEMORY = (
    Contestant("sklearn cov float32", "exact", _SKLEARN, _cov("sklearn.decomposition", "float32")),
    Contestant("sklearn cov float64", "exact", _SKLEARN, _cov("sklearn.decomposition", "float64")),
    Contestant("intelex cov float32", "exact", _INTEL, _cov("sklearnex.decomposition", "float32")),
    Contestant("intelex cov float64", "exact", _INTEL, _cov("sklearnex.decomposition", "float64")),
    Contestant(
        "sklearn randomized",
        "approximate",
        _SKLEARN,
        sklearn_pca("sklearn.decomposition", "float32", svd_solver="randomized", **_TOP),
    ),
    Contestant(
        "sklearn arpack", "top", _SKLEARN, sklearn_pca("sklearn.decomposition", "float32", svd_solver="arpack", **_TOP)
    ),
    Contestant("fbpca", "approximate", ("fbpca", "fbpca"), fbpca),
    Contestant("xeofs", "approximate", ("xeofs", "xeofs"), xeofs),
    Contestant("torch svd_lowrank", "approximate", ("torch", "torch"), torch_svd_lowrank),
)

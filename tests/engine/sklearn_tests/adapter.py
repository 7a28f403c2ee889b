"""scikit-learn's names over this engine: what its tests call, answered by `engine.fit`.

Only names are translated. Likelihoods and whitening, which the engine does not offer, follow here from the
numbers it gives: components, explained variances and the exact total variance.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

import engine
from engine.rank.choice import RankChoice
from engine.spectrum import Spectrum

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Everything:
    """A rule for K: all components of the matrix, scikit-learn's `n_components=None`."""

    name: str = "everything"

    def __call__(self, spectrum: Spectrum) -> RankChoice:
        return RankChoice(spectrum.rank, None, self.name)


@dataclass
class PCA(ABC):
    """The attributes scikit-learn derives from a fit; `n_components` is a number, a share of variance or None."""

    n_components: int | float | None = None
    whiten: bool = False

    n_samples_: int = field(init=False, default=0)
    mean_: Matrix = field(init=False, repr=False)
    components_: Matrix = field(init=False, repr=False)
    singular_values_: Matrix = field(init=False, repr=False)
    explained_variance_: Matrix = field(init=False, repr=False)
    explained_variance_ratio_: Matrix = field(init=False, repr=False)
    total_variance_: float = field(init=False, default=0.0)

    @abstractmethod
    def fit(self, x: ArrayLike) -> Self: ...

    @abstractmethod
    def _coefficients(self, x: Matrix) -> Matrix: ...

    @abstractmethod
    def _rows(self, coefficients: Matrix) -> Matrix: ...

    @property
    def n_components_(self) -> int:
        return len(self.components_)

    @property
    def n_features_in_(self) -> int:
        return len(self.mean_)

    @property
    def noise_variance_(self) -> float:
        """Mean variance of the directions left out, 0 when there are none."""
        left_out = min(self.n_samples_ - 1, self.n_features_in_) - self.n_components_
        if left_out <= 0:
            return 0.0
        # Over min(n, width), as scikit-learn counts, the null direction of a centred wide matrix included.
        count = min(self.n_samples_, self.n_features_in_) - self.n_components_
        return max(self.total_variance_ - float(self.explained_variance_.sum()), 0.0) / count

    def transform(self, x: ArrayLike) -> Matrix:
        return np.asarray(self._coefficients(np.asarray(x)) / self._scale(), dtype=np.float64)

    def fit_transform(self, x: ArrayLike) -> Matrix:
        return self.fit(x).transform(x)

    def inverse_transform(self, coefficients: Matrix) -> Matrix:
        return self._rows(coefficients * self._scale())

    def get_covariance(self) -> Matrix:
        """Of the probabilistic model (Tipping and Bishop 1999): V·diag(λ − noise)·Vᵀ + noise."""
        noise = self.noise_variance_
        v = self.components_
        return np.asarray((v.T * (self.explained_variance_ - noise)) @ v + noise * np.eye(self.n_features_in_))

    def get_precision(self) -> Matrix:
        """Its inverse, from the components rather than by inverting where there is noise."""
        noise = self.noise_variance_
        if noise == 0:
            return np.asarray(np.linalg.inv(self.get_covariance()), dtype=np.float64)
        v = self.components_
        return np.asarray((v.T * (1 / self.explained_variance_ - 1 / noise)) @ v + np.eye(self.n_features_in_) / noise)

    def score(self, x: ArrayLike) -> float:
        """Mean log-likelihood of the rows under the model."""
        y = np.asarray(x) - self.mean_
        precision = self.get_precision()
        logdet = np.linalg.slogdet(precision)[1]
        quadratic = (y * (y @ precision)).sum(axis=1).mean()
        return float(-0.5 * (quadratic + self.n_features_in_ * np.log(2 * np.pi) - logdet))

    def _scale(self) -> Matrix:
        return np.sqrt(self.explained_variance_) if self.whiten else np.ones(self.n_components_)


@dataclass
class LapackPCA(PCA):
    """The reference, scikit-learn's `svd_solver="full"`: LAPACK's SVD of the centred rows in float64."""

    def fit(self, x: ArrayLike) -> Self:
        x = np.asarray(x, dtype=np.float64)
        self.n_samples_, self.mean_ = len(x), x.mean(axis=0)
        _, s, v = np.linalg.svd(x - self.mean_, full_matrices=False)
        variance = s**2 / (len(x) - 1)
        k = len(s) if self.n_components is None else int(self.n_components)
        self.total_variance_ = float(variance.sum())
        self.components_ = positive(v[:k])
        self.singular_values_, self.explained_variance_ = s[:k], variance[:k]
        self.explained_variance_ratio_ = variance[:k] / self.total_variance_
        return self

    def _coefficients(self, x: Matrix) -> Matrix:
        return np.asarray((x - self.mean_) @ self.components_.T)

    def _rows(self, coefficients: Matrix) -> Matrix:
        return np.asarray(coefficients @ self.components_ + self.mean_)


@dataclass
class EnginePCA(PCA):
    """`engine.fit` by one of its methods."""

    method: str = "auto"
    device: str = "cpu"

    subspace_: engine.Subspace = field(init=False, repr=False)

    def fit(self, x: ArrayLike) -> Self:
        rows = np.asarray(x) if isinstance(x, list) else x
        return self._take(engine.fit(rows, as_rule(self.n_components), device=self.device, method=self.method))

    def _take(self, sub: engine.Subspace) -> Self:
        k = sub.n_components
        self.subspace_ = sub
        self.n_samples_, self.mean_, self.components_ = sub.n_rows, sub.mean, sub.components
        self.singular_values_ = sub.singular_values[:k]
        self.explained_variance_ = sub.explained_variance[:k]
        self.explained_variance_ratio_ = sub.explained_variance_ratio[:k]
        self.total_variance_ = sub.total_variance
        return self

    def _coefficients(self, x: Matrix) -> Matrix:
        return self.subspace_.transform(x)

    def _rows(self, coefficients: Matrix) -> Matrix:
        return self.subspace_.inverse_transform(coefficients)


@dataclass
class EngineIncrementalPCA(EnginePCA):
    """Rows in batches: `partial_fit` takes one, `fit` takes all in batches of `batch_size` rows.

    `stream` is "moments" (`engine.Moments`) or "incremental" (`engine.Incremental`, which keeps four rows for each
    component, as `engine.fit` does); with "-merged" each batch goes into an object of its own, which is then merged.
    """

    batch_size: int | None = None
    stream: str = "moments"

    held: engine.Moments | engine.Incremental | None = field(init=False, repr=False, default=None)

    def fit(self, x: ArrayLike) -> Self:
        x = np.asarray(x)
        size = self.batch_size or 5 * x.shape[1]
        self.held = None
        for start in range(0, len(x), size):
            self.take(x[start : start + size])
        return self.solve()

    def partial_fit(self, batch: ArrayLike) -> Self:
        return self.take(batch).solve()

    def take(self, batch: ArrayLike) -> Self:
        """One more batch, nothing solved yet."""
        kind, _, merged = self.stream.partition("-")
        if kind == "moments":
            self.held = _joined(engine.Moments(device=self.device), self.held, batch, merged)
        else:
            max_rank = 4 * self.n_components if isinstance(self.n_components, int) else 256
            self.held = _joined(engine.Incremental(max_rank, device=self.device), self.held, batch, merged)
        return self

    def solve(self) -> Self:
        """What the rows so far amount to; more may follow."""
        assert self.held is not None
        return self._take(self.held.subspace(as_rule(self.n_components)))


def _joined(new: Any, held: Any, batch: ArrayLike, merged: str) -> Any:
    """`held`, or `new` in its place, with the batch put in or merged in."""
    put = "update" if isinstance(new, engine.Moments) else "partial_fit"
    if held is not None and merged:
        return held.merge(getattr(new, put)(batch))
    return getattr(new if held is None else held, put)(batch)


@dataclass(frozen=True)
class SVD:
    """M ≈ (u · s) @ vt, with (n, k), (k,) and (k, width)."""

    u: Matrix
    s: Matrix
    vt: Matrix

    def product(self) -> Matrix:
        return np.asarray((self.u * self.s) @ self.vt)


def engine_svd(
    m: Any, k: int, *, method: str = "auto", transpose: bool = False, device: str = "cpu", seed: int = 0
) -> SVD:
    """`randomized_svd`'s question: the k leading singular triples of M itself, nothing subtracted.

    The side that the engine does not return follows from the other: U = M·Vᵀ/σ.
    """
    rows = m.T if transpose else m
    sub = engine.fit(rows, k, center="none", device=device, method=method, seed=seed)
    s = sub.singular_values[:k]
    other = sub.transform(rows) / s
    return SVD(sub.components.T, s, other.T) if transpose else SVD(other, s, sub.components)


def as_rule(n_components: int | float | None) -> Any:
    """What `engine.fit` calls the same thing: a share of variance is "ev:…", None everything there is."""
    if n_components is None:
        return Everything()
    return f"ev:{n_components!r}" if isinstance(n_components, float) else n_components


def positive(components: Matrix) -> Matrix:
    """Each row with its entry of largest magnitude positive, the sign both libraries choose."""
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
    return np.asarray(components * np.where(largest < 0, -1.0, 1.0))

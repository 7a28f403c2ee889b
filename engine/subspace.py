"""The result for one matrix: mean, components, the whole spectrum, and how they were found."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from engine import array_file
from engine.rank.choice import RankChoice
from engine.spectrum import Spectrum
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


CENTERS = ("feature", "none")
KIND = "subspace"
_ARRAYS = ("mean", "components", "singular_values")
_FACTS = (
    "total_variance",
    "n_rows",
    "n_adapters",
    "center",
    "method",
    "exact",
    "floor",
    "n_zero_variance_columns",
    "passes",
    "source",
)
# Facts that older files do not have.
_LATER = ("spectrum", "eigenvalue_error", "sigma_error", "noise", "noise_from", "products", "note", "following")


@dataclass(frozen=True, slots=True, eq=False)
class Subspace:
    """Principal subspace of a matrix of rows. The names are scikit-learn's where they mean the same.

    Attributes
    ----------
    mean : (width,) float64, mean of the rows, also when it is not subtracted: see `offset`.
    components : (K, width) float64, orthonormal rows, by falling singular value; the entry of largest
        magnitude in each is positive. K may be 0.
    singular_values : all min(n_rows, width) of them, descending, numerical nulls as 0; where `spectrum` is "top"
        only the largest.
    total_variance : Σ of all explained variances, from the exact trace.
    n_rows, n_adapters : rows of the matrix, and adapters they come from.
    center : "feature": the mean was subtracted; "none": nothing was.
    k_choice : the rule that set K, and why. Where the rule declined (`k_choice.k` is None), K is 0.
    choices : what other rules would have said, by name, `k_choice` among them.
    method : name in `engine.methods.METHODS`, such as "moments" (eigenproblem of the scatter).
    exact : whether the subspace is the matrix's own up to rounding, rather than an approximation.
    floor : singular values at or below this are reported as 0.
    n_zero_variance_columns : columns that contribute nothing.
    passes : times the rows were read.
    source : digest of the data; "" when unknown.
    settings : the settings of the fit, as JSON values.
    spectrum : "full" or "top".
    eigenvalue_error : how far a λ = σ² may be off, absolute, by the rounding of products and eigensolver.
    sigma_error : for an approximation, how far a singular value may be off, absolute; None where it is exact.
    noise, noise_from : standard deviation of the noise in one entry and by which estimate, where the median is
        not known; None and "" otherwise.
    products : what rows were multiplied in: "float64", or "float32" or "bfloat16" summed in float64.
    note : what the reader should know of how it was found.
    following : where `spectrum` is "top", about the first singular value that is not given, from below; 0 if not known.
    """

    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    singular_values: NDArray[np.float64]
    total_variance: float
    n_rows: int
    n_adapters: int
    center: str
    k_choice: RankChoice
    choices: Mapping[str, RankChoice]
    method: str
    exact: bool
    floor: float
    n_zero_variance_columns: int
    passes: int
    source: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    spectrum: str = "full"
    eigenvalue_error: float = 0.0
    sigma_error: float | None = None
    noise: float | None = None
    noise_from: str = ""
    products: str = "float64"
    note: str = ""
    following: float = 0.0

    @property
    def n_components(self) -> int:
        """K."""
        return len(self.components)

    @property
    def width(self) -> int:
        """Columns of the matrix."""
        return len(self.mean)

    @property
    def offset(self) -> NDArray[np.float64]:
        """What `transform` subtracts and `inverse_transform` adds back: the mean, or zeros if uncentred."""
        return self.mean if self.center == "feature" else np.zeros(self.width)

    @property
    def n_effective(self) -> int:
        """Degrees of freedom: n_rows − 1 when centred, n_rows when not."""
        return self.n_rows - 1 if self.center == "feature" else self.n_rows

    @property
    def explained_variance(self) -> NDArray[np.float64]:
        """σ²/(n_rows − 1) of every singular value, not only of the K kept."""
        return self.singular_values**2 / max(self.n_rows - 1, 1)

    @property
    def explained_variance_ratio(self) -> NDArray[np.float64]:
        """`explained_variance` as shares of `total_variance`; zeros when there is no variance."""
        if not self.total_variance > 0:
            return np.zeros_like(self.singular_values)
        return self.explained_variance / self.total_variance

    def as_spectrum(self) -> Spectrum:
        """The spectrum, as any rule for K takes it: rules can be asked of a stored result."""
        return Spectrum(
            singular_values=self.singular_values,
            total_variance=self.total_variance,
            n_rows=self.n_rows,
            width=self.width,
            n_effective=self.n_effective,
            n_zero_variance_columns=self.n_zero_variance_columns,
            floor=self.floor,
            method=self.method,
            kind=self.spectrum,
            eigenvalue_error=self.eigenvalue_error,
            noise=self.noise,
            noise_from=self.noise_from,
            following=self.following,
        )

    def transform(self, x: ArrayLike) -> NDArray[np.float64]:
        """Coefficients (X − offset)·Vᵀ: (n, width) → (n, K), or (width,) → (K,), float64."""
        rows = self._checked(x, self.width, "transform", "columns")
        return np.asarray((rows - self.offset) @ self.components.T)

    def inverse_transform(self, coefficients: ArrayLike) -> NDArray[np.float64]:
        """Rows offset + C·V: (n, K) → (n, width), or (K,) → (width,), float64."""
        c = self._checked(coefficients, self.n_components, "inverse_transform", "coefficients")
        return np.asarray(c @ self.components + self.offset)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one .safetensors file in one atomic step: float64 arrays, the rest as JSON metadata."""
        facts = {name: getattr(self, name) for name in _FACTS + _LATER}
        facts |= {
            "settings": dict(self.settings),
            "k_choice": asdict(self.k_choice),
            "choices": {name: asdict(choice) for name, choice in self.choices.items()},
        }
        array_file.write(path, KIND, {name: getattr(self, name) for name in _ARRAYS}, facts)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Subspace:
        """Read what `save` wrote.

        Raises
        ------
        EigenzooError
            When the file is missing, truncated, or not a subspace.
        """
        arrays, facts = array_file.read(path, KIND)
        try:
            fields: dict[str, Any] = {name: arrays[name] for name in _ARRAYS}
            fields |= {name: facts[name] for name in _FACTS}
            fields |= {name: facts[name] for name in _LATER if name in facts}
            return Subspace(
                **fields,
                k_choice=RankChoice(**facts["k_choice"]),
                choices={name: RankChoice(**choice) for name, choice in facts["choices"].items()},
                settings=facts["settings"],
            )
        except (KeyError, TypeError) as problem:
            raise array_file.foreign(path, KIND) from problem

    def plot(self) -> Any:
        """Scree plot and cumulative variance, with the rules' thresholds and K: an altair.HConcatChart.

        Raises
        ------
        EigenzooError
            If altair is missing.
        """
        from engine.plots import both

        return both(self)

    def _repr_html_(self) -> str:
        from engine.html import subspace_html

        return subspace_html(self)

    def __repr__(self) -> str:
        return (
            f"Subspace(K={self.n_components} of {self.n_rows} × {self.width}, rule={self.k_choice.rule!r}, "
            f"method={self.method!r}, exact={self.exact})"
        )

    def _checked(self, x: ArrayLike, wanted: int, verb: str, what: str) -> NDArray[np.float64]:
        array = np.asarray(x)
        if array.ndim not in (1, 2) or array.shape[-1] != wanted:
            raise EigenzooError(f"{verb}: got shape {array.shape}; the last dimension is {wanted} {what}")
        return array.astype(np.float64)

"""Moments for callers: rows come, go and are merged, and a subspace can be had at any time."""

from __future__ import annotations

import hashlib
import math
import os
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from engine import array_file
from engine.backends import choose, get_backend
from engine.backends.protocol import PRODUCTS
from engine.fitting import fit_reduction
from engine.kept import held as holding
from engine.kept import state_file
from engine.methods import Wanted, method_named
from engine.rank.estimate import Estimate
from engine.rank.quadrature import lanczos_quantile
from engine.rows import as_rows
from engine.runners.serial import SerialRunner
from engine.spectrum import filled_shape
from engine.subspace import CENTERS
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.kept.held import Held
    from engine.rank.choice import RankRule
    from engine.reductions.moments import Moments as Reduction
    from engine.rows import RowSource
    from engine.subspace import Subspace

_SEEN_BITS = 128


class Moments:
    r"""Count, mean and scatter of the rows seen so far: exact, in O(width²) bytes however many rows there were.

    Parameters
    ----------
    width : int, optional
        Columns; by default those of the first rows.
    device : str
        "auto", "cpu", "torch" or "cuda".
    products : str
        "auto", or "float64" to have 16-bit rows multiplied in float64 too.

    Notes
    -----
    Whatever the order, the blocks and the merges, the same rows give the same moments up to rounding. Rows taken out
    are as if never put in, up to `error_bound`: rounding is relative to the largest scatter ever held. Every method
    that changes the moments either does so wholly or raises and leaves them as they were.

    Cost: `update` O(n_rows · width²) time and a second scatter; `merge`, `subtract` of moments and `save` O(width²);
    `subspace` O(width³).

    Examples
    --------
    >>> import numpy as np
    >>> rows = np.random.default_rng(0).standard_normal((300, 8))
    >>> moments = Moments().update(rows[:200]).update(rows[200:])
    >>> moments.n_rows, moments.subtract(rows[:100]).n_rows
    (300, 200)
    """

    def __init__(self, width: int | None = None, *, device: str = "auto", products: str = "auto") -> None:
        if width is not None and width < 1:
            raise EigenzooError(f"width: got {width}; at least one column is needed")
        if products not in ("auto", *PRODUCTS):
            raise EigenzooError(f"products: got {products!r}; choose auto, {', '.join(PRODUCTS)}")
        self._width = width
        self._device = choose(device)
        self._products = products
        self._dtype = "float64"  # of the rows whose products were the least precise
        self._held: Held | None = None
        self._n_adapters = 0
        self._seen: int | None = 0

    @property
    def width(self) -> int | None:
        """Columns; None until they are known."""
        return self._width

    @property
    def n_rows(self) -> int:
        """Rows held."""
        return self._held.state.n if self._held else 0

    @property
    def n_adapters(self) -> int:
        """Adapters that the rows come from, by the sources' `offsets`; an array counts as one."""
        return self._n_adapters

    @property
    def mean(self) -> NDArray[np.float64]:
        """(width,), of the rows held."""
        return np.array(self._backend.to_host(self._some.state.mean))

    @property
    def variance(self) -> NDArray[np.float64]:
        """(width,), Σ(x − mean)²/(n_rows − 1) of every column."""
        squares = np.maximum(self._backend.diagonal(self._some.state.scatter), 0.0)
        return np.asarray(squares / max(self.n_rows - 1, 1))

    @property
    def total_variance(self) -> float:
        """Sum of `variance`: what all explained variances come to."""
        return float(self.variance.sum())

    def covariance(self) -> NDArray[np.float64]:
        """(width, width), Σ(x − mean)ᵀ(x − mean)/(n_rows − 1), as a new array."""
        lower = np.tril(self._backend.to_host(self._some.state.scatter))
        lower /= max(self.n_rows - 1, 1)
        return np.asarray(lower + np.tril(lower, -1).T)

    @property
    def source(self) -> str:
        """A digest of the sources seen, whatever their order; "" where one of them had no identity."""
        return "" if self._seen is None or not self.n_rows else f"{self._seen:032x}"

    @property
    def error_bound(self) -> float:
        """How far rounding may have moved the scatter (Frobenius norm), as a share of its trace."""
        return self._held.share(self._backend) if self._held else 0.0

    @property
    def rebuild_reason(self) -> str:
        """Why the rows that are left should be put into new moments; "" where they need not."""
        return self._held.rebuild_reason(self._backend) if self._held else ""

    @property
    def needs_rebuild(self) -> bool:
        """Whether what was taken out left more rounding than a fresh start would have (see `rebuild_reason`)."""
        return bool(self.rebuild_reason)

    def update(self, rows: Any) -> Self:
        """Put rows in.

        Parameters
        ----------
        rows : (n, width) array as `engine.fit` takes it, or a `RowSource`, read block by block.

        Raises
        ------
        EigenzooError
            For another width, or NaN or Inf among the rows.
        """
        source = as_rows(rows)
        more = self._of(source)
        self._merge(more, len(source.offsets) - 1, _seen(source), source.dtype.name)
        return self

    def merge(self, other: Moments) -> Self:
        """Put in all rows that `other` holds; it stays as it is.

        Raises
        ------
        EigenzooError
            For another width.
        """
        if not isinstance(other, Moments):
            raise EigenzooError(f"merge: got {type(other).__name__}; give Moments, or put rows in by update")
        if other._held is not None and other._width is not None:
            self._check_width(other._width)
            self._merge(self._here(other), other._n_adapters, other._seen, other._dtype)
        return self

    def subtract(self, other: Any) -> Self:
        """Take rows out that were put in before, given again or as moments; these stay as they are.

        Parameters
        ----------
        other : Moments, array or RowSource

        Raises
        ------
        EigenzooError
            If no row would be left, or the rows cannot have been among those held: a column would get a negative
            variance. Other strangers go unnoticed.
        """
        if isinstance(other, Moments):
            if other._held is None or other._width is None:
                return self
            self._check_width(other._width)
            less, adapters, seen = self._here(other), other._n_adapters, other._seen
        else:
            source = as_rows(other)
            less, adapters, seen = self._of(source), len(source.offsets) - 1, _seen(source)
        self._held = holding.subtract(self._reduction(), self._some, less)
        self._n_adapters = max(1, self._n_adapters - adapters)
        self._seen = _added(self._seen, None if seen is None else -seen)
        return self

    def copy(self) -> Moments:
        """The same moments, which change apart from these."""
        new = Moments(self._width, device=self._device, products=self._products)
        return new.merge(self)

    def subspace(self, k: str | int | RankRule = "gavish-donoho", *, center: str = "feature") -> Subspace:
        """The subspace of the rows held, as `engine.fit` would find it. The moments stay, and can go on.

        Parameters
        ----------
        k : rule for the number of components, see `engine.fit`.
        center : "feature" or "none".

        Raises
        ------
        EigenzooError
            If there are no rows, or for a rule or K that cannot be had.

        Notes
        -----
        No second look at the rows is possible: components below the floor are as the scatter has them.
        """
        reduction = self._reduction()
        held = holding.copy(reduction, self._some)
        rows = _Gone((self.n_rows, reduction.width), self._dtype, self._n_adapters, self.source)
        fit = fit_reduction(
            rows, k, center=center, device=self._device, method="moments", refine=False, products=self._multiplied
        )
        result: Any = holding.finish(fit, held)
        found: Subspace = result
        return found

    def median_singular_value(
        self, *, center: str = "feature", n_probes: int = 16, n_steps: int = 100, seed: int = 0
    ) -> Estimate:
        """The median of the singular values that noise could fill, without an eigenproblem.

        Parameters
        ----------
        center : "feature" or "none".
        n_probes, n_steps, seed : of the stochastic Lanczos quadrature, see `engine.rank.quadrature.lanczos_median`.

        Returns
        -------
        Estimate
            Of the median of the min(n − 1, width) singular values of the centred rows (n if not centred), columns
            without variance left out, as Gavish and Donoho's threshold takes it; with its error.

        Raises
        ------
        EigenzooError
            If there are no rows, or nothing that noise could fill.

        Notes
        -----
        One copy of the scatter, and O(n_probes · n_steps · width²) time in products of n_probes columns; all values
        take O(width³).
        """
        if center not in CENTERS:
            raise EigenzooError(f"center: got {center!r}; choose {' or '.join(CENTERS)}")
        reduction, b, centred = self._reduction(), self._backend, center == "feature"
        state = holding.copy(reduction, self._some).state
        mean, matrix = b.to_host(state.mean), state.scatter if centred else reduction.gram(state)
        degrees, columns = filled_shape(state, b.diagonal(matrix), mean, centred=centred)
        filled = min(degrees, columns)
        if filled < 1:
            raise EigenzooError(f"median: {state.n} rows of {columns} columns that vary leave no noise to measure")
        b.mirror(matrix)
        # Of all eigenvalues, as many as cannot be filled are 0 and lie below the median of the others.
        share = (len(mean) - filled / 2) / len(mean)
        found = lanczos_quantile(
            lambda x: b.to_host(b.matmul(matrix, b.matrix(x))),
            len(mean),
            share,
            n_probes=n_probes,
            n_steps=n_steps,
            seed=seed,
        )
        value = math.sqrt(max(found.value, 0.0))
        return Estimate(value, found.error / (2 * value) if value > 0 else math.sqrt(found.error))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one .safetensors file in one atomic step: 4 · width · (width + 1) bytes and a little."""
        seen = None if self._seen is None else f"{self._seen:x}"
        facts = {
            "n_adapters": self._n_adapters,
            "dtype": self._dtype,
            "products": self._reduction().products,
            "wanted": self._products,
            "seen": seen,
        }
        state_file.save(path, self._some, self._backend, facts)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: str = "auto") -> Self:
        """Read what `save` wrote, or a state that a run keeps.

        Raises
        ------
        EigenzooError
            When the file is missing, truncated, or holds no moments.
        """
        name = choose(device)
        held, facts = state_file.load(path, get_backend(name))
        try:
            new = cls(len(held.error), device=name, products=facts["wanted"])
            new._held, new._dtype = held, str(facts["dtype"])
            new._n_adapters = int(facts["n_adapters"])
            new._seen = None if facts["seen"] is None else int(facts["seen"], 16)
        except (KeyError, TypeError, ValueError) as problem:
            raise array_file.foreign(path, state_file.KIND) from problem
        return new

    def __repr__(self) -> str:
        return f"Moments({self.n_rows} × {self._width}, device={self._device!r})"

    @property
    def _backend(self) -> Any:
        return get_backend(self._device)

    @property
    def _some(self) -> Held:
        if self._held is None:
            raise EigenzooError("moments of no rows; update them with some first")
        return self._held

    @property
    def _multiplied(self) -> str:
        """What is asked of a solver of the rows held; where coarse products went in, its spectrum is to say so."""
        return "auto" if self._held is not None and self._held.state.coarse else self._products

    def _reduction(self, rows: RowSource | None = None) -> Reduction:
        width = self._width or 1
        products = self._products if rows is not None else self._multiplied
        rows = rows or _Gone((max(self.n_rows, 1), width), self._dtype, 1, "")
        solver: Any = method_named("moments").make(rows, self._backend, Wanted(refine=False, products=products))
        reduction: Reduction = solver
        reduction.start()  # loads the library
        return reduction

    def _of(self, rows: RowSource) -> Held:
        self._check_width(rows.shape[1])
        reduction = self._reduction(rows)
        return holding.hold(reduction, SerialRunner().run(reduction, rows))

    def _check_width(self, width: int) -> None:
        if self._width is not None and width != self._width:
            raise EigenzooError(f"rows: width {width}, these moments have {self._width} columns; give rows of that")

    def _merge(self, more: Held, adapters: int, seen: int | None, dtype: str) -> None:
        if self._width is None:
            self._width = len(more.error)
        if self._held is None or more.unit > self._held.unit:
            self._dtype = dtype
        reduction = self._reduction()
        # What a pass has just made is taken over; what belongs to others has been copied.
        self._held = more if self._held is None else holding.merge(reduction, self._held, more)
        self._n_adapters += adapters
        self._seen = _added(self._seen, seen)

    def _here(self, other: Moments) -> Held:
        """A copy of the other's state on this device."""
        if other._device == self._device:
            return holding.copy(other._reduction(), other._some)
        theirs, mine = other._backend, self._backend
        return state_file.moved(other._some, theirs, mine)


class _Gone:
    """Rows that have been read and are no more: their shape and dtype."""

    def __init__(self, shape: tuple[int, int], dtype: str, n_adapters: int, identity: str) -> None:
        import ml_dtypes

        self.shape = shape
        self.dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        self.offsets: NDArray[np.int64] = np.linspace(0, shape[0], n_adapters + 1).astype(np.int64)
        self.block_rows = shape[0]
        self.identity = identity

    def read(self, start: int, stop: int) -> NDArray[Any]:
        raise EigenzooError("rows of a stream cannot be read again; fit them from their store")


def _seen(rows: RowSource) -> int | None:
    if not rows.identity:
        return None
    return int.from_bytes(hashlib.sha256(rows.identity.encode()).digest()[: _SEEN_BITS // 8], "little")


def _added(left: int | None, right: int | None) -> int | None:
    return None if left is None or right is None else (left + right) % 2**_SEEN_BITS

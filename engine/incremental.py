"""A subspace of rows that come in parts, in O(max_rank · width) bytes: approximate, with a rigorous bound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from engine.backends import choose, get_backend
from engine.fit_reduction import Fit
from engine.rank import parse_rule
from engine.rank.fixed import Fixed
from engine.reductions.centring import Centre
from engine.reductions.incremental import KeptRows
from engine.rows import as_rows
from engine.runners.partition import read_rows
from engine.solvers.incremental import RANKS, MergeTruncateSolver
from engine.subspace import CENTERS
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from engine.backends.protocol import Backend
    from engine.rank.choice import RankRule
    from engine.subspace import Subspace

_MAX_RANK = 256


class Incremental:
    r"""Rows merged and truncated as they come (Himpe, Leibner and Rave 2018); see `engine.reductions.incremental`.

    Parameters
    ----------
    max_rank : int
        Rows that stand for all rows; four times the components wanted is a good number. More cost more and leave
        out less.
    device : str
        "auto", "cpu", "torch" or "cuda".

    Notes
    -----
    Exact while three times the rows that came are no more than max_rank, or when max_rank is at least the width; then
    `engine.Moments` is the better choice, though, as wherever a scatter of 8 · width² bytes fits. Where rows were left
    out, `Subspace.sigma_error` bounds what that did to the singular values. The mean, the total variance and columns
    without variance are exact. Results depend on the order of the rows, within the bound.

    Cost: `partial_fit` O(n_rows · width · max_rank) time; `merge` and `subspace` O(width · max_rank²).

    Examples
    --------
    >>> import numpy as np
    >>> rows = np.random.default_rng(0).standard_normal((300, 8))
    >>> first, second = Incremental(4).partial_fit(rows[:200]), Incremental(4).partial_fit(rows[200:])
    >>> first.merge(second).n_rows
    300
    """

    def __init__(self, max_rank: int = _MAX_RANK, *, device: str = "auto") -> None:
        if max_rank < 1:
            raise EigenzooError(f"max_rank: got {max_rank}; at least one row must be kept")
        self._max_rank = max_rank
        self._device = choose(device)
        self._state: KeptRows | None = None
        self._width = 0
        self._n_adapters = 0

    @property
    def n_rows(self) -> int:
        """Rows seen."""
        return self._state.centre.n if self._state else 0

    @property
    def n_adapters(self) -> int:
        """Adapters that the rows come from, by the sources' `offsets`; an array counts as one."""
        return self._n_adapters

    def partial_fit(self, rows: Any) -> Self:
        """Put rows in.

        Parameters
        ----------
        rows : (n, width) array as `engine.fit` takes it, or a `RowSource`, read block by block.

        Raises
        ------
        EigenzooError
            For another width, or NaN or Inf among the rows; nothing was put in then.
        """
        source = as_rows(rows)
        n, width = source.shape
        self._check_width(width)
        solver = self._solver(width, 1)
        state, step = self._state or solver.start(), read_rows(source.block_rows, width, source.dtype.itemsize)
        for first in range(0, n, step):
            state = solver.step(state, source.read(first, min(first + step, n)))
        self._take(state, width, len(source.offsets) - 1)
        return self

    def merge(self, other: Incremental) -> Self:
        """Put in what `other` has seen; it stays as it is.

        Raises
        ------
        EigenzooError
            For another width.
        """
        if not isinstance(other, Incremental):
            raise EigenzooError(
                f"merge: got {type(other).__name__}; give an Incremental, or put rows in by partial_fit"
            )
        if other._state is None:
            return self
        self._check_width(other._width)
        solver = self._solver(other._width, 1)
        mine = self._state or solver.start()
        self._take(solver.combine(mine, self._here(other, other._state)), other._width, other._n_adapters)
        return self

    def subspace(self, k: str | int | RankRule = "gavish-donoho", *, center: str = "feature") -> Subspace:
        """The subspace of the rows seen; more can still come.

        Parameters
        ----------
        k : rule for the number of components, see `engine.fit`. A rule may choose up to max_rank/4 of them, a number
            may be as large as max_rank.
        center : "feature" or "none".

        Raises
        ------
        EigenzooError
            If there are no rows, or for a rule or K that cannot be had.
        """
        if self._state is None:
            raise EigenzooError("a subspace of no rows; put some in with partial_fit first")
        if center not in CENTERS:
            raise EigenzooError(f"center: got {center!r}; choose {' or '.join(CENTERS)}")
        rule = parse_rule(k)
        if isinstance(rule, Fixed) and rule.k > self._max_rank:
            raise EigenzooError(f"k: {rule.k} components asked of {self._max_rank} rows kept; raise max_rank")
        known = rule.k if isinstance(rule, Fixed) else self._max_rank // RANKS
        settings = {"k": rule.name, "center": center, "device": self._device, "max_rank": self._max_rank}
        fit = Fit(self._solver(self._width, max(1, known)), rule, center, self._n_adapters, "", settings)
        found: Any = fit.finish(self._state)
        subspace: Subspace = found
        return subspace

    def __repr__(self) -> str:
        return f"Incremental({self.n_rows} × {self._width}, max_rank={self._max_rank}, device={self._device!r})"

    @property
    def _backend(self) -> Backend:
        return get_backend(self._device)

    def _solver(self, width: int, known: int) -> MergeTruncateSolver:
        return MergeTruncateSolver(width, self._backend, min(self._max_rank, width), min(known, width))

    def _check_width(self, width: int) -> None:
        if self._state is not None and width != self._width:
            raise EigenzooError(f"rows: width {width}, those seen have {self._width} columns; give rows of that")

    def _take(self, state: KeptRows, width: int, n_adapters: int) -> None:
        self._state, self._width = state, width
        self._n_adapters += n_adapters

    def _here(self, other: Incremental, state: KeptRows) -> KeptRows:
        """The other's state on this device; states are never changed in place, so it may be the same."""
        if other._device == self._device:
            return state
        theirs, mine = other._backend, self._backend

        def moved(row: Any) -> Any:
            return mine.matrix(theirs.to_host(row)[None])[0]

        centre = Centre(state.centre.n, moved(state.centre.mean))
        rows = mine.matrix(theirs.to_host(state.rows))
        return KeptRows(centre, rows, moved(state.squares), state.dropped, state.truncations)

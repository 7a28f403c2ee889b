r"""Parallel analysis: singular values against those of the same noise without any signal.

J. L. Horn (1965) compared them with those of shuffled data. Two nulls are drawn here.

*Sign flips*, D. Hong, Y. Sheng and E. Dobriban, "Selecting the number of components in PCA via random signflips" (2020,
arXiv 2012.02985): every entry of X − mean is given a random sign, which leaves entries' sizes where they are, and with
them noise levels that vary by adapter, row or column, and destroys what is low-rank. Values above the largest singular
value of the flipped matrices count (their "upper-edge" comparison). Entries of the noise must be independent and
symmetric: correlation along a row is destroyed as signal is, and counted.

*The known start*: matrices drawn from the random start that the adapters' configurations name, with each adapter's own
level. Drawn, rather than taken from the law of Tracy and Widom, because that has one level for all rows; where there is
one, `bulk-edge` with that level is the same rule at no cost. Entries are drawn normal: the edge depends on their
variance alone (Péché 2009).

A draw is a matrix of rows like any other: a `RowSource` whose signs or entries depend on (seed, draw, global row)
alone, so blocks and runners do not matter. Only its largest singular value leaves a worker.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.backends import choose, get_backend
from engine.eigen import SMALLEST
from engine.fitting import fit_reduction
from engine.memory import dual_task_bytes, moments_task_bytes
from engine.rank.choice import RankChoice
from engine.rank.needs_rows import DRAWS, NULLS, Parallel
from engine.reductions.dual import Dual
from engine.reductions.moments import Moments
from engine.rows import as_rows
from engine.runners.serial import SerialRunner
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    from engine.backends.protocol import Backend
    from engine.reductions.protocol import Reduction
    from engine.rows import RowSource
    from engine.runners.protocol import Runner
    from engine.subspace import Subspace

_LOT = 64  # rows that are drawn at once, from one generator


def parallel_analysis(
    rows: Any,
    *,
    n_draws: int = DRAWS,
    quantile: float = 1.0,
    seed: int = 0,
    center: str = "feature",
    null: str = "flip",
    levels: ArrayLike | None = None,
    subspace: Subspace | None = None,
    runner: Runner | None = None,
    device: str = "auto",
) -> RankChoice:
    """How many singular values rise above those of matrices that hold the noise alone.

    Parameters
    ----------
    rows : (n_rows, width) array as `engine.fit` takes it, or a `RowSource`.
    n_draws : matrices drawn.
    quantile : of their largest singular values; 1 takes the largest, so that noise alone passes in one matrix of
        n_draws + 1.
    seed : of the draws.
    center : "feature" subtracts the mean row, before signs are flipped; "none" nothing.
    null : "flip": random signs; "init": draws of a known random start.
    levels : of "init": standard deviation of an entry, one for all or one for every row (n_rows,).
    subspace : of these rows with this centring, where there is one: its mean and singular values are not sought again.
    runner : who executes; by default this process.
    device : see `engine.fit`.

    Returns
    -------
    RankChoice
        `k` is how many of the leading singular values exceed the threshold, one after the other.

    Raises
    ------
    EigenzooError
        For settings that cannot be had, and for rows with NaN or Inf.

    Notes
    -----
    One pass for the rows' own spectrum without `subspace`, and one for each draw, of O(n_rows · width · min(n_rows,
    width)) time and the memory of a fit in float64.
    """
    source = as_rows(rows)
    _check(n_draws, quantile, center, null)
    runner, device = runner or SerialRunner(), choose(device)
    if subspace is None:
        subspace = runner.run(_fit(source, center, device), source)
    elif subspace.center != center or subspace.width != source.shape[1] or subspace.n_rows != source.shape[0]:
        raise EigenzooError(f"parallel: the subspace is not one of these rows with center {center!r}; leave it out")
    name = Parallel(null, n_draws).name
    if not subspace.singular_values[0] > 0:
        return RankChoice(None, None, name, "no variance: all rows are equal")
    drawn = _drawn(source, n_draws, seed, null, levels, subspace)
    # Flipped rows are about zero already; what is drawn has to lose its mean as the rows did.
    centring = center if null == "init" else "none"
    work = ((f"draw {i}", _largest(each, centring, device), each) for i, each in enumerate(drawn))
    largest = [value for _, value in runner.run_many(work)]
    threshold = float(np.quantile(largest, quantile))
    above = subspace.singular_values > threshold
    k = len(above) if above.all() else int(np.argmin(above))
    capped = f"all {k} singular values known lie above, so K may be larger" if _capped(subspace, k) else ""
    return RankChoice(k, threshold, name, capped)


@dataclass(frozen=True, slots=True)
class LargestValue:
    """A `Reduction` from rows to their largest singular value.

    Values alone are sought: noise's largest has others close below, from which no vector of it comes apart quickly.
    From `SMALLEST` on in float32, which may be off by 5e-5 of its square (`engine.eigen.FLOAT32_ERROR`).

    Attributes
    ----------
    matrix : the moments, or where rows are fewer than columns their Gram.
    centred : whether the mean is subtracted.
    """

    matrix: Moments | Dual
    centred: bool

    @property
    def backend(self) -> Backend:
        """Who computes."""
        return self.matrix.backend

    def start(self) -> Any:
        return self.matrix.start()

    def step(self, state: Any, block: NDArray[Any], /) -> Any:
        return self.matrix.step(state, block)

    def combine(self, left: Any, right: Any) -> Any:
        return self.matrix.combine(left, right)

    def finish(self, state: Any) -> float:
        b, state = self.backend, self.matrix.finish(state)
        if isinstance(self.matrix, Dual):
            gram = self.matrix.gram(state, centred=self.centred)[0]
        else:
            gram = state.scatter if self.centred else self.matrix.gram(state)
        size = float(b.diagonal(gram).max())
        if not size > 0:
            return 0.0
        gram /= size  # float32 has no room for squares of large or small rows
        b.mirror(gram)
        values = b.eigenvalues(gram, "float64" if len(b.diagonal(gram)) < SMALLEST else "float32")
        return math.sqrt(size) * math.sqrt(max(float(values[0]), 0.0))


@dataclass(frozen=True, slots=True, eq=False)
class FlippedRows:
    """Rows less `offset`, every entry with a random sign; float64. As `engine.rows.RowSource`.

    Attributes
    ----------
    rows : whose signs are flipped.
    offset : (width,), subtracted first.
    seed, draw : what signs depend on, beside the row's number.
    """

    rows: RowSource
    offset: NDArray[np.float64]
    seed: int
    draw: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float64)

    @property
    def offsets(self) -> NDArray[np.int64]:
        return self.rows.offsets

    @property
    def block_rows(self) -> int:
        return self.rows.block_rows

    @property
    def identity(self) -> str:
        return ""

    @property
    def read_bytes(self) -> int:
        """Bytes that a read holds beside its result: the rows as stored, and what their own read does."""
        stored = self.rows.block_rows * self.shape[1] * self.rows.dtype.itemsize
        return stored + int(getattr(self.rows, "read_bytes", 0))

    @property
    def in_memory(self) -> bool:
        """Whether the rows travel inside this object."""
        return bool(getattr(self.rows, "in_memory", False))

    @property
    def location(self) -> str:
        """Where the rows are, in words for a message."""
        return str(getattr(self.rows, "location", ""))

    def read(self, start: int, stop: int) -> NDArray[np.float64]:
        block = self.rows.read(start, stop).astype(np.float64)
        block -= self.offset
        for lot, rng, part in _lots(self.seed, self.draw, start, stop):
            width = self.shape[1]
            bits = np.frombuffer(rng.bytes(-(-_LOT * width // 8)), np.uint8)
            signs = np.unpackbits(bits, count=_LOT * width).reshape(_LOT, width)[part]
            block[lot] *= 1.0 - 2.0 * signs
        return block


@dataclass(frozen=True, slots=True, eq=False)
class DrawnRows:
    """Normal rows of given levels; float64. As `engine.rows.RowSource`.

    Attributes
    ----------
    shape : (n_rows, width).
    levels : (n_rows,) standard deviations.
    offsets, block_rows : as those of the rows that these stand for.
    seed, draw : what entries depend on, beside the row's number.
    """

    shape: tuple[int, int]
    levels: NDArray[np.float64]
    offsets: NDArray[np.int64]
    block_rows: int
    seed: int
    draw: int

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float64)

    @property
    def identity(self) -> str:
        return ""

    def read(self, start: int, stop: int) -> NDArray[np.float64]:
        block = np.empty((stop - start, self.shape[1]))
        for lot, rng, part in _lots(self.seed, self.draw, start, stop):
            block[lot] = rng.standard_normal((_LOT, self.shape[1]))[part]
        block *= self.levels[start:stop, None]
        return block


def _lots(seed: int, draw: int, start: int, stop: int) -> Iterator[tuple[slice, np.random.Generator, slice]]:
    """The lots that rows start … stop − 1 lie in: where in the block, the lot's generator, which of its rows."""
    for lot in range(start // _LOT, -(-stop // _LOT)):
        first, last = max(start, lot * _LOT), min(stop, (lot + 1) * _LOT)
        rng = np.random.default_rng((seed, draw, lot))
        yield slice(first - start, last - start), rng, slice(first - lot * _LOT, last - lot * _LOT)


def _drawn(
    rows: RowSource, n_draws: int, seed: int, null: str, levels: ArrayLike | None, subspace: Subspace
) -> Iterator[RowSource]:
    if null == "flip":
        return (FlippedRows(rows, subspace.offset, seed, draw) for draw in range(n_draws))
    if levels is None:
        raise EigenzooError("parallel: null 'init' needs the levels of the random start; give levels")
    sigma = np.asarray(levels, dtype=np.float64)
    if sigma.shape not in ((), (rows.shape[0],)) or not (np.isfinite(sigma).all() and (sigma > 0).all()):
        raise EigenzooError(f"parallel: levels of shape {sigma.shape}; give a number above 0, or one for every row")
    sigma = np.broadcast_to(sigma, rows.shape[:1]).copy()
    return (DrawnRows(rows.shape, sigma, rows.offsets, rows.block_rows, seed, draw) for draw in range(n_draws))


def draw_bytes(n_rows: int, width: int, block_rows: int, device: str = "auto") -> int:
    """Peak of a draw's task, in bytes: that of a fit of float64 rows by their values alone."""
    if n_rows < width:
        return dual_task_bytes(n_rows, width, 8, 0)
    return moments_task_bytes(n_rows, width, block_rows, 8, device=choose(device), components=0)


def _fit(rows: RowSource, center: str, device: str) -> Reduction[Any, Subspace]:
    method = "dual" if rows.shape[0] < rows.shape[1] else "moments"
    return fit_reduction(rows, 0, center=center, device=device, method=method, refine=False)


def _largest(rows: RowSource, center: str, device: str) -> Reduction[Any, float]:
    backend, width = get_backend(device), rows.shape[1]
    matrix: Moments | Dual = Dual(width, backend) if rows.shape[0] < width else Moments(width, backend)
    return LargestValue(matrix, center == "feature")


def _capped(subspace: Subspace, k: int) -> bool:
    return k == len(subspace.singular_values) < min(subspace.n_effective, subspace.width)


def _check(n_draws: int, quantile: float, center: str, null: str) -> None:
    if n_draws < 1:
        raise EigenzooError(f"parallel: got {n_draws} draws; give at least 1")
    if not 0 <= quantile <= 1:
        raise EigenzooError(f"parallel: the quantile must lie between 0 and 1, got {quantile}")
    if null not in NULLS:
        raise EigenzooError(f"parallel: got null {null!r}; choose {' or '.join(NULLS)}")
    if center not in ("feature", "none"):
        raise EigenzooError(f"parallel: got center {center!r}; choose feature or none")

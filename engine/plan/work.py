"""What every method does to a matrix, in plain integers: values read, operations by kind, bytes that move.

Operations are multiply-adds counted as two, of products of which one triangle is made counted as one: n · d² for the
scatter of n rows. An eigenproblem is counted by its kind and order, because its time is not a number of operations
over a rate (see `engine.plan.rates`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.eigen import BLOCK, FEW_STEPS, SMALLEST, STEPS
from engine.reductions.incremental import stacked_rows
from engine.runners.partition import partition
from engine.solvers.incremental import begin_rank
from engine.solvers.randomized import MAX_PASSES, MIN_PASSES, block_columns

if TYPE_CHECKING:
    from engine.methods import Wanted
    from engine.plan.matrix import Matrix

WANTED = 32  # components assumed where a rule decides
_F = 8  # bytes of a float64


@dataclass(frozen=True, slots=True)
class Eigenproblem:
    """One of `KINDS` and its order; `times` of them.

    "whole": tridiagonal form, all values, few vectors. "float64", "float32": all values alone. "vectors": all of both.
    """

    kind: str
    order: int
    times: int = 1

    @property
    def flops(self) -> int:
        """4/3 n³ of the reduction, and what vectors cost."""
        return self.times * self.order**3 * (9 if self.kind == "vectors" else 4) // (1 if self.kind == "vectors" else 3)


@dataclass(frozen=True, slots=True)
class Work:
    """What one matrix takes.

    Attributes
    ----------
    passes, most_passes : times the rows are read, at least and at most; the rest counts the most.
    n_ranges : ranges of rows that are folded apart, and may be by different workers.
    values : stored values folded, of all passes.
    products : what rows are multiplied in, one of `engine.backends.protocol.PRODUCTS`.
    fold_gram, fold_thin : operations while rows are read: of products of rows with themselves, and with few vectors.
    fold_eigen : eigenproblems meanwhile.
    solve_gram, solve_thin, solve_eigen : the same, once the rows are read; nobody can share these.
    solve_values : values that pass through memory meanwhile.
    bytes_read : from storage.
    state_bytes : what goes from a worker to another when their ranges are joined.
    sent_bytes : what every worker needs in every pass.
    result_bytes : what comes back.
    """

    passes: int
    most_passes: int
    n_ranges: int
    values: int
    products: str
    fold_gram: int
    fold_thin: int
    solve_gram: int
    solve_thin: int
    solve_values: int
    bytes_read: int
    state_bytes: int
    sent_bytes: int
    result_bytes: int
    fold_eigen: tuple[Eigenproblem, ...] = ()
    solve_eigen: tuple[Eigenproblem, ...] = ()

    @property
    def fold_flops(self) -> int:
        """Operations while rows are read."""
        return self.fold_gram + self.fold_thin + sum(e.flops for e in self.fold_eigen)

    @property
    def solve_flops(self) -> int:
        """Operations once they are."""
        return self.solve_gram + self.solve_thin + sum(e.flops for e in self.solve_eigen)

    def moved_bytes(self, parts: int) -> int:
        """Bytes between workers when the ranges are shared by `parts` of them; 0 for one."""
        parts = min(parts, self.n_ranges)
        return 0 if parts <= 1 else self.most_passes * (parts - 1) * (self.state_bytes + self.sent_bytes)


def work_of(method: str, matrix: Matrix, wanted: Wanted, *, products: str, values_alone: bool) -> Work:
    """The work of a method.

    Parameters
    ----------
    method : name in `engine.methods.METHODS`.
    matrix, wanted : what is solved, and what is asked for.
    products : of the scatter; other methods multiply in float64.
    values_alone : as of the backend.
    """
    if method == "dual":
        return _dual(matrix, wanted)
    if method == "krylov":
        return _krylov(matrix, wanted)
    if method == "randomized":
        return _randomized(matrix, wanted)
    if method == "incremental":
        return _incremental(matrix, wanted)
    if method == "tsqr":
        return _tsqr(matrix)
    return _moments(matrix, wanted, products, values_alone)


def _moments(m: Matrix, wanted: Wanted, products: str, values_alone: bool) -> Work:
    n, d, k = m.n_rows, m.width, _components(m, wanted)
    square = _F * d * d
    state = square + (square // 2 if products != "float64" else 0)
    further = 1 if wanted.refine else 0
    thin, eigen = 2 * d * d * k, Eigenproblem("whole", d)
    if wanted.spectrum == "top" and d >= SMALLEST:
        # A first sweep finds how many there are, a second one all of them.
        return _scatter_work(m, wanted, products, state, k, 2 * _lanczos(d, max(BLOCK, k)), ())
    if values_alone and d >= SMALLEST:
        # The last sweep is of the wanted vectors, where the first did not find as many.
        thin = _lanczos(d, BLOCK) + (_lanczos(d, k) if k > BLOCK // 2 and k <= d // 12 else 0)
        kind = "float32" if products != "float64" else "float64"
        eigen = Eigenproblem(kind if k <= d // 12 else "vectors", d)
    elif values_alone:
        eigen = Eigenproblem("vectors", d)
    if further:
        thin += 2 * n * d * k
    return _scatter_work(m, wanted, products, state, k, thin, (eigen,))


def _scatter_work(
    m: Matrix, wanted: Wanted, products: str, state: int, k: int, thin: int, eigen: tuple[Eigenproblem, ...]
) -> Work:
    passes = 2 if wanted.refine else 1
    return Work(
        passes=passes,
        most_passes=passes,
        n_ranges=len(partition(m.n_rows, m.block_rows, m.width)),
        values=passes * m.n_rows * m.width,
        products=products,
        fold_gram=m.n_rows * m.width**2,
        fold_thin=0,
        solve_gram=0,
        solve_thin=thin,
        solve_values=3 * m.width**2,
        bytes_read=passes * m.nbytes,
        state_bytes=state,
        sent_bytes=0,
        result_bytes=_F * (k + 2) * m.width,
        solve_eigen=eigen,
    )


def _dual(m: Matrix, wanted: Wanted) -> Work:
    n, d, k = m.n_rows, m.width, min(_components(m, wanted), m.n_rows)
    return Work(
        passes=1,
        most_passes=1,
        n_ranges=len(partition(n, m.block_rows, d)),
        values=0,
        products="float64",
        fold_gram=0,
        fold_thin=0,
        solve_gram=n * n * d,
        solve_thin=2 * n * n * k + 2 * n * d * k + 4 * d * k * k,
        solve_values=2 * n * d,
        bytes_read=m.nbytes,
        state_bytes=m.nbytes,
        sent_bytes=0,
        result_bytes=_F * (k + 2) * d,
        solve_eigen=(Eigenproblem("whole", n),),
    )


def _krylov(m: Matrix, wanted: Wanted) -> Work:
    n, d, k = m.n_rows, m.width, _components(m, wanted)
    columns = max(BLOCK, k + max(4, k // 4))
    return Work(
        passes=1,
        most_passes=1,
        n_ranges=len(partition(n, m.block_rows, d)),
        values=0,
        products="float32",
        fold_gram=0,
        fold_thin=0,
        solve_gram=0,
        solve_thin=(2 * FEW_STEPS + 1) * 4 * n * d * columns + 2 * _lanczos(d, columns) // d,
        solve_values=3 * n * d,
        bytes_read=m.nbytes,
        state_bytes=m.nbytes,
        sent_bytes=0,
        result_bytes=_F * (k + 2) * d,
    )


def _randomized(m: Matrix, wanted: Wanted) -> Work:
    n, d = m.n_rows, m.width
    columns = block_columns(n, d, wanted.components)
    basis = [min(d, columns * (i + 1)) for i in range(MAX_PASSES)]
    # Inside and outside the basis, the SVD of what is outside, the next block made orthonormal twice.
    thin = sum(14 * d * b * columns + 20 * d * columns**2 for b in basis)
    return Work(
        passes=MIN_PASSES,
        most_passes=MAX_PASSES,
        n_ranges=len(partition(n, m.block_rows, d)),
        values=MAX_PASSES * n * d,
        products="float64",
        fold_gram=0,
        fold_thin=MAX_PASSES * 4 * n * d * columns,
        solve_gram=0,
        solve_thin=thin,
        solve_values=sum(3 * d * b for b in basis),
        bytes_read=MAX_PASSES * m.nbytes,
        state_bytes=_F * d * (columns + 2),
        sent_bytes=_F * d * basis[-1],
        result_bytes=_F * (columns + 2) * d,
        solve_eigen=tuple(Eigenproblem("vectors", b) for b in basis),
    )


def _incremental(m: Matrix, wanted: Wanted) -> Work:
    n, d = m.n_rows, m.width
    _, kept = begin_rank(d, wanted.components)
    fresh = stacked_rows(d, kept)
    stacks, high = -(-n // fresh), kept + fresh + 1
    return Work(
        passes=1,
        most_passes=1,
        n_ranges=len(partition(n, m.block_rows, d)),
        values=n * d + stacks * high * d,
        products="float64",
        fold_gram=stacks * high * high * d,
        fold_thin=stacks * 2 * high * d * kept,
        solve_gram=0,
        solve_thin=6 * kept * kept * d,
        solve_values=2 * kept * d,
        bytes_read=m.nbytes,
        state_bytes=_F * d * (kept + 2),
        sent_bytes=0,
        result_bytes=_F * (_components(m, wanted) + 2) * d,
        fold_eigen=(Eigenproblem("whole", min(high, n), stacks),),
    )


def _tsqr(m: Matrix) -> Work:
    n, d = m.n_rows, m.width
    return Work(
        passes=1,
        most_passes=1,
        n_ranges=len(partition(n, m.block_rows, d)),
        values=2 * n * d,
        products="float64",
        fold_gram=0,
        fold_thin=2 * n * d * d,
        solve_gram=0,
        solve_thin=0,
        solve_values=3 * d * d,
        bytes_read=m.nbytes,
        state_bytes=_F * d * d,
        sent_bytes=0,
        result_bytes=_F * 2 * d,
        solve_eigen=(Eigenproblem("vectors", d, 2),),  # an SVD with all vectors takes about two
    )


def _components(m: Matrix, wanted: Wanted) -> int:
    k = WANTED if wanted.components is None else wanted.components
    return max(1, min(k, m.n_rows, m.width))


def _lanczos(d: int, block: int) -> int:
    """Operations of one sweep of `engine.eigen.top_pairs`: products, and each block against all before it, twice.

    The latter count six times: narrow products, QR and a small eigenproblem were measured to take as much longer.
    """
    steps = max(2, min(STEPS, d // (2 * block)))
    return 2 * d * d * block * steps + 6 * 4 * d * block * block * steps * steps

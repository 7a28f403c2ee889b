"""Adapters held out fold by fold: the fold's rows are subtracted from the exact state, and one eigenproblem solved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.analysis.left_out import LeftOut, Outcome, Residuals
from engine.analysis.whole_adapters import ChosenRows, WholeAdapters
from engine.exact import MomentsSolver
from engine.fitting import fit, fit_reduction
from engine.kept import held as holding
from engine.rank.choice import RankChoice
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from engine.backends.protocol import Backend
    from engine.rows import RowSource
    from engine.runners.protocol import Runner
    from engine.spectrum import Spectrum
    from engine.subspace import Subspace

Folds = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class UpTo:
    """A rule: K = `k`, or all directions there are where these are fewer."""

    k: int

    @property
    def name(self) -> str:
        return f"up to {self.k}"

    def __call__(self, spectrum: Spectrum, /) -> RankChoice:
        return RankChoice(min(self.k, spectrum.rank), None, self.name)


def deal(n_adapters: int, folds: int, groups: Sequence[Sequence[int]] = (), seed: int = 0) -> Folds:
    """Adapters dealt to folds of about equal numbers, in an order drawn by the seed.

    Parameters
    ----------
    n_adapters : at least 2.
    folds : how many, at least 2.
    groups : places of adapters that stay together, such as those of one seed.

    Raises
    ------
    EigenzooError
        For fewer than 2 folds, more than there are adapters and groups to deal, or groups that overlap.
    """
    grouped = [i for group in groups for i in group]
    if len(set(grouped)) < len(grouped) or any(not 0 <= i < n_adapters for i in grouped):
        raise EigenzooError(f"groups: give places 0 … {n_adapters - 1}, each in one group at most")
    alone = sorted(set(range(n_adapters)) - set(grouped))
    units = [tuple(group) for group in groups if len(group)] + [(i,) for i in alone]
    if not 2 <= folds <= len(units):
        what = "adapters" if len(units) == n_adapters else "adapters and groups that stay together"
        raise EigenzooError(f"folds: got {folds}; there are {len(units)} {what}: give a number from 2 to {len(units)}")
    order = np.random.default_rng(seed).permutation(len(units)).tolist()
    # The large ones first, so that the small ones even the folds out.
    dealt: list[list[int]] = [[] for _ in range(folds)]
    for unit in sorted((units[i] for i in order), key=len, reverse=True):
        min(dealt, key=len).extend(unit)
    return tuple(tuple(sorted(fold)) for fold in dealt)


def hold_out(
    rows: RowSource, folds: Folds, *, ks: tuple[int, ...], center: str, backend: Backend, runner: Runner
) -> tuple[Outcome, int]:
    """Every adapter's errors by the subspace of the folds that it is not in, and how many folds had to be refitted.

    Three reads of the rows; O(width²) memory, O(folds · width³) time.
    """
    reduction = MomentsSolver(rows.shape[1], backend)
    total = holding.hold(reduction, runner.run(reduction, rows))
    n_adapters = len(rows.offsets) - 1
    found: list[LeftOut | None] = [None] * n_adapters
    refits = 0
    for fold in folds:
        inside = set(fold)
        others = ChosenRows(rows, [i for i in range(n_adapters) if i not in inside])
        less = holding.hold(reduction, runner.run(reduction, ChosenRows(rows, fold)))
        left = holding.subtract(reduction, holding.copy(reduction, total), less)
        if left.rebuild_reason(backend):
            refits += 1
            results = refit(rows, others, fold, ks=ks, center=center, device=backend.name, runner=runner)
        else:
            subspace = _finished(others, left, ks[-1], center, backend)
            results = residuals(rows, fold, subspace, ks, runner)
        for i, each in zip(fold, results, strict=True):
            found[i] = each
    whole = _finished(rows, total, ks[-1], center, backend)
    trace = whole.total_variance * max(whole.n_rows - 1, 1)
    adapters = tuple(each for each in found if each is not None)
    return Outcome(adapters, trace, whole.singular_values**2, whole.offset), refits


def refit(
    rows: RowSource,
    others: RowSource,
    adapters: Sequence[int],
    *,
    ks: tuple[int, ...],
    center: str,
    device: str,
    runner: Runner,
) -> tuple[LeftOut, ...]:
    """The errors of some adapters by the subspace of `others`, fitted anew."""
    subspace = fit(others, UpTo(ks[-1]), center=center, device=device, products="float64", runner=runner)
    return residuals(rows, adapters, subspace, ks, runner)


def residuals(
    rows: RowSource, adapters: Sequence[int], subspace: Subspace, ks: tuple[int, ...], runner: Runner
) -> tuple[LeftOut, ...]:
    """What a subspace leaves of some adapters."""
    left = Residuals(subspace.offset, subspace.components, ks)
    return runner.run(left, WholeAdapters(ChosenRows(rows, adapters)))


def _finished(rows: RowSource, held: Any, k: int, center: str, backend: Backend) -> Subspace:
    reduction = fit_reduction(
        rows, UpTo(k), center=center, device=backend.name, method="moments", refine=False, products="float64"
    )
    result: Any = holding.finish(reduction, held)
    subspace: Subspace = result
    return subspace

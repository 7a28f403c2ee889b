"""How well the subspace of some adapters holds those that it has not seen, beside what would look like it by chance.

The error of an adapter's rows x is Σ‖x − x̂‖²/Σ‖x‖², about zero, x̂ being made of the mean and the first K components of
adapters that it is not among: of all others (leave one out), or of those in other folds. In sample, every direction
that an adapter has to itself is in the fit, and counts as if it were shared.

Controls, by the same definition and with the same K:

* the mean alone, K = 0;
* a random basis: of what the mean leaves, a uniformly random K-dimensional subspace keeps the share K/width on average,
  E‖Px‖² = ‖x‖²·K/width, so that needs no draws;
* the null: every adapter's rows turned by a random rotation of its own (`engine.analysis.null_rows`), which keeps sizes
  and strengths and nothing that is shared;
* one adapter per seed group, where groups are given: adapters of one start are no independent witnesses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.analysis.folds import Folds, deal, hold_out, refit
from engine.analysis.left_out import GatheredLeaveOut, LeaveOneOut, LeftOut, Outcome
from engine.analysis.null_rows import NullRows
from engine.analysis.run_rows import places_of, rows_of, zoo_of
from engine.analysis.whole_adapters import ChosenRows, WholeAdapters
from engine.backends import get_backend
from engine.rows import as_rows
from engine.runners.serial import SerialRunner
from engine.subspace import CENTERS
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.backends.protocol import Backend
    from engine.rows import RowSource
    from engine.run import Run
    from engine.runners.protocol import Runner
    from ingest.store.reader import Zoo

LEAVE_ONE_OUT = "leave-one-out"


@dataclass(frozen=True, slots=True)
class Controls:
    """Errors over all adapters, as `HeldOut.total`; None where not asked for.

    Attributes
    ----------
    mean_only : of K = 0.
    random_basis : expected of K random directions.
    null : of adapters of the same sizes and strengths that share nothing.
    one_per_seed : of one adapter of every group alone.
    n_per_seed : how many adapters that are.
    """

    mean_only: float
    random_basis: float
    null: float | None = None
    one_per_seed: float | None = None
    n_per_seed: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Errors of one matrix's adapters, each by a subspace that it had no part in.

    Attributes
    ----------
    k : number of components; where the others span fewer directions, all of these.
    errors : (n_adapters,) float64, Σ‖x − x̂‖²/Σ‖x‖² about zero of each adapter's rows; NaN of one that is all zeros.
    total : Σ‖x − x̂‖²/Σ‖x‖² over all adapters.
    explained : 1 − Σ‖x − x̂‖²/Σ‖x − mean of the others‖², the share of the variance about the mean that is explained out
        of sample; it may be below 0.
    in_sample : `total` of the subspace of all, on the adapters that it was fitted to.
    curve : (K, total) for several K, ascending, 0 and `k` among them.
    in_sample_curve : the same in sample.
    controls : Controls
    method : "leave-one-out", or such as "5-fold".
    center : "feature": the others' mean is subtracted and added back; "none": nothing is.
    n_rows, width : of the matrix.
    n_whole : adapters (or folds, where rows are fewer than columns) whose eigenproblem was solved whole rather than
        updated; 0 where folds are solved anyhow.
    n_refits : adapters or folds whose others were fitted anew, as one had outweighed the other by too much.
    adapters : names, where known.
    """

    k: int
    errors: NDArray[np.float64]
    total: float
    explained: float
    in_sample: float
    curve: tuple[tuple[int, float], ...]
    in_sample_curve: tuple[tuple[int, float], ...]
    controls: Controls
    method: str
    center: str
    n_rows: int
    width: int
    n_whole: int = 0
    n_refits: int = 0
    adapters: tuple[str, ...] = ()

    @property
    def mean(self) -> float:
        """Of `errors`, without those that are NaN."""
        return float(np.mean(self._known)) if len(self._known) else float("nan")

    @property
    def median(self) -> float:
        """Of `errors`, without those that are NaN."""
        return float(np.median(self._known)) if len(self._known) else float("nan")

    @property
    def worst(self) -> int | None:
        """The place of the adapter with the largest error."""
        return int(np.nanargmax(self.errors)) if len(self._known) else None

    @property
    def _known(self) -> NDArray[np.float64]:
        return self.errors[~np.isnan(self.errors)]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a matrix; how many folds (0: leave one out), in which groups stay together."""

    ks: tuple[int, ...]
    center: str
    folds: int
    groups: tuple[tuple[int, ...], ...]
    seed: int


def held_out_error(
    rows: Any,
    k: int,
    *,
    center: str = "feature",
    folds: int | None = None,
    groups: Sequence[Sequence[int]] | None = None,
    ks: Sequence[int] | None = None,
    null: bool = True,
    seed: int = 0,
    device: str = "auto",
    runner: Runner | None = None,
) -> HeldOut:
    """Reconstruct every adapter by the mean and the top subspace of others.

    Parameters
    ----------
    rows : RowSource
        A matrix whose `offsets` say where each adapter's rows begin.
    k : number of components.
    center : "feature": about the mean row of those that are fitted; "none": about zero, as in ΔW space.
    folds : how many, dealt by `seed`; None leaves out one adapter at a time.
    groups : places of adapters that share a start; None where nobody has looked. In folds they stay together, and one
        of each, the first, with all that are in none, makes the control "one adapter per seed".
    ks : further numbers of components, for the curve; by default the powers of 2 below `k`.
    null : whether to work out that control, which costs as much as all the rest.
    device : whose eigensolver, see `engine.fit`; the updates are made on the CPU.
    runner : who executes; by default this process.

    Returns
    -------
    HeldOut

    Raises
    ------
    EigenzooError
        For fewer than two adapters, folds or groups that cannot be had, a negative K.

    Notes
    -----
    Leave one out reads the rows twice (once where they are fewer than columns) and solves one eigenproblem with all its
    vectors, O(rows · width² + width³); each adapter then costs O(width · (rank · K)·(rank + K)), see
    `engine.analysis.downdate`. Memory O(width²). Folds: three reads, and an eigenproblem each.
    """
    source = as_rows(rows)
    if center not in CENTERS:
        raise EigenzooError(f"center: got {center!r}; choose {' or '.join(CENTERS)}")
    wanted = tuple(sorted({0, k, *(powers_below(k) if ks is None else ks)}))
    if wanted[0] < 0:
        raise EigenzooError(f"k: got {wanted[0]}; a number of components cannot be negative")
    if k > min(source.shape):
        raise EigenzooError(f"k: {k} components asked of a {source.shape[0]} × {source.shape[1]} matrix; ask for fewer")
    if folds is not None and folds < 2:
        raise EigenzooError(f"folds: got {folds}; give at least 2, or None to leave out one at a time")
    asked = Question(wanted, center, folds or 0, tuple(tuple(group) for group in groups or ()), seed)
    backend, runner = get_backend(device), runner or SerialRunner()
    outcome, n_refits = _outcome(source, asked, backend, runner)
    found, at = outcome.adapters, wanted.index(k)
    totals = np.array([each.total for each in found])
    errors = np.array([each.errors for each in found])
    deviation = sum(each.deviation for each in found)
    everything = float(totals.sum())
    controls = Controls(
        mean_only=_share(errors[:, 0].sum(), everything),
        random_basis=_share(deviation * max(0.0, 1.0 - k / source.shape[1]), everything),
    )
    if null:
        turned = NullRows(source, outcome.mean, seed)
        null_error, _ = _outcome(turned, replace(asked, ks=(k,)), backend, runner)
        controls = replace(controls, null=_total(null_error))
    if groups is not None:
        chosen = representatives(len(found), asked.groups)
        controls = replace(controls, n_per_seed=len(chosen))
        if len(chosen) >= max(2, asked.folds):
            alone = replace(asked, ks=(k,), groups=())
            if len(chosen) == len(found):
                one_each = _total(outcome, at)
            else:
                one_each = _total(_outcome(ChosenRows(source, chosen), alone, backend, runner)[0])
            controls = replace(controls, one_per_seed=one_each)
    kept = np.concatenate([[0.0], np.cumsum(outcome.values)])
    inside = [_share(max(outcome.trace - kept[min(each, len(kept) - 1)], 0.0), everything) for each in wanted]
    by_adapter = np.full(len(found), np.nan)
    np.divide(errors[:, at], totals, out=by_adapter, where=totals > 0)
    return HeldOut(
        k=k,
        errors=by_adapter,
        total=_share(errors[:, at].sum(), everything),
        explained=1.0 - _share(errors[:, at].sum(), deviation) if deviation > 0 else 0.0,
        in_sample=inside[at],
        curve=tuple((each, _share(errors[:, i].sum(), everything)) for i, each in enumerate(wanted)),
        in_sample_curve=tuple(zip(wanted, inside, strict=True)),
        controls=controls,
        method=f"{folds}-fold" if folds else LEAVE_ONE_OUT,
        center=center,
        n_rows=source.shape[0],
        width=source.shape[1],
        n_whole=sum(each.whole for each in found),
        n_refits=n_refits,
    )


def held_out(
    run: Run,
    layer: str,
    side: str,
    *,
    k: int | None = None,
    folds: int | None = None,
    groups: Sequence[Sequence[int]] | None = None,
    ks: Sequence[int] | None = None,
    null: bool = True,
    seed: int = 0,
    device: str = "auto",
    runner: Runner | None = None,
    zoo: Zoo | None = None,
) -> HeldOut:
    """`held_out_error` of one matrix of a run: its rows, its centring, and the K that it kept unless another is given.

    Parameters
    ----------
    run, layer, side
        A finished matrix.
    zoo : Zoo, optional
        The run's, where it is open already.
    k, folds, groups, ks, null, seed, device, runner
        See `held_out_error`. Places in `groups` are those of `engine.analysis.run_rows.places_of`.

    Raises
    ------
    EigenzooError
        If the run has no such matrix, its zoo is gone, or it is of rows less their starts; and as `held_out_error`.
    """
    check_not_subtracted(run)
    zoo = zoo or zoo_of(run)
    rows = rows_of(run, zoo, layer, side)
    found = held_out_error(
        rows,
        run.subspace(layer, side=side).n_components if k is None else k,
        center=run.record.settings.center,
        folds=folds,
        groups=groups,
        ks=ks,
        null=null,
        seed=seed,
        device=device,
        runner=runner,
    )
    return replace(found, adapters=tuple(zoo.stored[i].record.name for i in places_of(run, zoo, layer)))


def check_not_subtracted(run: Run) -> None:
    """Refuse a run of rows less their starts: the mean of a set holds each of its members, also the one held out.

    Raises
    ------
    EigenzooError
        With what to do.
    """
    if run.record.settings.seeds == "subtract":
        raise EigenzooError(
            f"{run.path}: a run of rows less their starts (--seeds subtract); a start is the mean of a set, and holds "
            "who is held out too; fit one with --seeds one-each"
        )


def powers_below(k: int) -> list[int]:
    """1, 2, 4, … below k."""
    return [2**i for i in range(k.bit_length()) if 2**i < k]


def representatives(n_adapters: int, groups: Sequence[Sequence[int]]) -> list[int]:
    """The first adapter of every group and all that are in none, in order."""
    dropped = {i for group in groups for i in sorted(group)[1:]}
    return [i for i in range(n_adapters) if i not in dropped]


def _outcome(rows: RowSource, asked: Question, backend: Backend, runner: Runner) -> tuple[Outcome, int]:
    """Every adapter's squares, and how many times others had to be fitted anew."""
    n_adapters, (n_rows, width) = len(rows.offsets) - 1, rows.shape
    if n_adapters < 2:
        raise EigenzooError(f"held out: {n_adapters} adapter; there must be others to fit")
    folds: Folds = tuple((i,) for i in range(n_adapters))
    if asked.folds:
        folds = deal(n_adapters, asked.folds, asked.groups, asked.seed)
    if n_rows >= width and asked.folds:
        return hold_out(rows, folds, ks=asked.ks, center=asked.center, backend=backend, runner=runner)
    centred, ks = asked.center == "feature", asked.ks
    reduction: Any = LeaveOneOut(width, backend, centred, ks)
    if n_rows < width:
        reduction = GatheredLeaveOut(width, backend, centred, ks, folds)
    outcome: Outcome = runner.run(reduction, WholeAdapters(rows))
    found: list[LeftOut] = list(outcome.adapters)
    again = [fold for fold in folds if found[fold[0]].outweighed]
    for fold in again:
        inside = set(fold)
        others = ChosenRows(rows, [i for i in range(n_adapters) if i not in inside])
        fresh = refit(rows, others, fold, ks=ks, center=asked.center, device=backend.name, runner=runner)
        for i, each in zip(fold, fresh, strict=True):
            found[i] = each
    return replace(outcome, adapters=tuple(found)), len(again)


def _share(part: float, whole: float) -> float:
    """part/whole; 0 of nothing."""
    return float(part / whole) if whole > 0 else 0.0


def _total(outcome: Outcome, at: int = -1) -> float:
    """Σ‖x − x̂‖²/Σ‖x‖² of one of the numbers of components, by default the largest."""
    errors = sum(float(each.errors[at]) for each in outcome.adapters)
    return _share(errors, sum(each.total for each in outcome.adapters))

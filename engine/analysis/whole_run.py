"""`analyse`: what there is to know of a run beyond its spectra, kept beside it, layer by layer.

Layers that are done are not done again unless their rows, the zoo or what is asked for changed: killed at any moment, a
second start goes on where the first one was.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from engine.analysis.file import (
    Analysis,
    DeltaFigures,
    HeldOutFigures,
    LayerAnalysis,
    LeverageFigures,
    MatrixAnalysis,
    OverlapFigures,
    ReconstructionFigures,
    RuleAnswer,
    SeedFigures,
    read_analysis,
    write_analysis,
)
from engine.analysis.heldout import HeldOut, held_out
from engine.analysis.leverage import Leverage, leverage
from engine.analysis.overlap import Overlap, overlap
from engine.analysis.ranks import ranks_of
from engine.analysis.reconstruction import Errors, LayerError, chosen, reconstruction
from engine.analysis.run_rows import check_rows, places_of, zoo_of
from engine.analysis.seeds import SeedGroups, seed_groups
from engine.analysis.side_by_side import side_by_side
from engine.rank import read_rule
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from engine.run import MatrixResult, Run
    from engine.runners.protocol import Runner
    from ingest.store.reader import Zoo

# What is looked at, in this order; "parallel" draws as many matrices as it takes and is only done when asked for.
PARTS = ("seeds", "overlap", "heldout", "reconstruction", "leverage", "parallel")
DEFAULT_PARTS = PARTS[:-1]
LEAVE_ONE_OUT, MOST_LEFT_OUT, FOLDS = 0, 256, 5  # beyond so many adapters, folds


def analyse(
    run: Run,
    *,
    parts: Sequence[str] = DEFAULT_PARTS,
    folds: int | None = None,
    seed: int = 0,
    device: str = "auto",
    runner: Runner | None = None,
    restart: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> Analysis:
    """Seed groups, overlap, held-out error with its controls, reconstruction and leverage of every layer of a run.

    Parameters
    ----------
    run : Run
    parts : names of `PARTS`.
    folds : how many folds of adapters are held out, 0 for one adapter at a time; by default that, up to 256 adapters,
        and 5 folds from there on.
    seed : of folds and nulls.
    device, runner : as for `engine.fit`.
    restart : whether layers that are done are done again.
    progress : called with layers done, of how many, and the last one's name.

    Returns
    -------
    Analysis
        As it lies beside the run (`engine.analysis.file`), which `eigenzoo report` shows.

    Raises
    ------
    EigenzooError
        For an unknown part; if the run's zoo is gone, or its rows are others than were fitted.

    Notes
    -----
    Cost per matrix: about five reads of its rows and two eigenproblems with all vectors; parallel analysis reads the
    rows once per draw. Memory O(width²).
    """
    if unknown := [part for part in parts if part not in PARTS]:
        raise EigenzooError(f"parts: got {unknown[0]!r}; choose among {', '.join(PARTS)}")
    zoo = zoo_of(run)
    asked: dict[str, Any] = {"parts": [part for part in PARTS if part in parts], "folds": folds, "seed": seed}
    todo = chosen(run)
    results = {result.key: result for result in run.matrices}
    done = Analysis(zoo.commit.version, settings=asked)
    before = None if restart else read_analysis(run)
    if before is not None and (before.zoo_version, dict(before.settings)) == (zoo.commit.version, asked):
        done = _still_true(before, todo, results)
    for layer, sides in todo.items():
        for side in sides:
            check_rows(run, zoo, results[layer, side])
    finished = {each.layer for each in done.layers}
    if progress is not None:
        progress(len(finished), len(todo), "")
    left = [layer for layer in todo if layer not in finished]
    work = [
        _Layer(run, zoo, layer, [results[layer, side] for side in todo[layer]], asked, device, runner).analysed
        for layer in left
    ]
    order = {layer: place for place, layer in enumerate(todo)}
    for place, (found, matrices) in side_by_side(work, device):
        done = Analysis(
            done.zoo_version,
            tuple(sorted((*done.matrices, *matrices), key=lambda m: (order[m.layer], m.side))),
            tuple(sorted((*done.layers, found), key=lambda each: order[each.layer])),
            asked,
        )
        write_analysis(run, done)
        if progress is not None:
            progress(len(done.layers), len(todo), left[place])
    return done


def _still_true(before: Analysis, todo: dict[str, list[str]], results: dict[tuple[str, str], MatrixResult]) -> Analysis:
    """What is known already of layers all of whose matrices are as they were."""
    kept = []
    for layer in before.layers:
        sides = todo.get(layer.layer, [])
        if sides and all(before.of(results[layer.layer, side]) is not None for side in sides):
            kept.append(layer)
    names = {layer.layer for layer in kept}
    matrices = tuple(m for m in before.matrices if m.layer in names and m.side in todo[m.layer])
    return Analysis(before.zoo_version, matrices, tuple(kept), before.settings)


class _Layer:
    """One layer of a run."""

    def __init__(
        self,
        run: Run,
        zoo: Zoo,
        layer: str,
        results: Sequence[MatrixResult],
        asked: dict[str, Any],
        device: str,
        runner: Runner | None,
    ) -> None:
        self.run, self.zoo, self.layer, self.results = run, zoo, layer, results
        self.parts, self.folds, self.seed = set(asked["parts"]), asked["folds"], asked["seed"]
        self.device, self.runner = device, runner
        self.space = run.record.settings.space
        self.places = places_of(run, zoo, layer)  # ordinal → place among the run's adapters

    def analysed(self) -> tuple[LayerAnalysis, list[MatrixAnalysis]]:
        groups = None
        if self.parts & {"seeds", "overlap", "heldout"}:
            groups = seed_groups(self.zoo, self.layer, seed=self.seed, runner=self.runner)
        errors = None
        if "reconstruction" in self.parts:
            found = reconstruction(self.run, zoo=self.zoo, layers=glob.escape(self.layer))
            errors = found.layers[0]
        over: list[Leverage] = []
        if "leverage" in self.parts:
            over = leverage(self.run, zoo=self.zoo, layers=glob.escape(self.layer))
        matrices = [self._matrix(result, groups, errors, over) for result in self.results]
        return self._whole(groups, errors), matrices

    def _whole(self, groups: SeedGroups | None, errors: LayerError | None) -> LayerAnalysis:
        seeds = None if groups is None else SeedFigures(groups.groups, groups.weakest)
        delta = errors.delta if errors is not None and len(errors.k) == 2 else None
        return LayerAnalysis(
            self.layer,
            seeds,
            None if delta is None else DeltaFigures(float(delta.relative.mean()), delta.worst, delta.worst_adapter),
        )

    def _matrix(
        self, result: MatrixResult, groups: SeedGroups | None, errors: LayerError | None, over: Sequence[Leverage]
    ) -> MatrixAnalysis:
        of_side: Errors | None = getattr(errors, result.side) if errors is not None else None
        return MatrixAnalysis(
            result.layer,
            result.side,
            result.identity,
            rules=self._rules(result) if "parallel" in self.parts else (),
            heldout=self._heldout(result, groups) if "heldout" in self.parts else None,
            overlap=self._overlap(result, groups) if "overlap" in self.parts else None,
            reconstruction=None if of_side is None else _reconstruction(of_side),
            leverage=tuple(LeverageFigures(e.adapter, e.component + 1, e.share) for e in over if e.side == result.side),
        )

    def _rules(self, result: MatrixResult) -> tuple[RuleAnswer, ...]:
        rules = [read_rule("parallel")]
        (found,) = ranks_of(self.run, rules, runner=self.runner, device=self.device, only=[result])
        return tuple(RuleAnswer(c.rule, c.k, c.threshold, c.note) for c in found.choices.values())

    def _heldout(self, result: MatrixResult, groups: SeedGroups | None) -> HeldOutFigures | None:
        n_adapters = len(self.places)
        if n_adapters < 2:
            return None
        folds = self.folds
        if folds is None:
            folds = LEAVE_ONE_OUT if n_adapters <= MOST_LEFT_OUT else FOLDS
        found = held_out(
            self.run,
            result.layer,
            result.side,
            folds=min(folds, n_adapters) or None,
            groups=None if groups is None else self._placed(groups.ordinals),
            seed=self.seed,
            device=self.device,
            runner=self.runner,
            zoo=self.zoo,
        )
        return _heldout(found)

    def _placed(self, groups: Iterable[Sequence[int]]) -> list[list[int]]:
        """Groups by places, as far as their members are fitted."""
        placed = [[self.places[ordinal] for ordinal in group if ordinal in self.places] for group in groups]
        return [group for group in placed if len(group) > 1]

    def _overlap(self, result: MatrixResult, groups: SeedGroups | None) -> OverlapFigures | None:
        fitted = list(self.places)
        found = self._overlap_of(result.side, fitted)
        one_each = [ordinal for ordinal in groups.one_each if ordinal in self.places] if groups is not None else fitted
        apart = self._overlap_of(result.side, one_each) if len(one_each) < len(fitted) else None
        if found.ratio != found.ratio:  # fewer than two adapters have no pairs
            return None
        one_per_seed = None if apart is None or apart.ratio != apart.ratio else apart.ratio
        return OverlapFigures(found.ratio, found.low, found.high, one_per_seed)

    def _overlap_of(self, side: str, members: Sequence[int]) -> Overlap:
        return overlap(
            self.zoo,
            self.layer,
            side=side,
            space=self.space,
            members=members,
            device=self.device,
            runner=self.runner,
        )


def _heldout(found: HeldOut) -> HeldOutFigures:
    controls = found.controls
    return HeldOutFigures(
        k=found.k,
        method=found.method,
        in_sample=found.in_sample,
        error=found.total,
        mean_only=controls.mean_only,
        random_basis=controls.random_basis,
        null=controls.null,
        one_per_seed=controls.one_per_seed,
        curve=found.curve,
    )


def _reconstruction(errors: Errors) -> ReconstructionFigures:
    mean = float(errors.relative.mean())
    return ReconstructionFigures(mean, errors.median, errors.worst, errors.worst_adapter)

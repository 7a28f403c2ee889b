"""`analyse`: what there is to know of a run beyond its spectra, kept beside it, layer by layer.

What is known of a layer is not found again unless its results changed: killed at any moment, a second start goes on
where the first one was, and further parts are added to what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
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
from engine.analysis.overlap import overlap, overlap_of
from engine.analysis.ranks import ranks_of
from engine.analysis.reconstruction import Errors, LayerError, chosen, reconstruction
from engine.analysis.run_rows import check_rows, places_of, rows_of, zoo_of
from engine.analysis.side_by_side import side_by_side
from engine.rank import read_rule
from engine.resume import locked
from engine.starts.groups import SeedGroups, seed_groups
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from engine.run import MatrixResult, Run
    from engine.runners.protocol import Runner
    from ingest.store.reader import Zoo

# What is looked at, in this order; "parallel" draws as many matrices as it takes and is only done when asked for.
PARTS = ("seeds", "overlap", "heldout", "reconstruction", "leverage", "parallel")
DEFAULT_PARTS = PARTS[:-1]
LEAVE_ONE_OUT, MOST_LEFT_OUT, FOLDS = 0, 256, 5  # beyond so many adapters, folds
MATRIX_STATES = 6  # width × width numbers that a layer may hold at once: scatter, copy, vectors, workspace


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
    restart : whether what is known is found again.
    progress : called with layers done, of how many, and the last one's name.

    Returns
    -------
    Analysis
        As it lies beside the run (`engine.analysis.file`), which `eigenzoo report` shows.

    Raises
    ------
    EigenzooError
        For an unknown part; for other folds or another seed than those of the analysis that is there; if the run's zoo
        is gone, or its rows are others than were fitted; if another fit or analysis is writing to the run.

    Notes
    -----
    Cost per matrix: about five reads of its rows and two eigenproblems with all vectors; parallel analysis reads the
    rows once per draw. As many layers at a time as there are cores and as memory holds, each O(width²).
    """
    if unknown := [part for part in parts if part not in PARTS]:
        raise EigenzooError(f"parts: got {unknown[0]!r}; choose among {', '.join(PARTS)}")
    settings: dict[str, Any] = {"folds": folds, "seed": seed}
    with locked(run.path):
        zoo, todo = zoo_of(run), chosen(run)
        results = {result.key: result for result in run.matrices}
        for layer, sides in todo.items():
            for side in sides:
                check_rows(run, zoo, results[layer, side])
        before = None if restart else read_analysis(run)
        if before is not None and dict(before.settings) != settings:
            raise EigenzooError(
                f"{run.path}: its analysis was made with {_told(before.settings)}, not {_told(settings)}; "
                "give the same, or --restart"
            )
        known = Analysis(zoo.commit.version, settings=settings)
        if before is not None:
            known = _still_true(known, before, todo, results)
        work = []
        for layer, sides in todo.items():
            of_layer = next((each for each in known.layers if each.layer == layer), LayerAnalysis(layer))
            wanted = [part for part in PARTS if part in parts and part not in of_layer.parts]
            if wanted:
                matrices = [_begun(known, results[layer, side]) for side in sides]
                work.append(_Layer(run, zoo, of_layer, matrices, wanted, settings, device, runner))
        if progress is not None:
            progress(len(todo) - len(work), len(todo), "")
        order, left = list(todo), len(work)
        width = max(results[layer, side].width for layer, sides in todo.items() for side in sides)
        nbytes = MATRIX_STATES * 8 * width**2
        for place, (found, matrices) in side_by_side([each.analysed for each in work], device, nbytes):
            known = _with(known, found, matrices, order)
            write_analysis(run, known)
            left -= 1
            if progress is not None:
                progress(len(todo) - left, len(todo), work[place].layer)
    return known


def _told(settings: Mapping[str, Any]) -> str:
    folds = settings.get("folds")
    how = "automatic folds" if folds is None else "adapters left out one by one" if folds == 0 else f"{folds} folds"
    return f"{how} and seed {settings.get('seed')}"


def _still_true(
    empty: Analysis, before: Analysis, todo: Mapping[str, list[str]], results: Mapping[tuple[str, str], MatrixResult]
) -> Analysis:
    """What is known already of layers all of whose matrices are as they were."""
    layers = {
        each.layer: each
        for each in before.layers
        if each.layer in todo and all(before.of(results[each.layer, side]) for side in todo[each.layer])
    }
    matrices = tuple(m for m in before.matrices if m.layer in layers and m.side in todo[m.layer])
    return replace(empty, matrices=matrices, layers=tuple(layers.values()))


def _begun(known: Analysis, result: MatrixResult) -> MatrixAnalysis:
    empty = MatrixAnalysis(result.layer, result.side, result.identity, result.n_components, result.center)
    return known.of(result) or empty


def _with(known: Analysis, found: LayerAnalysis, matrices: Sequence[MatrixAnalysis], order: list[str]) -> Analysis:
    """With a layer in its place, for what was known of it."""
    layers = [*(each for each in known.layers if each.layer != found.layer), found]
    others = [*(m for m in known.matrices if m.layer != found.layer), *matrices]
    return replace(
        known,
        layers=tuple(sorted(layers, key=lambda each: order.index(each.layer))),
        matrices=tuple(sorted(others, key=lambda m: (order.index(m.layer), m.side))),
    )


class _Layer:
    """One layer of a run: what is known of it, and the parts that are wanted."""

    def __init__(
        self,
        run: Run,
        zoo: Zoo,
        known: LayerAnalysis,
        matrices: Sequence[MatrixAnalysis],
        parts: Sequence[str],
        settings: Mapping[str, Any],
        device: str,
        runner: Runner | None,
    ) -> None:
        self.run, self.zoo, self.layer, self.known, self.matrices = run, zoo, known.layer, known, matrices
        self.parts, self.folds, self.seed = set(parts), settings["folds"], settings["seed"]
        self.device, self.runner = device, runner
        self.space, self.seeds = run.record.settings.space, run.record.settings.seeds

    def analysed(self) -> tuple[LayerAnalysis, list[MatrixAnalysis]]:
        self.places = places_of(self.run, self.zoo, self.layer)  # ordinal → place among the run's adapters
        groups = None
        if self.parts & {"seeds", "overlap", "heldout"}:
            groups = seed_groups(self.zoo, self.layer, seed=self.seed, runner=self.runner)
        errors = None
        if "reconstruction" in self.parts and self.seeds != "subtract":  # the starts that were taken out are not kept
            errors = reconstruction(self.run, zoo=self.zoo, layers=[self.layer]).layers[0]
        over: list[Leverage] = []
        if "leverage" in self.parts:
            over = leverage(self.run, zoo=self.zoo, layers=[self.layer])
        matrices = [self._matrix(m, groups, errors, over) for m in self.matrices]
        return self._whole(groups, errors), matrices

    def _whole(self, groups: SeedGroups | None, errors: LayerError | None) -> LayerAnalysis:
        found = replace(self.known, parts=tuple(p for p in PARTS if p in self.parts or p in self.known.parts))
        if groups is not None and "seeds" in self.parts:
            found = replace(found, seeds=self._shared(groups))
        if errors is not None and len(errors.k) == 2:
            delta = errors.delta
            figures = DeltaFigures(float(delta.relative.mean()), delta.worst, delta.worst_adapter)
            found = replace(found, delta=figures)
        return found

    def _shared(self, groups: SeedGroups) -> SeedFigures:
        """The groups as far as the run fits their members."""
        fitted = [
            tuple(name for name, ordinal in zip(names, ordinals, strict=True) if ordinal in self.places)
            for names, ordinals in zip(groups.groups, groups.ordinals, strict=True)
        ]
        shared = tuple(names for names in fitted if len(names) > 1)
        return SeedFigures(shared, groups.weakest if shared else None)

    def _matrix(
        self, known: MatrixAnalysis, groups: SeedGroups | None, errors: LayerError | None, over: Sequence[Leverage]
    ) -> MatrixAnalysis:
        found = known
        if "parallel" in self.parts:
            found = replace(found, rules=self._rules(known))
        if "heldout" in self.parts and groups is not None:
            found = replace(found, heldout=self._heldout(known.side, groups))
        if "overlap" in self.parts and groups is not None:
            found = replace(found, overlap=self._overlap(known.side, groups))
        of_side: Errors | None = getattr(errors, known.side) if errors is not None else None
        if of_side is not None:
            found = replace(found, reconstruction=_reconstruction(of_side))
        if "leverage" in self.parts:
            dominant = [LeverageFigures(e.adapter, e.component + 1, e.share) for e in over if e.side == known.side]
            found = replace(found, leverage=tuple(dominant))
        return found

    def _rules(self, known: MatrixAnalysis) -> tuple[RuleAnswer, ...]:
        only = [m for m in self.run.matrices if m.key == (known.layer, known.side)]
        (found,) = ranks_of(self.run, [read_rule("parallel")], runner=self.runner, device=self.device, only=only)
        return tuple(RuleAnswer(c.rule, c.k, c.threshold, c.note) for c in found.choices.values())

    def _heldout(self, side: str, groups: SeedGroups) -> HeldOutFigures | None:
        n_adapters, together = len(self.places), self._placed(groups.ordinals)
        if n_adapters < 2 or self.seeds == "subtract":  # a set's mean start holds each of its members
            return None
        folds = self.folds
        if folds is None:
            folds = LEAVE_ONE_OUT if n_adapters <= MOST_LEFT_OUT else FOLDS
        folds = min(folds, n_adapters - sum(len(group) - 1 for group in together))  # what there is to deal
        found = held_out(
            self.run,
            self.layer,
            side,
            folds=folds if folds > 1 else None,
            groups=together,
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

    def _overlap(self, side: str, groups: SeedGroups) -> OverlapFigures | None:
        found = overlap_of(
            rows_of(self.run, self.zoo, self.layer, side), space=self.space, device=self.device, runner=self.runner
        )
        if found.ratio != found.ratio:  # fewer than two adapters have no pairs
            return None
        one_each = [ordinal for ordinal in groups.one_each if ordinal in self.places]
        one_per_seed = None
        if 2 <= len(one_each) < len(self.places) and self.seeds == "all":
            apart = overlap(
                self.zoo,
                self.layer,
                side=side,
                space=self.space,
                members=one_each,
                device=self.device,
                runner=self.runner,
            )
            one_per_seed = apart.ratio if apart.ratio == apart.ratio else None
        return OverlapFigures(found.ratio, found.low, found.high, one_per_seed)


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

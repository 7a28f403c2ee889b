"""Every rule for K over the results of a run: what its spectra say, and where a rule needs more, its zoo."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.analysis.parallel import parallel_analysis
from engine.analysis.run_rows import rows_of, zoo_of
from engine.rank.choice import RankChoice, RankRule
from engine.rank.compare import answer
from engine.rank.gavish_donoho import GavishDonoho
from engine.rank.needs_rows import Parallel
from engine.rank.whiteness import Whiteness, whiteness
from engine.starts.known_noise import KnownNoise, known_noise, row_levels
from engine.starts.seed_rows import SeedChoice, parse_seeds
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from engine.run import MatrixResult, Run
    from engine.runners.protocol import Runner
    from engine.subspace import Subspace
    from ingest.store.reader import Zoo

_IN_DELTA = KnownNoise(None, "the level of a factor's random start, which ΔW does not have")
_SUBTRACTED = KnownNoise(None, "the level of the random start, which seeds 'subtract' took from the rows")


@dataclass(frozen=True, slots=True)
class MatrixRanks:
    """What the rules say of one matrix.

    Attributes
    ----------
    result : MatrixResult
    choices : dict
        By the rules' names, in their order.
    whiteness : Whiteness
        Of the values below Gavish and Donoho's K.
    """

    result: MatrixResult
    choices: dict[str, RankChoice]
    whiteness: Whiteness


def ranks_of(
    run: Run,
    rules: Sequence[RankRule],
    *,
    runner: Runner | None = None,
    device: str = "auto",
    only: Sequence[MatrixResult] | None = None,
) -> Iterator[MatrixRanks]:
    """The rules side by side, matrix by matrix.

    Parameters
    ----------
    run : Run
    rules : sequence of RankRule
        See `engine.rank.read_rule`.
    runner : Runner, optional
        Who draws for parallel analysis; this process without it.
    device : str
        Of parallel analysis, see `engine.fit`.
    only : sequence of MatrixResult, optional
        Of the run's, those that are asked for; all without it.

    Raises
    ------
    EigenzooError
        If a rule needs the run's zoo, and that is gone.

    Notes
    -----
    One result is held at a time. Rules over a spectrum cost O(width log width) each; parallel analysis one fit's pass
    for every draw.
    """
    zoo = zoo_of(run) if any(needs_zoo(rule) for rule in rules) else None
    for result in run.matrices if only is None else only:
        subspace = run.subspace(result.layer, side=result.side)
        spectrum = subspace.as_spectrum()
        choices: dict[str, RankChoice] = {}
        for rule in rules:
            if isinstance(rule, Parallel) and zoo is not None:
                choices[rule.name] = _parallel(run, zoo, result, subspace, rule, runner, device)
            else:
                choices[rule.name] = answer(spectrum, _resolved(rule, run, zoo, result))
        yield MatrixRanks(result, choices, whiteness(spectrum, answer(spectrum, GavishDonoho()).k or 0))


def needs_zoo(rule: RankRule) -> bool:
    """Whether a spectrum does not do for a rule."""
    return isinstance(rule, Parallel) or (isinstance(rule, GavishDonoho) and rule.init and rule.noise is None)


def _members(run: Run, zoo: Zoo, result: MatrixResult) -> list[int] | KnownNoise | None:
    """Whose random start a matrix is from (None: all that are live), or why it has none."""
    settings = run.record.settings
    if settings.space != "factor":
        return _IN_DELTA
    if parse_seeds(settings.seeds).kind == "subtract":
        return _SUBTRACTED
    return SeedChoice(zoo, settings.seeds, settings.space).members(result.layer)


def _resolved(rule: RankRule, run: Run, zoo: Zoo | None, result: MatrixResult) -> RankRule:
    """A rule that asks for the level of the random start, with it."""
    if zoo is None or not isinstance(rule, GavishDonoho) or not rule.init:
        return rule
    try:
        whose = _members(run, zoo, result)
        known = whose if isinstance(whose, KnownNoise) else known_noise(zoo, result.layer, result.side, whose)
    except EigenzooError as problem:
        known = KnownNoise(None, str(problem))
    return GavishDonoho(known.sigma, init=True, why=known.why)


def _parallel(
    run: Run,
    zoo: Zoo,
    result: MatrixResult,
    subspace: Subspace,
    rule: Parallel,
    runner: Runner | None,
    device: str,
) -> RankChoice:
    try:
        rows = rows_of(run, zoo, result.layer, result.side)
        if rows.identity != subspace.source:
            return RankChoice(None, None, rule.name, "the zoo's rows changed since the fit; fit the run again")
        levels = None
        if rule.null == "init":
            whose = _members(run, zoo, result)
            found = whose if isinstance(whose, KnownNoise) else row_levels(zoo, result.layer, result.side, whose)
            if isinstance(found, KnownNoise):
                return RankChoice(None, None, rule.name, found.why)
            levels = found
        return parallel_analysis(
            rows,
            n_draws=rule.n_draws,
            center=subspace.center,
            null=rule.null,
            levels=levels,
            subspace=subspace,
            runner=runner,
            device=device,
        )
    except EigenzooError as problem:
        return RankChoice(None, None, rule.name, str(problem))

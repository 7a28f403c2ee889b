"""The rows that a run's results were made from, and whose they are: of the zoo, by the run's own settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.starts.members import ordinals_of
from engine.starts.seed_rows import SeedChoice
from ingest.errors import EigenzooError
from ingest.store.reader import Zoo, open_zoo

if TYPE_CHECKING:
    from engine.rows import RowSource
    from engine.run import MatrixResult, Run


def zoo_of(run: Run) -> Zoo:
    """The zoo that a run was made from, opened where it was then.

    Raises
    ------
    EigenzooError
        If there is none any more, or another one.
    """
    record = run.record
    try:
        zoo = open_zoo(record.zoo)
    except EigenzooError as error:
        raise EigenzooError(
            f"{run.path}: its rows are needed, and its zoo is gone from {record.zoo}; put it back, or name its new "
            f"place with `eigenzoo fit ZOO --out {run.path}`"
        ) from error
    if record.zoo_uuid and zoo.commit.uuid != record.zoo_uuid:
        raise EigenzooError(f"{run.path}: another zoo is at {record.zoo} now; fit that one, or put the run's back")
    return zoo


def rows_of(run: Run, zoo: Zoo, layer: str, side: str) -> RowSource:
    """The rows of one matrix as the run fits them: its space, and its choice of adapters.

    Parameters
    ----------
    run : Run
    zoo : Zoo
        The run's, see `zoo_of`; rows are those that it holds now.
    layer, side : str

    Raises
    ------
    EigenzooError
        For an unknown layer or side, or a layer without rows.
    """
    return _choice(run, zoo).rows(layer, side)


def check_rows(run: Run, zoo: Zoo, result: MatrixResult) -> None:
    """Refuse a matrix whose rows are others than were fitted.

    Raises
    ------
    EigenzooError
        With what to do.
    """
    if rows_of(run, zoo, result.layer, result.side).identity != result.identity:
        raise EigenzooError(
            f"{run.path}: {result.layer} {result.side} was fitted to other rows than its zoo has now; "
            "run `eigenzoo fit` again"
        )


def places_of(run: Run, zoo: Zoo, layer: str) -> dict[int, int]:
    """The adapters that a run fits in a layer: their ordinals, each with its place among them."""
    members = _choice(run, zoo).members(layer)
    return {ordinal: place for place, ordinal in enumerate(ordinals_of(zoo, layer) if members is None else members)}


def _choice(run: Run, zoo: Zoo) -> SeedChoice:
    return SeedChoice(zoo, run.record.settings.seeds, run.record.settings.space)

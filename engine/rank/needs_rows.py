"""Rules that a spectrum cannot answer: what they are asked for, for whoever has the rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.rank.choice import RankChoice
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from engine.spectrum import Spectrum

PARALLEL = "parallel"
DRAWS = 19
NULLS = ("flip", "init")


@dataclass(frozen=True, slots=True)
class Parallel:
    """Parallel analysis (`engine.analysis.parallel.parallel_analysis`); over a spectrum alone it declines.

    Attributes
    ----------
    null : "flip": the rows with random signs; "init": draws of the adapters' random start.
    n_draws : matrices drawn.
    """

    null: str = "flip"
    n_draws: int = DRAWS

    @property
    def name(self) -> str:
        parts = [PARALLEL, *(["init"] if self.null == "init" else [])]
        return ":".join([*parts, *([str(self.n_draws)] if self.n_draws != DRAWS else [])])

    @staticmethod
    def parse(argument: str) -> Parallel:
        head, _, tail = argument.partition(":")
        null, number = ("init", tail) if head == "init" else ("flip", argument)
        if number and not (number.isascii() and number.isdigit() and int(number) > 0):
            raise EigenzooError(
                f"k: 'parallel:{argument}': give init, a number of draws, or both, as in parallel:init:19"
            )
        return Parallel(null, int(number) if number else DRAWS)

    def __call__(self, spectrum: Spectrum) -> RankChoice:
        return RankChoice(None, None, self.name, "needs the rows: `eigenzoo rank RUN --rules parallel` reads them")

"""A number of components given by the user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.rank.choice import RankChoice
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from engine.spectrum import Spectrum


@dataclass(frozen=True, slots=True)
class Fixed:
    """K = `k`, refused where the matrix has fewer directions: what lies beyond its rank is rounding."""

    k: int

    def __post_init__(self) -> None:
        if self.k < 0:
            raise EigenzooError(f"k: got {self.k}; a number of components cannot be negative")

    @property
    def name(self) -> str:
        return str(self.k)

    @staticmethod
    def parse(argument: str) -> Fixed:
        try:
            return Fixed(int(argument))
        except ValueError:
            raise EigenzooError(f"k: 'fixed:{argument}': give a whole number, as in 12") from None

    def __call__(self, spectrum: Spectrum) -> RankChoice:
        if self.k > spectrum.rank:
            raise EigenzooError(
                f"k: {self.k} components asked of a {spectrum.n_rows} × {spectrum.width} matrix of rank "
                f"{spectrum.rank}; ask for at most {spectrum.rank}"
            )
        return RankChoice(self.k, None, self.name)

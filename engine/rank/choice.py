"""What a rule for K returns, and what a rule is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from engine.spectrum import Spectrum
    from engine.subspace import Subspace


@dataclass(frozen=True, slots=True)
class RankChoice:
    """A number of components, and on what grounds.

    Attributes
    ----------
    k : how many components to keep; 0 is an answer (nothing rises above noise); None: the rule declines.
    threshold : what singular values (or, for a share of variance, the share) were held against; None
        where there is no such number.
    rule : the rule's name, as `parse_rule` reads it.
    note : for the reader: why the rule declines, or what it left out; "" when there is nothing to say.
    """

    k: int | None
    threshold: float | None
    rule: str
    note: str = ""

    def plot(self, of: Subspace | Spectrum | None = None) -> Any:
        """The scree plot of the spectrum `of` which it speaks, with its threshold; words alone where that is not given.

        Returns
        -------
        altair.LayerChart

        Raises
        ------
        EigenzooError
            If altair is missing.
        """
        from engine.plots import choice

        return choice(self, of)

    def _repr_html_(self) -> str:
        from engine.html import choice_html

        return choice_html(self)


def exactly(number: float) -> str:
    """A number as a rule's name carries it: the shortest text that reads back as the same float64."""
    return repr(float(number)).removesuffix(".0")


class RankRule(Protocol):
    """A small frozen callable, picklable, with the name its choices carry."""

    @property
    def name(self) -> str: ...

    def __call__(self, spectrum: Spectrum, /) -> RankChoice: ...

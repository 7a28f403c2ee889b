"""Several rules' answers to one spectrum, side by side."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from engine.rank.choice import RankChoice, RankRule
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from engine.spectrum import Spectrum

# What `all` stands for: every rule that a spectrum alone answers.
SPECTRAL = ("gavish-donoho", "bulk-edge", "screenot", "shrinkage", "elbow", "ev:0.5", "ev:0.8", "ev:0.95")


def side_by_side(spectrum: Spectrum, rules: Iterable[RankRule]) -> dict[str, RankChoice]:
    """What each rule says, by its name; a K that the matrix cannot have is a refusal with its reason."""
    return {rule.name: answer(spectrum, rule) for rule in rules}


def answer(spectrum: Spectrum, rule: RankRule) -> RankChoice:
    """A rule's answer, also where it would raise an error."""
    try:
        return rule(spectrum)
    except EigenzooError as problem:
        return RankChoice(None, None, rule.name, str(problem).removeprefix("k: "))

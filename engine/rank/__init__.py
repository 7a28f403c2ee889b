"""Rules for K: a table by name, and `parse_rule`, which reads a user's choice."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral

from engine.rank.choice import RankRule
from engine.rank.explained_variance import ExplainedVariance
from engine.rank.fixed import Fixed
from engine.rank.gavish_donoho import GavishDonoho
from ingest.errors import EigenzooError

# name → maker from what follows the colon ("" when nothing does)
RULES: dict[str, Callable[[str], RankRule]] = {
    "gavish-donoho": GavishDonoho.parse,
    "ev": ExplainedVariance.parse,
    "fixed": Fixed.parse,
}


def parse_rule(k: str | int | RankRule) -> RankRule:
    """A rule from "gavish-donoho", "gavish-donoho:σ" (noise known), "ev:0.8", 12, "12", or a rule itself.

    Raises
    ------
    EigenzooError
        For anything else, with what would be understood.
    """
    if isinstance(k, bool) or not isinstance(k, str | Integral):
        if callable(k):
            return k
        raise EigenzooError(f"k: got {k!r}; give {_understood()}")
    name, _, argument = str(k).partition(":")
    if not argument and name.lstrip("+-").isdigit():
        name, argument = "fixed", name
    if name not in RULES:
        raise EigenzooError(f"k: got {k!r}; give {_understood()}")
    return RULES[name](argument)


def _understood() -> str:
    return "'gavish-donoho', 'ev:0.8' (a share of the variance) or a number such as 12"

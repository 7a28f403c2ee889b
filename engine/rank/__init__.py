"""Rules for K: a table by name, and `parse_rule`, which reads a user's choice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral

from engine.rank.bulk_edge import BulkEdge
from engine.rank.choice import RankRule
from engine.rank.elbow import Elbow
from engine.rank.explained_variance import ExplainedVariance
from engine.rank.fixed import Fixed
from engine.rank.gavish_donoho import GavishDonoho
from engine.rank.needs_rows import Parallel
from engine.rank.screenot import ScreeNOT
from engine.rank.shrinkage import Shrinkage
from ingest.errors import EigenzooError


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of the table.

    Attributes
    ----------
    parse : maker from what follows the colon ("" when nothing does); errors begin with "k: ".
    usage : how the rule is written.
    reference : where it is from.
    assumes : of the noise, or of the spectrum.
    needs : what it has to be given.
    """

    parse: Callable[[str], RankRule]
    usage: str
    reference: str
    assumes: str
    needs: str


_WHOLE, _MEDIAN = "the whole spectrum", "the spectrum's median, or its largest values and the trace"

RULES: dict[str, Rule] = {
    "gavish-donoho": Rule(
        GavishDonoho.parse,
        "gavish-donoho[:NOISE|:init]",
        "Gavish and Donoho 2014, the optimal hard threshold",
        "white noise; its level unknown, given, or that of the adapters' random start",
        f"{_MEDIAN}; with a level the largest values; init: the zoo",
    ),
    "bulk-edge": Rule(
        BulkEdge.parse,
        "bulk-edge[:NOISE]",
        "Marchenko and Pastur 1967; Baik, Ben Arous and Péché 2005; Johnstone 2001",
        "white noise; its level unknown or given",
        f"{_MEDIAN}; with a level the largest values",
    ),
    "screenot": Rule(
        ScreeNOT.parse,
        "screenot[:BOUND]",
        "Donoho, Gavish and Romanov 2023, ScreeNOT",
        "noise of any spectrum with an edge; a rank of at most BOUND, 50 unless given",
        _WHOLE,
    ),
    "shrinkage": Rule(
        Shrinkage.parse,
        "shrinkage[:frobenius|:operator|:nuclear]",
        "Gavish and Donoho 2017, optimal shrinkage",
        "white noise",
        _MEDIAN,
    ),
    "parallel": Rule(
        Parallel.parse,
        "parallel[:init][:DRAWS]",
        "Hong, Sheng and Dobriban 2020, random sign flips; Horn 1965",
        "independent symmetric entries, of any levels; init: noise as the adapters' random start",
        "the rows, read once for every draw (19 unless given); init: the zoo",
    ),
    "elbow": Rule(
        Elbow.parse,
        "elbow",
        "Zhu and Ghodsi 2006, profile likelihood of the scree plot",
        "one gap in the variances, so that K is never 0",
        _WHOLE,
    ),
    "ev": Rule(
        ExplainedVariance.parse,
        "ev:SHARE",
        "the smallest K with that share of the variance",
        "nothing",
        "the largest values and the trace",
    ),
    "fixed": Rule(Fixed.parse, "N", "the number given", "nothing", "the rank"),
}


def parse_rule(k: str | int | RankRule) -> RankRule:
    """A rule over a spectrum from its text ("gavish-donoho", "ev:0.8", "12"), a number, or a rule itself.

    Raises
    ------
    EigenzooError
        For anything else, with what would be understood; for a rule that a spectrum cannot answer.
    """
    rule = read_rule(k)
    if isinstance(rule, Parallel):
        raise EigenzooError(
            f"k: {rule.name!r} needs the rows once more than a fit has them; fit by another rule, then "
            f"`eigenzoo rank RUN --rules {rule.name}`, or engine.parallel_analysis(rows)"
        )
    return rule


def read_rule(k: str | int | RankRule) -> RankRule:
    """Any rule of the table, also one that a spectrum cannot answer; as `parse_rule` otherwise."""
    if isinstance(k, bool) or not isinstance(k, str | Integral):
        if callable(k):
            return k
        raise EigenzooError(f"k: got {k!r}; give {_understood()}")
    name, _, argument = str(k).partition(":")
    if not argument and name.lstrip("+-").isdigit():
        name, argument = "fixed", name
    if name not in RULES:
        raise EigenzooError(f"k: got {k!r}; give {_understood()}")
    return RULES[name].parse(argument)


def _understood() -> str:
    spectral = ", ".join(rule.usage for name, rule in RULES.items() if name not in ("ev", "fixed", "parallel"))
    return f"{spectral}, 'ev:0.8' (a share of the variance) or a number such as 12"

"""The rules for K that the page holds against each other, and what they say of one matrix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.rank import parse_rule
from engine.rank.choice import RankChoice
from engine.rank.whiteness import Whiteness, whiteness
from engine.report.findings import rounded
from ingest.errors import EigenzooError
from ingest.html import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.analysis.file import RuleAnswer
    from engine.subspace import Subspace

GAVISH_DONOHO, SHARE = "gavish-donoho", "ev:0.8"
STANDARD = (GAVISH_DONOHO, "bulk-edge", "screenot", "shrinkage", "elbow", "ev:0.5", SHARE, "ev:0.95")
# They hold the singular values against white noise.
WHITE_NOISE = ("gavish-donoho", "bulk-edge", "shrinkage")
_LABELS = {
    "gavish-donoho": "Gavish–Donoho",
    "bulk-edge": "bulk edge",
    "screenot": "ScreeNOT",
    "shrinkage": "shrinkage",
    "elbow": "elbow",
    "parallel": "parallel analysis",
}


@dataclass(frozen=True, slots=True)
class Answers:
    """What the rules say of one matrix; whether its noise is white; `share`, cumulative, of its variance."""

    choices: dict[str, RankChoice]
    whiteness: Whiteness
    share: NDArray[np.float64]

    def share_at(self, k: int | None) -> float | None:
        """The share of the variance that the first `k` components carry; None where a rule declined."""
        if k is None or k > len(self.share):
            return None
        return rounded(float(self.share[k - 1])) if k else 0.0


def answers(subspace: Subspace, extra: Iterable[RuleAnswer] = ()) -> Answers:
    """Every rule over the stored spectrum: the standard ones, those of the fit, and `extra` found elsewhere.

    A rule that cannot be asked of such a spectrum declines, with its reason.  O(n log n) for n singular values.
    """
    spectrum = subspace.as_spectrum()
    choices: dict[str, RankChoice] = {}
    for name in STANDARD:
        stored = subspace.choices.get(name)
        if stored is not None:
            choices[name] = stored
            continue
        try:
            choices[name] = parse_rule(name)(spectrum)
        except EigenzooError as error:
            choices[name] = RankChoice(None, None, name, str(error))
    for name, choice in subspace.choices.items():
        if not is_number(name):  # a K that was given is "K kept"
            choices.setdefault(name, choice)
    for answer in extra:
        choices.setdefault(answer.rule, RankChoice(answer.k, answer.threshold, answer.rule, answer.note))
    share = np.cumsum(subspace.explained_variance_ratio)
    return Answers(choices, whiteness(spectrum, choices[GAVISH_DONOHO].k or 0), share)


def label(rule: str) -> str:
    """A rule's name for people: "Gavish–Donoho", "80 % of variance"."""
    name, _, argument = rule.partition(":")
    if name == "ev":
        return f"{100 * float(argument):.14g}\u00a0% of variance"
    if is_number(rule) or name == "fixed":
        return "as given"
    known = _LABELS.get(name, printable(name))
    if not argument:
        return known
    noisy = name in ("gavish-donoho", "bulk-edge")
    what = "noise of the random start" if argument == "init" else f"noise {argument}" if noisy else argument
    return f"{known}, {printable(what)}"


def is_number(rule: str) -> bool:
    """Whether the rule is a K that somebody gave."""
    return rule.lstrip("+-").isdigit()


def assumes_white_noise(rule: str) -> bool:
    """Whether noise that is not white misleads the rule."""
    return rule.partition(":")[0] in WHITE_NOISE


def in_singular_values(rule: str) -> bool:
    """Whether the rule's threshold is a singular value; a share of the variance is none."""
    return rule.partition(":")[0] not in ("ev", "fixed")

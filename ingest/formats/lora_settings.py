"""The rank and scale that a LoRA configuration gives each module.

peft's semantics (0.21): `get_pattern_key` for rank_pattern and alpha_pattern, scaling as in `LoraLayer.update_layer`.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from ingest.formats.patterns import check_work, matching


class Patterns(NamedTuple):
    """Regular expressions in the configuration's order, and the value of each."""

    keys: tuple[str, ...] = ()
    values: tuple[float, ...] = ()

    @classmethod
    def of(cls, pairs: Collection[tuple[str, float]]) -> Patterns:
        return cls(tuple(key for key, _ in pairs), tuple(value for _, value in pairs))


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Rank and alpha of each module, as peft resolves them.

    Attributes
    ----------
    r, alpha
        The defaults for modules that no pattern matches.
    use_rslora
        Scale by alpha / √r instead of alpha / r.
    rank_pattern, alpha_pattern
        What other modules have.
    """

    r: int
    alpha: float
    use_rslora: bool
    rank_pattern: Patterns
    alpha_pattern: Patterns

    def check_work(self, modules: Collection[str], where: str) -> None:
        """Refuse (`bad-config`) patterns that would take too long on these modules; to be called before the others."""
        check_work(self.rank_pattern.keys, modules, "rank_pattern", where)
        check_work(self.alpha_pattern.keys, modules, "alpha_pattern", where)

    def rank(self, module: str) -> int:
        """The rank peft gives a module, named as in the base model it was trained on."""
        at = matching(self.rank_pattern.keys, module)
        return self.r if at is None else int(self.rank_pattern.values[at])

    def scale(self, module: str) -> float:
        """The float by which peft multiplies B · A."""
        at = matching(self.alpha_pattern.keys, module)
        alpha = self.alpha if at is None else self.alpha_pattern.values[at]
        rank = self.rank(module)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank

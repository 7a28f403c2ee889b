"""Fits that heed seed groups: which adapters of a zoo a run fits, and what is taken from their rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from engine.delta import rows_in
from engine.starts.groups import SeedGroups, groups_in
from engine.starts.less_starts import LessStarts
from engine.starts.members import ordinals_of
from ingest.errors import EigenzooError
from ingest.store.reader import Zoo

if TYPE_CHECKING:
    from engine.rows import RowSource
    from ingest.store.reader import MatrixInfo

# What was found in zoos that are open: a zoo is a snapshot, so it does not change.
_FOUND: WeakKeyDictionary[Zoo, dict[str, SeedGroups]] = WeakKeyDictionary()
FORMS = "all, one-each, subtract, group:1, group:2, …"


@dataclass(frozen=True, slots=True)
class SeedOption:
    """What a fit does about adapters that share a start: `kind`, and of "group" which one, the largest being 1."""

    kind: str
    number: int = 0

    @property
    def name(self) -> str:
        """As it is typed."""
        return f"{self.kind}:{self.number}" if self.number else self.kind


def parse_seeds(text: str) -> SeedOption:
    """The option as typed.

    Raises
    ------
    EigenzooError
        For another text than one of `FORMS`.
    """
    kind, colon, number = text.partition(":")
    if kind in ("all", "one-each", "subtract") and not colon:
        return SeedOption(kind)
    if kind == "group" and number.isascii() and number.isdigit() and int(number) > 0:
        return SeedOption(kind, int(number))
    raise EigenzooError(f"seeds: got {text!r}; choose one of {FORMS}")


def check_seeds(seeds: str, *, space: str = "factor", keep_state: bool = False) -> None:
    """Refuse what does not go together.

    Raises
    ------
    EigenzooError
        For an unknown option, starts that are to be subtracted from ΔW, or states that are to be kept of a choice.
    """
    if parse_seeds(seeds).kind == "subtract" and space != "factor":
        raise EigenzooError(
            "seeds: a start is a factor's, and cannot be subtracted in ΔW space; give one-each, or the factor space"
        )
    if keep_state and seeds != "all":
        raise EigenzooError(
            f"seeds: states are kept of all adapters, and not with {seeds!r}; leave out keep-state, or give all"
        )


class SeedChoice:
    """The rows that a run fits of a zoo, by its setting `seeds`.

    Parameters
    ----------
    zoo : Zoo
    seeds : str
        "all": every adapter as it is. "one-each": one adapter per start (`SeedGroups.one_each`) on both sides of a
        module. "subtract": all adapters, but on the side that starts at random less the mean of those of one start and
        one rank (`LessStarts`). "group:N": only the members of a module's N-th largest group.
    space : {"factor", "delta"}

    Raises
    ------
    EigenzooError
        See `check_seeds`.

    Notes
    -----
    Cost: but for "all" the seed groups of every module that is asked for (`engine.starts.groups`), found once for an
    opened zoo.
    """

    def __init__(self, zoo: Zoo, seeds: str = "all", space: str = "factor") -> None:
        check_seeds(seeds, space=space)
        self._zoo, self._space, self._option = zoo, space, parse_seeds(seeds)
        self._groups = _FOUND.setdefault(zoo, {})

    def matrices(self, chosen: Sequence[MatrixInfo], notice: Callable[[str], None] | None = None) -> list[MatrixInfo]:
        """Those of the matrices that there are, with the rows that they have; what is left out is told.

        Raises
        ------
        EigenzooError
            If no module has a group of that number.
        """
        if self._option.kind == "all":
            return list(chosen)
        layers = list(dict.fromkeys(info.layer for info in chosen))
        self._find(layers)
        number = self._option.number
        kept = [layer for layer in layers if len(self._groups[layer].groups) >= number]
        if not kept:
            raise EigenzooError(
                f"seeds: none of {len(layers)} modules has {number} groups; "
                f"`eigenzoo seeds {self._zoo.path}` lists them"
            )
        if notice is not None:
            notice(self._told(layers, kept))
        return [
            replace(info, rows=self.rows(info.layer, info.side).shape[0]) for info in chosen if info.layer in set(kept)
        ]

    def rows(self, layer: str, side: str) -> RowSource:
        """The rows of one matrix.

        Raises
        ------
        EigenzooError
            For an unknown layer or side, or a layer without that group.
        """
        rows = rows_in(self._space, self._zoo, layer, side, self.members(layer))
        found = self._groups.get(layer)
        if self._option.kind != "subtract" or found is None or found.side != side:
            return rows
        ranks = dict(zip(found.adapters, np.diff(rows.offsets).tolist(), strict=True))
        sets = _sets(found, ranks)
        number = {ordinal: at for at, members in enumerate(sets) for ordinal in members}
        which = np.array([number.get(ordinal, -1) for ordinal in found.adapters], np.int64)
        sources = tuple(self._zoo.rows(layer, side=side, members=members) for members in sets)
        return LessStarts(rows, sources, which) if sets else rows

    def members(self, layer: str) -> list[int] | None:
        """Ordinals of the adapters that are fitted; None for all that are live."""
        if self._option.kind == "all":
            return None
        if layer not in self._groups:
            self._find([layer])
        found = self._groups[layer]
        if self._option.kind == "one-each":
            return list(found.one_each)
        if self._option.kind == "subtract":
            return None
        if len(found.ordinals) < self._option.number:
            raise EigenzooError(f"seeds: {layer} has {len(found.ordinals)} groups, and none is {self._option.number}")
        return list(found.ordinals[self._option.number - 1])

    def adapters(self, layer: str) -> tuple[str, ...]:
        """Names of the adapters that are fitted, in the order of their rows."""
        members = self.members(layer)
        stored = self._zoo.stored
        return tuple(stored[i].record.name for i in (ordinals_of(self._zoo, layer) if members is None else members))

    def _find(self, layers: Sequence[str]) -> None:
        from engine.runners.threads import ThreadsRunner
        from engine.starts.chance import MIN_COSINE

        with ThreadsRunner() as runner:
            wanted = [layer for layer in layers if layer not in self._groups]
            for each in groups_in(self._zoo, wanted, MIN_COSINE, 0, runner):
                self._groups[each.layer] = each

    def _told(self, layers: Sequence[str], kept: Sequence[str]) -> str:
        shared = [self._groups[layer] for layer in layers if self._groups[layer].groups]
        where = f"{len(shared)} of {len(layers)} modules"
        if self._option.kind == "group":
            left = f"; the other {len(layers) - len(kept)} are left out" if len(kept) < len(layers) else ""
            return f"seeds: {len(kept)} of {len(layers)} modules have a group {self._option.number}{left}"
        adapters = len({ordinal for each in shared for group in each.ordinals for ordinal in group})
        done = "one of each start is fitted" if self._option.kind == "one-each" else "their starts are subtracted"
        return f"seeds: {adapters} adapters share a start with another in {where}; {done}"


def _sets(found: SeedGroups, ranks: dict[int, int]) -> list[list[int]]:
    """The members of each group that are of one rank, where there are two and more."""
    out = []
    for group in found.ordinals:
        for rank in sorted({ranks[ordinal] for ordinal in group}):
            alike = [ordinal for ordinal in group if ranks[ordinal] == rank]
            out += [alike] if len(alike) > 1 else []
    return out

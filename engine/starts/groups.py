"""Seed groups: which adapters of a zoo share a random start, module by module.

A start may be shared in some modules only: other target modules shift the generator's stream. Of linear layers and
convolutions A is drawn and B begins at zero, so side A is looked at; of embeddings it is B.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.reductions.gather import Gather
from engine.runners.serial import SerialRunner
from engine.starts.chance import MIN_COSINE
from engine.starts.members import ordinals_of
from engine.starts.shared import Starts, check_cosine, sketch_of, starts_of
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from engine.by_adapter import ByAdapter
    from engine.runners.protocol import Runner
    from ingest.store.reader import Zoo
    from ingest.store.rows import ZooRows


@dataclass(frozen=True, slots=True)
class SeedGroups:
    """The adapters that share a random start in one module.

    Attributes
    ----------
    layer, side : str
        The side that starts at random.
    groups : tuple of tuples of str
        Names, two and more in a group, in the order of the zoo; the largest group first.
    ordinals : tuple of tuples of int
        The same by the zoo's ordinals (see `Zoo.stored`).
    adapters : tuple of int
        Ordinals of all adapters that have the module, ascending.
    min_cosine : float
        As asked for.
    bar : float
        The cosine that a pair of the lowest rank had to reach: more than `min_cosine` where independent adapters may be
        as alike.
    weakest, strongest : float or None
        The lowest cosine of a member and its group's representative, and the highest one found between adapters that
        are in no group together.
    """

    layer: str
    side: str
    groups: tuple[tuple[str, ...], ...]
    ordinals: tuple[tuple[int, ...], ...]
    adapters: tuple[int, ...]
    min_cosine: float
    bar: float
    weakest: float | None
    strongest: float | None

    @property
    def n_adapters(self) -> int:
        """Adapters that have the module."""
        return len(self.adapters)

    @property
    def n_grouped(self) -> int:
        """Adapters in groups."""
        return sum(map(len, self.groups))

    @property
    def one_each(self) -> tuple[int, ...]:
        """Ordinals of one adapter per start: the first one of each group, and all that are in none."""
        others = {ordinal for group in self.ordinals for ordinal in group[1:]}
        return tuple(ordinal for ordinal in self.adapters if ordinal not in others)


def seed_groups(
    zoo: Zoo, layer: str, *, min_cosine: float = MIN_COSINE, seed: int = 0, runner: Runner | None = None
) -> SeedGroups:
    """The seed groups of one module. Parameters, errors and cost as for `engine.starts.shared.shared_starts`.

    Raises
    ------
    EigenzooError
        Also for an unknown layer, or one without rows.
    """
    return next(groups_in(zoo, [layer], min_cosine, seed, runner or SerialRunner()))


def seeds(
    zoo: Zoo,
    layers: str = "*",
    *,
    min_cosine: float = MIN_COSINE,
    seed: int = 0,
    runner: Runner | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[SeedGroups]:
    """The seed groups of every module that matches, in the order of the zoo's layers.

    Parameters
    ----------
    zoo : Zoo
    layers : str
        A glob over canonical layer names; several may be given with commas.
    min_cosine, seed, runner
        As for `engine.starts.shared.shared_starts`; modules are sketched side by side as far as the runner does so.
    progress : callable, optional
        Called with modules done, of how many, and the last one's name.

    Raises
    ------
    EigenzooError
        If nothing matches; and as for `seed_groups`.
    """
    chosen = layers_matching(zoo, layers)
    found: dict[str, SeedGroups] = {}
    for each in groups_in(zoo, chosen, min_cosine, seed, runner or SerialRunner()):
        found[each.layer] = each
        if progress is not None:
            progress(len(found), len(chosen), each.layer)
    return [found[layer] for layer in chosen]


def layers_matching(zoo: Zoo, layers: str) -> list[str]:
    """The zoo's layers that match one of the globs.

    Raises
    ------
    EigenzooError
        If none does.
    """
    globs = [glob.strip() for glob in layers.split(",") if glob.strip()]
    chosen = [layer for layer in zoo.layers if any(fnmatch.fnmatchcase(layer, glob) for glob in globs)]
    if not chosen:
        if not zoo.layers:
            raise EigenzooError(f"{zoo.path}: the zoo has no accepted adapter; `eigenzoo info` says why")
        raise EigenzooError(f"layers: {layers!r} matches none of {len(zoo.layers)} layers, such as {zoo.layers[0]!r}")
    return chosen


def partitions(found: Iterable[SeedGroups]) -> list[tuple[tuple[tuple[str, ...], ...], list[str]]]:
    """Modules by what their groups are: (groups, layers) for every way in which adapters fall into groups."""
    alike: dict[tuple[tuple[str, ...], ...], list[str]] = {}
    for each in found:
        alike.setdefault(each.groups, []).append(each.layer)
    return list(alike.items())


def random_side(zoo: Zoo, layer: str) -> str:
    """The side of a layer that starts at random: "B" of an embedding, else "A"."""
    return "B" if zoo.layer(layer).kind == "embedding" else "A"


def groups_in(zoo: Zoo, layers: Iterable[str], min_cosine: float, seed: int, runner: Runner) -> Iterator[SeedGroups]:
    """The seed groups of these layers, in the order in which they are done; see `seeds`."""
    check_cosine(min_cosine)
    sources: dict[str, ZooRows] = {}

    def work() -> Iterator[tuple[str, Gather, ByAdapter]]:
        for layer in layers:
            rows = sources[layer] = zoo.rows(layer, side=random_side(zoo, layer))
            sketched = sketch_of(rows, min_cosine, seed)
            yield layer, Gather(sketched.shape[1]), sketched

    for layer, numbers in runner.run_many(work()):
        rows: Any = sources.pop(layer)
        yield _named(zoo, rows, starts_of(rows, numbers, min_cosine=min_cosine, seed=seed), min_cosine)


def _named(zoo: Zoo, rows: ZooRows, starts: Starts, min_cosine: float) -> SeedGroups:
    ordinals, stored = ordinals_of(zoo, rows.layer), zoo.stored
    groups = tuple(tuple(ordinals[place] for place in group) for group in starts.groups)
    return SeedGroups(
        layer=rows.layer,
        side=rows.side,
        groups=tuple(tuple(stored[ordinal].record.name for ordinal in group) for group in groups),
        ordinals=groups,
        adapters=tuple(ordinals),
        min_cosine=min_cosine,
        bar=starts.bar,
        weakest=starts.weakest,
        strongest=starts.strongest,
    )

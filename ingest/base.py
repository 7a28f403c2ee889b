"""Which base model a zoo has, and whether an adapter belongs to it.

A zoo has one base.  An adapter *names* it where its configuration gives a name that is not a path on somebody's
machine; otherwise its layers and their shapes speak for it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest.reasons import Reason
from ingest.store.catalog import LayerRecord

if TYPE_CHECKING:
    from ingest.formats.adapter import LoraModule

_PATH = re.compile(r"^(?:[/.~]|[A-Za-z]:)|\\|/.*/")

Modules = tuple["LoraModule", ...]


@dataclass(frozen=True, slots=True)
class Base:
    """A zoo's base: its name (None where nobody named one), other names for it, and its layers."""

    name: str | None
    aliases: frozenset[str]
    layers: dict[str, LayerRecord]

    def objection(self, named: str | None, modules: Modules) -> tuple[Reason, str] | None:
        """Why an adapter does not belong to this base; None where it does.

        An unnamed adapter must share a layer.  One that names the base may adapt other modules, but of the same
        stack: a layer's name up to its first number must be one that the zoo has.
        """
        stated = name_of(named)
        if stated is not None and not self.answers_to(stated):
            remedy = f"--alias {stated}" if self.name else f"--base-model {stated}"
            return (
                Reason.OTHER_BASE,
                f"its base is {stated}, the zoo's is {self.name or 'unnamed'}; {remedy} if the same, else give it "
                "another --zoo",
            )
        shared = [m for m in modules if m.layer in self.layers]
        if not shared:
            stems = {_stem(layer) for layer in self.layers}
            if stated is None or not any(_stem(m.layer) in stems for m in modules):
                return (
                    Reason.NO_COMMON_LAYER,
                    f"no layer in common with the zoo: it has {modules[0].layer} …, "
                    f"the zoo {next(iter(self.layers), 'nothing')} …; "
                    "--rename OLD=NEW if they are the same",
                )
        for module in shared:
            if (shape := shape_of(module)) != self.layers[module.layer]:
                want = self.layers[module.layer]
                return (
                    Reason.SHAPE_DISAGREES,
                    f"{module.layer} is {_show(shape)} here, {_show(want)} in the zoo",
                )
        return None

    def answers_to(self, stated: str) -> bool:
        """Whether a stated base is this one, by name or alias."""
        names = {n.lower() for n in (self.name, *self.aliases) if n}
        return stated.lower() in names


def name_of(stated: str | None) -> str | None:
    """The base model's name, or None where what is stated is empty or a local path."""
    stated = (stated or "").strip().rstrip("/")
    return None if not stated or _PATH.search(stated) else stated


def shape_of(module: LoraModule) -> LayerRecord:
    """The layer as this module has it."""
    return LayerRecord(module.layer, module.kind, module.a_shape, module.out)


def choose(
    adapters: Sequence[tuple[str | None, Modules]],
    name: str | None,
    aliases: frozenset[str],
    known: Base | None,
) -> Base:
    """The base of a zoo to be: the given one, else that of the largest group of adapters that agree.

    Parameters
    ----------
    adapters : sequence of (stated base, modules)
        In the order of the sources; on a tie the earlier group wins.
    name : str or None
        The user's word; overrides the vote.
    aliases : frozenset of str
        Other names of the base.
    known : Base or None
        The base of a zoo that exists: its name and layers stand, and layers that it lacks are voted for.

    Returns
    -------
    Base
        With the layers of the group, each in the shape that most of the group gives it.
    """
    if known is not None and (name is None or known.name is None or known.answers_to(name)):
        start = Base(known.name or name, known.aliases | aliases, known.layers)
        return _close(start, adapters)
    groups = _groups(adapters, aliases, name)
    best = max(groups.values(), key=len, default=[])
    if name is not None:
        best = groups.get(name.lower()) or best
    stated = Counter(n for i in best if (n := name_of(adapters[i][0])) is not None)
    winner = name or (stated.most_common(1)[0][0] if stated else None)
    return _close(Base(winner, aliases, _vote(_core([adapters[i][1] for i in best]))), adapters)


def _close(base: Base, adapters: Sequence[tuple[str | None, Modules]]) -> Base:
    """The base with all layers of the adapters that belong to it: those may bring layers that let others in."""
    while True:
        admitted = [modules for stated, modules in adapters if base.objection(stated, modules) is None]
        layers = _vote(admitted)
        if layers.keys() <= base.layers.keys():
            return base
        base = Base(base.name, base.aliases, layers | base.layers)


def _groups(
    adapters: Sequence[tuple[str | None, Modules]], aliases: frozenset[str], name: str | None
) -> dict[str, list[int]]:
    """Adapters by base: by name where they name one, else with those whose layers and shapes they share."""
    same = {a.lower() for a in aliases}
    fold = name.lower() if name else min(same, default="")
    groups: dict[str, list[int]] = {}
    shapes: dict[str, set[LayerRecord]] = {}
    own: dict[int, set[LayerRecord]] = {}  # equal modules are one object: look at each once
    for _, modules in adapters:
        if id(modules) not in own:
            own[id(modules)] = {shape_of(m) for m in modules}
    for i, (stated, modules) in enumerate(adapters):
        if (named := name_of(stated)) is not None:
            key = fold if named.lower() in same else named.lower()
            groups.setdefault(key, []).append(i)
            shapes.setdefault(key, set()).update(own[id(modules)])
    for i, (stated, modules) in enumerate(adapters):
        if name_of(stated) is None:
            mine = own[id(modules)]
            best = max(groups, key=lambda k: len(mine & shapes[k]), default=None)
            if best is None or not mine & shapes[best]:
                best = f"\0{i}"  # a group of its own, which later unnamed ones may join
            groups.setdefault(best, []).append(i)
            shapes.setdefault(best, set()).update(mine)
    return dict(sorted(groups.items(), key=lambda item: min(item[1])))


def _vote(group: Sequence[Modules]) -> dict[str, LayerRecord]:
    """Each layer in the shape that most adapters of the group give it."""
    votes: dict[str, Counter[LayerRecord]] = {}
    counts = Counter(map(id, group))
    for modules in {id(m): m for m in group}.values():
        for module in modules:
            votes.setdefault(module.layer, Counter())[shape_of(module)] += counts[id(modules)]
    return {layer: counter.most_common(1)[0][0] for layer, counter in sorted(votes.items())}


def _core(group: Sequence[Modules]) -> list[Modules]:
    """The largest set of adapters whose stacks hang together."""
    parent: dict[str, str] = {}

    def root(stem: str) -> str:
        while parent.setdefault(stem, stem) != stem:
            stem = parent[stem]
        return stem

    for modules in {id(m): m for m in group}.values():
        for module in modules:
            parent[root(_stem(module.layer))] = root(_stem(modules[0].layer))
    sizes = Counter(root(_stem(modules[0].layer)) for modules in group)
    best = max(sizes, key=lambda r: sizes[r], default="")
    return [modules for modules in group if root(_stem(modules[0].layer)) == best]


def _stem(layer: str) -> str:
    """The stack of blocks that a layer belongs to: its name up to the first number, else without its last part."""
    parts = layer.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
    return ".".join(parts[:number])


def _show(record: LayerRecord) -> str:
    return f"{record.kind} {'×'.join(map(str, record.a_shape))} → {record.out}"

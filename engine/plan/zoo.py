"""A plan of many matrices on a number of workers: those of one shape are planned once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from engine.backends import choose
from engine.methods import METHODS, Wanted
from engine.plan.choice import Choice, choose_method, device_for
from engine.plan.rates import Rates, default_rates
from engine.plan.schedule import Makespan, makespan
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from engine.plan.matrix import Matrix


@dataclass(frozen=True, slots=True)
class Group:
    """Matrices of one shape.

    Attributes
    ----------
    matrix : each of them.
    count : how many there are.
    first : the name of one; "" where they have none.
    components : how many are wanted, where that is known.
    """

    matrix: Matrix
    count: int
    first: str = ""
    components: int | None = None


@dataclass(frozen=True, slots=True)
class ZooPlan:
    """What a whole zoo takes on some workers.

    Attributes
    ----------
    workers : tasks at a time.
    allowed : bytes a task may use; None for no limit.
    choices : the method of every group.
    total : of the groups for which there is a method.
    memory_bytes : of all workers together, at most, their libraries not counted.
    within : factor by which seconds may be off.
    """

    workers: int
    allowed: int | None
    choices: tuple[Choice, ...]
    total: Makespan
    memory_bytes: int
    within: float


def grouped(matrices: Iterable[tuple[Matrix, str, int | None]]) -> list[Group]:
    """Matrices, given as (matrix, name, components), by shape; the largest work first."""
    found: dict[tuple[Matrix, int | None], Group] = {}
    for matrix, name, components in matrices:
        key = (matrix, components)
        found[key] = (
            replace(found[key], count=found[key].count + 1) if key in found else Group(matrix, 1, name, components)
        )
    return sorted(found.values(), key=lambda g: -g.count * g.matrix.n_rows * g.matrix.width**2)


def plan_zoo(
    groups: Sequence[Group],
    wanted: Wanted,
    workers: int,
    *,
    method: str = "auto",
    device: str = "auto",
    memory: int | None = None,
    rates: Mapping[str, Rates] | None = None,
) -> ZooPlan:
    """The methods, and the time of all matrices.

    Parameters
    ----------
    groups, wanted : what is solved, and what is asked for; a group's own number of components comes first.
    workers : tasks at a time.
    method, device, rates : as for `choose_method`.
    memory : bytes a task may use; None for no limit.
    """
    choices = tuple(
        choose_method(g.matrix, _wanted(wanted, g), method=method, device=device, memory=memory, rates=rates)
        for g in groups
    )
    chosen = [(c.chosen, g.count) for c, g in zip(choices, groups, strict=True) if c.chosen is not None]
    used = {e.device: (rates or {}).get(e.device) or default_rates(e.device) for e, _ in chosen}
    slowest = max(used.values(), key=lambda r: r.start_us, default=default_rates("cpu"))
    largest = max((e.task_bytes for e, _ in chosen), default=0)
    tasks = sum(count * e.work.n_ranges for e, count in chosen)
    return ZooPlan(
        workers=workers,
        allowed=memory,
        choices=choices,
        total=makespan(chosen, workers, slowest),
        memory_bytes=min(workers, tasks) * largest,
        within=max((r.within for r in used.values()), default=1.0),
    )


def devices_of(groups: Sequence[Group], wanted: Wanted, device: str) -> list[str]:
    """The backends that estimates of these groups speak of."""
    return sorted({device_for(name, g.matrix, _wanted(wanted, g), device) for name in METHODS for g in groups})


def rates_for(devices: Iterable[str], given: Mapping[str, Rates], measure: Callable[[str], Rates]) -> dict[str, Rates]:
    """Rates by device: as given, else measured where the device is here, else the documented ones."""
    return {device: given.get(device) or _measured(device, measure) for device in devices}


def _measured(device: str, measure: Callable[[str], Rates]) -> Rates:
    try:
        choose(device)
        return measure(device)
    except (EigenzooError, ImportError):
        return default_rates(device)


def _wanted(wanted: Wanted, group: Group) -> Wanted:
    return wanted if group.components is None else replace(wanted, components=group.components)

"""A fit by moments whose state stays: in a file that the worker writes, and a later fit goes on from.

A state is large, so it goes neither through the scheduler nor to the client. It is written before the result is
reported, with the members it holds (`engine.kept.members`).

The larger part of a change is folded by the runner like any rows; the other, small by nature, by the task that
finishes: it takes the state of the former, the kept one, and the rows of the latter, which it reads itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.kept import held as holding
from engine.kept import state_file
from engine.kept.members import Keys, Members
from engine.memory import SLACK
from engine.reductions.moments import piece_rows
from engine.reductions.protocol import Again
from engine.runners.partition import read_rows
from engine.runners.serial import SerialRunner
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.fit_reduction import Fit
    from engine.kept.held import Held
    from engine.reductions.moments import Moments, MomentsState
    from engine.reductions.protocol import Reduction
    from engine.rows import RowSource
    from engine.subspace import Subspace


@dataclass(frozen=True, slots=True)
class Whole:
    """All rows have to be read; `reason` completes "… are read whole: …", "" where nothing is unexpected."""

    reason: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """What a kept state lacks.

    Attributes
    ----------
    rows : RowSource
        Folded by the runner: added ones where `sign` is 1, removed ones where it is −1. There may be none.
    sign : int
    other : RowSource or None
        Those of the other sign.
    base, target : str
        Digests of the members before and after.
    added, removed : keys of members
    """

    rows: RowSource
    sign: int
    other: RowSource | None
    base: str
    target: str
    added: Keys
    removed: Keys

    @property
    def n_rows(self) -> int:
        """Rows that are read."""
        return self.rows.shape[0] + (self.other.shape[0] if self.other else 0)


@dataclass(frozen=True, slots=True)
class Stale:
    """An update that cannot stand: the matrix has to be read whole after all."""

    reason: str


@dataclass(frozen=True, slots=True)
class Further:
    """The state is brought up to date, but its solver wants a pass over all rows."""

    reduction: Reduction[Any, Subspace]


@dataclass(frozen=True, slots=True, eq=False)
class KeptFit:
    """A `Reduction`: a fit by moments that leaves its state in a file, or goes on from the one that is there.

    Attributes
    ----------
    fit : Fit
        By a solver that is `engine.reductions.moments.Moments`.
    path : str
        The state's file; every worker sees it under this path.
    facts : dict
        Kept with the state.
    members : Members or None
        Whose rows are folded; None where `update` says what changes.
    update : Update or None
    """

    fit: Fit[Any]
    path: str
    facts: dict[str, Any]
    members: Members | None
    update: Update | None

    def start(self) -> MomentsState:
        state: MomentsState = self.fit.start()
        return state

    def step(self, state: MomentsState, block: NDArray[Any], /) -> MomentsState:
        return self._moments.step(state, block)

    def combine(self, left: MomentsState, right: MomentsState) -> MomentsState:
        return self._moments.combine(left, right)

    def finish(self, state: MomentsState) -> Subspace | Stale | Further | Again[Subspace]:
        fresh = holding.hold(self._moments, state)
        held = self._kept(fresh) if self.members is not None else self._updated(fresh)
        if isinstance(held, Stale):
            return held
        result = holding.finish(self.fit, held)
        if self.update is not None and isinstance(result, Again):
            return Further(result.reduction)  # the runner's rows are those that changed, not all
        return result

    @property
    def _moments(self) -> Moments:
        moments: Moments = self.fit.solver  # type: ignore[assignment]
        return moments

    def _kept(self, held: Held) -> Held:
        assert self.members is not None
        self._save(held, self.members)
        return held

    def _updated(self, fresh: Held) -> Held | Stale:
        update, backend = self.update, self._moments.backend
        assert update is not None
        try:
            held, facts = state_file.load(self.path, backend)
            members = Members.from_text(facts["members"])
        except (EigenzooError, KeyError, TypeError, ValueError):
            return Stale("their kept states cannot be read")
        if members.digest == update.target:
            return held  # written by a task whose result was lost
        if members.digest != update.base or len(held.error) != self._moments.width:
            return Stale("their kept states were changed by another start")
        other = None
        if update.other is not None:
            other = holding.hold(self._moments, SerialRunner().run(self._moments, update.other))
        added, removed = (fresh, other) if update.sign > 0 else (other, fresh)
        try:
            if added is not None:
                held = holding.merge(self._moments, held, added)
            if removed is not None:
                held = holding.subtract(self._moments, held, removed)
        except EigenzooError as problem:
            return Stale(str(problem))
        if held.rebuild_reason(backend):
            return Stale("what was taken out had outweighed what is left, which shows its rounding")
        fresh.state.scatter = None  # used up: the eigenproblem needs the room
        self._save(held, members.changed(update.added, update.removed))
        return held

    def _save(self, held: Held, members: Members) -> None:
        facts = {**self.facts, "digest": members.digest, "members": members.to_text()}
        state_file.save(self.path, held, self._moments.backend, facts)


def kept_task_bytes(rows: RowSource) -> int:
    """Peak of a task that brings a state up to date.

    The change, the state, and what is folded beside them, or the state's file as it is read, packed or written: four
    squares of width² with a float32 one's half. The eigenproblem comes when all but the state is gone.
    """
    width = rows.shape[1]
    read = min(rows.shape[0], read_rows(rows.block_rows, width, rows.dtype.itemsize)) * width * rows.dtype.itemsize
    piece = min(rows.shape[0], piece_rows(width)) * width * 8
    beside = getattr(rows, "read_bytes", 0)
    return 4 * 8 * width * width + 3 * read + beside + 2 * piece + SLACK

"""Runs that keep their states: only adapters that came or went are read, whatever was killed in between.

A kept state carries the members it holds (`engine.kept.members`). What a start has to read follows from these and the
zoo as it is now, never from what an earlier start meant to do; a state that is newer than the result beside it is
therefore as good as any, and nothing is counted twice.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.delta import rows_in
from engine.kept import state_file
from engine.kept.fit import KeptFit, Update, Whole
from engine.kept.members import Keys, Members, changes, keys_of, places
from engine.run import MATRICES, STATE_ENDING, state_path
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.fit_reduction import Fit
    from engine.rows import RowSource
    from engine.run import MatrixResult
    from engine.runners.protocol import Runner
    from ingest.store.reader import MatrixInfo, Zoo


class States:
    """The states of a run, held against its zoo as it is now.

    Parameters
    ----------
    path : str
        The run directory.
    zoo : Zoo
    space : {"factor", "delta"}
        Which rows the states are of.
    """

    def __init__(self, path: str, zoo: Zoo, space: str = "factor") -> None:
        self._path, self._zoo, self._space = path, zoo, space
        # The ledger is read only where it is needed: without retired rows everybody is live.
        retired = any(array.retired for array in zoo.commit.arrays)
        self._live = np.array([s.live for s in zoo.stored]) if retired else None

    def kept(self, info: MatrixInfo) -> bool:
        """Whether the matrix has a state, of whatever members."""
        return os.path.exists(state_path(self._path, info.layer, info.side))

    def change(self, info: MatrixInfo, rows: RowSource, fit: Fit[Any], before: MatrixResult | None) -> Update | Whole:
        """What has to be read of a matrix to be solved by moments, which an earlier start may have solved."""
        if before is None and not self.kept(info):
            return Whole()
        if not self.kept(info):
            other = before is not None and before.method != "moments"
            return Whole("they were solved by a method that keeps none" if other else "no state of theirs was kept")
        facts = state_file.read_facts(state_path(self._path, info.layer, info.side))
        try:
            held = Members.from_text(facts["members"]) if facts is not None else None
        except (KeyError, TypeError, ValueError):
            held = None
        if facts is None or held is None or facts.get("width") != info.width:
            return Whole("their kept states cannot be read")
        if (facts.get("products") == "float64") != (fit.solver.products == "float64"):  # type: ignore[attr-defined]
            return Whole("their kept states were made with products of another precision")
        return self._update(info, rows, held)

    def reduction(self, info: MatrixInfo, rows: RowSource, fit: Fit[Any], change: Update | Whole) -> KeptFit:
        """The reduction over `rows`, or over the update's."""
        path = state_path(self._path, info.layer, info.side)
        facts = {
            "layer": info.layer,
            "side": info.side,
            "dtype": rows.dtype.name,
            "products": fit.solver.products,  # type: ignore[attr-defined]
            "wanted": "float64",
            "n_adapters": len(rows.offsets) - 1,
            "seen": None,
        }
        if isinstance(change, Update):
            return KeptFit(fit, path, facts, None, change)
        keys, ordinals = self._stored(info)
        return KeptFit(fit, path, facts, Members.of(keys[self._alive(ordinals)]), None)

    def _update(self, info: MatrixInfo, rows: RowSource, held: Members) -> Update | Whole:
        keys, ordinals = self._stored(info)
        alive = self._alive(ordinals)
        wanted = Members.of(keys[alive])
        added_at, removed = changes(held, keys[alive])
        removed_at = places(keys, removed)
        if removed_at is None:
            return Whole("rows that were removed from the zoo are gone since it was compacted")
        added = self._rows(info, ordinals[alive][added_at].tolist())
        gone = self._rows(info, ordinals[removed_at].tolist())
        if added.shape[0] + gone.shape[0] >= rows.shape[0]:
            return Whole("most of their rows changed")
        parts = [added, gone] if added.shape[0] >= gone.shape[0] else [gone, added]
        return Update(
            rows=parts[0],
            sign=1 if parts[0] is added else -1,
            other=parts[1] if parts[1].shape[0] else None,
            base=held.digest,
            target=wanted.digest,
            added=keys[alive][added_at],
            removed=removed,
        )

    def _rows(self, info: MatrixInfo, members: list[int]) -> RowSource:
        return rows_in(self._space, self._zoo, info.layer, info.side, members)

    def _stored(self, info: MatrixInfo) -> tuple[Keys, NDArray[np.int64]]:
        entries = self._zoo.entries(self._zoo.layer(info.layer))
        return keys_of(entries, info.side, self._space), entries["adapter"].astype(np.int64)

    def _alive(self, ordinals: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.ones(len(ordinals), bool) if self._live is None else np.asarray(self._live[ordinals])


def kept_bytes(path: str) -> int:
    """Bytes of all states that a run keeps."""
    folder = os.path.join(path, MATRICES)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sum(os.path.getsize(os.path.join(folder, n)) for n in names if n.endswith(STATE_ENDING))


def check_visible(runner: Runner, rows: RowSource, path: str) -> None:
    """Make sure that every worker reads the rows, and writes to the run directory, where states are kept.

    Raises
    ------
    EigenzooError
        Naming the first worker that does not.
    """
    check = getattr(runner, "check_visible", None)
    if check is None or getattr(runner, "is_local", True):
        return  # this process, or others of this machine
    check(rows)
    sign = Path(path) / f".{secrets.token_hex(8)}.tmp"
    sign.write_bytes(b"")
    try:
        check(_Sign(f"the run directory {path}, where --keep-state has workers write,", str(sign)))
    finally:
        sign.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Sign:
    """A file that this run directory alone has, as rows for `check_visible`: to read it is to write beside it."""

    location: str
    sign: str
    identity: str = ""

    def read(self, start: int, stop: int) -> None:
        if not os.path.exists(self.sign):
            raise EigenzooError("it is not there, or another folder")
        beside = Path(f"{self.sign}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        beside.write_bytes(b"")
        beside.unlink()

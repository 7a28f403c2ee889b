"""Taking adapters out of a zoo: invisible at once, their rows stored until the zoo is compacted."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass

from ingest.errors import EigenzooError
from ingest.store.catalog import entry_dtype
from ingest.store.root import read_commit
from ingest.store.writer import ZooWriter

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class RemoveResult:
    """What was removed.

    Attributes
    ----------
    zoo, version
        The zoo and its last commit.
    removed : tuple of str
        Adapters that were in the zoo until now.
    already : tuple of str
        Adapters that had been removed before.
    rows : int
        Rows of one side that the removed ones hold.
    retired_bytes : int
        What all removed and replaced adapters occupy until `eigenzoo compact`.
    """

    zoo: str
    version: int
    removed: tuple[str, ...]
    already: tuple[str, ...]
    rows: int
    retired_bytes: int


def remove(zoo: str | os.PathLike[str], names: Sequence[str]) -> RemoveResult:
    """Take adapters out of a zoo, all of them or none, in one commit.

    A later ingest of the same sources leaves them out, until it is told otherwise.

    Parameters
    ----------
    zoo : path-like
        The zoo's folder or URL.
    names : sequence of str
        As the ledger has them.

    Returns
    -------
    RemoveResult

    Raises
    ------
    EigenzooError
        If there is no zoo, another process writes to it, or it never had one of the names.

    Notes
    -----
    Cost: the ledger and the entries of the removed adapters are read; a segment and the root are written, no row.
    """
    url = os.fspath(zoo)
    if not names:
        raise EigenzooError(f"{url}: no adapter to remove; name one or more")
    if read_commit(url) is None:
        raise EigenzooError(f"{url}: no zoo there; give the folder or URL of one")
    with ZooWriter(url) as writer:
        before = writer.zoo()
        live = {r.name: r for r in before.accepted}
        gone = {r.name for r in before.removed}
        wanted = tuple(dict.fromkeys(names))
        if unknown := [n for n in wanted if n not in live and n not in gone]:
            shown = ", ".join(map(repr, unknown[:_SHOWN])) + (", …" if len(unknown) > _SHOWN else "")
            raise EigenzooError(
                f"{writer.path}: {len(unknown)} of {len(wanted)} adapters are not in the zoo ({shown}); "
                "nothing was removed; `eigenzoo info` lists them"
            )
        records = [dataclasses.replace(live[n], status="removed", kept="") for n in wanted if n in live]
        if records:
            import numpy as np

            writer.save(writer.commit, records, np.empty(0, entry_dtype()), {}, "remove")
        return RemoveResult(
            writer.path,
            writer.commit.version,
            tuple(r.name for r in records),
            tuple(n for n in wanted if n not in live),
            sum(r.rows for r in records),
            sum(a.retired * a.row_bytes for a in writer.commit.arrays),
        )

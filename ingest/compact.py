"""Rewriting a zoo without the rows of removed and replaced adapters.

The live rows go, chunk by chunk, into a new generation of arrays at new paths, and the catalogue into one segment; then
one commit puts these in the place of all that was, and the old files are deleted.  Killed before the commit, the zoo is
as it was; after it, what is left of the old files is the next writer's to remove.  A reader of an older commit finds
its files gone, and never others in their place.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

from ingest.errors import EigenzooError
from ingest.screen import canonical_digest
from ingest.store import schema
from ingest.store.catalog import ArrayRecord, LayerRecord
from ingest.store.chunks import check_codec
from ingest.store.reader import Zoo
from ingest.store.root import read_commit
from ingest.store.rows import ZooRows, runs_of
from ingest.store.segments import pack_texts
from ingest.store.texts import live_texts
from ingest.store.writer import ZooWriter
from ingest.verify import catalogue_problems

if TYPE_CHECKING:
    from numpy.typing import NDArray

THREADS = 4


@dataclass(frozen=True, slots=True)
class CompactResult:
    """What was rewritten.

    Attributes
    ----------
    zoo, version
        The zoo and its last commit; the version is as before where nothing was to be done.
    adapters : int
        Live adapters.
    rows : int
        Rows of theirs, over both sides of all layers.
    dropped : int
        Rows of removed and replaced adapters that are no longer stored.
    nbytes : int
        Bytes of rows that were written.
    """

    zoo: str
    version: int
    adapters: int
    rows: int
    dropped: int
    nbytes: int


def compact(
    zoo: str | os.PathLike[str],
    *,
    codec: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CompactResult:
    """Rewrite a zoo's live rows, in chunks that fit them, and forget the others.

    Parameters
    ----------
    zoo : path-like
        The zoo's folder or URL.
    codec : str, optional
        ``"lz4"`` or ``""`` (raw) for all chunks; without it as they are.
    progress : callable, optional
        Called with (bytes of rows written, bytes).

    Returns
    -------
    CompactResult

    Raises
    ------
    EigenzooError
        If there is no zoo, another process writes to it, or anything of a live adapter cannot be read or is not what
        was ingested (damage would be sealed in otherwise): then nothing has changed.

    Notes
    -----
    Cost: all live rows are read and written once; until the end both generations are stored.  Memory: about
    `THREADS` chunks twice, and the row ranges of the layers under way.  A zoo of one segment that has only live rows
    in fitting chunks is left as it is.
    """
    url = os.fspath(zoo)
    if codec is not None:
        check_codec(codec)
    if read_commit(url) is None:
        raise EigenzooError(f"{url}: no zoo there; give the folder or URL of one")
    with ZooWriter(url) as writer:
        before = writer.zoo()
        move = _Move(before, writer.commit.codec if codec is None else codec)
        dropped = sum(a.retired for a in writer.commit.arrays)
        nbytes = sum(a.rows * a.row_bytes for a in move.arrays)
        if not move.is_needed:
            nbytes = 0
        else:
            _check_catalogue(before)
            _copy(writer, move, nbytes, progress)
            commit = dataclasses.replace(
                writer.commit, arrays=move.arrays, codec=move.codec, generation=writer.commit.version + 1
            )
            layers = (move.entries(layer) for layer in commit.layers)
            writer.rewrite(
                commit,
                before.adapters,
                layers,
                move.count,
                pack_texts(live_texts(before.storage, before.commit, {r.name for r in before.accepted})),
            )
        rows = sum(a.rows for a in move.arrays)
        return CompactResult(writer.path, writer.commit.version, len(before.accepted), rows, dropped, nbytes)


class _Move:
    """Where every live row of a zoo goes."""

    def __init__(self, zoo: Zoo, codec: str) -> None:
        import numpy as np

        self.zoo, self.codec = zoo, codec
        generation = zoo.commit.version + 1
        self._old = [i for i, a in enumerate(zoo.commit.arrays) if a.live]
        self.arrays = tuple(_renewed(zoo.commit.arrays[i], generation) for i in self._old)
        self._live = np.array([s.live for s in zoo.stored], bool)
        self._ordinals = np.cumsum(self._live) - 1

    @property
    def is_needed(self) -> bool:
        """Whether the zoo would be another one."""
        commit = self.zoo.commit
        chunks = [a.chunk for a in commit.arrays]
        return (
            commit.codec != self.codec
            or len(commit.segments) > 1
            or any(a.retired or not a.rows for a in commit.arrays)
            or chunks != [a.chunk for a in self.arrays]
        )

    @property
    def count(self) -> int:
        """Entries of live adapters."""
        return sum(int(self._live[table["adapter"]].sum()) for table in self.zoo.entry_tables())

    def entries(self, layer: LayerRecord) -> NDArray[Any]:
        """A layer's entries, as they will be."""
        import numpy as np

        entries = self._of(layer)
        index = np.full(len(self.zoo.commit.arrays), -1, np.int32)
        index[self._old] = np.arange(len(self._old))
        for side in ("a", "b"):
            held = entries[f"{side}_array"]
            for array in np.unique(held):
                ranks = entries["rank"][held == array].astype(np.int64)
                entries[f"{side}_start"][held == array] = np.cumsum(ranks) - ranks
            entries[f"{side}_array"] = index[held]
        entries["adapter"] = self._ordinals[entries["adapter"]]
        return entries

    def rows(self, layer: LayerRecord) -> Iterator[tuple[ArrayRecord, ZooRows, NDArray[Any]]]:
        """Each new array of a layer, the old rows that it consists of, and their entries."""
        import numpy as np

        arrays = self.zoo.commit.arrays
        entries = self._of(layer)
        for old, new in zip(self._old, self.arrays, strict=True):
            if new.layer != layer.layer:
                continue
            side = new.side.lower()
            mine = entries[entries[f"{side}_array"] == old]
            yield (
                new,
                ZooRows(
                    path=self.zoo.path,
                    layer=new.layer,
                    side=new.side,
                    shape=(new.rows, new.width),
                    dtype=schema.numpy_dtype(new.dtype),
                    offsets=np.concatenate([[0], np.cumsum(mine["rank"], dtype=np.int64)]),
                    block_rows=arrays[old].chunk,
                    identity="",
                    runs=runs_of(arrays, mine[f"{side}_array"], mine[f"{side}_start"], mine["rank"]),
                    codec=self.zoo.commit.codec,
                ),
                mine,
            )

    def _of(self, layer: LayerRecord) -> NDArray[Any]:
        entries = self.zoo.entries(layer)
        live: NDArray[Any] = entries[self._live[entries["adapter"]]]
        return live


def _renewed(array: ArrayRecord, generation: int) -> ArrayRecord:
    name = array.path.rpartition("/")[2]
    path = f"{schema.layer_path(array.layer, generation)}/{name}"
    chunk = schema.chunk_rows(array.width, array.dtype, array.live)
    return dataclasses.replace(array, path=path, rows=array.live, retired=0, chunk=chunk)


def _check_catalogue(zoo: Zoo) -> None:
    for problem in catalogue_problems(zoo):
        raise EigenzooError(f"{zoo.path}: {problem.where} {problem.what}; nothing was changed")


def _check_values(zoo: Zoo, rows: ZooRows, entries: NDArray[Any], start: int, part: NDArray[Any]) -> None:
    """Compare the factors that end in a part of the rows with their digests."""
    import numpy as np

    ends = rows.offsets[1:]
    first, last = np.searchsorted(ends, [start, start + len(part)], side="right")
    for i in range(first, last):
        low, high = int(rows.offsets[i]), int(ends[i])
        values = part[low - start : high - start] if low >= start else rows.read(low, high)
        original = np.ascontiguousarray(values.T if rows.side == "B" else values)
        if canonical_digest(original) != entries[f"{rows.side.lower()}_digest"][i].tobytes():
            name = zoo.stored[int(entries["adapter"][i])].record.name
            raise EigenzooError(
                f"{rows.location}: the values of {name} are not those that were ingested; nothing was changed; restore "
                f"them from a copy, or `eigenzoo remove` {name}"
            )


def _copy(writer: ZooWriter, move: _Move, total: int, progress: Callable[[int, int], None] | None) -> None:
    """Write all chunks of the new arrays."""
    done, lock = 0, Lock()

    def tell(nbytes: int) -> None:
        nonlocal done
        with lock:
            done += nbytes
            if progress is not None:
                progress(done, total)

    def copy(layer: LayerRecord) -> None:
        import numpy as np

        for array, rows, entries in move.rows(layer):
            for index in range(array.chunks):
                start = index * array.chunk
                part = rows.read(start, min(start + array.chunk, array.rows))
                _check_values(move.zoo, rows, entries, start, part)
                chunk = part
                if len(part) < array.chunk:
                    chunk = np.zeros((array.chunk, array.width), part.dtype)
                    chunk[: len(part)] = part
                writer.write_chunk(array, index, chunk, move.codec)
                tell(part.nbytes)

    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        try:
            for _ in pool.map(copy, move.zoo.commit.layers):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise

"""Writing a zoo: one writer, whole chunks, and a commit that is one atomic step.

Every file is replaced as a whole, and is on disk before the next step.  The order of a commit:

1. whole chunks (one that already holds committed rows is written again with those rows unchanged, so readers of the old
   commit see the same values);
2. the metadata of arrays and groups, and the catalogue's segment;
3. the folders of all these, flushed;
4. the root document: from this moment the commit exists.

Killed before step 4, nothing happened: rows beyond the committed ones are not part of any commit, and the next writer
overwrites or removes them.  On an object store every write expects what it found (see `ingest.store.puts` and
`ingest.store.session`).

Chunks are encoded here and not by zarr: its own store renames before anything is flushed, and a loss of power would
then take committed rows along.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ingest.errors import EigenzooError
from ingest.storage import Buffer, Conflict
from ingest.store import schema
from ingest.store.catalog import Action, AdapterRecord, ArrayRecord, Commit, LogEntry
from ingest.store.changes import Changes
from ingest.store.chunks import decode, encode
from ingest.store.nodes import documents_of, files_of
from ingest.store.reader import Zoo
from ingest.store.root import lost
from ingest.store.segments import Events, by_layer, pack_texts, write_segment
from ingest.store.session import Session, Todo

if TYPE_CHECKING:
    from numpy.typing import NDArray


class ZooWriter(Session):
    """The one writer of a zoo; a context manager that holds the zoo's lock.

    Parameters
    ----------
    url : str
        The zoo's folder or URL; created where absent.
    codec : str
        That of a new zoo's chunks: none (raw rows), or ``"lz4"``.  A zoo keeps its own.

    Raises
    ------
    EigenzooError
        If another process writes to the zoo, the place holds something else, or the zoo has another codec than asked.
    """

    def __init__(self, url: str, codec: str = "") -> None:
        super().__init__(url, codec)

    def write_chunk(self, array: ArrayRecord, index: int, rows: NDArray[Any], codec: str | None = None) -> None:
        """Write one whole chunk, behind the caller's back; `drain` waits for it.

        Safe to call from several threads for different chunks.  Blocks while as many chunks as `behind` allows are on
        their way.

        Parameters
        ----------
        array : ArrayRecord
            The array; its ``rows`` are not looked at.
        index : int
            The chunk's number.
        rows : ndarray, shape (array.chunk, array.width)
            All rows of the chunk, zeros past the last one; not to be changed afterwards.
        codec : str, optional
            Another than the zoo's, for arrays that will replace all of its own.
        """
        self._behind.submit(self._write, array, index, rows, self.commit.codec if codec is None else codec)

    def behind(self, chunks: int) -> None:
        """Let this many chunks be on their way at a time: what arrays that fill up together need not to wait."""
        self._behind.resize(chunks)

    def drain(self) -> None:
        """Wait for the chunks on their way; raises what stopped one of them."""
        self._behind.drain()

    def _write(self, array: ArrayRecord, index: int, rows: NDArray[Any], codec: str) -> None:
        self._puts.put(array.chunk_name(index), [encode(rows, codec)])

    def committed_rows(self, array: ArrayRecord, start: int, stop: int) -> NDArray[Any]:
        """Rows of an array as last committed, which lie in one chunk that is to be written again, in its dtype."""
        index = start // array.chunk
        try:
            rows = decode(self._puts.read(array.chunk_name(index)), array, self.commit.codec)
        except (OSError, ValueError) as error:
            what = f"cannot read rows {start}:{stop} of {array.path}"
            raise lost(self._storage, array.path, what, error) from error
        first = index * array.chunk
        return rows[start - first : stop - first]

    def write_extras(self, name: str, parts: Iterable[Buffer]) -> None:
        """Keep a safetensors file, given part by part, of what belongs to an adapter and is no factor."""
        self._puts.put_new(schema.extras_name(name, self._new_name()), parts)

    def forget(self) -> None:
        """Give up what was written since the last commit: what is not written again is removed at the end."""
        self.drain()
        self._todo = max(self._todo, Todo.SWEEP)

    def save(
        self,
        commit: Commit,
        adapters: Sequence[AdapterRecord],
        entries: NDArray[Any],
        texts: dict[str, dict[str, Any]],
        action: Action = "ingest",
    ) -> Commit:
        """Make `commit` the zoo's last one, with one more segment.  Atomic: a reader sees all of it or nothing.

        Parameters
        ----------
        commit : Commit
            Layers and arrays as they are after this commit; all else about it is set here.
        adapters : sequence of AdapterRecord
            The segment's events, in order.
        entries : ndarray of `catalog.entry_dtype`
            Row ranges of the accepted ones.
        texts : dict
            Verbatim configuration by name of the accepted and the renewed ones.
        action : str
            For the log; an ingest without events is a layout.

        Returns
        -------
        Commit
            As written.
        """
        self.drain()
        changes = Changes.of(self.zoo(), adapters, entries)
        arrays = changes.retire(self.commit.arrays, commit.arrays)
        commit = dataclasses.replace(
            commit,
            arrays=arrays,
            segments=self.commit.segments,
            codec=self.commit.codec,
            generation=self.commit.generation,
        )
        events: list[Events] = []
        if adapters:
            folder = self._new_name()
            records = [dataclasses.replace(r, kept=folder if r.status == "ok" and r.extras else "") for r in adapters]
            segment, new = write_segment(
                self._puts.put_new,
                f"{schema.CATALOG}/{folder}",
                records,
                by_layer(entries),
                len(entries),
                pack_texts(texts.items()),
            )
            commit = dataclasses.replace(commit, segments=(*commit.segments, segment))
            events.append(new)
        elif action == "ingest":
            action = "layout"
        self._finish(commit, changes.log_entry(action), [*self.zoo().events, *events])
        return self.commit

    def rewrite(
        self,
        commit: Commit,
        records: Sequence[AdapterRecord],
        layers: Iterable[NDArray[Any]],
        count: int,
        texts: Iterable[bytes],
    ) -> Commit:
        """Make `commit` the zoo's last one, in place of all earlier ones, and remove what only these needed.

        Parameters
        ----------
        commit : Commit
            Arrays at new paths, whose chunks have been written; codec and generation are set by the caller.
        records : sequence of AdapterRecord
            The whole ledger, as events.
        layers, count, texts
            See `ingest.store.segments.write_segment`.

        Returns
        -------
        Commit
            As written.
        """
        self.drain()
        before = self.zoo()
        old = set(files_of(before.commit, before.stored))
        name = f"{schema.CATALOG}/{self._new_name()}"
        segment, events = write_segment(self._puts.put_new, name, records, layers, count, texts)
        rows = sum(r.rows for r in records if r.status == "ok")
        entry = LogEntry(0, "", "compact", rows=rows)
        self._finish(dataclasses.replace(commit, segments=(segment,)), entry, [events])
        self._todo = Todo.SWEEP  # whoever stops from here on leaves old files
        self._puts.delete(old - set(files_of(self.commit, self.zoo().stored)))
        self._todo = Todo.NOTHING
        return self.commit

    def _finish(self, commit: Commit, entry: LogEntry, events: list[Events]) -> None:
        """Everything is there but the metadata: write it, and the root."""
        version = self.commit.version + 1
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        commit = dataclasses.replace(
            commit,
            uuid=self.commit.uuid or uuid.uuid4().hex,
            version=version,
            time=now,
            log=(*self.commit.log, dataclasses.replace(entry, version=version, time=now)),
        )
        forgotten, self._todo = self._todo, Todo.REWRITE
        self._write_documents(documents_of(commit))
        self._storage.sync(self._puts.touched)
        try:
            self._put_root(commit)
        except Conflict as error:
            raise EigenzooError(
                f"{self.path}: another process took this zoo over meanwhile; run again when it has ended"
            ) from error
        self._storage.sync([schema.ROOT])
        self._todo = forgotten
        self._puts.touched.clear()
        self.commit = commit
        self._zoo = Zoo(self._storage, commit, events)

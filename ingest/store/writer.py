"""Writing a zoo: one writer, whole chunks, and a commit that is one atomic step.

Every file is written beside its place, flushed to disk and renamed.  The order of a commit:

1. whole chunks (one that already holds committed rows is written again with those rows unchanged, so readers of the old
   commit see the same values);
2. the metadata of arrays and groups, and the catalogue's segment;
3. the folders of all these, flushed;
4. the root document: from this moment the commit exists.

Killed before step 4, nothing happened: rows beyond the committed ones are not part of any commit, and the next writer
overwrites or removes them.

Chunks are raw rows, so writing them takes no codec; zarr's own store renames before anything is flushed, and a loss of
power would then take committed rows along.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Semaphore
from typing import TYPE_CHECKING, Any, Self

from ingest.errors import EigenzooError
from ingest.store import catalog, schema
from ingest.store.catalog import AdapterRecord, ArrayRecord, Commit, Segment
from ingest.store.nodes import nodes_of
from ingest.store.reader import Zoo
from ingest.store.root import read_commit
from ingest.store.rows import read_array
from ingest.store.sweep import PARTIAL, sweep

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Buffer = bytes | bytearray | memoryview

WRITERS = 2  # threads that write chunks behind the caller's back
LOCK = "writer.lock"
DIRTY = "writing"


class ZooWriter:
    """The one writer of a zoo; a context manager that holds the zoo's lock.

    Parameters
    ----------
    path : str
        The zoo's folder; created where absent.

    Raises
    ------
    EigenzooError
        If another process writes to the zoo, or the path holds something else.
    """

    def __init__(self, path: str) -> None:
        if not path:
            raise EigenzooError("the zoo's path is empty; give a folder")
        self.path = os.path.abspath(path)
        self.commit: Commit = catalog.EMPTY
        self._touched: set[str] = set()
        self._documents: dict[str, bytes] = {}
        self._behind = ThreadPoolExecutor(WRITERS)
        self._slots = Semaphore(WRITERS + 1)
        self._pending: list[Future[None]] = []
        self._stray = False

    def __enter__(self) -> Self:
        from filelock import FileLock, Timeout

        if os.path.isdir(self.path) and os.listdir(self.path) and not os.path.exists(self._file(schema.ROOT)):
            foreign = set(os.listdir(self.path)) - {
                LOCK,
                DIRTY,
                schema.CATALOG,
                "layers",
                f"{schema.ROOT}{PARTIAL}",
            }
            if foreign:
                raise EigenzooError(f"{self.path}: a folder with other files ({min(foreign)} …); give a new path")
        try:
            os.makedirs(self.path, exist_ok=True)
            self._lock = FileLock(self._file(LOCK))
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise EigenzooError(
                f"{self.path}: another process is writing to this zoo; wait for it to end, then run again"
            ) from error
        except OSError as error:
            raise EigenzooError(f"{self.path}: cannot write there ({error.strerror}); give another --zoo") from error
        try:
            self.commit = read_commit(self.path) or catalog.EMPTY
            if os.path.exists(self._file(DIRTY)):
                sweep(self.zoo())
            with open(self._file(DIRTY), "w"):
                pass
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._behind.shutdown(cancel_futures=True)
        if kind is None:
            if self._stray:
                sweep(self.zoo())
            os.unlink(self._file(DIRTY))
        if self.commit.version == 0 and set(os.listdir(self.path)) <= {LOCK, DIRTY, f"{schema.ROOT}{PARTIAL}"}:
            shutil.rmtree(self.path)  # nothing was written: leave no empty zoo behind
        self._lock.release()

    def zoo(self) -> Zoo:
        """The last commit, for reading."""
        return Zoo(self.path, self.commit)

    def write_chunk(self, array: ArrayRecord, index: int, rows: NDArray[Any]) -> None:
        """Write one whole chunk and flush it to disk, behind the caller's back; `drain` waits for it.

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
        """
        slots = self._slots
        slots.acquire()
        future = self._behind.submit(self._write, array, index, rows)
        future.add_done_callback(lambda _: slots.release())
        self._pending.append(future)

    def behind(self, chunks: int) -> None:
        """Let this many chunks be on their way at a time: what arrays that fill up together need not to wait."""
        self.drain()
        self._slots = Semaphore(max(chunks, 1))

    def drain(self) -> None:
        """Wait for the chunks on their way; raises what stopped one of them."""
        while self._pending:
            self._pending.pop().result()

    def _write(self, array: ArrayRecord, index: int, rows: NDArray[Any]) -> None:
        import numpy as np

        little = rows if sys.byteorder == "little" else rows.byteswap()
        self._put(f"{array.path}/c.{index}.0", [little.reshape(-1).view(np.uint8).data])

    def committed_rows(self, array: ArrayRecord, start: int, stop: int) -> NDArray[Any]:
        """Rows of an array as last committed, in the dtype they are stored in."""
        return read_array(self.path, array, start, stop)

    def write_extras(self, name: str, parts: Iterable[Buffer]) -> None:
        """Keep a safetensors file, given part by part, of what belongs to an adapter and is no factor."""
        self._put(f"{schema.CATALOG}/extras/{schema.quote(name)}.safetensors", parts)

    def forget(self) -> None:
        """Give up what was written since the last commit: it is removed when the writer is done."""
        self.drain()
        self._stray = True

    def save(
        self,
        commit: Commit,
        adapters: list[AdapterRecord],
        entries: NDArray[Any],
        texts: dict[str, dict[str, Any]],
    ) -> Commit:
        """Make `commit` the zoo's last one, with one more segment.  Atomic: a reader sees all of it or nothing.

        Parameters
        ----------
        commit : Commit
            Layers and arrays as they are after this commit; version and segments are set here.
        adapters : list of AdapterRecord
            The segment's part of the ledger.
        entries : ndarray of `catalog.entry_dtype`
            Row ranges of the accepted ones.
        texts : dict
            Verbatim configuration by adapter name.

        Returns
        -------
        Commit
            As written.
        """

        self.drain()
        version = self.commit.version + 1
        commit = dataclasses.replace(
            commit,
            uuid=self.commit.uuid or uuid.uuid4().hex,
            version=version,
            segments=self.commit.segments,
            time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )
        if adapters:
            segment = self._segment(f"{schema.CATALOG}/{version:06d}", adapters, entries, texts)
            commit = dataclasses.replace(commit, segments=(*commit.segments, segment))
        nodes = nodes_of(commit)
        futures = [self._behind.submit(self._put_metadata, f"{p}/{schema.ROOT}", d) for p, d in nodes.items()]
        for future in futures:
            future.result()
        for folder in {f for name in self._touched for f in _ancestors(name)}:
            _fsync(self._file(folder))
        self._touched.clear()
        record = {"format": schema.FORMAT, **commit.to_json()}
        self._put(schema.ROOT, [_dumps(schema.root_document(record, nodes))])
        _fsync(self.path)
        self.commit = commit
        return commit

    def _segment(
        self, name: str, adapters: list[AdapterRecord], entries: NDArray[Any], texts: dict[str, dict[str, Any]]
    ) -> Segment:
        """Write one commit's share of the catalogue."""
        import numpy as np

        ordered = entries[np.lexsort((entries["adapter"], entries["layer"]))]
        files = {
            "json": catalog.encode_adapters(adapters),
            "entries.npy": catalog.encode_entries(ordered),
            "texts.json": _dumps(texts),
        }
        for ending, data in files.items():
            self._put(f"{name}.{ending}", [data])
        accepted = sum(r.status == "ok" for r in adapters)
        digests = (hashlib.sha256(data).hexdigest() for data in files.values())
        return Segment(name, len(adapters), accepted, len(entries), *digests)

    def _put_metadata(self, name: str, document: dict[str, Any]) -> None:
        data = _dumps(document)
        if self._documents.get(name) != data:
            self._put(name, [data])
            self._documents[name] = data

    def _put(self, name: str, parts: Iterable[Buffer]) -> None:
        """Write a file beside its place, part by part, flush it, and rename it there."""
        path = self._file(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = f"{path}{PARTIAL}"
        with open(temporary, "wb", buffering=0) as file:
            for part in parts:
                view = memoryview(part).cast("B")
                while view:
                    view = view[file.write(view) :]
            os.fsync(file.fileno())
        os.replace(temporary, path)
        self._touched.add(name)

    def _file(self, name: str) -> str:
        return os.path.join(self.path, name)


def _dumps(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _ancestors(name: str) -> list[str]:
    """The folders that a file lies in, from its own up to the zoo's."""
    parts = name.split("/")[:-1]
    return ["/".join(parts[:n]) for n in range(len(parts), -1, -1)]


def _fsync(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

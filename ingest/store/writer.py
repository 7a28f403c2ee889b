"""Writing a zoo: one writer, whole chunks, and a commit that is one atomic step.

The order of a commit, each step flushed to disk before the next:

1. whole chunks, through temporary files renamed into place (a chunk that already holds committed rows is written
   again with those rows unchanged, so readers of the old commit see the same values);
2. the metadata of arrays and groups;
3. the catalogue's segment;
4. the root document, replaced by a rename: from this moment the commit exists.

Killed before step 4, nothing happened: rows beyond the committed ones are not part of any commit, and the next writer
overwrites or removes them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Semaphore
from typing import TYPE_CHECKING, Any, Self

from ingest.errors import EigenzooError
from ingest.store import catalog, schema
from ingest.store.catalog import AdapterRecord, ArrayRecord, Commit, Segment
from ingest.store.reader import Zoo, read_commit
from ingest.store.rows import read_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
        self.path = os.path.abspath(path)
        self.commit: Commit = catalog.EMPTY
        self._touched: set[str] = set()
        self._documents: dict[str, bytes] = {}
        self._behind = ThreadPoolExecutor(WRITERS)
        self._slots = Semaphore(WRITERS + 1)
        self._pending: list[Future[None]] = []

    def __enter__(self) -> Self:
        from filelock import FileLock, Timeout

        if os.path.isdir(self.path) and os.listdir(self.path) and not os.path.exists(self._file(schema.ROOT)):
            foreign = set(os.listdir(self.path)) - {LOCK, DIRTY, schema.CATALOG, "layers"}
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
                self._sweep()
            with open(self._file(DIRTY), "w"):
                pass
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._behind.shutdown(cancel_futures=True)
        if kind is None:
            os.unlink(self._file(DIRTY))
        if self.commit.version == 0 and set(os.listdir(self.path)) <= {LOCK, DIRTY}:
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
        handle = _whole_chunks(self.path, array, index + 1)
        handle[index * array.chunk :] = rows.view(schema.numpy_dtype(schema.stored_dtype(array.dtype)))
        _fsync(self._file(f"{array.path}/c.{index}.0"))
        self._touched.add(array.path)

    def committed_rows(self, array: ArrayRecord, start: int, stop: int) -> NDArray[Any]:
        """Rows of an array as last committed, in the dtype they are stored in."""
        return read_array(self.path, array, start, stop)

    def write_extras(self, name: str, data: bytes) -> None:
        """Keep a safetensors file of what belongs to an adapter and is no factor."""
        self._put(f"{schema.CATALOG}/extras/{schema.quote(name)}.safetensors", data)

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
        import numpy as np

        self.drain()
        version = self.commit.version + 1
        name = f"{schema.CATALOG}/{version:06d}"
        ledger = catalog.encode_adapters(adapters)
        accepted = sum(r.status == "ok" for r in adapters)
        segment = Segment(name, len(adapters), accepted, len(entries), hashlib.sha256(ledger).hexdigest())
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        commit = dataclasses.replace(commit, version=version, segments=(*self.commit.segments, segment), time=stamp)
        nodes = _nodes(commit)
        for path, document in nodes.items():
            self._put_metadata(f"{path}/{schema.ROOT}", document)
        if accepted:
            ordered = entries[np.lexsort((entries["adapter"], entries["layer"]))]
            self._put(f"{name}.entries.npy", catalog.encode_entries(ordered))
        self._put(f"{name}.json", ledger)
        self._put(f"{name}.texts.json", json.dumps(texts).encode())
        self._flush()
        record = {"format": schema.FORMAT, **commit.to_json()}
        self._put(schema.ROOT, _dumps(schema.root_document(record, nodes)))
        self._flush()
        self.commit = commit
        return commit

    def _put_metadata(self, name: str, document: dict[str, Any]) -> None:
        data = _dumps(document)
        if self._documents.get(name) != data:
            self._put(name, data)
            self._documents[name] = data

    def _put(self, name: str, data: bytes) -> None:
        path = self._file(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = f"{path}.partial"
        with open(temporary, "wb") as file:
            file.write(data)
            if name == schema.ROOT:  # the one file that readers may open while it is replaced
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
        self._touched.add(name)

    def _flush(self) -> None:
        """Bring every touched chunk, and the folders they lie in, to the disk."""
        names = self._touched | {os.path.dirname(n) for n in self._touched}
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(_fsync, (self._file(n) for n in names)))
        self._touched.clear()

    def _sweep(self) -> None:
        """Remove what a killed writer left: temporary files, chunks and segments that no commit names."""
        arrays = {a.path: -(-a.rows // a.chunk) for a in self.commit.arrays}
        groups = {os.path.dirname(p) for p in arrays}
        segments = {os.path.basename(s.name) for s in self.commit.segments}
        extras = {f"{schema.quote(r.name)}.safetensors" for r in self.zoo().accepted if r.extras}
        for folder, folders, files in os.walk(self.path):
            here = os.path.relpath(folder, self.path).replace(os.sep, "/")
            if here.startswith("layers/"):
                known = here in groups if here.count("/") == 1 else here in arrays
                if not known:
                    folders.clear()
                    shutil.rmtree(folder)
                    continue
            for file in files:
                stale = ".partial" in file or (here == schema.CATALOG and file.split(".")[0] not in segments)
                stale = stale or (here == f"{schema.CATALOG}/extras" and file not in extras)
                if here in arrays and file.startswith("c."):
                    stale = stale or int(file.split(".")[1]) >= arrays[here]
                if stale:
                    os.unlink(os.path.join(folder, file))

    def _file(self, name: str) -> str:
        return os.path.join(self.path, name)


def _whole_chunks(path: str, array: ArrayRecord, chunks: int) -> Any:
    """The array as if it held `chunks` full chunks, so that zarr writes a chunk without reading it first."""
    import zarr
    from zarr.core.array import AsyncArray
    from zarr.storage import LocalStore, StorePath

    document = schema.array_document(chunks * array.chunk, array.width, array.dtype, array.chunk, {})
    # Without write_empty_chunks zarr compares every chunk with the fill value, several times the cost of the write.
    config = {"write_empty_chunks": True}
    return zarr.Array(AsyncArray(document, StorePath(LocalStore(path), array.path), config))


def _nodes(commit: Commit) -> dict[str, dict[str, Any]]:
    """The metadata of every group and array below the root, by path."""
    nodes: dict[str, dict[str, Any]] = {"layers": schema.group_document({})}
    for layer in commit.layers:
        nodes[schema.layer_path(layer.layer)] = schema.group_document(
            {"layer": layer.layer, "kind": layer.kind, "a_shape": list(layer.a_shape), "out": layer.out}
        )
    for a in commit.arrays:
        nodes[a.path] = schema.array_document(a.rows, a.width, a.dtype, a.chunk, {"layer": a.layer, "side": a.side})
    # zarr nests consolidated metadata by runs of keys with one parent: children of one group must stand together.
    return dict(sorted(nodes.items(), key=lambda item: (item[0].count("/"), item[0])))


def _dumps(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _fsync(path: str) -> None:
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

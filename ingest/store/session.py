"""Being the one writer of a zoo: taking the lock, clearing up after a writer that died, leaving no trace of nothing.

Who takes over on an object store first writes the root anew: a writer that was taken for dead, should it wake, then
finds another version than it expects, and cannot commit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import uuid
from typing import Self

from ingest.errors import EigenzooError
from ingest.storage import Conflict, is_remote, open_storage
from ingest.store import schema
from ingest.store.behind import REQUESTS, Behind
from ingest.store.catalog import EMPTY, Commit
from ingest.store.chunks import check_codec
from ingest.store.nodes import documents_of
from ingest.store.puts import Puts
from ingest.store.reader import Zoo
from ingest.store.root import read_root, root_document
from ingest.store.sweep import check_foreign, sweep

WRITERS = 2  # threads that write chunks behind the caller's back
_TRIES = 10


class Todo(enum.IntEnum):
    """What is to be done before a zoo is again as its last commit says."""

    NOTHING = 0
    SWEEP = 1  # files lie there that no commit names
    REWRITE = 2  # metadata was written of a commit that may not have come about: sweep, and write it anew


class Session:
    """The lock of a zoo, held from entering to leaving; `ZooWriter` without what it writes."""

    def __init__(self, url: str, codec: str = "") -> None:
        check_codec(codec)
        self._storage = open_storage(url)
        self.path = self._storage.url
        self.commit: Commit = EMPTY
        self._codec = codec
        self._puts = Puts(self._storage)
        self._zoo: Zoo | None = None
        self._todo = Todo.NOTHING
        self._documents: dict[str, bytes] = {}  # the metadata of groups and arrays, as it lies there
        self._behind = Behind(REQUESTS if is_remote(self.path) else WRITERS)
        # Names that two writers cannot both come upon: no lease needs to guard what is written under them.
        self._tag = f"-{uuid.uuid4().hex[:8]}" if is_remote(self.path) else ""

    def __enter__(self) -> Self:
        check_foreign(self._storage)
        self._todo = Todo.REWRITE if self._storage.acquire() else Todo.NOTHING
        try:
            self._open()
        except BaseException:
            self._behind.close()
            self._storage.release(clean=self._todo is Todo.NOTHING)
            raise
        return self

    def _open(self) -> None:
        self._read_root()
        if self._codec and self.commit.codec != self._codec:
            raise EigenzooError(
                f"{self.path}: its chunks are raw, and stay so; `eigenzoo compact {self.path} --compress` encodes them"
            )
        if self._todo is Todo.REWRITE:
            self._recover()
        elif self.commit.version:
            self._documents = documents_of(self.commit)

    def _recover(self) -> None:
        """Do what a writer that died has left to do."""
        if is_remote(self.path):
            self._fence()
        else:
            self._storage.sync([schema.ROOT])  # nothing that an older root needs goes before this one is there to stay
        sweep(self.zoo(), self._puts)
        if self.commit.version:
            self._write_documents(documents_of(self.commit))
            self._storage.sync(self._puts.touched)
            self._puts.touched.clear()
        self._todo = Todo.NOTHING

    def _write_documents(self, wanted: dict[str, bytes]) -> None:
        """Write the metadata of groups and arrays, as far as it is not there."""
        if not self._documents and self.commit.version:  # nothing is known of what is there
            self._behind.each(self._read_document, wanted)
        changed = {name: data for name, data in wanted.items() if self._documents.get(name) != data}
        self._documents = {}  # until all are written, who knows
        if is_remote(self.path):  # a put will want to know the version that it replaces
            self._behind.each(self._puts.look, changed.keys() & documents_of(self.commit).keys())
        self._behind.each(lambda item: self._puts.put(item[0], [item[1]]), changed.items())
        self._documents = wanted

    def _read_document(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._documents[name] = self._puts.read(name)

    def _read_root(self) -> None:
        found, token = read_root(self._storage)
        self.commit = found if found and found.version else dataclasses.replace(EMPTY, codec=self._codec)
        self._puts.know(schema.ROOT, token)

    def _fence(self) -> None:
        for _ in range(_TRIES):
            try:
                self._put_root(self.commit)
                self._puts.touched.clear()
                return
            except Conflict:  # the dead writer was not quite dead
                self._read_root()
        raise EigenzooError(f"{self.path}: another process is writing to this zoo; wait for it to end, then run again")

    def _put_root(self, commit: Commit) -> None:
        self._puts.put_once(schema.ROOT, [root_document(commit, uuid.uuid4().hex)])

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._behind.close()
        clean = False
        try:
            if self._puts.touched:
                self._todo = max(self._todo, Todo.SWEEP)
            if self._todo is Todo.SWEEP:
                self._tidy(kind)
            clean = self._todo is Todo.NOTHING
            if clean and self.commit.version == 0:
                self._puts.delete([schema.ROOT])  # that of `_fence`: leave no empty zoo behind
        finally:
            self._storage.release(clean=clean)

    def _tidy(self, stopped_by: type[BaseException] | None) -> None:
        """Remove what was written and not committed; who was interrupted leaves that to the next writer."""
        if stopped_by is not None and not issubclass(stopped_by, Exception):
            return
        try:
            sweep(self.zoo(), self._puts)
        except (EigenzooError, OSError):
            if stopped_by is None:
                raise  # else what stopped the writer is what there is to say
        else:
            self._todo = Todo.NOTHING

    def _new_name(self) -> str:
        """What the next commit's files of the catalogue are called."""
        return f"{self.commit.version + 1:06d}{self._tag}"

    def zoo(self) -> Zoo:
        """The last commit, for reading."""
        if self._zoo is None or self._zoo.commit is not self.commit:
            self._zoo = Zoo(self._storage, self.commit)
        return self._zoo

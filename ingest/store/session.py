"""Being the one writer of a zoo: taking the lock, clearing up after a writer that died, leaving no trace of nothing.

Who takes over on an object store first writes the root anew: a writer that was taken for dead, should it wake, then
finds another version than it expects, and cannot commit.
"""

from __future__ import annotations

import dataclasses
import uuid
from typing import Self

from ingest.errors import EigenzooError
from ingest.storage import Conflict, is_remote, open_storage
from ingest.store import schema
from ingest.store.catalog import EMPTY, Commit
from ingest.store.chunks import check_codec
from ingest.store.puts import Puts
from ingest.store.reader import Zoo
from ingest.store.root import read_root, root_document
from ingest.store.sweep import check_foreign, sweep

_TRIES = 10


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
        self._dirty = self._stray = False
        self._unsure = False  # whether a commit was tried and may, or may not, have come about
        # Names that two writers cannot both come upon: no lease needs to guard what is written under them.
        self._tag = f"-{uuid.uuid4().hex[:8]}" if is_remote(self.path) else ""

    def __enter__(self) -> Self:
        check_foreign(self._storage)
        self._dirty = self._storage.acquire()
        try:
            self._open()
        except BaseException:
            self._storage.release(clean=not self._dirty)
            raise
        return self

    def _open(self) -> None:
        self._read_root()
        if self._codec and self.commit.codec != self._codec:
            raise EigenzooError(
                f"{self.path}: its chunks are raw, and stay so; `eigenzoo compact {self.path} --compress` encodes them"
            )
        if self._dirty:
            if is_remote(self.path):
                self._fence()
            sweep(self.zoo(), self._puts)

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
        clean = False
        try:
            if self._puts.touched or self._stray:
                self._tidy(kind)
            clean = not (self._puts.touched or self._stray or self._unsure)
            if clean and self.commit.version == 0:
                self._puts.delete([schema.ROOT])  # that of `_fence`: leave no empty zoo behind
        finally:
            self._storage.release(clean=clean)

    def _tidy(self, stopped_by: type[BaseException] | None) -> None:
        """Remove what was written and not committed.

        Who was interrupted leaves that to the next writer; and so does who cannot tell what was committed.
        """
        if self._unsure or (stopped_by is not None and not issubclass(stopped_by, Exception)):
            return
        try:
            sweep(self.zoo(), self._puts)
        except (EigenzooError, OSError):
            if stopped_by is None:
                raise  # else what stopped the writer is what there is to say
        else:
            self._puts.touched.clear()
            self._stray = False

    def _new_name(self) -> str:
        """What the next commit's files of the catalogue are called."""
        return f"{self.commit.version + 1:06d}{self._tag}"

    def zoo(self) -> Zoo:
        """The last commit, for reading."""
        if self._zoo is None or self._zoo.commit is not self.commit:
            self._zoo = Zoo(self._storage, self.commit)
        return self._zoo

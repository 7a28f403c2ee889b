"""Reading below a prefix of a bucket: whole objects, ranges, names."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from typing import Any

from ingest.errors import EigenzooError
from ingest.storage import clients
from ingest.storage.failures import explain, is_no_bucket, is_past_end
from ingest.storage.protocol import PART_BYTES, Unreadable, checked, ends_early, shortened

BATCH = 1000
"""Names listed or removed by one request."""


class ObjectReader:
    """The verbs of `ingest.storage.protocol.Storage` that change nothing.

    Parameters
    ----------
    url
        ``scheme://bucket/prefix``.

    Raises
    ------
    EigenzooError
        If the URL names no bucket, or more than a place.
    """

    def __init__(self, url: str) -> None:
        self.url = clients.normalised(url)
        self._by_version = self.url.startswith("gs:")  # there a put expects a generation, elsewhere an e-tag
        self._guard = threading.Lock()
        self._made: tuple[int, Any] | None = None

    def __repr__(self) -> str:
        return f"ObjectStorage({self.url!r})"

    def read(self, name: str) -> bytes:
        return self.read_versioned(name)[0]

    def read_versioned(self, name: str) -> tuple[bytes, str]:
        import obstore

        path = checked(name, self.url)
        try:
            result = obstore.get(self._store(), path)
            return bytes(result.bytes()), self._token(result.meta)
        except Exception as error:
            raise self._unreadable(error, name) from error

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        import obstore

        path, view = checked(name, self.url), buffer.cast("B")
        if not view:
            return
        try:
            data = memoryview(obstore.get_range(self._store(), path, start=offset, length=len(view)))
        except Exception as error:
            if is_past_end(error):
                raise ends_early(f"{self.url}/{name}", self.size(name), offset + len(view)) from error
            raise self._unreadable(error, name) from error
        if len(data) != len(view):
            raise ends_early(f"{self.url}/{name}", offset + len(data), offset + len(view))
        view[:] = data

    def read_parts(self, name: str, offset: int = 0) -> Iterator[bytes]:
        import obstore

        path, version = checked(name, self.url), None
        while True:
            try:
                options: Any = {"range": (offset, offset + PART_BYTES)}
                if version is not None:  # all parts of one version
                    options["if_match"] = version
                result = obstore.get(self._store(), path, options=options)
                part, version, size = bytes(result.bytes()), result.meta["e_tag"], result.meta["size"]
            except Exception as error:
                if is_past_end(error):
                    return
                raise self._unreadable(error, name) from error
            if part:
                yield part
            offset += len(part)
            if offset >= size:
                return

    def size(self, name: str) -> int:
        import obstore

        try:
            return int(obstore.head(self._store(), checked(name, self.url))["size"])
        except EigenzooError:
            raise
        except Exception as error:
            raise self._unreadable(error, name) from error

    def exists(self, name: str) -> bool:
        try:
            self.size(name)
        except FileNotFoundError:
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[str]:
        import obstore

        below = checked(prefix.rstrip("/"), self.url) if prefix else None
        try:
            for batch in obstore.list(self._store(), below, chunk_size=BATCH):
                for facts in batch:
                    yield facts["path"]
        except Exception as error:
            raise self._unreadable(error, prefix or "what is in it") from error

    def _store(self) -> Any:
        """The client of this process: none outlives a fork, and none is pickled."""
        with self._guard:
            if self._made is None or self._made[0] != os.getpid():
                self._made = os.getpid(), clients.client(self.url)
            return self._made[1]

    def _token(self, facts: Any) -> str:
        token = facts["version"] if self._by_version else facts["e_tag"]
        if not token:
            raise EigenzooError(f"{self.url}: this store tells no versions, so it cannot keep a zoo")
        return str(token)

    def _unreadable(self, error: Exception, name: str) -> Exception:
        if isinstance(error, EigenzooError):
            return error
        if isinstance(error, FileNotFoundError) and not is_no_bucket(error):
            return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{self.url}/{name}")
        return Unreadable(explain(self.url, error, f"read {shortened(name)}"))

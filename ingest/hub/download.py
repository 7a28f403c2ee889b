"""One file, streamed to disk and hashed on the way; cut at the announced size; wrong bytes leave nothing behind."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from ingest.errors import EigenzooError, Refusal
from ingest.hub.answers import Answer, answer, body_size, hasher
from ingest.hub.calls import Again, Calls
from ingest.reasons import Reason

PARTIAL = ".partial"
STATED = ".stated"
_CHUNK = 1 << 20


def download(calls: Calls, url: str, path: str, what: str) -> str:
    """Fetch a file, unless it lies there whole.

    A connection that breaks is taken up where it broke.  A file under its own name was whole and checked when it got
    it; the hash that the Hub stated lies beside it, and is compared again before the file is trusted.

    Parameters
    ----------
    calls
        The session's.
    url
        The file's, of a commit.
    path
        Where it goes; its folder is there.
    what
        The file, for messages.

    Returns
    -------
    str
        The hash that the Hub stated.

    Raises
    ------
    Refusal
        `wrong-bytes`, or as `Calls.get` says.
    EigenzooError
        If it cannot be written here.
    """
    if (stated := _whole(path)) is not None:
        return stated
    partial = beside(path)
    try:
        with open(partial, "xb", buffering=0) as file:
            sink = _Sink(file, what, calls.parts)
            told = calls.get(url, sink.take, what=what, span=sink.span, received=lambda: sink.received)
        if sink.hash.hexdigest() != told.hash:
            raise Refusal(
                Reason.WRONG_BYTES,
                f"{what} came as {told.size} bytes without the hash that the Hub states; --retry fetches it again",
            )
        stated = str(told.hash)
        with open(path + STATED, "w", encoding="ascii") as note:
            note.write(f"{stated} {told.size}\n")
        os.replace(partial, path)
    except OSError as error:
        raise EigenzooError(
            f"{path}: cannot be written ({error.strerror or error}); make room or give another --staging"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(partial)
    return stated


def beside(path: str) -> str:
    """A name beside a file's own that no other process writes to: the hash is of what came, not of what lies there."""
    return f"{path}.{uuid.uuid4().hex[:12]}{PARTIAL}"


def matches(path: str, stated: str) -> bool:
    """Whether a local file has a hash that the Hub stated; reads all of it."""
    try:
        with open(path, "rb", buffering=0) as file:
            h = hasher(stated, os.fstat(file.fileno()).st_size)
            buffer = bytearray(_CHUNK)
            while count := file.readinto(buffer):
                h.update(memoryview(buffer)[:count])
    except OSError:
        return False
    return bool(h.hexdigest() == stated)


def _whole(path: str) -> str | None:
    try:
        with open(path + STATED, encoding="ascii") as note:
            stated, _, size = note.read(200).strip().partition(" ")
        if str(os.path.getsize(path)) == size and matches(path, stated):
            return stated
    except (OSError, ValueError):
        pass
    return None


class _Sink:
    """Takes a file from one answer or, where connections break, from several."""

    def __init__(self, file: Any, what: str, parts: Callable[[Any], Iterable[bytes]]) -> None:
        self._file, self._what, self._parts = file, what, parts
        self._told: Answer | None = None
        self.received = 0
        self.hash: Any = hashlib.sha256()

    def span(self) -> str | None:
        return f"bytes={self.received}-" if self.received else None

    def take(self, response: Any) -> Answer:
        if response.status_code == 416:
            raise Refusal(Reason.WRONG_BYTES, f"{self._what} ends after {self.received} bytes, before its stated end")
        told = answer(response)
        if told.hash is None or told.size is None:
            raise Refusal(Reason.WRONG_BYTES, f"{self._what} comes without a hash and a size to check it by")
        coming = body_size(response)
        if coming is not None and coming != told.size:
            raise Refusal(
                Reason.WRONG_BYTES, f"{self._what} comes as {coming} bytes, but the Hub says that it has {told.size}"
            )
        if told != self._told or response.status_code != 206 or not self._goes_on(response):
            self._file.seek(0)
            self._file.truncate()
            self._told, self.received, self.hash = told, 0, hasher(told.hash, told.size)
            if response.status_code == 206:
                raise Again("it sent another part than asked for")
        for part in self._parts(response):  # as they come: a larger part would be lost with the connection
            if self.received + len(part) > told.size:
                raise Refusal(Reason.WRONG_BYTES, f"{self._what} has more bytes than the {told.size} announced")
            view = memoryview(part)
            while view:
                view = view[self._file.write(view) :]
            self.hash.update(part)
            self.received += len(part)
        if self.received < told.size:
            raise Again(f"it sent {self.received} bytes of {told.size}")
        return told

    def _goes_on(self, response: Any) -> bool:
        return bool(response.headers.get("Content-Range", "").startswith(f"bytes {self.received}-"))

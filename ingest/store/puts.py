"""Writes that a writer which lost its lease cannot do any harm with.

Local files are guarded by a lock that dies with its holder.  A lease can be lost without noticing: the process is
suspended, another takes over, and the first one goes on.  So every write to an object store expects what was there:
nothing, or the version that this writer read or wrote itself.  A version that was read counts only once the lease was
confirmed after the read, since before that the other may have written it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Sequence

from ingest.storage import ABSENT, ANY, Buffer, Conflict, Storage

_OWN = float("-inf")  # what one wrote oneself needs no confirmation


class Puts:
    """What one writer has read and written, and which files since the last commit."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._known: dict[str, tuple[str, float]] = {}  # name → version, and when it was read
        self._confirmed = _OWN
        self._guard = threading.Lock()
        self.touched: set[str] = set()

    def read(self, name: str) -> bytes:
        """A file that is going to be replaced; errors as for `Storage.read`."""
        began = time.monotonic()
        data, token = self._storage.read_versioned(name)
        self._known[name] = token, began
        return data

    def look(self, name: str) -> None:
        """Note the version of a file that is going to be replaced, if it is there and not known."""
        if name not in self._known:
            with contextlib.suppress(FileNotFoundError):
                self.read(name)

    def know(self, name: str, token: str | None) -> None:
        """Note which version this writer found when it began; None for no file."""
        self._known.pop(name, None)
        if token is not None:
            self._known[name] = token, time.monotonic()

    def put(self, name: str, parts: Sequence[Buffer]) -> None:
        """Write a file that nobody else has written meanwhile, or but a writer that has lost its lease.

        Raises
        ------
        EigenzooError
            If the lease was lost, or the file cannot be written.
        """
        try:
            self.put_once(name, parts)
        except Conflict:  # left by one who no longer is the writer, if this one is
            self._known.pop(name, None)
            self.look(name)
            self._confirm(time.monotonic())
            self.put_once(name, parts)

    def put_once(self, name: str, parts: Sequence[Buffer]) -> None:
        """The same where nobody's write may be passed over: that is a Conflict."""
        token, read = self._known.get(name, (ABSENT, _OWN))
        self._confirm(read)
        self.touched.add(name)
        self._known[name] = self._storage.write(name, parts, token), _OWN

    def put_new(self, name: str, parts: Iterable[Buffer]) -> None:
        """Write a file of a name that no other writer uses; the store may take it part by part."""
        self.touched.add(name)
        self._storage.write(name, parts, ANY)

    def delete(self, names: Iterable[str]) -> None:
        """Remove files; no store makes that conditional, so the lease is confirmed just before, a few at a time."""
        batch: list[str] = []
        for name in (*names, None):
            if name is not None:
                batch.append(name)
                self._known.pop(name, None)
            if batch and (name is None or len(batch) == 500):
                self._storage.renew()
                self._storage.delete(batch)
                batch.clear()

    def _confirm(self, read: float) -> None:
        with self._guard:
            if read > self._confirmed:
                began = time.monotonic()
                self._storage.renew()
                self._confirmed = began

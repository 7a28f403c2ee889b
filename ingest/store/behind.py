"""Work behind the caller's back: as much as there is room for, and waited for in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Semaphore
from typing import Any, TypeVar

from ingest.storage import is_remote

T = TypeVar("T")
R = TypeVar("R")

REQUESTS = 8
"""How many requests are on their way at a time where each takes its time."""


def side_by_side(url: str, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """A function of all items: one after the other on a disk, several at a time in an object store."""
    if len(items) < 2 or not is_remote(url):
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(REQUESTS, len(items))) as pool:
        return list(pool.map(function, items))


class Behind:
    """A few threads, and room for so many pieces of work at a time (at first one more than there are threads)."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads)
        self._slots = Semaphore(threads + 1)
        self._pending: list[Future[None]] = []

    def submit(self, function: Callable[..., None], *arguments: Any) -> None:
        """Begin a piece of work; blocks while there is no room."""
        slots = self._slots
        slots.acquire()
        future = self._pool.submit(function, *arguments)
        future.add_done_callback(lambda _: slots.release())
        self._pending.append(future)

    def resize(self, pieces: int) -> None:
        """Make room for so many pieces."""
        self.drain()
        self._slots = Semaphore(max(pieces, 1))

    def drain(self) -> None:
        """Wait for all of it; raises what stopped a piece."""
        while self._pending:
            self._pending.pop().result()

    def each(self, function: Callable[[T], None], items: Iterable[T]) -> None:
        """Do the same with all items and wait; raises what stopped one."""
        for _ in self._pool.map(function, items):
            pass

    def close(self) -> None:
        """Wait for what has begun, and begin nothing more."""
        self._pool.shutdown(cancel_futures=True)

"""A zoo in an object store: conditional puts, and a lease in place of a lock.

How a write that expects something becomes certain: the library retries a put only where nothing can have been
written, so a put that was cut off may have happened all the same, and its repetition finds its own bytes there and
calls it a conflict.  Whatever goes wrong, what is there is read back: the bytes meant are a success, the version
expected another try, and anything else a conflict.

A large object goes up in parts, for which the library knows no conditions: so it goes to a name of its own, and the
store is asked to copy it to its place if there is nothing yet.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import chain, islice, zip_longest
from queue import Full, Queue
from typing import TYPE_CHECKING, Any

from ingest.errors import EigenzooError
from ingest.storage.failures import explain, is_no_bucket
from ingest.storage.lease import Lease
from ingest.storage.object_reading import BATCH, ObjectReader
from ingest.storage.protocol import ABSENT, ANY, PARTIAL, Buffer, Conflict, checked, shortened

if TYPE_CHECKING:
    from obstore import PutMode

PUT_BYTES = 8 << 20
"""What goes up in one request; more goes in parts."""

UPLOAD_BYTES = 8 << 20
"""One such part."""

UPLOADS = 4
"""How many of them are on their way at a time."""

REPLACED_BYTES = 256 << 20
"""The most that may replace a certain version: it is one request, and held in memory."""

_TRIES = 4


class ObjectStorage(ObjectReader):
    """Objects below a prefix of a bucket; see `ingest.storage.protocol.Storage` for the verbs.

    Up to `PUT_BYTES` are held in memory and sent at once; beyond, `UPLOADS` parts, of which nothing is seen before all
    are there.  Who is killed between may leave an object that ends in `PARTIAL`, and parts in the store's own keeping,
    which the bucket's lifecycle rules should expire.

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
        super().__init__(url)
        self._lease = Lease(self.url, self.read_versioned, self._put_surely, self._put)

    def __reduce__(self) -> tuple[type[ObjectStorage], tuple[str]]:
        return ObjectStorage, (self.url,)

    def write(self, name: str, parts: Iterable[Buffer], expect: str = ANY) -> str:
        checked(name, self.url)
        self._lease.check()
        if isinstance(parts, Sequence) and len(parts) == 1 and memoryview(parts[0]).nbytes <= PUT_BYTES:
            return self._put_whole(name, memoryview(parts[0]).cast("B"), expect)
        rest = map(bytes, parts)  # copies: a part may be a buffer that the next one fills again
        head, held, most = [], 0, PUT_BYTES if expect in (ANY, ABSENT) else REPLACED_BYTES
        for part in rest:
            head.append(part)
            held += len(part)
            if held > most:
                break
        else:
            return self._put_whole(name, b"".join(head), expect)
        if expect == ANY:
            return self._put_parts(name, chain(head, rest))
        if expect == ABSENT:
            return self._put_beside(name, chain(head, rest))
        raise EigenzooError(f"{self.url}: {shortened(name)} is over {most} bytes, too large to replace a version")

    def _put_whole(self, name: str, body: Buffer, expect: str) -> str:
        return self._put(name, body, ANY) if expect == ANY else self._put_surely(name, body, expect)

    def _put_beside(self, name: str, parts: Iterator[bytes]) -> str:
        """A large object that must not be there yet."""
        import obstore

        temporary = f"{name}.{uuid.uuid4().hex}{PARTIAL}"
        self._put_parts(temporary, parts)
        try:
            self._lease.check()
            for attempt in range(_TRIES):
                _pause(attempt)
                try:
                    obstore.copy(self._store(), temporary, name, overwrite=False)
                    break
                except Exception as error:
                    failure = EigenzooError(explain(self.url, error, f"write {shortened(name)}"))
                if self.exists(name):
                    if self._equal(temporary, name):
                        break
                    raise self._conflict(name) from failure
            else:
                raise failure
            return self._token(obstore.head(self._store(), name))
        finally:
            with suppress(Exception):  # what stays is swept
                obstore.delete(self._store(), temporary)

    def _equal(self, one: str, other: str) -> bool:
        if self.size(one) != self.size(other):
            return False
        return all(a == b for a, b in zip_longest(self.read_parts(one), self.read_parts(other)))

    def _conflict(self, name: str) -> Conflict:
        return Conflict(f"{self.url}: somebody else wrote {shortened(name)} meanwhile; run again")

    def sync(self, names: Iterable[str]) -> None:
        for name in names:
            checked(name, self.url)

    def delete(self, names: Iterable[str]) -> None:
        import obstore

        remaining = (checked(name, self.url) for name in names)
        while batch := [*islice(remaining, BATCH)]:
            self._lease.check()
            try:
                try:
                    obstore.delete(self._store(), batch)
                except FileNotFoundError as error:  # some stores take an absent object for a failure
                    if is_no_bucket(error):
                        raise
                    for path in batch:
                        try:
                            obstore.delete(self._store(), path)
                        except FileNotFoundError as absent:
                            if is_no_bucket(absent):
                                raise
            except EigenzooError:
                raise
            except Exception as error:
                raise EigenzooError(explain(self.url, error, f"remove {len(batch)} objects")) from error

    def acquire(self) -> bool:
        return self._lease.acquire()

    def release(self, clean: bool) -> None:
        self._lease.release(clean)

    def renew(self) -> None:
        self._lease.renew()

    def _put(self, name: str, body: Buffer, expect: str) -> str:
        """One put as it is; `Conflict` where the store reports one, for whatever cause."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: PutMode = "overwrite"
        if expect == ABSENT:
            mode = "create"
        elif expect != ANY:
            mode = {"version": expect} if self._by_version else {"e_tag": expect}
        try:
            return self._token(obstore.put(self._store(), name, body, mode=mode, use_multipart=False))
        except (AlreadyExistsError, PreconditionError) as error:
            raise self._conflict(name) from error
        except EigenzooError:
            raise
        except Exception as error:
            raise EigenzooError(explain(self.url, error, f"write {shortened(name)}")) from error

    def _put_surely(self, name: str, body: Buffer, expect: str) -> str:
        """A put on a condition, of which is known in the end whether it happened."""
        for attempt in range(_TRIES):
            _pause(attempt)
            try:
                return self._put(name, body, expect)
            except EigenzooError as error:
                failure = error
            try:
                found, version = self.read_versioned(name)
            except FileNotFoundError:
                if expect != ABSENT:
                    break  # removed meanwhile
            except OSError:
                raise failure from None  # out of reach: nothing more can be known
            else:
                if found == body:
                    return version
                if version != expect:
                    break
        else:
            raise failure
        raise self._conflict(name) from failure

    def _put_parts(self, name: str, parts: Iterator[bytes]) -> str:
        import obstore

        pieces = _Pieces()
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(
                obstore.put, self._store(), name, pieces, chunk_size=UPLOAD_BYTES, max_concurrency=UPLOADS
            )
            try:
                for part in parts:
                    if not pieces.hand(part, sent):
                        break
            except BaseException:
                pieces.hand(_Stopped(), sent)
                raise
            pieces.hand(None, sent)
            try:
                return self._token(sent.result())
            except EigenzooError:
                raise
            except Exception as error:
                raise EigenzooError(explain(self.url, error, f"write {shortened(name)}")) from error


class _Stopped(Exception):
    """The source of an upload failed: it is to be aborted."""


class _Pieces:
    """Parts on their way to the thread that uploads them.

    Not the parts' own iterator: the library would run it where no other call to the library may be made, such as one
    that reads the parts from another object.
    """

    def __init__(self) -> None:
        self._queue: Queue[bytes | _Stopped | None] = Queue(1)

    def __iter__(self) -> Iterator[bytes]:
        while (piece := self._queue.get()) is not None:
            if isinstance(piece, _Stopped):
                raise piece
            yield piece

    def hand(self, piece: bytes | _Stopped | None, sent: Future[Any]) -> bool:
        """Hand on the next part, None for the end; False once nobody takes any more."""
        while not sent.done():
            with suppress(Full):
                self._queue.put(piece, timeout=0.2)
                return True
        return False


def _pause(attempt: int) -> None:
    if attempt:
        time.sleep(0.1 * 2**attempt)

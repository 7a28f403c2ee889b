"""A zoo in a folder: plain files, a lock that dies with its holder, and folders flushed when asked."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NoReturn

from ingest.errors import EigenzooError
from ingest.storage.protocol import (
    ANY,
    DIRTY,
    LOCK,
    PART_BYTES,
    PARTIAL,
    Buffer,
    Unreadable,
    checked,
    ends_early,
    shortened,
)

if TYPE_CHECKING:
    from filelock import BaseFileLock

_OPEN = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
_CREATE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_CLOEXEC", 0)
_TRIES = 3
_REMEDIES = {
    errno.ENOSPC: "make room there, then run again",
    errno.EDQUOT: "make room there, then run again",
    errno.EACCES: "its permissions must let you write",
    errno.EPERM: "its permissions must let you write",
    errno.EROFS: "it is mounted read-only",
}


class LocalStorage:
    """Files below a folder; see `ingest.storage.protocol.Storage` for the verbs.

    A file is written beside its place, flushed and renamed.  Writing costs one flush a file; `sync` one a folder.

    Parameters
    ----------
    path
        The folder; `acquire` makes it where it is absent.

    Raises
    ------
    EigenzooError
        If the path cannot be one.
    """

    def __init__(self, path: str) -> None:
        if not path or "\0" in path:
            raise EigenzooError(f"{shortened(path)} is no path; give a folder")
        self.url = os.path.abspath(path)
        self._lock: BaseFileLock | None = None
        self._guard = threading.Lock()
        self._made: set[str] = set()  # folders that this writer made; "" is the root
        self._within: dict[str, bool] = {}  # folder → whether it lies below the root once links are followed

    def __reduce__(self) -> tuple[type[LocalStorage], tuple[str]]:
        return LocalStorage, (self.url,)

    def __repr__(self) -> str:
        return f"LocalStorage({self.url!r})"

    def read(self, name: str) -> bytes:
        return self.read_versioned(name)[0]

    def read_versioned(self, name: str) -> tuple[bytes, str]:
        path = self.path(name)
        descriptor, facts = _open(path)
        with open(descriptor, "rb", buffering=0) as file:
            return file.readall(), _token(facts)

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        path, view = self.path(name), buffer.cast("B")
        descriptor, facts = _open(path)
        try:
            done = 0
            while done < len(view):
                count = os.preadv(descriptor, [view[done:]], offset + done)
                if not count:
                    raise ends_early(path, facts.st_size, offset + len(view))
                done += count
        finally:
            os.close(descriptor)

    def read_parts(self, name: str, offset: int = 0) -> Iterator[bytes]:
        descriptor, _ = _open(self.path(name))
        with open(descriptor, "rb", buffering=0) as file:
            file.seek(offset)
            while part := file.read(PART_BYTES):
                yield part

    def size(self, name: str) -> int:
        path = self.path(name)
        facts = os.stat(path)
        _regular(path, facts)
        return facts.st_size

    def exists(self, name: str) -> bool:
        try:
            return stat.S_ISREG(os.stat(self.path(name)).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise self._unreadable(error, name) from error

    def list(self, prefix: str = "") -> Iterator[str]:
        def failed(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError) and not (prefix and isinstance(error, NotADirectoryError)):
                raise self._unreadable(error, prefix or "what is in it") from error

        top = self.path(prefix.rstrip("/")) if prefix else self.url
        for folder, _, files in os.walk(top, onerror=failed):
            here = os.path.relpath(folder, self.url).replace(os.sep, "/")
            for file in files:
                yield file if here == "." else f"{here}/{file}"

    def write(self, name: str, parts: Iterable[Buffer], expect: str = ANY) -> str:
        path = self.path(name)
        temporary = f"{path}{PARTIAL}"
        try:
            with self._writing(name):
                self._stay_within(name)
                descriptor = self._create(temporary, name)
            try:
                for part in parts:  # outside `_writing`: what reading the source raises is not about this file
                    view = memoryview(part).cast("B")
                    with self._writing(name):
                        while view:
                            view = view[os.write(descriptor, view) :]
                with self._writing(name):
                    os.fsync(descriptor)
                    token = _token(os.fstat(descriptor))
            finally:
                os.close(descriptor)
            with self._writing(name):
                os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        return token

    def sync(self, names: Iterable[str]) -> None:
        for folder in {folder for name in names for folder in _ancestors(checked(name, self.url))}:
            with self._writing(folder):
                _fsync(os.path.join(self.url, folder))

    def delete(self, names: Iterable[str]) -> None:
        folders: set[str] = set()
        for name in names:
            path = self.path(name)
            if not self._is_within(name):
                continue  # what lies behind a link to elsewhere is not this zoo's to remove
            with self._writing(name, "remove"), contextlib.suppress(FileNotFoundError, NotADirectoryError):
                if os.path.isdir(path) and not os.path.islink(path):
                    folders.add(name)
                else:
                    os.unlink(path)
            folders.update(_ancestors(name))
        for folder in sorted(folders - {""}, key=lambda folder: -folder.count("/")):
            with contextlib.suppress(OSError):  # not empty, or gone already
                os.rmdir(os.path.join(self.url, folder))

    def acquire(self) -> bool:
        from filelock import Timeout

        with self._guard:
            try:
                if self._lock is not None:
                    raise Timeout(self._lock.lock_file)
                fresh = not os.path.isdir(self.url)
                lock = self._locked()
            except Timeout as error:
                raise EigenzooError(
                    f"{self.url}: another process is writing to this zoo; wait for it to end, then run again"
                ) from error
            except OSError as error:
                raise EigenzooError(
                    f"{self.url}: cannot write there ({error.strerror or error}); give another --zoo"
                ) from error
            try:
                marker = os.path.join(self.url, DIRTY)
                dirty = os.path.lexists(marker)
                with self._writing(DIRTY):
                    if not dirty:
                        os.close(os.open(marker, _CREATE, 0o666))
                    _fsync(self.url)
                    if fresh:
                        _fsync(os.path.dirname(self.url))
            except BaseException:
                lock.release()
                raise
            self._lock, self._made = lock, {""} if fresh else set()
            return dirty

    def _locked(self) -> BaseFileLock:
        """The lock, held, of the file that bears its name: who leaves an empty folder removes that file."""
        from filelock import FileLock, Timeout

        path = os.path.join(self.url, LOCK)
        for _ in range(_TRIES):
            os.makedirs(self.url, exist_ok=True)
            # Not bound to a thread: the writer may be entered in one and left in another.
            lock = FileLock(path, thread_local=False)
            try:
                lock.acquire(timeout=0)
            except FileNotFoundError:
                continue  # the folder went meanwhile
            descriptor = lock._context.lock_file_fd
            with contextlib.suppress(FileNotFoundError):
                if descriptor is not None and os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return lock
            lock.release()
        raise Timeout(path)

    def release(self, clean: bool) -> None:
        with self._guard:
            if self._lock is None:
                return
            try:
                if all(name in (LOCK, DIRTY) for name in self.list()):
                    self._remove_own()  # nothing was written: leave no empty zoo behind
                elif clean:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(os.path.join(self.url, DIRTY))
            except OSError as error:
                raise EigenzooError(
                    f"{self.url}: cannot be closed ({error.strerror or error}); the next writer looks it over"
                ) from error
            finally:
                lock, self._lock = self._lock, None
                lock.release()

    def renew(self) -> None:
        if self._lock is None:
            raise EigenzooError(f"{self.url}: not open for writing")

    def path(self, name: str) -> str:
        """Where a file lies; `EigenzooError` if that is not below the root."""
        return os.path.join(self.url, checked(name, self.url))

    @contextlib.contextmanager
    def _writing(self, name: str, verb: str = "write") -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._refuse(error, name, verb)

    def _refuse(self, error: OSError, name: str, verb: str) -> NoReturn:
        remedy = _REMEDIES.get(error.errno or 0, "see to the disk, then run again")
        why = error.strerror or error
        raise EigenzooError(f"{self.url}: cannot {verb} {shortened(name)} ({why}); {remedy}") from error

    def _unreadable(self, error: OSError, name: str) -> Unreadable:
        why = error.strerror or error
        if error.errno == errno.ENOTDIR:
            return Unreadable(f"{self.url}: is a file, or lies in one; give a folder")
        return Unreadable(f"{self.url}: cannot read {shortened(name)} ({why}); its permissions must let you read")

    def _remove_own(self) -> None:
        """Remove the marks, and the folders that this writer made."""
        for name in (DIRTY, LOCK):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.url, name))
        for folder in sorted(self._made, key=len, reverse=True):  # the root, "", comes last
            with contextlib.suppress(OSError):
                os.rmdir(os.path.join(self.url, folder))

    def _is_within(self, name: str) -> bool:
        """Whether the folder of a file lies below the root, links followed; looked up once per folder."""
        folder = name.rpartition("/")[0]
        within = self._within.get(folder)
        if within is None:
            root = os.path.realpath(self.url)
            found = os.path.realpath(os.path.join(self.url, folder))
            within = self._within[folder] = found == root or found.startswith(os.path.join(root, ""))
        return within

    def _stay_within(self, name: str) -> None:
        if not self._is_within(name):
            raise EigenzooError(
                f"{self.url}: a folder of {shortened(name)} is a link to elsewhere; put the folder itself in its place"
            )

    def _create(self, path: str, name: str) -> int:
        """A new file for writing, never through a link that lies there."""
        for _ in range(_TRIES):
            try:
                return os.open(path, _CREATE, 0o666)
            except FileNotFoundError:
                missing = [f for f in _ancestors(name) if f and not os.path.isdir(os.path.join(self.url, f))]
                os.makedirs(os.path.dirname(path), exist_ok=True)
                self._made.update(missing)
            except FileExistsError:
                os.unlink(path)  # a killed writer's
        return os.open(path, _CREATE, 0o666)


def _open(path: str) -> tuple[int, os.stat_result]:
    """A regular file for reading; without waiting, should a stranger have put a pipe there."""
    descriptor = os.open(path, _OPEN)
    try:
        facts = os.fstat(descriptor)
        _regular(path, facts)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, facts


def _regular(path: str, facts: os.stat_result) -> None:
    if stat.S_ISDIR(facts.st_mode):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(errno.EINVAL, "is no regular file", path)


def _token(facts: os.stat_result) -> str:
    return f"{facts.st_mtime_ns}-{facts.st_size}-{facts.st_ino}"


def _ancestors(name: str) -> list[str]:
    """The folders that a file lies in, from its own up to the root, which is the empty name."""
    parts = name.split("/")[:-1]
    return ["/".join(parts[:n]) for n in range(len(parts), -1, -1)]


def _fsync(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

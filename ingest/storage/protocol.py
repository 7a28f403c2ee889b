"""What a zoo needs of the place it lies in, and nothing more.

Names are relative to the root, use ``/`` and name files; folders exist as far as files lie in them.  Every
implementation passes one suite of tests, `tests/ingest/storage/test_storage.py`.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from typing import Final, Protocol

from ingest.errors import EigenzooError

Buffer = bytes | bytearray | memoryview

ANY: Final = "*"
"""Expectation of a write: whatever is there is replaced."""

ABSENT: Final = "-"
"""Expectation of a write: there is nothing of that name yet."""

PART_BYTES: Final = 4 << 20
"""What is read at a time where the whole need not be in memory."""

LOCK: Final = "writer.lock"
"""The name that the one writer holds."""

DIRTY: Final = "writing"
"""The name that a local writer leaves where it dies; object stores see it from the lock itself."""

PARTIAL: Final = ".partial"
"""Ending of a local file that is still being written."""


class Conflict(EigenzooError):
    """Somebody else wrote the object meanwhile; nothing was changed."""


class Unreadable(EigenzooError, OSError):
    """A store that cannot be read, in one line for a person; an `OSError` like any other failure to read."""


class Storage(Protocol):
    """A tree of files, with atomic replacement and one writer at a time.

    May be used by several threads together (no two of them writing the same name at a time), and pickled: what
    travels is the URL.  Holding the lock does not travel.
    """

    @property
    def url(self) -> str:
        """Absolute path or URL, for messages and for opening it again."""
        ...

    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises
        ------
        FileNotFoundError
            If there is none of that name; any other failure is another `OSError`.
        """
        ...

    def read_versioned(self, name: str) -> tuple[bytes, str]:
        """The bytes of a file and the version token they have; errors as for `read`."""
        ...

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes from `offset` on; an `OSError` where the file ends before."""
        ...

    def read_parts(self, name: str, offset: int = 0) -> Iterator[bytes]:
        """The bytes from `offset` to the end, at most 4 MiB at a time; errors as for `read`, at the first part."""
        ...

    def size(self, name: str) -> int:
        """Bytes of a file; errors as for `read`."""
        ...

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        ...

    def list(self, prefix: str = "") -> Iterator[str]:
        """The names of all files below the folder `prefix`, at any depth, in no particular order.

        The lock, marks and partial files are files like any other.
        """
        ...

    def write(self, name: str, parts: Iterable[Buffer], expect: str = ANY) -> str:
        """Replace or make a file: atomic for readers, and durable on return (locally once `sync` has run too).

        Parameters
        ----------
        name
            What to write.
        parts
            Its bytes.
        expect
            `ANY`, `ABSENT`, or the version token that must be there.  Object stores check it in the same step as
            they write; local files are guarded by the lock, and it is ignored.

        Returns
        -------
        str
            The new version's token.

        Raises
        ------
        Conflict
            If something else is there than expected.
        EigenzooError
            If it cannot be written: one line.  What `parts` raises passes through.  No partial file stays.
        """
        ...

    def sync(self, names: Iterable[str]) -> None:
        """Make the names of these files survive a loss of power: local folders are flushed, up to the root."""
        ...

    def delete(self, names: Iterable[str]) -> None:
        """Remove files, and local folders that are empty then; absent ones are passed over."""
        ...

    def acquire(self) -> bool:
        """Become the one writer.

        Returns
        -------
        bool
            True if the last writer died, or gave up unclean: there may be leftovers to sweep.

        Raises
        ------
        EigenzooError
            If somebody else is writing, or nothing can be written there.
        """
        ...

    def release(self, clean: bool) -> None:
        """Stop being the writer; unclean leaves what makes the next `acquire` return True."""
        ...

    def renew(self) -> None:
        """Make sure that this is still the one writer.

        Raises
        ------
        EigenzooError
            If the lock was lost: a writer that was suspended for long must not go on.
        """
        ...


def checked(name: str, url: str) -> str:
    """The name, if it stays below the root.

    Names come from a zoo's catalogue, and a zoo may come from anybody.

    Raises
    ------
    EigenzooError
        If it is empty, absolute, has ``.``, ``..`` or empty components, or a NUL.
    """
    if "\0" in name or "\\" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise EigenzooError(f"{url}: {shortened(name)} is no name within a zoo; its catalogue is damaged or forged")
    return name


def shortened(name: str) -> str:
    """A name from a stranger as one short word of a message."""
    quoted = ascii(name)
    return quoted if len(quoted) <= 120 else f"{quoted[:110]}…{quoted[-1]}"


def ends_early(path: str, size: int, wanted: int) -> OSError:
    """The error for a file that has fewer bytes than were asked for."""
    return OSError(errno.EIO, f"it ends at byte {size}, {wanted} were expected", path)

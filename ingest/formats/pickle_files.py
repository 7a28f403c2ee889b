"""Where a file of torch.save keeps its pickle and its storages: the zip archives of today, and the streams before.

Neither is read through torch: of an archive torch would unpack compressed members of any size, and of a stream it
reads every storage.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ingest.errors import Refusal
from ingest.formats.pickle_check import MAX_PICKLE_BYTES, check_pickle
from ingest.lookalikes import lookalike
from ingest.reasons import Reason

# Of 40,000 storages, say; zipfile takes ten times as much memory.
_MAX_DIRECTORY_BYTES = 4 << 20
_LOCAL_HEADER = 30
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001

Load = Callable[[io.BytesIO], Any]
Places = Callable[[Mapping[str, tuple[int, int]]], dict[str, tuple[int, int]]]


@dataclass(frozen=True, slots=True)
class PickleFile:
    """A file's pickle and its storages.

    Attributes
    ----------
    pickle
        Checked, and to be loaded.
    places
        Storage key → (number of elements, bytes of one) → where each begins and its bytes; raises `Refusal`.
    """

    pickle: io.BytesIO
    places: Places


def open_pickle_file(descriptor: int, size: int, where: str, load: Load) -> PickleFile:
    """Find and check a file's pickle.

    Parameters
    ----------
    descriptor, size, where
        The open file, its bytes, and its name for messages.
    load
        Loads the small pickles in front of a stream's.

    Raises
    ------
    Refusal
        `pickle`, `truncated`, `unreadable`.
    """
    head = os.pread(descriptor, 512, 0)
    if head.startswith(b"PK\x03\x04"):
        return _archive(descriptor, size, where)
    if head.startswith(b"\x80"):
        return _stream(descriptor, size, where, load)
    other = lookalike(head, where)
    if other is not None:
        raise other
    raise Refusal(Reason.UNREADABLE, f"{where} is no file of torch.save (it begins with {head[:8]!r})")


class _TooLarge(Exception):
    """A directory beyond the limit."""


class _Bounded(io.RawIOBase):
    """A file by positioned reads, none larger than an archive's directory may be."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor, self._size, self._at = descriptor, size, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def read(self, count: int = -1) -> bytes:
        count = max(0, self._size - self._at) if count < 0 else count
        if count > _MAX_DIRECTORY_BYTES:
            raise _TooLarge
        data = os.pread(self._descriptor, count, self._at)
        self._at += len(data)
        return data


def _archive(descriptor: int, size: int, where: str) -> PickleFile:
    members = _members(descriptor, size, where)
    root = next(iter(members)).partition("/")[0]
    if f"{root}/constants.pkl" in members or any(name.startswith(f"{root}/code/") for name in members):
        raise Refusal(Reason.PICKLE, f"{where} is a TorchScript program, not a state dict")
    main = members.get(f"{root}/data.pkl")
    if main is None:
        raise Refusal(Reason.PICKLE, f"{where} is a zip archive without data.pkl: no file of torch.save")
    if main.file_size > MAX_PICKLE_BYTES:
        raise Refusal(Reason.PICKLE, f"{where} has a pickle of {main.file_size} bytes, at most {MAX_PICKLE_BYTES}")

    def place(member: zipfile.ZipInfo) -> tuple[int, int]:
        local = os.pread(descriptor, _LOCAL_HEADER, member.header_offset)
        if len(local) < _LOCAL_HEADER or not local.startswith(b"PK\x03\x04"):
            raise Refusal(Reason.TRUNCATED, f"{where}: {member.filename!r} is not where the archive says")
        skipped = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
        start = member.header_offset + _LOCAL_HEADER + skipped
        if start + member.file_size > size:
            raise Refusal(Reason.TRUNCATED, f"{where} ends within {member.filename!r}; download it again")
        return start, member.file_size

    order = members.get(f"{root}/byteorder")
    if order is not None and os.pread(descriptor, min(order.file_size, 8), place(order)[0]) != b"little":
        raise Refusal(Reason.PICKLE, f"{where} was saved on a big-endian machine")
    start, length = place(main)
    pickle = io.BytesIO(os.pread(descriptor, length, start))
    check_pickle(pickle, where)
    pickle.seek(0)

    def places(wanted: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
        found = {}
        for key, (count, itemsize) in wanted.items():
            member = members.get(f"{root}/data/{key}")
            if member is None:
                raise Refusal(Reason.TRUNCATED, f"{where} lacks the storage {key!r} that its pickle names")
            found[key] = place(member)
            if count * itemsize > member.file_size:
                raise _short(where, key, count * itemsize, member.file_size)
        return found

    return PickleFile(pickle, places)


def _members(descriptor: int, size: int, where: str) -> dict[str, zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(_Bounded(descriptor, size)) as archive:
            entries = archive.infolist()
    except _TooLarge:
        raise Refusal(
            Reason.PICKLE, f"{where} is a zip archive whose directory has more than {_MAX_DIRECTORY_BYTES} bytes"
        ) from None
    except Exception as error:  # struct.error, BadZipFile, NotImplementedError, …: a stranger's archive
        raise Refusal(Reason.TRUNCATED, f"{where} is no whole zip archive ({error}); download it again") from error
    members = {entry.filename: entry for entry in entries}
    if len(members) != len(entries):
        raise Refusal(Reason.PICKLE, f"{where} is a zip archive with two members of one name")
    if not members:
        raise Refusal(Reason.PICKLE, f"{where} is an empty zip archive")
    for entry in entries:
        # torch.save compresses nothing, and a compressed member could grow a thousandfold.
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.file_size != entry.compress_size:
            raise Refusal(
                Reason.PICKLE, f"{where}: {entry.filename!r} is compressed or encrypted, as torch.save never does"
            )
    return members


def _stream(descriptor: int, size: int, where: str, load: Load) -> PickleFile:
    file = io.BytesIO(os.pread(descriptor, min(size, MAX_PICKLE_BYTES), 0))

    def one() -> tuple[int, int]:
        start = file.tell()
        check_pickle(file, where)
        return start, file.tell()

    def value() -> Any:
        start, end = one()
        return load(io.BytesIO(file.getbuffer()[start:end]))

    magic = value()
    if type(magic) is not int or magic != _MAGIC:
        raise Refusal(Reason.PICKLE, f"{where} is a plain pickle, not a file of torch.save")
    if value() != _PROTOCOL:
        raise Refusal(Reason.PICKLE, f"{where} has another protocol than torch.save's {_PROTOCOL}")
    system = value()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Refusal(Reason.PICKLE, f"{where} was saved on a big-endian machine")
    start, end = one()
    pickle = io.BytesIO(file.getbuffer()[start:end])
    keys = value()
    begin = file.tell()

    def places(wanted: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
        if not isinstance(keys, list) or not all(type(key) is str for key in keys) or set(keys) != set(wanted):
            raise Refusal(Reason.PICKLE, f"{where} lists other storages than its pickle names")
        found: dict[str, tuple[int, int]] = {}
        at = begin
        for key in keys:
            count, itemsize = wanted[key]
            stated = os.pread(descriptor, 8, at)
            if len(stated) < 8 or at + 8 + count * itemsize > size:
                raise Refusal(Reason.TRUNCATED, f"{where} ends within the storage {key!r}; download it again")
            if int.from_bytes(stated, "little") != count or key in found:
                raise Refusal(Reason.PICKLE, f"{where}: the storage {key!r} contradicts the pickle")
            found[key] = (at + 8, count * itemsize)
            at += 8 + count * itemsize
        return found

    return PickleFile(pickle, places)


def _short(where: str, key: str, wanted: int, held: int) -> Refusal:
    return Refusal(Reason.TRUNCATED, f"{where}: the storage {key!r} has {held} bytes, its pickle says {wanted}")

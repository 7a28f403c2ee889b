"""What a killed writer left in a zoo, its removal, and whose folder it is in the first place."""

from __future__ import annotations

import re

from ingest.errors import EigenzooError
from ingest.storage import DIRTY, LOCK, PARTIAL, Storage, is_remote
from ingest.storage.lease import is_free
from ingest.store import schema
from ingest.store.nodes import files_of
from ingest.store.puts import Puts
from ingest.store.reader import Zoo
from ingest.store.root import read_commit, read_root

_OURS = re.compile(rf"{schema.LAYERS}(-\d+)?/|{schema.CATALOG}/")
_PARTIAL_ROOT = re.compile(rf"{re.escape(schema.ROOT)}(\.[0-9a-f]{{32}})?{re.escape(PARTIAL)}")


def sweep(zoo: Zoo, puts: Puts) -> None:
    """Remove what a killed writer left: partial files, chunks, arrays and segments that no commit names.

    Files that are not a zoo's are left alone.
    """
    held = set(files_of(zoo.commit, zoo.stored))
    puts.delete(name for name in list(zoo.storage.list()) if name not in held and _is_ours(name))


def strays(zoo: Zoo) -> list[str]:
    """Files in a zoo's own places that no commit names, as long as nobody writes; none where that cannot be told."""
    storage = zoo.storage
    if not _is_quiet(zoo):
        return []
    held = set(files_of(zoo.commit, zoo.stored))
    found = [name for name in storage.list() if name not in held and _is_ours(name)]
    found = [name for name in found if storage.exists(name)]
    return sorted(found) if found and _is_quiet(zoo) else []


def check_foreign(storage: Storage) -> None:
    """Refuse a place that is no zoo, nor what is left of one whose first writer died.

    Of one that died the mark is left, which every writer sets before all else.

    Raises
    ------
    EigenzooError
        If other files lie there.
    """
    if read_root(storage)[0] is not None:
        return
    try:
        left = storage.exists(LOCK if is_remote(storage.url) else DIRTY)
        locked = left or storage.exists(LOCK)
        for name in storage.list():
            ours = name in (LOCK, DIRTY) or (left and _is_ours(name)) or (locked and _is_staged(name))
            if not ours:
                raise EigenzooError(f"{storage.url}: a folder with other files ({name} …); give a new path")
    except EigenzooError:
        raise
    except OSError as error:
        raise EigenzooError(
            f"{storage.url}: cannot be looked at ({error.strerror or error}); give another --zoo"
        ) from error


def _is_quiet(zoo: Zoo) -> bool:
    """Whether this is the last commit, and nobody is writing the next one or died at it."""
    if zoo.storage.exists(DIRTY):
        return False
    if is_remote(zoo.path):
        try:
            if not is_free(zoo.storage.read(LOCK)):
                return False
        except FileNotFoundError:
            pass  # a copy
    last = read_commit(zoo.storage)
    return last is not None and (last.uuid, last.version) == (zoo.commit.uuid, zoo.commit.version)


def _is_ours(name: str) -> bool:
    return bool(_OURS.match(name) or _PARTIAL_ROOT.fullmatch(name))


def _is_staged(name: str) -> bool:
    return name.startswith(f"{schema.STAGING}/")

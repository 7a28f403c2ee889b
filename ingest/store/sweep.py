"""What a killed writer left in a zoo, and its removal."""

from __future__ import annotations

import re

from ingest.errors import EigenzooError
from ingest.storage import DIRTY, LOCK, PARTIAL, Storage
from ingest.store import schema
from ingest.store.nodes import files_of
from ingest.store.puts import Puts
from ingest.store.reader import Zoo

_OURS = re.compile(rf"{schema.LAYERS}(-\d+)?/|{schema.CATALOG}/")


def sweep(zoo: Zoo, puts: Puts) -> None:
    """Remove what a killed writer left: partial files, chunks, arrays and segments that no commit names.

    Files that are not a zoo's are left alone.
    """
    held = set(files_of(zoo.commit, zoo.stored))
    puts.delete(
        name
        for name in list(zoo.storage.list())
        if not _is_staged(name) and (name.endswith(PARTIAL) or (_OURS.match(name) and name not in held))
    )


def check_foreign(storage: Storage) -> None:
    """Refuse a place that is no zoo, nor what is left of one whose first writer died.

    Raises
    ------
    EigenzooError
        If other files lie there.
    """
    try:
        if storage.exists(schema.ROOT):
            return
        for name in storage.list():
            ours = _OURS.match(name) or _is_staged(name) or name in (LOCK, DIRTY) or name == f"{schema.ROOT}{PARTIAL}"
            if not ours:
                raise EigenzooError(f"{storage.url}: a folder with other files ({name} …); give a new path")
    except EigenzooError:
        raise
    except OSError as error:
        raise EigenzooError(
            f"{storage.url}: cannot be looked at ({error.strerror or error}); give another --zoo"
        ) from error


def _is_staged(name: str) -> bool:
    return name.startswith(f"{schema.STAGING}/")

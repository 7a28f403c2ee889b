"""Folders that nobody else may have prepared or may look into."""

from __future__ import annotations

import os
import stat

from ingest.errors import EigenzooError


def private_folder(path: str) -> None:
    """Make a folder for this user alone, unless it is there.

    Raises
    ------
    EigenzooError
        If it cannot be made, is a link or no folder, or belongs to somebody else.
    """
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if not os.path.lexists(path):
            os.mkdir(path, 0o700)
        found = os.lstat(path)
    except OSError as error:
        raise EigenzooError(f"{path}: cannot be made ({error.strerror}); give another --staging") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise EigenzooError(f"{path}: is a link, a file or somebody else's; give another --staging")

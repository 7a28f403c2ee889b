"""Folders that nobody else may have prepared or may look into."""

from __future__ import annotations

import contextlib
import os
import stat

from ingest.errors import EigenzooError


def private_folder(path: str) -> None:
    """Make a folder for this user alone, unless it is there; its parents are made as any folder.

    Raises
    ------
    EigenzooError
        If it cannot be made, is a link or no folder, or belongs to somebody else or is open to others and cannot be
        closed.
    """
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
            return
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise EigenzooError(f"{path}: is a link, a file or somebody else's; remove it or give another --staging")
        if found.st_mode & 0o077:
            os.chmod(path, 0o700)
    except OSError as error:
        raise EigenzooError(
            f"{path}: cannot be made for this user alone ({error.strerror}); give another --staging"
        ) from error

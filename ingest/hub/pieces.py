"""Small pieces of repositories, kept by commit in huggingface_hub's assets cache: none is asked for twice.

A commit never changes, so nothing here is ever stale.  Layout: assets/eigenzoo/ORG--NAME/COMMIT/<hash of the path>/
with the file itself under a plain name, or `header`: a line of JSON and the first bytes of a weights file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile

from ingest.errors import EigenzooError
from ingest.hub.answers import COMMIT

_HEADER = "header"


def path_of(repo: str, commit: str, path: str, plain: str) -> str:
    """Where a piece lies or would lie.

    Parameters
    ----------
    repo, commit, path
        The file meant; none of the three is used as a name as it is, but a repository's and a commit's.
    plain
        The file's name here: one of the caller's own, never the stranger's.

    Raises
    ------
    EigenzooError
        If the cache's folder cannot be made.
    """
    from huggingface_hub import cached_assets_path, constants

    if not COMMIT.fullmatch(commit):
        raise EigenzooError(f"{repo}: {commit[:80]!r} is no commit; the Hub's answer cannot be used")
    try:
        folder = cached_assets_path("eigenzoo", repo, commit, assets_dir=constants.HF_ASSETS_CACHE)
    except (OSError, ValueError) as error:
        raise EigenzooError(f"the Hub's assets cache cannot be used ({error}); set HF_ASSETS_CACHE") from error
    return os.path.join(folder, hashlib.sha256(path.encode()).hexdigest()[:32], plain)


def kept(repo: str, commit: str, path: str, plain: str) -> str | None:
    """Where a piece lies; None if it is not here, or empty: a loss of power leaves such files."""
    place = path_of(repo, commit, path, plain)
    try:
        return place if os.path.getsize(place) else None
    except OSError:
        return None


def put(path: str, data: bytes) -> str:
    """Write a piece in one step; its path.

    Raises
    ------
    EigenzooError
        If it cannot be written.
    """
    folder = os.path.dirname(path)
    temporary = ""
    try:
        os.makedirs(folder, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=folder, suffix=".partial")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise EigenzooError(f"{folder}: cannot be written ({error.strerror}); set HF_ASSETS_CACHE") from error
    return path


def put_header(repo: str, commit: str, path: str, size: int, data: bytes) -> None:
    """Keep the first bytes of a weights file of `size` bytes; errors as for `put`."""
    line = json.dumps({"size": size}).encode() + b"\n"
    put(path_of(repo, commit, path, _HEADER), line + data)


def get_header(repo: str, commit: str, path: str) -> tuple[int, bytes] | None:
    """The size and the first bytes of a weights file, None if they are not here or not readable."""
    try:
        with open(path_of(repo, commit, path, _HEADER), "rb") as file:
            size = json.loads(file.readline(200))["size"]
            return (size, file.read()) if type(size) is int else None
    except (OSError, ValueError, KeyError, TypeError):
        return None

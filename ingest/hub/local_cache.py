"""huggingface_hub's own cache of files: looked into first, written to on request, and all there is when offline."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import uuid

from ingest.errors import EigenzooError, Refusal
from ingest.hub.download import matches
from ingest.hub.remote import RemoteFiles
from ingest.reasons import Reason

_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def is_offline() -> bool:
    """Whether huggingface_hub's offline switch is on."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def cached(remote: RemoteFiles, path: str) -> str | None:
    """A file of the adapter's commit in the cache, None if it is not there.

    A cache with links names its blobs by the Hub's hash, so the bytes are compared with it; one without has no hashes.

    Raises
    ------
    Refusal
        `wrong-bytes` if the cached bytes are not what their name says.
    """
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(remote.repo, path, revision=remote.revision)
    except (OSError, ValueError):
        return None
    if not isinstance(found, str):
        return None
    # The first link only: a blob may itself be a link to one that several repositories share, under another name.
    stated = os.path.basename(os.readlink(found)) if os.path.islink(found) else ""
    if _BLOB.fullmatch(stated) and not matches(found, stated):
        raise Refusal(
            Reason.WRONG_BYTES, f"{remote.repo}/{path} in the Hub's cache does not have its hash; remove {found}"
        )
    return found


def adopt(remote: RemoteFiles, path: str, local: str, stated: str) -> str:
    """Move a checked file into the cache; its path there.

    The blob is laid where the library looks for it, and the library does the rest, which costs one HEAD request.

    Raises
    ------
    Refusal
        `unavailable` if the Hub does not answer the library.
    EigenzooError
        If the cache cannot be written.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.file_download import repo_folder_name

    blobs = os.path.join(constants.HF_HUB_CACHE, repo_folder_name(repo_id=remote.repo, repo_type="model"), "blobs")
    blob = os.path.join(blobs, stated)
    try:
        os.makedirs(blobs, exist_ok=True)
        if not os.path.exists(blob):
            own = f"{blob}.{uuid.uuid4().hex[:8]}.incomplete"  # two adapters may have the same bytes
            shutil.move(local, own)
            os.replace(own, blob)
    except OSError as error:
        raise EigenzooError(
            f"{blobs}: cannot be written ({error.strerror or error}); set HF_HUB_CACHE, or do without --keep-downloads"
        ) from error
    broken: type[Exception] = HfHubHTTPError.__bases__[0]
    try:
        found: str = hf_hub_download(remote.repo, path, revision=remote.revision)
    except (broken, OSError, ValueError) as error:
        raise Refusal(
            Reason.UNAVAILABLE, f"{remote.repo}/{path} cannot be kept in the Hub's cache ({error}); try again"
        ) from error
    return found


def point(remote: RemoteFiles, ref: str) -> None:
    """Note in the cache which commit a branch or tag is at, so that it is found offline; what cannot be, is not."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    home = os.path.join(constants.HF_HUB_CACHE, repo_folder_name(repo_id=remote.repo, repo_type="model"), "refs")
    path = os.path.join(home, *ref.split("/"))
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(f"{path}.{uuid.uuid4().hex[:8]}", "w", encoding="ascii") as file:
            file.write(remote.revision)
        os.replace(file.name, path)


def snapshot(repo: str, revision: str | None) -> tuple[str, str] | None:
    """The commit of a repository's revision in the cache, and the folder of its files; None if it is not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder: str | None = snapshot_download(repo, revision=revision, local_files_only=True)
    except LocalEntryNotFoundError as error:
        # Of a snapshot that lacks files the library says where the others are.
        folder = getattr(error, "snapshot_path", None)
    return (os.path.basename(folder), folder) if folder is not None else None


def files_below(folder: str) -> list[str]:
    """The paths of all files below a folder, relative to it, with slashes."""
    out = []
    for top, _, files in os.walk(folder):
        out += [os.path.relpath(os.path.join(top, f), folder).replace(os.sep, "/") for f in files]
    return sorted(out)

"""From a path or URL to the storage it names."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

from ingest.errors import EigenzooError
from ingest.storage.protocol import Storage

SCHEMES = ("s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss", "memory")
"""The schemes of object stores: those with conditional writes."""

_SLIP = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/(?!/)")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def is_remote(url: str | os.PathLike[str]) -> bool:
    """Whether this names an object store, and not a local folder; an unknown scheme counts as remote."""
    match = _SCHEME.match(os.fsdecode(url))
    return match is not None and match[1].lower() != "file"


def open_storage(url: str | os.PathLike[str]) -> Storage:
    """The storage at a path or URL; nothing is read, made or connected yet.

    Parameters
    ----------
    url
        A folder's path, ``file://``, ``s3://bucket/prefix``, ``gs://``, ``az://`` or ``memory://`` (this process
        only).  Credentials, region and endpoint of an object store come from the environment
        (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, … ; as obstore reads them).

    Raises
    ------
    EigenzooError
        If the URL is of no known scheme or names no bucket.
    """
    text = os.fsdecode(url)
    if not text:
        raise EigenzooError("the zoo's path is empty; give a folder")
    match = _SCHEME.match(text)
    if match is not None and match[1].lower() != "file":
        if match[1].lower() not in SCHEMES:
            known = ", ".join(f"{scheme}://" for scheme in ("s3", "gs", "az", "file"))
            raise EigenzooError(f"{text}: no known kind of storage; give a folder, or a URL with {known}")
        from ingest.storage.object_ import ObjectStorage

        return ObjectStorage(text)
    slip = _SLIP.match(text)
    if slip is not None and slip[1].lower() in (*SCHEMES, "file"):
        raise EigenzooError(f"{text}: a URL has two slashes; write {slip[1]}:// if it is one, ./{text} if a folder")
    from ingest.storage.local import LocalStorage

    return LocalStorage(text if match is None else _local_path(text))


def _local_path(url: str) -> str:
    """The path that a ``file://`` URL names."""
    host, slash, path = url[len("file://") :].partition("/")
    if host not in ("", "localhost") or not slash:
        raise EigenzooError(f"{url}: names another machine; give file:///folder, or the path itself")
    return unquote(f"/{path}")

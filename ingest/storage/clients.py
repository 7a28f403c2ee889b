"""The library's clients: one for each URL and process, made of the settings in the environment."""

from __future__ import annotations

import os
import re
import threading
from datetime import timedelta
from functools import lru_cache
from typing import Any

from ingest.errors import EigenzooError
from ingest.storage.failures import explain
from ingest.storage.protocol import shortened

RETRY_SECONDS = 30
"""For how long a request that failed is begun again.

One that is under way then may still end after the lease did: that is why writes expect what they replace.
"""

_SETTINGS = ("AWS_", "AZURE_", "GOOGLE_")
_URL = re.compile(r"([a-z0-9]+)://([^/?#@\\]*)((?:/[^?#\\]*)?)")
_memory: dict[str, Any] = {}
_guard = threading.Lock()
_process = 0  # the one whose threads serve the library


def normalised(url: str) -> str:
    """A URL without trailing slashes.

    Raises
    ------
    EigenzooError
        If it names no bucket, or holds credentials, a query or a fragment.
    """
    scheme, colon, rest = url.partition("://")
    text = f"{scheme.lower()}{colon}{rest}".rstrip("/")
    match = _URL.fullmatch(text)
    if re.match(r"abfss?://[^/:@]+@[^/:@]+(/|$)", text):
        raise EigenzooError(
            f"{shortened(url)}: give az://container/prefix, and the account as AZURE_STORAGE_ACCOUNT_NAME"
        )
    if match is None or not text.isprintable():
        hidden = re.sub(r"//[^/]*@", "//…@", url)  # no secret in a message
        raise EigenzooError(
            f"{shortened(hidden)} is not of the form scheme://bucket/prefix; credentials come from the environment"
        )
    if not match[2] and match[1] != "memory":
        raise EigenzooError(f"{shortened(url)} names no bucket; give {match[1]}://bucket/prefix")
    if any(part in ("", ".", "..") for part in match[3].split("/")[1:]):
        raise EigenzooError(f"{shortened(url)}: give a prefix without empty parts and dots")
    return text


def client(url: str) -> Any:
    """The client for a URL in this process.

    Raises
    ------
    EigenzooError
        If the library is not installed, a setting is missing, or this process was forked from one that used the
        library: its threads stayed behind, and every call would wait for them for ever.
    """
    global _process
    if _process not in (0, os.getpid()):
        raise EigenzooError(f"{url}: object stores cannot be used after a fork; start processes by spawn")
    try:
        from obstore.store import MemoryStore
    except ImportError as error:
        raise EigenzooError(f"{url}: object stores need obstore; pip install 'eigenzoo[s3]'") from error
    _process = os.getpid()
    if url.startswith("memory:"):
        with _guard:
            if url not in _memory:
                _memory[url] = MemoryStore()
            return _memory[url]
    settings = tuple(sorted(item for item in os.environ.items() if item[0].upper().startswith(_SETTINGS)))
    return _client(url, os.getpid(), settings)


def _config(url: str) -> Any:
    """How S3 copies on a condition: the library must be told, and does without it by default."""
    if url.startswith("s3") and "AWS_COPY_IF_NOT_EXISTS" not in os.environ:
        return {"copy_if_not_exists": "multipart"}
    return None


@lru_cache(maxsize=16)
def _client(url: str, process: int, settings: tuple[tuple[str, str], ...]) -> Any:
    from obstore.store import from_url

    try:
        # The library's own time limits stay (5 s to connect, 30 s a request): given here, they would replace what the
        # environment says, AWS_ALLOW_HTTP included.
        return from_url(
            url,
            config=_config(url),
            retry_config={
                "max_retries": 10,
                "retry_timeout": timedelta(seconds=RETRY_SECONDS),
                "backoff": {"max_backoff": timedelta(seconds=5)},
            },
        )
    except Exception as error:
        raise EigenzooError(explain(url, error, "open it")) from error

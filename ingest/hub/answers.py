"""What the Hub's answers say beside their bodies: commit, hash, size, repository, the reason of a refusal."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from ingest.errors import EigenzooError, Refusal
from ingest.hub.spec import is_repo
from ingest.reasons import Reason

COMMIT = re.compile(r"[0-9a-f]{40}")
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REPO_AT = re.compile(r"/api/(?:models|resolve-cache/models)/([^/]+/[^/]+)(?:/|$)|/([^/]+/[^/]+)/resolve/")


class Missing(Exception):
    """The repository is there, the file is not."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known of a file from the answer to a request for it.

    Attributes
    ----------
    repo
        Its repository's name today; None if the answer does not tell.
    commit
        The commit; None if the answer does not tell.
    hash
        SHA-256 of a large file, git's blob SHA-1 of a small one; None if the Hub states neither.
    size
        Bytes of the whole file; None if not stated.
    """

    repo: str | None
    commit: str | None
    hash: str | None
    size: int | None


def answer(response: Any) -> Answer:
    """Read a file's particulars from the Hub's part of an answer, which a redirection to storage may have ended."""
    hub = [r.headers for r in (response, *reversed(response.history)) if "X-Repo-Commit" in r.headers]
    commit = hub[0]["X-Repo-Commit"] if hub else ""
    # A storage site's own tag is no hash of the file, so only the Hub's count.
    tags = [headers.get("X-Linked-Etag", "") for headers in hub]
    if "X-Repo-Commit" in response.headers:
        tags.insert(1, response.headers.get("ETag", ""))
    hashes = [tag for text in tags if _HASH.fullmatch(tag := text.removeprefix("W/").strip('"').lower())]
    sizes = [size for headers in hub if (size := _number(headers.get("X-Linked-Size"))) is not None]
    return Answer(
        repo=_repo(response),
        commit=commit if COMMIT.fullmatch(commit) else None,
        hash=hashes[0] if hashes else None,
        size=sizes[0] if sizes else body_size(response),
    )


def body_size(response: Any) -> int | None:
    """Bytes of the whole file by the last answer's own account."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        return None
    if "Content-Range" in response.headers:
        return _number(response.headers["Content-Range"].rpartition("/")[2])
    return _number(response.headers.get("Content-Length"))


def digest(data: bytes, stated: str) -> str:
    """The hash of some bytes, of the kind that the stated one is."""
    h = hasher(stated, len(data))
    h.update(data)
    return str(h.hexdigest())


def hasher(stated: str, size: int) -> Any:
    """An empty hash of the kind that the stated one is; git's begins with the size."""
    if len(stated) == 64:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def same_site(response: Any) -> bool:
    """Whether the last answer came from where the request went, not from a storage site."""
    first = response.history[0].url if response.history else response.url
    return bool(first.host == response.url.host and first.port == response.url.port)


def read_at_most(parts: Iterable[bytes], limit: int) -> bytes:
    """An answer's body, cut after `limit` bytes without reading the rest."""
    out = bytearray()
    for part in parts:
        out += part
        if len(out) >= limit:
            break
    return bytes(out[:limit])


def retry_after(response: Any) -> float | None:
    """Seconds for which an answer asks to wait; None if it does not."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text[:6])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def explain(response: Any, what: str, endpoint: str) -> Exception:
    """The refusal that an answer of 400 or above stands for."""
    status: int = response.status_code
    code = response.headers.get("X-Error-Code", "")
    message = response.headers.get("X-Error-Message", "")[:200]
    repo = _repo(response) or ""
    if code == "GatedRepo" or (status == 403 and not code):
        where = f"{endpoint}/{repo}" if repo else endpoint
        return Refusal(
            Reason.GATED,
            f"{what} is not given to everybody; ask at {where}, then log in (hf auth login) or set HF_TOKEN",
        )
    if status == 401 and message.startswith("Invalid credentials"):
        return EigenzooError("the Hub rejects the token; log in again (hf auth login) or unset HF_TOKEN")
    if code == "EntryNotFound" or (status == 404 and not code and "/resolve/" in response.url.path):
        return Missing(what)
    if code == "RevisionNotFound":
        return Refusal(Reason.NOT_FOUND, f"{what}: the repository has no such revision; give a branch, tag or commit")
    if code == "RepoNotFound" or status in (401, 404, 410):
        return Refusal(
            Reason.NOT_FOUND,
            f"{what}: no such repository on the Hub, or a private one; check the name, or log in (hf auth login)",
        )
    return Refusal(Reason.NOT_FOUND, f"{what}: the Hub refuses with {status} {message}".rstrip())


def _repo(response: Any) -> str | None:
    found = None
    for step in (*response.history, response):
        match = _REPO_AT.search(urlsplit(str(step.url)).path)
        name = match and (match[1] or match[2])
        if name and is_repo(name):
            found = name
    return found


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 19 else None

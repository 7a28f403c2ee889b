"""What a source on the Hub may look like.

hub:ORG/NAME[@REVISION][:FOLDER]   a repository; ORG/NAME[@REVISION] alone where no such path exists
hub:USER                           everything that a user or an organisation publishes
hub:collection/USER/SLUG           a collection, or its address
hub:base/ORG/NAME                  every adapter that names this base model
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote, urlsplit

from ingest.errors import EigenzooError

PREFIX = "hub:"
FORMS = "hub:ORG/NAME[@REVISION], hub:USER, hub:collection/USER/SLUG or hub:base/ORG/NAME"

_PART = re.compile(r"[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?", re.ASCII)
_REVISION = re.compile(r"[\w./+-]{1,200}", re.ASCII)
_SLUG = re.compile(r"[\w.-]{1,300}", re.ASCII)
# A missing file of these kinds is a missing file, not a repository of that name.
_FILES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".txt", ".json", ".csv", ".zarr", ".list", ".zip")


@dataclass(frozen=True, slots=True)
class HubSpec:
    """One source on the Hub.

    Attributes
    ----------
    kind
        "repo", "user", "collection" or "base".
    name
        ORG/NAME, USER, USER/SLUG, or the base's ORG/NAME.
    revision
        A repository's branch, tag or commit; None for its main branch.
    folder
        The folder inside the repository that is meant; empty for all of it.
    """

    kind: Literal["repo", "user", "collection", "base"]
    name: str
    revision: str | None = None
    folder: str = ""


def is_repo(name: str) -> bool:
    """Whether a text is ORG/NAME by the Hub's rules for repositories."""
    org, slash, repo = name.partition("/")
    return bool(slash) and _is_part(org) and _is_part(repo) and not repo.endswith(".git")


def is_hub(source: str) -> bool:
    """Whether a source that is no local path means the Hub."""
    if source.startswith(PREFIX):
        return True
    if _address(source) is not None:
        return True
    name, _, revision = source.partition("@")
    return (
        is_repo(name)
        and not name.lower().endswith(_FILES)
        and (source == name or _REVISION.fullmatch(revision) is not None)
    )


def parse_spec(source: str) -> HubSpec:
    """Read a source on the Hub.

    Parameters
    ----------
    source
        One of the forms above, or the address of a repository or a collection on the Hub.

    Raises
    ------
    EigenzooError
        If it is none of them.
    """
    text = _address(source) or source.removeprefix(PREFIX)
    if text.startswith("collection/"):
        user, _, slug = text.removeprefix("collection/").partition("/")
        if not _is_part(user) or not _SLUG.fullmatch(slug):
            raise EigenzooError(f"{_shown(source)}: no collection; give hub:collection/USER/SLUG, or its address")
        return HubSpec("collection", f"{user}/{slug}")
    if text.startswith("base/") and text.count("/") > 1:
        base = text.removeprefix("base/")
        if not is_repo(base):
            raise EigenzooError(f"{_shown(source)}: no base model; give hub:base/ORG/NAME")
        return HubSpec("base", base)
    text, colon, folder = text.partition(":")
    name, at, revision = text.partition("@")
    if colon and not is_path(folder):
        raise EigenzooError(
            f"{_shown(source)}: '{_shown(folder)}' is no folder in a repository; give hub:ORG/NAME:FOLDER"
        )
    if at and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise EigenzooError(
            f"{_shown(source)}: '{_shown(revision)}' is no branch, tag or commit; give hub:ORG/NAME@REVISION"
        )
    if is_repo(name):
        return HubSpec("repo", name, revision or None, folder)
    if _is_part(name) and "/" not in name:
        if at or colon:
            raise EigenzooError(f"{_shown(source)}: a user has no revision and no folder; give hub:ORG/NAME@REVISION")
        return HubSpec("user", name)
    raise EigenzooError(f"{_shown(source)}: nothing on the Hub is named like that; give {FORMS}")


def is_path(path: str) -> bool:
    """Whether a path inside a repository names something in it: relative, no empty or dot component, printable."""
    return (
        path.isprintable()
        and "\\" not in path
        and len(path) <= 4096
        and all(part not in ("", ".", "..") for part in path.split("/"))
    )


def _is_part(name: str) -> bool:
    return _PART.fullmatch(name) is not None and "--" not in name and ".." not in name


def _address(source: str) -> str | None:
    """An address on the Hub in the short form, None for anything else."""
    if not source.startswith(("https://", "http://")):
        return None
    from huggingface_hub import constants

    try:
        url = urlsplit(source)
    except ValueError:
        return None
    if url.netloc != urlsplit(constants.ENDPOINT).netloc:
        return None
    parts = [unquote(part) for part in url.path.split("/") if part]
    if parts[:1] == ["collections"]:
        return f"collection/{'/'.join(parts[1:])}"
    text = "/".join(parts[:2])
    if parts[2:3] == ["tree"] and len(parts) > 3:
        text += f"@{parts[3]}" + (f":{'/'.join(parts[4:])}" if parts[4:] else "")
    return text


def _shown(text: str) -> str:
    shown = text if text.isprintable() else ascii(text)
    return shown if len(shown) <= 120 else f"{shown[:120]}…"

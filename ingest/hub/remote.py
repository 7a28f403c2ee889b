"""One adapter on the Hub: its files, by repository and commit."""

from __future__ import annotations

import hashlib
import posixpath
from dataclasses import dataclass

from ingest.errors import Refusal


@dataclass(frozen=True, slots=True)
class RemoteFiles:
    """The files of one adapter, as paths inside its repository.

    Attributes
    ----------
    repo
        ORG/NAME.
    revision
        The commit, 40 hexadecimal digits.
    weights
        The weights file.
    config
        Its `adapter_config.json`, None if there is none.
    card
        The README that speaks of it, None if there is none; may turn out not to exist where nothing was listed.
    licence
        A licence file, looked at if the card states none; as `card`.
    """

    repo: str
    revision: str
    weights: str
    config: str | None = None
    card: str | None = None
    licence: str | None = None

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that change with the commit."""
        text = "\0".join((self.repo, self.revision, self.weights))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    @property
    def location(self) -> str:
        """Where the adapter is, whatever its revision: the folder that has a configuration, else the file."""
        return located(self.repo, posixpath.dirname(self.weights) if self.config is not None else self.weights)


@dataclass(frozen=True, slots=True)
class Candidate:
    """What may be an adapter on the Hub.

    Attributes
    ----------
    location
        See `RemoteFiles.location`.
    name
        The repository and, below it, the folder or the file's stem.
    remote
        Its files; None if it was not found.
    refusal
        Why it cannot be looked at, None if it can.
    """

    location: str
    name: str
    remote: RemoteFiles | None = None
    refusal: Refusal | None = None


def located(repo: str, path: str = "") -> str:
    """The location of a folder or a file in a repository."""
    return f"hub:{repo}/{path}" if path else f"hub:{repo}"

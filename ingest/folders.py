"""Candidates in local folders: what in a tree of files may be an adapter.

What a folder's files are, `ingest.selection` says.  Zarr stores and run directories are not entered.

A link that leads out of the source is not followed unless asked for: a tree from outside could point anywhere.  The
one exception is the Hub's own cache, whose snapshots are links to the blobs beside them.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest.errors import Refusal
from ingest.formats.adapter import AdapterFiles
from ingest.formats.card import CARD, LICENCES
from ingest.reasons import Reason
from ingest.selection import CONFIG as CONFIG
from ingest.selection import PEFT_WEIGHTS, choose
from ingest.selection import WEIGHTS as WEIGHTS

if TYPE_CHECKING:
    from ingest.hub.remote import Candidate


@dataclass(frozen=True, slots=True)
class Source:
    """One candidate.

    Attributes
    ----------
    location : str
        Where it is: an absolute path, its folder's real one however it was reached, or ``hub:…``.
    name : str
        The name that its path suggests.
    files : AdapterFiles
        Its files; not here yet where it is on the Hub.
    candidate : Candidate, optional
        What the Hub says of it.
    refusal : Refusal, optional
        Why it cannot even be looked at.
    """

    location: str
    name: str
    files: AdapterFiles
    candidate: Candidate | None = None
    refusal: Refusal | None = None

    @property
    def identity(self) -> str:
        """The same for the same files however many paths lead to them."""
        if self.candidate is not None:
            return self.location
        # Both: the snapshots of a Hub cache share what they have in common.
        return "\0".join(os.path.realpath(path) for path in (self.files.weights, self.files.config) if path)


def walk(top: str, root: str, follow_links: bool) -> Iterator[Source]:
    """Candidates below a folder; names are relative to `root`, the source, which no link may leave."""
    home = os.path.realpath(root)
    visited: set[str] = set()
    lost: list[OSError] = []
    for folder, folders, files in os.walk(top, followlinks=True, onerror=lost.append):
        while lost:
            yield _lost(lost.pop(), top, root)
        real = os.path.realpath(folder)
        if real in visited or "zarr.json" in files or ("run.json" in files and "matrices" in folders):
            folders.clear()
            continue
        if not follow_links and not _inside(real, home):
            folders.clear()
            where = os.path.join(os.path.realpath(os.path.dirname(folder)), os.path.basename(folder))
            yield _refused(where, _name(folder, top, root), _astray(folder))
            continue
        visited.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        name = _name(folder, top, root)
        for chosen in choose(files):
            config = chosen.config and os.path.join(folder, chosen.config)
            source = Source(
                os.path.join(real, chosen.weights) if config is None else real,
                f"{name}/{chosen.suffix}" if chosen.suffix else name,
                AdapterFiles(folder, os.path.join(folder, chosen.weights), config),
            )
            yield source if follow_links else checked(source, home)
    while lost:
        yield _lost(lost.pop(), top, root)


def single(path: str, name: str) -> Source:
    """The candidate that is one weights file; where a configuration belongs to it, it stands for its folder."""
    folder, file = os.path.split(path)
    real = os.path.realpath(folder)
    config = os.path.join(folder, CONFIG)
    if os.path.exists(config):
        try:
            (chosen,) = choose({*os.listdir(folder), CONFIG})
            stands = chosen.weights == file
        except OSError:
            stands = False
        if stands or file in PEFT_WEIGHTS:
            where = real if stands else os.path.join(real, file)
            return Source(where, os.path.dirname(name) or os.path.basename(folder), AdapterFiles(folder, path, config))
    return Source(os.path.join(real, file), name, AdapterFiles(folder, path, None))


def _name(folder: str, top: str, root: str) -> str:
    relative = os.path.relpath(folder, root).replace(os.sep, "/")
    return os.path.basename(top) if relative == "." else relative


def checked(source: Source, home: str) -> Source:
    """The candidate, refused if its folder or one of its files leads out of the source, whose real path is `home`."""
    files = source.files
    real = os.path.dirname(source.location) if files.config is None else source.location
    if not _inside(real, home):
        return dataclasses.replace(source, refusal=_astray(files.folder))
    texts = (os.path.join(files.folder, name) for name in (CARD, *LICENCES))
    for path in (files.weights, files.config, *texts):
        if path is not None and os.path.islink(path) and not (_inside(os.path.realpath(path), home) or _cached(path)):
            return dataclasses.replace(source, refusal=_astray(path))
    return source


def _cached(path: str) -> bool:
    """Whether a link of a Hub cache's snapshot leads to the blobs of the same repository."""
    repository, snapshots, _ = os.path.abspath(path).rpartition(f"{os.sep}snapshots{os.sep}")
    if not snapshots:
        return False
    # Anybody can name a link "blobs".
    blobs = os.path.join(os.path.realpath(repository), "blobs")
    return os.path.realpath(blobs) == blobs == os.path.dirname(os.path.realpath(path))


def _inside(real: str, home: str) -> bool:
    return real == home or real.startswith(home.rstrip(os.sep) + os.sep)


def _astray(path: str) -> Refusal:
    return Refusal(
        Reason.UNREADABLE, f"{os.path.basename(path)} is a link that leads out of the source; --follow-links follows it"
    )


def _lost(error: OSError, top: str, root: str) -> Source:
    folder = str(error.filename or top)
    refusal = Refusal(Reason.UNREADABLE, f"cannot be listed ({error.strerror})")
    return _refused(os.path.realpath(folder), _name(folder, top, root), refusal)


def _refused(location: str, name: str, refusal: Refusal) -> Source:
    return Source(location, name, AdapterFiles(location, location, None), refusal=refusal)

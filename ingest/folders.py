"""Candidates in local folders: what in a tree of files may be an adapter.

A folder with ``adapter_config.json`` is one adapter, in peft's weights file or else the only one there.  In any other
folder every ``*.safetensors`` file is a candidate, and so is a pickled file that calls itself LoRA, so that its refusal
can be named.  Zarr stores and run directories are not entered.

A link that leads out of the source is not followed unless asked for: a tree from outside could point anywhere.  The
one exception is the Hub's own cache, whose snapshots are links to the blobs beside them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest.errors import Refusal
from ingest.formats.adapter import AdapterFiles
from ingest.formats.opening import PICKLES
from ingest.reasons import Reason

if TYPE_CHECKING:
    from ingest.hub.remote import Candidate

CONFIG = "adapter_config.json"
PEFT_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
WEIGHTS = (".safetensors", *PICKLES)
_TRAINER = frozenset(
    {"optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "training_args.bin", "rng_state.pth"}
)
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.")
_PLAIN_NAMES = frozenset({"pytorch_lora_weights", "adapter_model"})


@dataclass(frozen=True, slots=True)
class Source:
    """One candidate.

    Attributes
    ----------
    location : str
        Where it is: an absolute path, or ``hub:…``.
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
        """The same for a file however many paths lead to it."""
        if self.candidate is not None:
            return self.location
        return os.path.realpath(self.files.config or self.files.weights)


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
            yield _refused(folder, _name(folder, top, root), _astray(folder))
            continue
        visited.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for source in _candidates(folder, sorted(files), _name(folder, top, root)):
            yield source if follow_links else checked(source, home)
    while lost:
        yield _lost(lost.pop(), top, root)


def single(path: str, name: str) -> Source:
    """The candidate that is one weights file."""
    folder, file = os.path.split(path)
    config = os.path.join(folder, CONFIG)
    if file in PEFT_WEIGHTS and os.path.exists(config):
        return Source(folder, os.path.dirname(name) or os.path.basename(folder), AdapterFiles(folder, path, config))
    return Source(path, name, AdapterFiles(folder, path, None))


def _name(folder: str, top: str, root: str) -> str:
    relative = os.path.relpath(folder, root).replace(os.sep, "/")
    return os.path.basename(top) if relative == "." else relative


def _candidates(folder: str, files: list[str], name: str) -> Iterator[Source]:
    if CONFIG in files:
        weights = next((w for w in PEFT_WEIGHTS if w in files), None) or _only_weights(files) or PEFT_WEIGHTS[0]
        yield Source(folder, name, AdapterFiles(folder, os.path.join(folder, weights), os.path.join(folder, CONFIG)))
        return
    stems = {os.path.splitext(f)[0] for f in files if f.endswith(".safetensors")}
    chosen = [
        f
        for f in files
        if f.endswith(".safetensors")
        or (f.endswith(PICKLES) and os.path.splitext(f)[0] not in stems and _calls_itself_lora(f))
    ]
    for file in chosen:
        stem = os.path.splitext(file)[0]
        plain = len(chosen) == 1 or stem in _PLAIN_NAMES
        yield single(os.path.join(folder, file), name if plain else f"{name}/{stem}")


def _only_weights(files: list[str]) -> str | None:
    """The one weights file of a folder whose adapter was saved within the whole model; None if it is not one."""
    found = [f for f in files if f.endswith(WEIGHTS) and f not in _TRAINER]
    return found[0] if len(found) == 1 and not _SHARD.search(found[0]) else None


def _calls_itself_lora(file: str) -> bool:
    return "lora" in file.lower() or file == "adapter_model.bin"


def checked(source: Source, home: str) -> Source:
    """The candidate, refused if one of its files is a link out of the source, whose real path is `home`."""
    for path in (source.files.weights, source.files.config):
        if path is not None and os.path.islink(path) and not (_inside(os.path.realpath(path), home) or _cached(path)):
            return _refused(source.location, source.name, _astray(path))
    return source


def _cached(path: str) -> bool:
    """Whether a link of a Hub cache's snapshot leads to the blobs of the same repository."""
    repository, snapshots, _ = os.path.abspath(path).rpartition(f"{os.sep}snapshots{os.sep}")
    return bool(snapshots) and os.path.dirname(os.path.realpath(path)) == os.path.realpath(f"{repository}/blobs")


def _inside(real: str, home: str) -> bool:
    return real == home or real.startswith(home.rstrip(os.sep) + os.sep)


def _astray(path: str) -> Refusal:
    return Refusal(
        Reason.UNREADABLE, f"{os.path.basename(path)} is a link that leads out of the source; --follow-links follows it"
    )


def _lost(error: OSError, top: str, root: str) -> Source:
    folder = str(error.filename or top)
    return _refused(
        folder, _name(folder, top, root), Refusal(Reason.UNREADABLE, f"cannot be listed ({error.strerror})")
    )


def _refused(location: str, name: str, refusal: Refusal) -> Source:
    return Source(location, name, AdapterFiles(location, location, None), refusal=refusal)

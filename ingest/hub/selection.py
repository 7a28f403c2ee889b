"""Which files of a repository are adapters, told from their names alone.

In each folder as `ingest.selection` says, but where several safetensors files lie without a configuration, only those
that call themselves LoRA, and whole models are passed over.  The root counts if it has any adapter; else every folder
below that has one.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence

from ingest.errors import Refusal
from ingest.formats.card import CARD, LICENCES
from ingest.hub.remote import Candidate, RemoteFiles, located
from ingest.hub.spec import is_path
from ingest.reasons import Reason
from ingest.selection import CONFIG, PEFT_WEIGHTS, WEIGHTS, calls_itself_lora, choose

# Beside a config.json these are whole models.
_MODELS = frozenset(("model.safetensors", "diffusion_pytorch_model.safetensors"))


def candidates(repo: str, revision: str, paths: Iterable[str], folder: str = "") -> list[Candidate]:
    """The candidates among a repository's files, sorted by folder and file.

    Parameters
    ----------
    repo, revision
        ORG/NAME and the commit.
    paths
        All its files.
    folder
        The folder to look in; empty for the root.

    Returns
    -------
    list of Candidate
        Empty if nothing looks like an adapter.  A configuration without weights, and a name that leads out of the
        repository, are candidates with a refusal.
    """
    names = list(dict.fromkeys(paths))
    by_folder: dict[str, set[str]] = {}
    astray: list[Candidate] = []
    for path in names:
        if is_path(path):
            by_folder.setdefault(posixpath.dirname(path), set()).add(posixpath.basename(path))
        elif _looks(path):
            astray.append(_astray(repo, path))
    root = by_folder.get("", set())
    found = _in_folder(repo, revision, folder, by_folder.get(folder, set()), root)
    if not any(c.refusal is None for c in found):
        below = [f for f in sorted(by_folder) if f != folder and (not folder or f.startswith(f"{folder}/"))]
        deeper = [c for f in below for c in _in_folder(repo, revision, f, by_folder[f], root)]
        found = deeper or found
    return found + astray


def _in_folder(repo: str, revision: str, folder: str, files: set[str], root: set[str]) -> list[Candidate]:
    name = posixpath.join(repo, folder) if folder else repo
    out = []
    for chosen in choose(files if CONFIG in files else _likely(files)):
        if chosen.weights not in files:
            refusal = Refusal(Reason.NO_WEIGHTS, f"there is no {PEFT_WEIGHTS[0]} beside its {CONFIG}")
            out.append(Candidate(located(repo, folder), name, None, refusal))
            continue
        remote = RemoteFiles(
            repo,
            revision,
            posixpath.join(folder, chosen.weights),
            chosen.config and posixpath.join(folder, chosen.config),
            _beside((CARD,), folder, files, root),
            _beside(LICENCES, folder, files, root),
        )
        out.append(Candidate(remote.location, f"{name}/{chosen.suffix}" if chosen.suffix else name, remote))
    return out


def _likely(files: set[str]) -> set[str]:
    """The files without those safetensors that are hardly an adapter's: a stranger's repository holds all kinds."""
    tensors = {f for f in files if f.endswith(".safetensors")}
    possible = tensors - _MODELS if "config.json" in files else tensors
    named = {f for f in possible if calls_itself_lora(f)}
    return (files - tensors) | (named or (possible if len(possible) == 1 else set()))


def _beside(names: Sequence[str], folder: str, files: set[str], root: set[str]) -> str | None:
    """The first of these in the folder, else in the root."""
    for where, there in ((folder, files), ("", root)):
        for name in names:
            if name in there:
                return posixpath.join(where, name)
    return None


def _looks(path: str) -> bool:
    file = posixpath.basename(path)
    return file == CONFIG or (file.endswith(WEIGHTS) and calls_itself_lora(file))


def _astray(repo: str, path: str) -> Candidate:
    shown = ascii(path)[1:-1][:200]
    refusal = Refusal(Reason.UNREADABLE, f"the file name {shown!r} leads out of its repository or cannot be shown")
    return Candidate(located(repo, shown), f"{repo}/{shown.replace('/', '_')}", None, refusal)

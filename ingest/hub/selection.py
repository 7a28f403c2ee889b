"""Which files of a repository are adapters, told from their names alone.

In a folder: `adapter_config.json` with its weights is one adapter; without a configuration every safetensors file that
calls itself LoRA, or the only one, is a candidate, and so is a pickle that calls itself LoRA.  The root counts if it
has any; else every folder below that has one.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence

from ingest.errors import Refusal
from ingest.formats.opening import PICKLES
from ingest.hub.remote import Candidate, RemoteFiles, located
from ingest.hub.spec import is_path
from ingest.reasons import Reason

CONFIG = "adapter_config.json"
PEFT_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
CARD = "README.md"
LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "LICENCE.md", "COPYING")

_PLAIN_NAMES = frozenset(("pytorch_lora_weights", "adapter_model"))
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
    def remote(weights: str, config: str | None) -> RemoteFiles:
        return RemoteFiles(
            repo,
            revision,
            posixpath.join(folder, weights),
            config and posixpath.join(folder, config),
            _beside((CARD,), folder, files, root),
            _beside(LICENCES, folder, files, root),
        )

    name = posixpath.join(repo, folder) if folder else repo
    if CONFIG in files:
        weights = next((w for w in PEFT_WEIGHTS if w in files), None)
        if weights is None:
            refusal = Refusal(Reason.NO_WEIGHTS, f"there is no {PEFT_WEIGHTS[0]} beside its {CONFIG}")
            return [Candidate(located(repo, folder), name, None, refusal)]
        return [Candidate(located(repo, folder), name, remote(weights, CONFIG))]
    tensors = sorted(f for f in files if f.endswith(".safetensors"))
    if "config.json" in files:
        tensors = [f for f in tensors if f not in _MODELS]
    chosen = [f for f in tensors if _calls_itself_lora(f)] or (tensors if len(tensors) == 1 else [])
    stems = {posixpath.splitext(f)[0] for f in tensors}
    chosen += sorted(
        f for f in files if f.endswith(PICKLES) and _calls_itself_lora(f) and posixpath.splitext(f)[0] not in stems
    )
    out = []
    for file in chosen:
        stem = posixpath.splitext(file)[0]
        plain = len(chosen) == 1 or stem in _PLAIN_NAMES
        files_of_it = remote(file, None)
        out.append(Candidate(files_of_it.location, name if plain else f"{name}/{stem}", files_of_it))
    return out


def _beside(names: Sequence[str], folder: str, files: set[str], root: set[str]) -> str | None:
    """The first of these in the folder, else in the root."""
    for where, there in ((folder, files), ("", root)):
        for name in names:
            if name in there:
                return posixpath.join(where, name)
    return None


def _calls_itself_lora(file: str) -> bool:
    return "lora" in file.lower() or posixpath.splitext(file)[0] in _PLAIN_NAMES


def _looks(path: str) -> bool:
    file = posixpath.basename(path)
    return file == CONFIG or (file.endswith((".safetensors", *PICKLES)) and _calls_itself_lora(file))


def _astray(repo: str, path: str) -> Candidate:
    shown = ascii(path)[1:-1][:200]
    refusal = Refusal(Reason.UNREADABLE, f"the file name {shown!r} leads out of its repository or cannot be shown")
    return Candidate(located(repo, shown), f"{repo}/{shown.replace('/', '_')}", None, refusal)

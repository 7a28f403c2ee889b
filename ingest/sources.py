"""Where adapters are: folders at any depth, globs, single files, text files of sources.

A folder with ``adapter_config.json`` is one adapter.  In any other folder every ``*.safetensors`` file is a
candidate, and so is a pickled file that calls itself LoRA, so that its refusal can be named.  Zarr stores and run
directories are not entered.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ingest.errors import EigenzooError
from ingest.formats.adapter import AdapterFiles

CONFIG = "adapter_config.json"
PEFT_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
PLAIN_NAMES = frozenset({"pytorch_lora_weights", "adapter_model"})
PICKLES = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True, slots=True)
class Source:
    """One candidate: where it is (absolute), the name its path suggests, and its files."""

    location: str
    name: str
    files: AdapterFiles


def find(sources: Sequence[str | os.PathLike[str]]) -> list[Source]:
    """All candidates of the given sources, in a fixed order, each file once.

    Parameters
    ----------
    sources : sequence of path-like
        Folders (searched at any depth), weight files, globs, or text files with one source a line (``#`` begins a
        comment; relative lines start at the text file's folder).

    Returns
    -------
    list of Source
        In the order of `sources`, and of path below each.

    Raises
    ------
    EigenzooError
        If a source does not exist or holds no candidate.
    """
    if not sources:
        raise EigenzooError("no source given; give a folder, a glob or a text file of sources")
    out: list[Source] = []
    seen: set[str] = set()
    for source in sources:
        for candidate in _expand(os.fspath(source), ()):
            real = os.path.realpath(candidate.files.config or candidate.files.weights)
            if real not in seen:
                seen.add(real)
                out.append(candidate)
    return out


def _expand(source: str, lists: tuple[str, ...]) -> Iterator[Source]:
    if not source.strip():
        raise EigenzooError("a source is empty; give a folder, a glob or a text file of sources")
    if os.path.isdir(source):
        top = os.path.abspath(source)
        yield from _some(_folder(top, top), source)
    elif os.path.isfile(source):
        if source.endswith((".safetensors", *PICKLES)):
            folder, file = os.path.split(os.path.abspath(source))
            yield _file(folder, file, os.path.splitext(file)[0])
        else:
            yield from _list(os.path.abspath(source), lists)
    elif glob.has_magic(source):
        matches = _glob(os.path.abspath(os.path.expanduser(source)))
        if not matches:
            raise EigenzooError(f"{source}: the pattern matches nothing; check it, and quote it for the shell")
        root = os.path.commonpath([os.path.dirname(m) for m in matches])
        yield from _some((s for match in matches for s in _named(match, root)), source)
    else:
        raise EigenzooError(f"{source}: no such file or folder; give a folder, a glob or a text file of sources")


def _some(candidates: Iterator[Source], source: str) -> Iterator[Source]:
    found = list(candidates)
    if not found:
        raise EigenzooError(f"{source}: no adapter in it or below (no {CONFIG}, no .safetensors); check the path")
    return iter(found)


def _glob(pattern: str) -> list[str]:
    """What a pattern matches, in order.  ``**`` is followed into each real folder once: links may go in circles."""
    head, star, tail = pattern.partition(f"{os.sep}**")
    if not star:
        return sorted(glob.glob(pattern))
    out: set[str] = set()
    for root in glob.glob(head) if glob.has_magic(head) else [head]:
        visited: set[str] = set()
        for folder, folders, _ in os.walk(root, followlinks=True):
            real = os.path.realpath(folder)
            if real in visited:
                folders.clear()
                continue
            visited.add(real)
            out.update(glob.glob(f"{glob.escape(folder)}{tail}".replace("**", "*")) if tail else [folder])
    return sorted(out)


def _named(path: str, root: str) -> Iterator[Source]:
    if os.path.isdir(path):
        yield from _folder(path, root)
    elif path.endswith(".safetensors"):
        folder, file = os.path.split(path)
        yield _file(folder, file, os.path.splitext(os.path.relpath(path, root))[0].replace(os.sep, "/"))


def _list(path: str, lists: tuple[str, ...]) -> Iterator[Source]:
    if path in lists:
        raise EigenzooError(f"{path}: the list names itself; remove that line")
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.split("#", 1)[0].strip() for line in file]
    except (UnicodeDecodeError, OSError) as error:
        raise EigenzooError(f"{path}: neither an adapter nor a text file of sources ({error})") from error
    for number, line in enumerate(lines, 1):
        if line:
            try:
                yield from _expand(os.path.join(os.path.dirname(path), os.path.expanduser(line)), (*lists, path))
            except EigenzooError as error:
                raise EigenzooError(f"{path}, line {number}: {error}") from error


def _folder(top: str, root: str) -> Iterator[Source]:
    """Candidates below a folder; names are relative to `root`."""
    visited: set[str] = set()
    for folder, folders, files in os.walk(top, followlinks=True, onerror=_unreadable):
        real = os.path.realpath(folder)
        if real in visited or "zarr.json" in files or ("run.json" in files and "matrices" in folders):
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        relative = os.path.relpath(folder, root).replace(os.sep, "/")
        name = os.path.basename(top) if relative == "." else relative
        yield from _candidates(folder, sorted(files), name)


def _candidates(folder: str, files: list[str], name: str) -> Iterator[Source]:
    if CONFIG in files:
        weights = next((w for w in PEFT_WEIGHTS if w in files), PEFT_WEIGHTS[0])
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
        plain = len(chosen) == 1 or stem in PLAIN_NAMES
        yield _file(folder, file, name if plain else f"{name}/{stem}")


def _calls_itself_lora(file: str) -> bool:
    return "lora" in file.lower() or file == "adapter_model.bin"


def _file(folder: str, file: str, name: str) -> Source:
    path = os.path.join(folder, file)
    config = os.path.join(folder, CONFIG)
    if file in PEFT_WEIGHTS and os.path.exists(config):
        return Source(folder, os.path.dirname(name) or os.path.basename(folder), AdapterFiles(folder, path, config))
    return Source(path, name, AdapterFiles(folder, path, None))


def _unreadable(error: OSError) -> None:
    raise EigenzooError(f"{error.filename}: cannot be listed ({error.strerror}); mend its permissions or leave it out")

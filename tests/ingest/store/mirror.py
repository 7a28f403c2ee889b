"""Zoos of an object store as folders, to look at over and over: an object is fetched once, whatever zoo it lies in."""

from __future__ import annotations

import shutil
from pathlib import Path

from ingest.storage import DIRTY, LOCK, open_storage
from ingest.storage.lease import is_free

_bytes: dict[str, bytes] = {}  # e-tag → an object's bytes: a digest of them


def versions(url: str) -> dict[str, str]:
    """Name → e-tag of all objects below a URL."""
    import obstore
    from obstore.store import from_url

    found = obstore.list(from_url(url, config=None)).collect()
    return {facts["path"]: str(facts["e_tag"]) for facts in found}


def copy(source: str, target: str) -> None:
    """One zoo as it is, in the place of another; what is the same in both is not sent."""
    if "://" not in source:
        shutil.rmtree(target, ignore_errors=True)
        if Path(source).exists():
            shutil.copytree(source, target)
        return
    wanted, found, storage = versions(source), versions(target), open_storage(target)
    storage.delete(found.keys() - wanted.keys())
    for name, version in wanted.items():
        if found.get(name) != version:
            storage.write(name, [_read(source, name, version)])


def mirrored(url: str, folder: Path) -> str:
    """A zoo as a folder; itself if it is one.  A lease that is not free is the mark of a writer."""
    if "://" not in url:
        return url
    shutil.rmtree(folder, ignore_errors=True)
    for name, version in versions(url).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_read(url, name, version))
        if name == LOCK and not is_free(path.read_bytes()):
            (folder / DIRTY).touch()
    return str(folder)


def _read(url: str, name: str, version: str) -> bytes:
    if version not in _bytes:
        _bytes[version] = open_storage(url).read(name)
    return _bytes[version]

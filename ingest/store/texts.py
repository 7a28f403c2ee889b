"""What is kept with an adapter beside its rows: its configuration, metadata, and tensors that are no factors."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from ingest.errors import EigenzooError, Refusal
from ingest.safetensors_file import SafetensorsHeader, numpy_dtype, read_header_with
from ingest.storage import Storage
from ingest.store.catalog import Commit
from ingest.store.root import lost

if TYPE_CHECKING:
    from numpy.typing import NDArray


def read_text(storage: Storage, commit: Commit, adapter: str) -> dict[str, Any]:
    """The last texts that were committed of a live adapter: its ``config`` and ``metadata``.

    Raises
    ------
    EigenzooError
        If they cannot be read.
    """
    for segment in reversed(commit.segments):
        try:
            texts = json.loads(storage.read(f"{segment.name}.texts.json"))
        except (OSError, ValueError) as error:
            what = f"the configuration of {adapter} cannot be read from {segment.name}.texts.json"
            raise lost(storage, segment.name, what, error) from error
        if adapter in texts:
            return dict(texts[adapter])
    raise EigenzooError(f"{storage.url}: the configuration of {adapter} is lost; restore the folder catalog")


def live_texts(storage: Storage, commit: Commit, live: Collection[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The last texts of all live adapters, a segment in memory at a time; errors as for `read_text`."""
    seen: set[str] = set()
    for segment in reversed(commit.segments):
        try:
            texts = json.loads(storage.read(f"{segment.name}.texts.json"))
        except (OSError, ValueError) as error:
            what = f"{segment.name}.texts.json is lost; restore it from a copy"
            raise lost(storage, segment.name, what, error) from error
        for name, text in texts.items():
            if name in live and name not in seen:
                seen.add(name)
                yield name, text


def extras_header(storage: Storage, name: str) -> SafetensorsHeader:
    """The header of a file of other tensors; raises OSError, or Refusal where it is none."""

    def read(offset: int, count: int) -> bytes:
        buffer = bytearray(max(0, min(count, size - offset)))
        storage.read_into(name, offset, memoryview(buffer))
        return bytes(buffer)

    size = storage.size(name)
    return read_header_with(read, size, name)


def read_extras(storage: Storage, commit: Commit, name: str, adapter: str) -> dict[str, NDArray[Any]]:
    """All other tensors of an adapter, by key.

    Raises
    ------
    EigenzooError
        If they cannot be read.
    """
    import numpy as np

    try:
        header = extras_header(storage, name)
        out: dict[str, NDArray[Any]] = {}
        for key, ref in header.tensors.items():
            out[key] = np.empty(ref.shape, numpy_dtype(ref.dtype, key))
            if ref.nbytes:
                view = out[key].reshape(-1).view(np.uint8).data
                storage.read_into(name, header.data_start + ref.offset, view)
        return out
    except (OSError, Refusal) as error:
        what = f"the other tensors of {adapter} cannot be read from {name}"
        raise lost(storage, commit.segments[0].name, what, error) from error

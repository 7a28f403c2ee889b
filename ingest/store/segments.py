"""A segment's three files: its events, its entries sorted by layer and adapter, and its adapters' texts.

The events' file also says where in the entries' file each layer begins, so that a layer costs one read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingest.errors import EigenzooError
from ingest.storage import Buffer, Storage
from ingest.store.catalog import AdapterRecord, Segment, entry_dtype

if TYPE_CHECKING:
    from numpy.typing import NDArray

ENDINGS = ("json", "entries.npy", "texts.json")
Put = Callable[[str, Iterable[Buffer]], None]


@dataclass(frozen=True, slots=True)
class Events:
    """A segment's events, and where its entries are.

    Attributes
    ----------
    records : tuple of AdapterRecord
    starts : tuple of int
        Which entry is the first of each layer, by the layer's index, and their number; empty where there are none.
    offset : int
        The first entry's byte in the file.
    """

    records: tuple[AdapterRecord, ...]
    starts: tuple[int, ...]
    offset: int


def write_segment(
    put: Put,
    name: str,
    records: Sequence[AdapterRecord],
    layers: Iterable[NDArray[Any]],
    count: int,
    texts: Iterable[bytes],
) -> tuple[Segment, Events]:
    """Write the three files of one commit.

    Parameters
    ----------
    put : callable
        Writes a file of a name from its parts.
    name : str
        The files' common name.
    records : sequence of AdapterRecord
        The events.
    layers : iterable of ndarray of `entry_dtype`
        The entries of each layer of the zoo from the first on, each sorted by adapter.
    count : int
        Entries in all.
    texts : iterable of bytes
        The texts' file (see `pack_texts`), part by part.

    Returns
    -------
    Segment, Events
        The segment's record, and what its first file says.
    """
    header = _npy_header(count)
    starts = [0]

    def entries() -> Iterator[bytes]:
        yield header
        for layer in layers:
            starts.append(starts[-1] + len(layer))
            yield layer.tobytes()

    kept = _Digested(entries())
    put(f"{name}.entries.npy", kept)
    said = _Digested(texts)
    put(f"{name}.texts.json", said)
    events = Events(tuple(records), tuple(starts) if count else (), len(header))
    packed = _pack_events(events)
    put(f"{name}.json", [packed])
    accepted = sum(r.status == "ok" for r in records)
    digests = hashlib.sha256(packed).hexdigest(), kept.hexdigest(), said.hexdigest()
    return Segment(name, len(records), accepted, count, *digests), events


def by_layer(entries: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Entries in any order, as those of each layer from the first on, sorted by adapter."""
    import numpy as np

    ordered = entries[np.lexsort((entries["adapter"], entries["layer"]))]
    found = ordered["layer"]
    for layer in range(int(found[-1]) + 1 if len(found) else 0):
        yield ordered[np.searchsorted(found, layer) : np.searchsorted(found, layer, side="right")]


def pack_texts(texts: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[bytes]:
    """The texts' file: a JSON object, a member at a time."""
    before = b"{"
    for name, text in texts:
        yield before + _dumps(name) + b":" + _dumps(text)
        before = b","
    yield b"{}" if before == b"{" else b"}"


def read_events(storage: Storage, segment: Segment) -> Events:
    """A segment's events.

    Raises
    ------
    OSError
        If the file cannot be read.
    EigenzooError
        If it is not the file that was committed.
    """
    data = storage.read(f"{segment.name}.json")
    if hashlib.sha256(data).hexdigest() != segment.digest:
        raise EigenzooError(f"{storage.url}: {segment.name}.json does not match the commit record; restore it")
    return _unpack_events(data)


def read_layer(storage: Storage, segment: Segment, events: Events, layer: int) -> NDArray[Any]:
    """A segment's entries of one layer, sorted by adapter; the rest of the file is not read.  Raises OSError."""
    import numpy as np

    if layer + 1 >= len(events.starts):
        return np.empty(0, entry_dtype())
    return _read(storage, segment, events, events.starts[layer], events.starts[layer + 1])


def read_entries(storage: Storage, segment: Segment, events: Events) -> NDArray[Any]:
    """All entries of a segment, sorted by layer and adapter.  Raises OSError."""
    return _read(storage, segment, events, 0, segment.entries)


def _read(storage: Storage, segment: Segment, events: Events, start: int, stop: int) -> NDArray[Any]:
    import numpy as np

    out = np.empty(stop - start, entry_dtype())
    if len(out):
        at = events.offset + start * out.itemsize
        storage.read_into(f"{segment.name}.entries.npy", at, out.view(np.uint8).data)
    return out


def _npy_header(count: int) -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    described = np.lib.format.dtype_to_descr(entry_dtype())
    document = {"descr": described, "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(buffer, document)
    return buffer.getvalue()


def _pack_events(events: Events) -> bytes:
    """As JSON: field names once, then a row per adapter."""
    names = [f.name for f in dataclasses.fields(AdapterRecord)]
    rows = [[getattr(r, n) for n in names] for r in events.records]
    document = {"fields": names, "adapters": rows, "starts": events.starts, "offset": events.offset}
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def _unpack_events(data: bytes) -> Events:
    """The inverse of `_pack_events`; fields that this version does not know are passed over."""
    doc = json.loads(data.decode("utf-8", "surrogatepass"))
    known = {f.name for f in dataclasses.fields(AdapterRecord)}
    keep = [i for i, n in enumerate(doc["fields"]) if n in known]
    names = [doc["fields"][i] for i in keep]
    records = [AdapterRecord(**dict(zip(names, (row[i] for i in keep), strict=True))) for row in doc["adapters"]]
    return Events(tuple(records), tuple(doc["starts"]), doc["offset"])


def _dumps(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


class _Digested:
    """Parts as they pass, and their sha256 afterwards."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        self._parts, self._digest = parts, hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            self._digest.update(part)
            yield part

    def hexdigest(self) -> str:
        return self._digest.hexdigest()

"""The catalogue: who is in a zoo, where their rows lie, and what else belongs to them.

One *segment* per commit, never changed afterwards; the commit record names the segments that exist.  Listing a zoo
reads one file per commit, not one per adapter.
"""

from __future__ import annotations

import bisect
import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ingest.errors import EigenzooError
from ingest.store.schema import itemsize

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Status = Literal["ok", "refused", "removed"]


@dataclass(frozen=True, slots=True)
class AdapterRecord:
    """One adapter of the ledger.

    Attributes
    ----------
    name : str
        Unique in the zoo.
    source : str
        Where it came from.
    status, reason, detail : str
        ``"ok"`` with empty reason, or ``"refused"`` with a reason code and one line for people.
    format, base_model, revision, licence : str or None
        As its files state them.
    content : str
        Hex digest of all factors' values and scales, the same in every dialect and exact wider dtype.
    fingerprint : str
        Sizes and times of its files when they were read; tells whether they changed since.
    rank : int
        Largest rank of its modules.
    rows : int
        Rows that it holds on one side: the sum of its modules' ranks; 0 where it is refused.
    extras : str
        Hex digest of its tensors that are no factors; empty where it has none.
    """

    name: str
    source: str
    status: Status
    reason: str = ""
    detail: str = ""
    format: str = ""
    base_model: str | None = None
    revision: str | None = None
    licence: str | None = None
    content: str = ""
    fingerprint: str = ""
    rank: int = 0
    rows: int = 0
    extras: str = ""


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """One layer of the zoo: its canonical name, kind, the shape of one row of A (with kernel), and the width of B."""

    layer: str
    kind: str
    a_shape: tuple[int, ...]
    out: int


@dataclass(frozen=True, slots=True)
class ArrayRecord:
    """One array: a (layer, side, dtype), its path, committed rows, width and rows per chunk."""

    path: str
    layer: str
    side: str
    dtype: str
    rows: int
    width: int
    chunk: int

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one chunk."""
        return self.chunk * self.width * itemsize(self.dtype)


@dataclass(frozen=True, slots=True)
class Segment:
    """One commit's share of the catalogue: its files' common name, its counts, and its files' sha256."""

    name: str
    adapters: int
    ok: int
    entries: int
    digest: str
    entries_digest: str
    texts_digest: str


@dataclass(frozen=True, slots=True)
class Commit:
    """The commit record: everything that exists, as of one commit.

    Layers and arrays are recorded before the first row comes, so that an ingest that is killed and started again lays
    out the same zoo; until then an array has no rows.
    """

    uuid: str
    version: int
    base_model: str | None
    aliases: tuple[str, ...]
    renames: tuple[str, ...]
    layers: tuple[LayerRecord, ...]
    arrays: tuple[ArrayRecord, ...]
    segments: tuple[Segment, ...]
    time: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Commit:
        """The inverse of `to_json`."""
        return cls(
            uuid=data["uuid"],
            version=int(data["version"]),
            base_model=data["base_model"],
            aliases=tuple(data["aliases"]),
            renames=tuple(data["renames"]),
            layers=tuple(LayerRecord(d["layer"], d["kind"], tuple(d["a_shape"]), d["out"]) for d in data["layers"]),
            arrays=tuple(ArrayRecord(**d) for d in data["arrays"]),
            segments=tuple(Segment(**d) for d in data["segments"]),
            time=data.get("time", ""),
        )


EMPTY = Commit("", 0, None, (), (), (), (), ())


def entry_dtype() -> np.dtype[Any]:
    """One record per (adapter, layer): row ranges in the arrays of both sides, rank, scale and digests.

    ``adapter`` counts the accepted adapters of the whole zoo, ``layer`` and ``*_array`` index the commit's tuples;
    digests are the 128-bit xxh3 of each factor's canonical bytes.
    """
    import numpy as np

    return np.dtype(
        [
            ("adapter", "<i4"),
            ("layer", "<i4"),
            ("rank", "<i4"),
            ("scale", "<f8"),
            ("a_array", "<i4"),
            ("a_start", "<i8"),
            ("a_digest", "u1", (16,)),
            ("b_array", "<i4"),
            ("b_start", "<i8"),
            ("b_digest", "u1", (16,)),
        ]
    )


def encode_adapters(records: list[AdapterRecord]) -> bytes:
    """A segment's adapters as JSON: field names once, then a row per adapter."""
    names = [f.name for f in dataclasses.fields(AdapterRecord)]
    rows = [[getattr(r, n) for n in names] for r in records]
    return json.dumps({"fields": names, "adapters": rows}, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )


def decode_adapters(data: bytes) -> list[AdapterRecord]:
    """The inverse of `encode_adapters`; fields that this version does not know are passed over."""
    doc = json.loads(data.decode("utf-8", "surrogatepass"))
    known = {f.name for f in dataclasses.fields(AdapterRecord)}
    keep = [i for i, n in enumerate(doc["fields"]) if n in known]
    names = [doc["fields"][i] for i in keep]
    return [AdapterRecord(**dict(zip(names, (row[i] for i in keep), strict=True))) for row in doc["adapters"]]


def ledger(segments: list[list[AdapterRecord]]) -> list[AdapterRecord]:
    """All adapters in order of commit; a later record of a refused source replaces the earlier one."""
    out: dict[tuple[str, str], AdapterRecord] = {}
    for records in segments:
        for record in records:
            out.pop(("refused", record.source), None)
            out[record.status, record.source if record.status == "refused" else record.name] = record
    return list(out.values())


def encode_entries(entries: NDArray[Any]) -> bytes:
    """Entries as the bytes of a ``.npy`` file."""
    import io

    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, entries, allow_pickle=False)
    return buffer.getvalue()


def read_layer(path: str, index: int) -> NDArray[Any]:
    """One layer's entries of a ``.npy`` file that is sorted by layer; the rest of the file is not read.

    Raises
    ------
    EigenzooError
        If the file is missing, or shorter than its header says.
    """
    import numpy as np

    dtype = entry_dtype()
    try:
        with open(path, "rb") as file:
            np.lib.format.read_magic(file)
            (count,), _, _ = np.lib.format.read_array_header_1_0(file)
            start = file.tell()

            def layer_at(i: int) -> int:
                file.seek(start + i * dtype.itemsize)
                return int(np.frombuffer(file.read(dtype.itemsize), dtype)["layer"][0])

            low = bisect.bisect_left(range(count), index, key=layer_at)
            high = bisect.bisect_right(range(count), index, lo=low, key=layer_at)
            file.seek(start + low * dtype.itemsize)
            return np.frombuffer(file.read((high - low) * dtype.itemsize), dtype, high - low)
    except (OSError, ValueError) as error:
        raise EigenzooError(f"{path}: cannot be read ({error}); restore it from a copy") from error

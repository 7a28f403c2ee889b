"""The catalogue's records: who is in a zoo, where their rows lie, and what one commit says.

One *segment* per commit, never changed afterwards; the commit record names the segments that exist.  Listing a zoo
reads one file per commit, not one per adapter.  A segment is a list of events: what they come to is
`ingest.store.ledger`'s to say, how they lie in files that of `ingest.store.segments`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ingest.store.schema import itemsize

if TYPE_CHECKING:
    import numpy as np

Status = Literal["ok", "refused", "removed", "renewed"]
Action = Literal["ingest", "layout", "remove", "compact"]


@dataclass(frozen=True, slots=True)
class AdapterRecord:
    """One event about one adapter, and one adapter of the ledger.

    Attributes
    ----------
    name : str
        Unique in the zoo.
    source : str
        Where it came from.
    status, reason, detail : str
        ``"ok"`` with empty reason: its rows are new, and a live adapter of that name is replaced.  ``"refused"`` with a
        reason code and one line for people.  ``"removed"``: it is live no more.  ``"renewed"``: the live adapter of
        that name has the same content and other texts.
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
    kept : str
        The folder that keeps these tensors; the writer sets it.
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
    kept: str = ""


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """One layer of the zoo: its canonical name, kind, the shape of one row of A (with kernel), and the width of B."""

    layer: str
    kind: str
    a_shape: tuple[int, ...]
    out: int


@dataclass(frozen=True, slots=True)
class ArrayRecord:
    """One array: a (layer, side, dtype), its path, committed rows, width and rows per chunk.

    ``retired`` of the rows belong to adapters that were removed or replaced; they stay until the zoo is compacted.
    """

    path: str
    layer: str
    side: str
    dtype: str
    rows: int
    width: int
    chunk: int
    retired: int = 0

    @property
    def live(self) -> int:
        """Rows of adapters that are in the zoo."""
        return self.rows - self.retired

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.width * itemsize(self.dtype)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one chunk."""
        return self.chunk * self.row_bytes

    @property
    def chunks(self) -> int:
        """How many chunks hold committed rows."""
        return -(-self.rows // self.chunk)

    def chunk_name(self, index: int) -> str:
        """The file of one chunk."""
        return f"{self.path}/c.{index}.0"


@dataclass(frozen=True, slots=True)
class Segment:
    """One commit's share of the catalogue: its files' common name, its counts, and its files' sha256.

    ``ok`` counts the ordinals that it adds: numbers of accepted adapters, by which entries name them.
    """

    name: str
    adapters: int
    ok: int
    entries: int
    digest: str
    entries_digest: str
    texts_digest: str


@dataclass(frozen=True, slots=True)
class LogEntry:
    """What one commit did.

    Attributes
    ----------
    version, time, action
        Which commit, when (UTC), and by which command; ``"layout"`` decides where rows will go and brings none.
    added, replaced, renewed, removed, refused : int
        Adapters.
    rows : int
        Rows of one side that were stored.
    """

    version: int
    time: str
    action: Action
    added: int = 0
    replaced: int = 0
    renewed: int = 0
    removed: int = 0
    refused: int = 0
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Commit:
    """The commit record: everything that exists, as of one commit.

    Layers and arrays are recorded before the first row comes, so that an ingest that is killed and started again lays
    out the same zoo; until then an array has no rows.  ``codec`` is that of all chunks (see `ingest.store.chunks`);
    ``generation`` is the version that last compacted the zoo, 0 for none: its arrays lie in a group of that number.
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
    codec: str = ""
    generation: int = 0
    log: tuple[LogEntry, ...] = ()

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
            time=data["time"],
            codec=data["codec"],
            generation=int(data["generation"]),
            log=tuple(LogEntry(**d) for d in data["log"]),
        )


EMPTY = Commit("", 0, None, (), (), (), (), ())


def entry_dtype() -> np.dtype[Any]:
    """One record per (adapter, layer): row ranges in the arrays of both sides, rank, scale and digests.

    ``adapter`` is the ordinal: it counts the accepted adapters of the whole zoo; ``layer`` and ``*_array`` index the
    commit's tuples; digests are the 128-bit xxh3 of each factor's canonical bytes.
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

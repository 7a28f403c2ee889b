"""What a plan says: which adapters come in, which are refused, and how much each matrix gains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest.base import Base
from ingest.store import schema
from ingest.store.catalog import AdapterRecord, Commit

if TYPE_CHECKING:
    from ingest.formats.adapter import LoraAdapter
    from ingest.hub.remote import Candidate


@dataclass(frozen=True, slots=True)
class PlannedAdapter:
    """An adapter whose headers raise no objection.

    Attributes
    ----------
    name, source
        As they will stand in the ledger.
    adapter
        As parsed, without its texts.
    fingerprint
        Of the files, wherever they are.
    candidate
        Where it is on the Hub; None for local files.
    replaces
        The live adapter from the same source, whose files have changed since; None for a new one.
    """

    name: str
    source: str
    adapter: LoraAdapter
    fingerprint: str
    candidate: Candidate | None = None
    replaces: AdapterRecord | None = None

    @property
    def revision(self) -> str | None:
        """The commit on the Hub."""
        remote = self.candidate.remote if self.candidate is not None else None
        return remote.revision if remote is not None else None

    @property
    def factor_bytes(self) -> int:
        """Bytes of its factors."""
        return sum(m.a.nbytes + m.b.nbytes for m in self.adapter.modules)

    @property
    def staged_bytes(self) -> int:
        """Bytes that it takes in the staging: its download, and what is made of its weights."""
        adapter = self.adapter
        made = max(adapter.size, self.factor_bytes) if adapter.recipe else 0
        return made + (adapter.size if self.candidate is not None else 0)


@dataclass(frozen=True, slots=True)
class PlannedMatrix:
    """What the plan adds to one matrix in one dtype; ``chunk`` is the array's rows per chunk, present or to be."""

    layer: str
    side: str
    dtype: str
    rows: int
    width: int
    chunk: int

    @property
    def nbytes(self) -> int:
        """Bytes of the rows."""
        return self.rows * self.width * schema.itemsize(self.dtype)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk."""
        return self.chunk * self.width * schema.itemsize(self.dtype)


@dataclass(frozen=True, slots=True)
class Plan:
    """What an ingest will do.

    Attributes
    ----------
    zoo : str
        Its path or URL.
    commit : Commit
        The zoo as it is (version 0 where there is none).
    base : Base
        The base model, its aliases, and every layer that the zoo will have.
    renames : tuple of str
        ``OLD=NEW`` pairs.
    readmit : bool
        Whether removed adapters are taken back.
    adapters : tuple of PlannedAdapter
        In the order in which their rows are stored.
    refused : tuple of AdapterRecord
        Refused by what a header can show.
    news : tuple of AdapterRecord
        What of this the ledger does not say yet, and refusals that no longer hold.
    known : int
        Adapters that the zoo holds already, unchanged.
    matrices : tuple of PlannedMatrix
        Exact rows and bytes, if no value raises an objection.
    """

    zoo: str
    commit: Commit
    base: Base
    renames: tuple[str, ...]
    readmit: bool
    adapters: tuple[PlannedAdapter, ...]
    refused: tuple[AdapterRecord, ...]
    news: tuple[AdapterRecord, ...]
    known: int
    matrices: tuple[PlannedMatrix, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows to be stored."""
        return sum(m.nbytes for m in self.matrices)

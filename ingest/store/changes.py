"""What a segment's events change: who goes, whose rows that retires, and how the log says it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from ingest.store.catalog import Action, AdapterRecord, ArrayRecord, LogEntry
from ingest.store.ledger import retiring
from ingest.store.snapshot import Snapshot

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Changes:
    """The consequences of further events.

    Attributes
    ----------
    records : tuple of AdapterRecord
        The events.
    retired : tuple of int
        Ordinals of the adapters that go.
    rows : dict
        Index of an array → rows that thereby are no longer live.
    """

    records: tuple[AdapterRecord, ...]
    retired: tuple[int, ...]
    rows: dict[int, int]

    @classmethod
    def of(cls, zoo: Snapshot, records: Sequence[AdapterRecord], entries: NDArray[Any]) -> Self:
        """The changes that events make in a zoo; `entries` are those of the adapters that they accept."""
        rows: Counter[int] = Counter()
        retired: list[int] = []
        if any(r.status in ("ok", "removed") for r in records):
            retired = retiring(zoo.ledger.live(), len(zoo.stored), records)
        for ordinal in sorted(retired):
            new = ordinal >= len(zoo.stored)
            for entry in entries[entries["adapter"] == ordinal] if new else zoo.entries_of(ordinal):
                rows[int(entry["a_array"])] += int(entry["rank"])
                rows[int(entry["b_array"])] += int(entry["rank"])
        return cls(tuple(records), tuple(retired), dict(rows))

    def retire(self, before: Sequence[ArrayRecord], after: Sequence[ArrayRecord]) -> tuple[ArrayRecord, ...]:
        """The arrays with their retired rows: those that were retired before, and these."""
        held = {a.path: a.retired for a in before}
        return tuple(
            dataclasses.replace(a, retired=held.get(a.path, 0) + self.rows.get(i, 0)) for i, a in enumerate(after)
        )

    def log_entry(self, action: Action) -> LogEntry:
        """The log's line, without version and time."""
        counts = Counter(r.status for r in self.records)
        replaced = len(self.retired) - counts["removed"]
        return LogEntry(
            0,
            "",
            action,
            added=counts["ok"] - replaced,
            replaced=replaced,
            renewed=counts["renewed"],
            removed=counts["removed"],
            refused=counts["refused"],
            rows=sum(r.rows for r in self.records if r.status == "ok"),
        )

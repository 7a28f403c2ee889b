"""What the events of all commits come to: who is live, who was retired, who was refused or removed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ingest.store.catalog import AdapterRecord


@dataclass(frozen=True, slots=True)
class Stored:
    """An adapter whose rows are stored, and whether it is in the zoo: not if it was removed or replaced since."""

    record: AdapterRecord
    live: bool


@dataclass(frozen=True, slots=True)
class Ledger:
    """The state after all events.

    Attributes
    ----------
    stored : tuple of Stored
        By ordinal, the number by which entries name an adapter.
    adapters : tuple of AdapterRecord
        Everyone: live adapters ("ok", by ordinal), refused and removed ones, by last event.
    """

    stored: tuple[Stored, ...]
    adapters: tuple[AdapterRecord, ...]

    def live(self) -> dict[str, int]:
        """Name → ordinal of the live adapters, by ordinal."""
        return {s.record.name: i for i, s in enumerate(self.stored) if s.live}


def replay(segments: Iterable[Sequence[AdapterRecord]]) -> Ledger:
    """Go through the events in order of commit.

    A refusal stands until its source is refused otherwise or accepted, a removal until its source is accepted again.
    """
    stored: list[Stored] = []
    live: dict[str, int] = {}
    lines: dict[tuple[str, str], AdapterRecord] = {}
    for record in (record for records in segments for record in records):
        name, source = record.name, record.source
        at = live.get(name)
        match record.status:
            case "ok":
                if at is not None:
                    stored[at] = Stored(stored[at].record, False)
                for line in (("ok", name), ("refused", source), ("removed", source)):
                    lines.pop(line, None)
                live[name] = len(stored)
                stored.append(Stored(record, True))
                lines["ok", name] = record
            case "renewed" if at is not None:
                lines.pop(("refused", source), None)
                lines.pop(("removed", source), None)
                renewed = _renewed(stored[at].record, record)
                stored[at] = Stored(renewed, True)
                lines["ok", name] = renewed
            case "removed":
                if at is not None:
                    stored[live.pop(name)] = Stored(stored[at].record, False)
                    del lines["ok", name]
                lines.pop(("removed", source), None)
                lines["removed", source] = record
            case "refused":
                lines.pop(("refused", source), None)
                lines["refused", source] = record
    return Ledger(tuple(stored), tuple(lines.values()))


def retiring(live: dict[str, int], count: int, records: Iterable[AdapterRecord]) -> list[int]:
    """The ordinals that further events take out of a zoo with these live adapters and `count` ordinals."""
    gone: list[int] = []
    current = dict(live)
    for record in records:
        if record.status in ("ok", "removed") and (at := current.pop(record.name, None)) is not None:
            gone.append(at)
        if record.status == "ok":
            current[record.name] = count
            count += 1
    return gone


def _renewed(old: AdapterRecord, new: AdapterRecord) -> AdapterRecord:
    """The live record as another version of its files describes it; rows and other tensors are those it had."""
    return dataclasses.replace(
        old,
        source=new.source,
        format=new.format,
        base_model=new.base_model,
        revision=new.revision,
        licence=new.licence,
        fingerprint=new.fingerprint,
    )

"""What a zoo's ledger says of a source: known, refused for good, removed, or still to be looked at."""

from __future__ import annotations

from collections.abc import Sequence

from ingest import formats
from ingest.errors import Refusal
from ingest.folders import Source
from ingest.reasons import Reason
from ingest.settings import Settings
from ingest.store.catalog import AdapterRecord

# Refusals that took a look at the whole file; they stand for as long as it is the same.
_BY_VALUES = frozenset({Reason.NON_FINITE, Reason.UNTRAINED, Reason.WRONG_BYTES})
_OUT_OF_REACH = frozenset({Reason.UNAVAILABLE, Reason.NOT_FOUND, Reason.GATED})


def said(record: AdapterRecord) -> tuple[str, str, str]:
    """What makes two refusals the same."""
    return record.source, record.fingerprint, record.reason


class Records:
    """The ledger by source, and the names that are taken; a name that is taken gains ``~2``, ``~3``, …"""

    def __init__(self, ledger: Sequence[AdapterRecord]) -> None:
        self.live = {r.source: r for r in ledger if r.status == "ok"}
        self.refused = {r.source: r for r in ledger if r.status == "refused"}
        self.removed = {r.source: r for r in ledger if r.status == "removed"}
        self.contents = {r.content for r in self.live.values()}
        self._taken = {r.name for r in ledger}

    def name(self, candidate: Source) -> str:
        """The name that the source has in the ledger, or a new one."""
        for records in (self.live, self.refused, self.removed):
            if (record := records.get(candidate.location)) is not None:
                return record.name
        name, count = candidate.name, 1
        while name in self._taken:
            count += 1
            name = f"{candidate.name}~{count}"
        self._taken.add(name)
        return name

    def is_news(self, refusal: AdapterRecord) -> bool:
        """Whether a refusal is to be written down.

        Not if it stands already, if a removal says it, or if all that happened is that a live adapter's source was out
        of reach.
        """
        live, before = self.live.get(refusal.source), self.refused.get(refusal.source)
        if refusal.source in self.removed or (before is not None and said(before) == said(refusal)):
            return False
        return live is None or (
            refusal.reason not in _OUT_OF_REACH and refusal.fingerprint not in ("", live.fingerprint)
        )

    def stands(self, record: AdapterRecord) -> bool:
        """Whether a refusal that took a look at the values holds for the same files: a twin's beside its original."""
        match record.reason:
            case Reason.DUPLICATE:
                return record.content in self.contents
            case Reason.REMOVED:
                return record.content in {r.content for r in self.removed.values()}
        return record.reason in _BY_VALUES


def settled(candidate: Source, records: Records, settings: Settings) -> tuple[bool, Refusal | None]:
    """Whether the ledger or the search has the answer already, and that answer: None for an adapter in the zoo."""
    if candidate.refusal is not None:
        return True, candidate.refusal
    fingerprint = fingerprint_of(candidate)
    record = records.live.get(candidate.location)
    if record is not None and record.fingerprint == fingerprint:
        return True, None
    if record is None and not settings.readmit and candidate.location in records.removed:
        return True, Refusal(Reason.REMOVED, "it was removed from the zoo; --readmit takes it back")
    record = records.refused.get(candidate.location)
    again = record is not None and (settings.readmit if record.reason == Reason.REMOVED else settings.retry)
    if record is not None and not again and record.fingerprint == fingerprint and records.stands(record):
        return True, Refusal(Reason(record.reason), record.detail)
    return False, None


def fingerprint_of(candidate: Source) -> str:
    """The candidate's fingerprint; empty where a file is missing, which parsing will say better."""
    if candidate.candidate is not None:
        remote = candidate.candidate.remote
        return remote.fingerprint if remote is not None else ""
    try:
        return formats.fingerprint(candidate.files)
    except Refusal:
        return ""

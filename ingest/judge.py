"""Who of a batch comes into the zoo, once the values have been looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ingest.errors import Refusal
from ingest.planned import PlannedAdapter
from ingest.reasons import Reason
from ingest.screen import Screened
from ingest.store.catalog import AdapterRecord, Status
from ingest.store.reader import Zoo

Seen = tuple[PlannedAdapter, Screened]


@dataclass(frozen=True, slots=True)
class Judged:
    """A batch's verdicts.

    Attributes
    ----------
    accepted
        Whose rows are stored, in order.
    renewed
        In the zoo already with the same factors and other tensors: only what stands beside them has changed.
    rejected
        The records of the others.
    contents
        All contents of the zoo with the accepted ones, and whose they are.
    """

    accepted: list[Seen]
    renewed: list[Seen]
    rejected: list[AdapterRecord]
    contents: dict[bytes, str]


def contents_of(zoo: Zoo) -> dict[bytes, str]:
    """Content digest → name of every live adapter."""
    return {bytes.fromhex(r.content): r.name for r in zoo.accepted}


def judge(
    batch: Sequence[PlannedAdapter], outcomes: Sequence[Screened | Refusal], contents: dict[bytes, str]
) -> Judged:
    """Who is accepted: of twins the first; an older version makes room for its successor."""
    judged = Judged([], [], [], dict(contents))
    for planned, outcome in zip(batch, outcomes, strict=True):
        if isinstance(outcome, Refusal):
            judged.rejected.append(record_of(planned, None, outcome))
            continue
        old, content = planned.replaces, bytes.fromhex(outcome.content)
        twin = judged.contents.get(content)
        if old is not None and twin == old.name:
            if outcome.extras == old.extras:
                judged.renewed.append((planned, outcome))
                continue
        elif twin is not None:
            refusal = Refusal(Reason.DUPLICATE, f"the same factors and scales as {twin}, already in the zoo")
            judged.rejected.append(record_of(planned, outcome, refusal))
            continue
        if old is not None:
            judged.contents.pop(bytes.fromhex(old.content), None)
        judged.contents[content] = planned.name
        judged.accepted.append((planned, outcome))
    return judged


def record_of(
    planned: PlannedAdapter, screened: Screened | None, refusal: Refusal | None, *, status: Status = "ok"
) -> AdapterRecord:
    """An adapter's line of the ledger."""
    adapter = planned.adapter
    return AdapterRecord(
        name=planned.name,
        source=planned.source,
        status=status if refusal is None else "refused",
        reason="" if refusal is None else refusal.reason.value,
        detail="" if refusal is None else refusal.detail,
        format=adapter.format,
        base_model=adapter.base_model,
        revision=planned.revision,
        licence=adapter.licence,
        content="" if screened is None else screened.content,
        fingerprint=planned.fingerprint,
        rank=max(m.rank for m in adapter.modules),
        rows=0 if refusal is not None else sum(m.rank for m in adapter.modules),
        extras="" if refusal is not None or screened is None else screened.extras,
    )

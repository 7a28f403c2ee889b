"""Who of a batch comes into the zoo, once the values have been looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ingest.errors import Refusal
from ingest.planned import Plan, PlannedAdapter
from ingest.reasons import Reason
from ingest.screen import Screened
from ingest.store.catalog import AdapterRecord, Status
from ingest.store.reader import Zoo

Seen = tuple[PlannedAdapter, Screened]


@dataclass(frozen=True, slots=True)
class Known:
    """Contents that decide about newcomers: content digest → name of the live adapters, and of the removed ones.

    Live ones that the plan replaces are left out, as if they were gone already.
    """

    live: dict[bytes, str]
    removed: dict[bytes, str]

    @classmethod
    def of(cls, zoo: Zoo, made: Plan) -> Known:
        """Those of a zoo; a plan that takes removed adapters back has none to keep away."""
        gone = {} if made.readmit else {bytes.fromhex(r.content): r.name for r in zoo.removed}
        leaving = {p.replaces.name for p in made.adapters if p.replaces is not None}
        return cls({bytes.fromhex(r.content): r.name for r in zoo.accepted if r.name not in leaving}, gone)


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
    known
        What was known, with the accepted ones.
    """

    accepted: list[Seen]
    renewed: list[Seen]
    rejected: list[AdapterRecord]
    known: Known


def judge(batch: Sequence[PlannedAdapter], outcomes: Sequence[Screened | Refusal], known: Known) -> Judged:
    """Who is accepted: of twins the first.

    An older version makes room for its successor before anybody is compared with it, so the order of a batch, and two
    adapters that change places, make no difference.  A successor that is a twin itself leaves the older version there:
    then all are judged again with it.
    """
    staying: set[str] = set()
    while True:
        judged, failed = _attempt(batch, outcomes, known, staying)
        if failed <= staying:
            return judged
        staying |= failed


def _attempt(
    batch: Sequence[PlannedAdapter], outcomes: Sequence[Screened | Refusal], known: Known, staying: set[str]
) -> tuple[Judged, set[str]]:
    """The verdicts if these older versions stay; also the names of all whose successors were refused."""
    live = dict(known.live)
    failed: set[str] = set()
    for planned, outcome in zip(batch, outcomes, strict=True):
        old = planned.replaces
        if old is not None and (isinstance(outcome, Refusal) or old.name in staying):
            live[bytes.fromhex(old.content)] = old.name
    judged = Judged([], [], [], Known(live, known.removed))
    for planned, outcome in zip(batch, outcomes, strict=True):
        old = planned.replaces
        if isinstance(outcome, Refusal):
            judged.rejected.append(record_of(planned, None, outcome))
            continue
        content = bytes.fromhex(outcome.content)
        twin = live.get(content)
        if twin is not None and not (old is not None and twin == old.name):
            refusal = Refusal(Reason.DUPLICATE, f"the same factors and scales as {twin}, already in the zoo")
        elif old is None and (gone := known.removed.get(content)) is not None:
            refusal = Refusal(Reason.REMOVED, f"the same factors and scales as {gone}, removed; --readmit takes it in")
        else:
            live[content] = planned.name
            same = old is not None and old.content == outcome.content and old.extras == outcome.extras
            (judged.renewed if same else judged.accepted).append((planned, outcome))
            continue
        judged.rejected.append(record_of(planned, outcome, refusal))
        if old is not None:
            failed.add(old.name)
    return judged, failed


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

"""From a plan to rows in the store: parallel, in bounded memory, safe to kill and to run again.

Adapters are taken in batches, a commit each.  A batch is read twice: first to screen the values; then, when every row's
place is known, to fill whole chunks, a group of arrays side by side (`ingest.fill`), while full chunks are written
behind.  So memory is a matter of open chunks, whatever the number of adapters or layers; no chunk is written in parts
but the last of a batch; and a refused adapter leaves no rows behind.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import TypeVar

from ingest.errors import Refusal
from ingest.fill import SourceChanged, fill
from ingest.layout import lay_out, prepare
from ingest.memory import deal_out
from ingest.plan import Plan, PlannedAdapter, plan
from ingest.reasons import Reason
from ingest.rest import keep_the_rest
from ingest.screen import Screened, screen
from ingest.store.catalog import AdapterRecord
from ingest.store.writer import ZooWriter

T = TypeVar("T")
R = TypeVar("R")
DEFAULT_MEMORY = 1 << 30
BATCH_BYTES = 512 << 20
BATCH_MODULES = 32_768


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an ingest is: bytes of factors read and written, of those planned; adapters stored and refused."""

    done_bytes: int
    total_bytes: int
    stored: int
    refused: int


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What an ingest did: adapters added, refused (new or standing) and already known; bytes of rows; seconds."""

    zoo: str
    version: int
    base_model: str | None
    added: tuple[str, ...]
    refused: tuple[AdapterRecord, ...]
    known: int
    nbytes: int
    seconds: float


def ingest(
    sources: Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    zoo: str | os.PathLike[str],
    *,
    base_model: str | None = None,
    aliases: Sequence[str] = (),
    renames: Sequence[str] = (),
    memory: int = DEFAULT_MEMORY,
    progress: Callable[[Progress], None] | None = None,
) -> IngestResult:
    """Read adapters into a zoo: plan, screen, store, commit.

    Parameters
    ----------
    sources : path-like or sequence of path-like
        Folders at any depth, files, globs, text files of sources.
    zoo : path-like
        The zoo; created where absent, appended to where it exists.
    base_model, aliases, renames
        See `ingest.plan.plan`.
    memory : int
        Bytes of data held at a time, over all threads.
    progress : callable, optional
        Called with a `Progress` now and then.

    Returns
    -------
    IngestResult

    Raises
    ------
    EigenzooError
        If a source does not exist, the zoo is being written by another process, or `memory` is too small.
        What single adapters lack is no error: it is recorded in the ledger.

    Notes
    -----
    Cost: every file is read twice and written once.  Killed at any moment, the zoo is at its last commit, and a
    second call does the rest.
    """
    if isinstance(sources, str | os.PathLike):
        sources = [sources]
    with ZooWriter(os.fspath(zoo)) as writer:
        made = plan(sources, zoo, base_model=base_model, aliases=aliases, renames=renames)
        return run(made, writer, memory=memory, progress=progress)


def run(
    made: Plan,
    writer: ZooWriter,
    *,
    memory: int = DEFAULT_MEMORY,
    progress: Callable[[Progress], None] | None = None,
) -> IngestResult:
    """Carry out a plan with the zoo's one writer; see `ingest`."""
    begin = time.perf_counter()
    room = deal_out(made, memory)
    writer.behind(min(room.behind, len(made.matrices)))
    total = 2 * made.nbytes
    added: list[str] = []
    refused = list(made.refused)
    done = stored_bytes = 0
    lock = Lock()

    def tell(nbytes: int) -> None:
        nonlocal done
        with lock:
            done += nbytes
            if progress is not None:
                progress(Progress(done, total, len(added), len(refused)))

    ledger = {(r.source, r.fingerprint, r.reason) for r in writer.zoo().adapters if r.status == "refused"}
    pending = [r for r in made.refused if (r.source, r.fingerprint, r.reason) not in ledger]
    contents = {bytes.fromhex(r.content): r.name for r in writer.zoo().accepted}
    none = lay_out(writer.commit, []).entries
    prepared = prepare(writer.commit, made)
    if prepared != writer.commit or pending or not writer.commit.version:
        writer.save(prepared, pending, none, {})
    with ThreadPoolExecutor(room.threads) as pool:
        each = _Each(pool if room.threads > 1 else None)
        for batch in _batches(made):
            outcomes = each(_screened, batch)
            tell(sum(factor_bytes(p) for p in batch))
            while True:
                judged = _judge(batch, outcomes, contents)
                layout = lay_out(writer.commit, judged.accepted)
                try:
                    groups = list(layout.work.groups(room.group))
                    nbytes = sum(each(partial(fill, writer, layout.work, tell=tell), groups))
                    texts = keep_the_rest(writer, judged.accepted)
                    break
                except SourceChanged as change:
                    # Whoever is gone may have been somebody's twin, and left rows behind: judge and fill again.
                    writer.forget()
                    outcomes[batch.index(change.planned)] = Refusal(Reason.CHANGED, str(change))
            records = [_record(p, s, None) for p, s in judged.accepted]
            writer.save(layout.commit, [*records, *judged.rejected], layout.entries, texts)
            contents = judged.contents
            added += [r.name for r in records]
            refused += judged.rejected
            stored_bytes += nbytes
    return IngestResult(
        writer.path,
        writer.commit.version,
        writer.commit.base_model,
        tuple(added),
        tuple(refused),
        made.known,
        stored_bytes,
        time.perf_counter() - begin,
    )


class _Each:
    """A function over all items, in a pool or (a pool of one would only hand things over) here.

    Every call is over when this returns or raises, so that nobody still writes what a second attempt will write.
    """

    def __init__(self, pool: ThreadPoolExecutor | None) -> None:
        self._pool = pool

    def __call__(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        if self._pool is None:
            return [function(item) for item in items]
        futures = [self._pool.submit(function, item) for item in items]
        wait(futures)
        return [future.result() for future in futures]


def _batches(made: Plan) -> Iterator[list[PlannedAdapter]]:
    """Adapters by commit.  Every commit writes the last chunk of each array again, so it brings two chunks or more."""
    limit = max(BATCH_BYTES, 2 * sum(m.chunk_bytes for m in made.matrices))
    batch: list[PlannedAdapter] = []
    nbytes = modules = 0
    for planned in made.adapters:
        size = factor_bytes(planned)
        if batch and (nbytes + size > limit or modules >= BATCH_MODULES):
            yield batch
            batch, nbytes, modules = [], 0, 0
        batch.append(planned)
        nbytes += size
        modules += len(planned.adapter.modules)
    if batch:
        yield batch


def factor_bytes(planned: PlannedAdapter) -> int:
    """Bytes of an adapter's factors."""
    return sum(m.a.nbytes + m.b.nbytes for m in planned.adapter.modules)


def _screened(planned: PlannedAdapter) -> Screened | Refusal:
    try:
        return screen(planned.adapter)
    except Refusal as refusal:
        return refusal


@dataclass(frozen=True, slots=True)
class _Judged:
    """A batch's accepted adapters, in order, the records of the others, and all contents of the zoo with them."""

    accepted: list[tuple[PlannedAdapter, Screened]]
    rejected: list[AdapterRecord]
    contents: dict[bytes, str]


def _judge(
    batch: Sequence[PlannedAdapter], outcomes: Sequence[Screened | Refusal], contents: dict[bytes, str]
) -> _Judged:
    """Who is accepted: of twins the first."""
    judged = _Judged([], [], dict(contents))
    for planned, outcome in zip(batch, outcomes, strict=True):
        if isinstance(outcome, Refusal):
            judged.rejected.append(_record(planned, None, outcome))
        elif (twin := judged.contents.get(bytes.fromhex(outcome.content))) is not None:
            refusal = Refusal(Reason.DUPLICATE, f"the same factors and scales as {twin}, already in the zoo")
            judged.rejected.append(_record(planned, outcome, refusal))
        else:
            judged.contents[bytes.fromhex(outcome.content)] = planned.name
            judged.accepted.append((planned, outcome))
    return judged


def _record(planned: PlannedAdapter, screened: Screened | None, refusal: Refusal | None) -> AdapterRecord:
    adapter = planned.adapter
    return AdapterRecord(
        name=planned.name,
        source=planned.source,
        status="ok" if refusal is None else "refused",
        reason="" if refusal is None else refusal.reason.value,
        detail="" if refusal is None else refusal.detail,
        format=adapter.format,
        base_model=adapter.base_model,
        licence=adapter.licence,
        content="" if screened is None else screened.content,
        fingerprint=adapter.fingerprint,
        rank=max(m.rank for m in adapter.modules),
        rows=0 if refusal is not None else sum(m.rank for m in adapter.modules),
        extras="" if refusal is not None or screened is None else screened.extras,
    )

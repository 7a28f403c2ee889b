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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

from ingest.errors import Refusal
from ingest.fill import SourceChanged, fill
from ingest.layout import Layout
from ingest.memory import deal_out
from ingest.plan import Plan, PlannedAdapter, plan
from ingest.reasons import Reason
from ingest.safetensors_file import pack, read_bytes
from ingest.screen import Screened, screen
from ingest.store.catalog import AdapterRecord
from ingest.store.writer import ZooWriter

if TYPE_CHECKING:
    pass

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
    with ThreadPoolExecutor(room.threads) as pool:
        each = pool.map if room.threads > 1 else map  # a pool of one would only hand things over
        for batch in _batches(made):
            outcomes = list(each(_screened, batch))
            tell(sum(factor_bytes(p) for p in batch))
            accepted, rejected = _judge(batch, outcomes, contents)
            while True:
                try:
                    layout = Layout(writer.commit, made, accepted)
                    groups = list(layout.work.groups(room.group))
                    stored_bytes += sum(each(partial(fill, writer, layout.work, tell=tell), groups))
                    break
                except SourceChanged as change:
                    writer.drain()
                    gone = next(a for a in accepted if a[0] is change.planned)
                    accepted.remove(gone)
                    contents.pop(bytes.fromhex(gone[1].content))
                    rejected.append(_record(gone[0], None, Refusal(Reason.CHANGED, str(change))))
            records = [_record(p, s, None) for p, s in accepted]
            for (planned, _), record in zip(accepted, records, strict=True):
                if record.extras:
                    writer.write_extras(record.name, _extras(planned))
            texts = {p.name: _text(p) for p, _ in accepted}
            writer.save(layout.commit, [*pending, *records, *rejected], layout.entries, texts)
            added += [r.name for r in records]
            refused += rejected
            pending = []
        if pending or writer.commit.version == 0:
            layout = Layout(writer.commit, made, [])
            writer.save(layout.commit, pending, layout.entries, {})
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


def _judge(
    batch: Sequence[PlannedAdapter], outcomes: Sequence[Screened | Refusal], contents: dict[bytes, str]
) -> tuple[list[tuple[PlannedAdapter, Screened]], list[AdapterRecord]]:
    """Who is accepted, in order; of twins the first."""
    accepted: list[tuple[PlannedAdapter, Screened]] = []
    rejected: list[AdapterRecord] = []
    for planned, outcome in zip(batch, outcomes, strict=True):
        if isinstance(outcome, Screened) and (twin := contents.get(bytes.fromhex(outcome.content))) is not None:
            outcome = Refusal(Reason.DUPLICATE, f"the same factors and scales as {twin}, already in the zoo")
        if isinstance(outcome, Refusal):
            rejected.append(_record(planned, None, outcome))
        else:
            contents[bytes.fromhex(outcome.content)] = planned.name
            accepted.append((planned, outcome))
    return accepted, rejected


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
        extras=refusal is None and bool(adapter.extras),
    )


def _extras(planned: PlannedAdapter) -> bytes:
    """What belongs to an adapter and is no factor, as a safetensors file."""
    adapter = planned.adapter
    with open(adapter.files.weights, "rb", buffering=0) as file:
        return pack((ref, read_bytes(file, ref, adapter.data_start)) for ref in adapter.extras)


def _text(planned: PlannedAdapter) -> dict[str, Any]:
    return {"config": planned.adapter.config_text, "metadata": planned.adapter.metadata}

"""From a plan to rows in the store: parallel, in bounded memory, safe to kill and to run again.

Adapters are taken in batches, a commit each.  A batch is read twice: first to screen the values; then, when every row's
place is known, to fill whole chunks, a group of arrays side by side (`ingest.fill`), while full chunks are written
behind.  So memory is a matter of open chunks, whatever the number of adapters or layers; no chunk is written in parts
but the last of a batch; and a refused adapter leaves no rows behind.  While one batch is stored, the next is fetched.
"""

from __future__ import annotations

import contextlib
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
from ingest.judge import Known, judge, record_of
from ingest.layout import lay_out, prepare
from ingest.memory import deal_out
from ingest.plan import plan
from ingest.planned import Plan, PlannedAdapter
from ingest.reasons import Reason
from ingest.records import said
from ingest.rest import keep_the_rest
from ingest.screen import Screened, screen
from ingest.settings import DEFAULT, Settings
from ingest.store.catalog import AdapterRecord
from ingest.store.writer import ZooWriter
from ingest.supply import Supply, staging_folder

T = TypeVar("T")
R = TypeVar("R")
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
    """What an ingest did.

    Attributes
    ----------
    zoo, version, base_model
        The zoo and its last commit.
    added, replaced, renewed : tuple of str
        Adapters new to the zoo; whose rows took the place of older ones; of whom only the texts had changed.
    refused : tuple of AdapterRecord
        Refused now, or again.
    known : int
        In the zoo already, unchanged.
    nbytes, seconds
        Bytes of rows stored, and the time it took.
    """

    zoo: str
    version: int
    base_model: str | None
    added: tuple[str, ...]
    replaced: tuple[str, ...]
    renewed: tuple[str, ...]
    refused: tuple[AdapterRecord, ...]
    known: int
    nbytes: int
    seconds: float


def ingest(
    sources: Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    zoo: str | os.PathLike[str],
    settings: Settings = DEFAULT,
    *,
    progress: Callable[[Progress], None] | None = None,
    looked: Callable[[int, int], None] | None = None,
) -> IngestResult:
    """Read adapters into a zoo: plan, fetch, screen, store, commit.

    Parameters
    ----------
    sources : path-like or sequence of path-like
        Folders at any depth, files, globs, names on the Hub, text files of sources; see `ingest.sources.find`.
    zoo : path-like
        The zoo, a folder or an object store's URL; created where absent, appended to where it exists.
    settings : Settings
    progress : callable, optional
        Called with a `Progress` now and then.
    looked : callable, optional
        Called with (sources looked at, sources) while the plan is made.

    Returns
    -------
    IngestResult

    Raises
    ------
    EigenzooError
        If a source does not exist, the zoo is being written by another process, or the memory is too small.
        What single adapters lack is no error: it is recorded in the ledger.

    Notes
    -----
    Cost: every file is read twice and written once.  Killed at any moment, the zoo is at its last commit, and a
    second call does the rest.  Downloads and conversions take the disk space of two batches (`BATCH_BYTES` each, or
    one adapter).
    """
    if isinstance(sources, str | os.PathLike):
        sources = [sources]
    with ZooWriter(os.fspath(zoo), codec=settings.codec) as writer:
        options = settings.options((*writer.commit.renames, *settings.renames))
        with Supply(staging_folder(writer.path, settings), options, keep=settings.keep_downloads) as supply:
            made = plan(sources, zoo, settings, supply=supply, progress=looked)
            return run(made, writer, supply, memory=settings.memory, progress=progress)


def run(
    made: Plan,
    writer: ZooWriter,
    supply: Supply,
    *,
    memory: int,
    progress: Callable[[Progress], None] | None = None,
) -> IngestResult:
    """Carry out a plan with the zoo's one writer; see `ingest`."""
    begin = time.perf_counter()
    room = deal_out(made, memory)
    writer.behind(min(room.behind, len(made.matrices)))
    total = 2 * made.nbytes
    stored: list[AdapterRecord] = []
    renewed: list[AdapterRecord] = []
    refused = list(made.refused)
    done = stored_bytes = 0
    lock = Lock()

    def tell(nbytes: int) -> None:
        nonlocal done
        with lock:
            done += nbytes
            if progress is not None:
                progress(Progress(done, total, len(stored), len(refused)))

    ledger = {said(r) for r in writer.zoo().adapters if r.status == "refused"}
    known = Known.of(writer.zoo(), made)
    none = lay_out(writer.commit, []).entries
    prepared = prepare(writer.commit, made)
    if prepared != writer.commit or made.news or not writer.commit.version:
        if {a.path for a in writer.commit.arrays} - {a.path for a in prepared.arrays}:
            writer.forget()  # arrays that never got a row
        writer.save(prepared, list(made.news), none, {})
    with _pool(room.threads, supply) as pool:
        each = _Each(pool if room.threads > 1 else None)
        batches = list(_batches(made))
        for number, planned in enumerate(batches):
            for near in batches[number : number + 2]:
                supply.want(near)
            seen = each(partial(_look, supply), planned)
            batch, outcomes = [p for p, _ in seen], [outcome for _, outcome in seen]
            tell(sum(p.factor_bytes for p in batch))
            while True:
                judged = judge(batch, outcomes, known)
                layout = lay_out(writer.commit, judged.accepted)
                try:
                    groups = list(layout.work.groups(room.group))
                    nbytes = sum(each(partial(fill, writer, layout.work, tell=tell), groups))
                    texts = keep_the_rest(writer, judged.accepted, judged.renewed)
                    break
                except SourceChanged as change:
                    # Whoever is gone may have been somebody's twin, and left rows behind: judge and fill again.
                    writer.forget()
                    outcomes[batch.index(change.planned)] = Refusal(Reason.CHANGED, str(change))
            fresh = [record_of(p, s, None) for p, s in judged.accepted]
            same = [record_of(p, s, None, status="renewed") for p, s in judged.renewed]
            if news := [*fresh, *same, *(r for r in judged.rejected if said(r) not in ledger)]:
                writer.save(layout.commit, news, layout.entries, texts)
            supply.release(batch)
            known = judged.known
            stored += fresh
            renewed += same
            refused += judged.rejected
            stored_bytes += nbytes
    old = {p.name for p in made.adapters if p.replaces is not None}
    return IngestResult(
        writer.path,
        writer.commit.version,
        writer.commit.base_model,
        tuple(r.name for r in stored if r.name not in old),
        tuple(r.name for r in stored if r.name in old),
        tuple(r.name for r in renewed),
        tuple(refused),
        made.known,
        stored_bytes,
        time.perf_counter() - begin,
    )


@contextlib.contextmanager
def _pool(threads: int, supply: Supply) -> Iterator[ThreadPoolExecutor]:
    """Threads for the batches; an interrupt does not wait for downloads that they wait for."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    except BaseException:
        supply.close()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


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
    """Adapters by commit, those that replace an older version first, so that its content is free for others.

    Every commit writes the last chunk of each array again, so it brings two chunks or more.
    """
    limit = max(BATCH_BYTES, 2 * sum(m.chunk_bytes for m in made.matrices))
    batch: list[PlannedAdapter] = []
    nbytes = staged = modules = 0
    for planned in sorted(made.adapters, key=lambda p: p.replaces is None):
        size, here = planned.factor_bytes, planned.staged_bytes
        full = nbytes + size > limit or staged + here > BATCH_BYTES or modules >= BATCH_MODULES
        if batch and full:
            yield batch
            batch, nbytes, staged, modules = [], 0, 0, 0
        batch.append(planned)
        nbytes += size
        staged += here
        modules += len(planned.adapter.modules)
    if batch:
        yield batch


def _look(supply: Supply, planned: PlannedAdapter) -> tuple[PlannedAdapter, Screened | Refusal]:
    """The adapter with its files at hand, and what screening found."""
    try:
        planned = supply.get(planned)
        return planned, screen(planned.adapter)
    except Refusal as refusal:
        return planned, refusal.bare()

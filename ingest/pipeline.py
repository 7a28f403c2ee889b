"""From a plan to rows in the store: parallel, in bounded memory, safe to kill and to run again.

Adapters are taken in batches, a commit each.  A batch is read twice: first to screen the values; then, when every row's
place is known, to fill whole chunks, a group of arrays side by side (`ingest.fill`), while full chunks are written
behind.  So memory is a matter of open chunks, whatever the number of adapters or layers; no chunk is written in parts
but the last of a batch; and a refused adapter leaves no rows behind.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

from ingest.errors import EigenzooError, Refusal
from ingest.fill import Piece, SourceChanged, Work, fill
from ingest.plan import Plan, PlannedAdapter, plan
from ingest.reasons import Reason
from ingest.safetensors_file import pack, read_bytes
from ingest.screen import Screened, screen
from ingest.spans import SPAN_BYTES
from ingest.store import catalog, schema
from ingest.store.catalog import AdapterRecord, ArrayRecord, Commit
from ingest.store.writer import WRITERS, ZooWriter

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEFAULT_MEMORY = 1 << 30
BATCH_BYTES = 512 << 20
BATCH_MODULES = 32_768
# Below this size of a tensor the interpreter's lock costs more than a second thread gains (measured: at 32 KiB two
# threads took 1.6 times as long as one).
THREADED_BYTES = 128 << 10


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
    room = _room(made, memory)
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
                    layout = _Layout(writer.commit, made, accepted)
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
            layout = _Layout(writer.commit, made, [])
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


@dataclass(frozen=True, slots=True)
class _Room:
    """How the memory is dealt out: threads, bytes of open chunks that each may hold, chunks waiting for the disk."""

    threads: int
    group: int
    behind: int


def _room(made: Plan, memory: int) -> _Room:
    """Deal out the memory.

    Each thread holds what it reads, as much again to look at it, and a group of open chunks.  Arrays of one width fill
    up together, so as many chunks again may be waiting to be written; those being written are copied once.
    """
    chunks = [m.chunk_bytes for m in made.matrices] or [0]
    layouts = {id(p.adapter.modules): p.adapter.modules for p in made.adapters}.values()
    tensors = [ref.nbytes for modules in layouts for m in modules for ref in (m.a, m.b)] or [0]
    read = 2 * max(SPAN_BYTES, *tensors)
    copies = WRITERS * max(chunks)
    least = read + copies + 3 * max(chunks)
    if memory < least:
        raise EigenzooError(
            f"ingest needs {-(-least // (1 << 20))} MiB for these adapters, allowed {memory >> 20} MiB; raise --memory"
        )
    threads = 1
    if sum(tensors) / len(tensors) >= THREADED_BYTES:
        threads = max(1, min((memory - copies) // (read + 3 * max(chunks)), os.cpu_count() or 1))
    room = (memory - copies) // threads - read
    # With several threads, half as large a group as could be, so that none idles while another ends.
    group = max(max(chunks), min(room // 2, -(-sum(chunks) // (2 * threads if threads > 1 else 1))))
    return _Room(threads, group, max(1, int(threads * (room - group) // max(max(chunks), 1))))


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


class _Layout:
    """Where a batch's rows go: the commit that it makes, its entries, and the chunks to be filled."""

    def __init__(self, before: Commit, made: Plan, accepted: Sequence[tuple[PlannedAdapter, Screened]]) -> None:
        import numpy as np

        layers = {r.layer: i for i, r in enumerate(before.layers)}
        records = list(before.layers)
        arrays = list(before.arrays)
        index = {(a.layer, a.side, a.dtype): i for i, a in enumerate(arrays)}
        planned_rows = {(m.layer, m.side, m.dtype): m.rows for m in made.matrices}
        ahead = [a.rows for a in arrays]
        first = sum(s.ok for s in before.segments)
        entries = np.zeros(sum(len(p.adapter.modules) for p, _ in accepted), catalog.entry_dtype())
        work: list[tuple[PlannedAdapter, list[Piece]]] = []
        n = 0
        for order, (planned, screened) in enumerate(accepted):
            pieces: list[Piece] = []
            for i, module in enumerate(planned.adapter.modules):
                if module.layer not in layers:
                    layers[module.layer] = len(records)
                    records.append(made.base.layers[module.layer])
                entry = entries[n]
                n += 1
                entry["adapter"], entry["layer"] = first + order, layers[module.layer]
                entry["rank"], entry["scale"] = module.rank, module.scale
                for side, (name, ref, width) in enumerate(
                    (("A", module.a, module.a_width), ("B", module.b, module.out))
                ):
                    key = (module.layer, name, ref.dtype)
                    if key not in index:
                        index[key] = len(arrays)
                        arrays.append(_new_array(*key, width, planned_rows[key], arrays))
                        ahead.append(0)
                    at = index[key]
                    pieces.append(Piece(at, ahead[at], module.rank, ref, side == 1, screened.raw[i][side]))
                    low = name.lower()
                    entry[f"{low}_array"], entry[f"{low}_start"] = at, ahead[at]
                    entry[f"{low}_digest"] = screened.canonical[i, side]
                    ahead[at] += module.rank
            work.append((planned, pieces))
        self.entries: NDArray[Any] = entries
        self.commit = Commit(
            before.version,
            before.base_model or made.base.name,
            tuple(sorted({*before.aliases, *made.base.aliases})),
            made.renames,
            tuple(records),
            tuple(dataclasses.replace(a, rows=r) for a, r in zip(arrays, ahead, strict=True)),
            before.segments,
        )
        committed = [a.rows for a in before.arrays]
        self.work = Work(work, self.commit.arrays, committed + [0] * (len(arrays) - len(committed)))


def _new_array(
    layer: str, side: str, dtype: str, width: int, planned_rows: int, arrays: Sequence[ArrayRecord]
) -> ArrayRecord:
    """The first dtype of a matrix takes the plain name; a further one says its own."""
    plain = not any(a.layer == layer and a.side == side for a in arrays)
    path = f"{schema.layer_path(layer)}/{side if plain else f'{side}-{dtype}'}"
    return ArrayRecord(path, layer, side, dtype, 0, width, schema.chunk_rows(width, dtype, planned_rows))

"""Is a zoo whole?  Every committed value is read again and held against its digest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingest.errors import EigenzooError
from ingest.screen import canonical_digest, extras_digest, is_finite
from ingest.storage import Unreadable
from ingest.store import schema
from ingest.store.catalog import AdapterRecord, ArrayRecord
from ingest.store.nodes import documents_of
from ingest.store.reader import Zoo
from ingest.store.root import Compacted, check_same, lost
from ingest.store.rows import read_array
from ingest.store.sweep import strays
from ingest.store.texts import extras_header

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where, and what."""

    where: str
    what: str


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """Problems found (none: the zoo is whole), and how much was looked at."""

    problems: tuple[Problem, ...]
    arrays: int
    adapters: int
    nbytes: int


def verify(zoo: Zoo, *, progress: Callable[[int, int], None] | None = None) -> VerifyResult:
    """Check a zoo against its commit record: catalogue, metadata, ranges, dtypes, orphan rows, values, stray files.

    Rows of removed and replaced adapters are checked like all others, as long as they are stored.  Stray files are
    looked for while nobody writes.

    Parameters
    ----------
    zoo : Zoo
    progress : callable, optional
        Called with (bytes read, bytes).

    Returns
    -------
    VerifyResult

    Raises
    ------
    Compacted
        If the zoo was compacted meanwhile: what this snapshot says of it is past.
    EigenzooError
        If another zoo lies there now, or the store is out of reach: nothing is known to be lost then.

    Notes
    -----
    Cost: one read of all rows, a few MiB at a time per thread.
    """
    import numpy as np

    commit = zoo.commit
    problems: list[Problem] = []
    check_same(zoo.storage, commit.uuid)
    try:
        accepted = len(zoo.stored)
        tables = list(zoo.entry_tables())
    except (Compacted, Unreadable):
        raise
    except (ValueError, EigenzooError) as error:
        return VerifyResult((Problem("catalog", str(error)),), 0, 0, 0)
    problems += catalogue_problems(zoo)
    counts = [sum(s.ok for s in commit.segments), sum(s.entries for s in commit.segments)]
    found = [accepted, sum(len(t) for t in tables)]
    if counts != found:
        problems.append(Problem("catalog", f"adapters and entries are {found}, the commit record says {counts}"))
    if problems:
        return VerifyResult(tuple(problems), len(commit.arrays), accepted, 0)
    by_array: dict[int, list[tuple[str, NDArray[Any]]]] = {}
    for table in tables:
        for side in ("a", "b"):
            for at in np.unique(table[f"{side}_array"]).tolist():
                by_array.setdefault(at, []).append((side, table[table[f"{side}_array"] == at]))
    total = sum(a.rows * a.width * schema.itemsize(a.dtype) for a in commit.arrays)
    done = 0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        jobs = [(zoo, array, by_array.get(i, [])) for i, array in enumerate(commit.arrays)]
        for (_, array, _), result in zip(jobs, pool.map(lambda job: list(_array(*job)), jobs), strict=True):
            problems += result
            done += array.rows * array.width * schema.itemsize(array.dtype)
            if progress is not None:
                progress(done, total)
        for found_there in pool.map(lambda stored: list(_extras(zoo, stored.record)), zoo.stored):
            problems += found_there
        for found_there in pool.map(lambda item: list(_document(zoo, *item)), documents_of(commit).items()):
            problems += found_there
    problems += _contents(zoo, tables)
    problems += (Problem(name, "belongs to no commit; remove it") for name in strays(zoo))
    return VerifyResult(tuple(problems), len(commit.arrays), accepted, total)


def catalogue_problems(zoo: Zoo) -> Iterator[Problem]:
    """Files of the catalogue that are not those that were committed."""
    for segment in zoo.commit.segments:
        for ending, digest in (("entries.npy", segment.entries_digest), ("texts.json", segment.texts_digest)):
            yield from _file(zoo, f"{segment.name}.{ending}", digest)


def _file(zoo: Zoo, name: str, digest: str) -> Iterator[Problem]:
    """What is wrong with a file of the catalogue."""
    found = hashlib.sha256()
    try:
        for part in zoo.storage.read_parts(name):
            found.update(part)
    except OSError as error:
        yield _lost(zoo, name, "", error)
        return
    if found.hexdigest() != digest:
        yield Problem(name, "is not the file that was committed; restore it from a copy")


def _extras(zoo: Zoo, record: AdapterRecord) -> Iterator[Problem]:
    """What is wrong with an adapter's tensors that are no factors."""
    if not record.extras:
        return
    name = schema.extras_name(record.name, record.kept)
    try:
        header = extras_header(zoo.storage, name)
        if extras_digest(zoo.storage.read_parts(name, header.data_start)) != record.extras:
            yield Problem(name, f"the other tensors of {record.name} are not those that were ingested")
    except (OSError, EigenzooError) as error:
        yield _lost(zoo, name, f"the other tensors of {record.name}: ", error)


def _lost(zoo: Zoo, name: str, what: str, error: Exception) -> Problem:
    """The problem of a file that cannot be read; raises Compacted if it is no longer to be there."""
    _raise_if_out_of_reach(zoo, error)
    return Problem(name, f"{what}cannot be read ({getattr(error, 'strerror', None) or error})")


def _raise_if_out_of_reach(zoo: Zoo, error: Exception) -> None:
    """Raise what is no fault of the zoo's: it was compacted, or cannot be reached."""
    if isinstance(error, Unreadable):
        raise error
    name = zoo.commit.segments[0].name if zoo.commit.segments else schema.ROOT
    if zoo.commit.segments and isinstance((found := lost(zoo.storage, name, "", error)), Compacted):
        raise found from error


def _contents(zoo: Zoo, tables: list[NDArray[Any]]) -> Iterator[Problem]:
    """Adapters whose entries do not come to the content that the ledger says."""
    import numpy as np

    if not tables:
        return
    entries = np.concatenate(tables)
    entries = entries[np.lexsort((entries["layer"], entries["adapter"]))]
    starts = np.searchsorted(entries["adapter"], np.arange(len(zoo.stored) + 1))
    for at, stored in enumerate(zoo.stored):
        mine = entries[starts[at] : starts[at + 1]]
        if stored.record.content and _content(zoo, mine) != stored.record.content:
            yield Problem("catalog", f"the entries of {stored.record.name} are not of the content that the ledger says")


def _content(zoo: Zoo, entries: NDArray[Any]) -> str:
    """The `ingest.screen.content_digest` of an adapter from its entries; its modules came by layer's name."""
    digest = hashlib.sha256()
    layers = zoo.commit.layers
    for entry in sorted(entries, key=lambda entry: layers[entry["layer"]].layer):
        la = layers[entry["layer"]]
        shape = f"{la.layer}\0{la.kind}\0{entry['rank']}\0{la.a_shape}\0{la.out}\0{float(entry['scale']).hex()}\0"
        digest.update(shape.encode("utf-8", "surrogatepass"))
        digest.update(entry["a_digest"].tobytes() + entry["b_digest"].tobytes())
    return digest.hexdigest()


def _array(zoo: Zoo, array: ArrayRecord, parts: list[tuple[str, NDArray[Any]]]) -> Iterator[Problem]:
    """What is wrong with one array."""
    import numpy as np

    side = array.side.lower()
    if not zoo.commit.codec:  # of the last chunk a reader, and the loop below, looks at the committed rows only
        yield from _short(zoo, array)
    if not parts:
        if array.rows:
            yield Problem(array.path, f"{array.rows} rows belong to no adapter")
        return
    entries = np.concatenate([table for key, table in parts if key == side])
    entries = entries[np.argsort(entries[f"{side}_start"], kind="stable")]
    starts, ranks = entries[f"{side}_start"], entries["rank"].astype(np.int64)
    ends = starts + ranks
    if (starts[1:] < ends[:-1]).any():
        yield Problem(array.path, "row ranges of two adapters overlap")
    if ends[-1] > array.rows or starts[0] < 0:
        yield Problem(array.path, f"a row range ends at {ends[-1]}, the array has {array.rows} rows")
        return
    if (orphans := array.rows - int(ranks.sum())) > 0:
        yield Problem(array.path, f"{orphans} rows belong to no adapter")
    live = np.array([s.live for s in zoo.stored])
    if (retired := int(ranks[~live[entries["adapter"]]].sum())) != array.retired:
        yield Problem(array.path, f"{retired} rows are retired, the commit record says {array.retired}")
    names = [s.record.name for s in zoo.stored]
    row = array.row_bytes
    position = 0
    while position < len(entries):
        end = int(np.searchsorted(ends, starts[position] + max(BLOCK_BYTES // row, ranks[position]), side="right"))
        end = max(end, position + 1)
        try:
            first, last = int(starts[position]), int(ends[end - 1])
            block = read_array(zoo.storage, array, zoo.commit.codec, first, last)
        except (Compacted, Unreadable):
            raise
        except EigenzooError as error:
            lost = [names[int(a)] for a in entries["adapter"][position:end]]
            shown = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
            yield Problem(array.path, f"values of {shown} are lost: {error}")
            position = end
            continue
        for entry in entries[position:end]:
            low = int(entry[f"{side}_start"] - starts[position])
            values = block[low : low + int(entry["rank"])]
            where = f"{array.path} rows {entry[f'{side}_start']}:{entry[f'{side}_start'] + entry['rank']}"
            name = names[int(entry["adapter"])]
            if not is_finite(values):
                yield Problem(where, f"non-finite values in {name}")
            original = np.ascontiguousarray(values.T if side == "b" else values)
            if canonical_digest(original) != entry[f"{side}_digest"].tobytes():
                yield Problem(where, f"values of {name} are not those that were ingested")
        position = end


def _short(zoo: Zoo, array: ArrayRecord) -> Iterator[Problem]:
    """Whether the last chunk, whose end holds no committed rows, is whole: other zarr readers want all of it."""
    if not array.chunks:
        return
    name = array.chunk_name(array.chunks - 1)
    try:
        size = zoo.storage.size(name)
    except Unreadable:
        raise
    except OSError:
        return  # reading its rows says it better
    if size != array.chunk_bytes:
        yield Problem(name, f"has {size} bytes of {array.chunk_bytes}")


def _document(zoo: Zoo, name: str, committed: bytes) -> Iterator[Problem]:
    """What is wrong with the metadata of a group or an array, which other zarr readers go by."""
    where = name.rpartition("/")[0]
    try:
        document = json.loads(zoo.storage.read(name))
    except (OSError, ValueError, RecursionError) as error:
        _raise_if_out_of_reach(zoo, error)
        yield Problem(where, f"its metadata cannot be read ({error})")
        return
    want = json.loads(committed)
    if not isinstance(document, dict):
        yield Problem(where, f"its metadata is {document!r:.40}")
        return
    for key in want:
        # A writer at work, or a killed one, may have written a larger shape; readers do not look at it.
        shape = document.get(key)
        rows_ahead = key == "shape" and isinstance(shape, list) and shape[1:] == want[key][1:] and shape > want[key]
        if shape != want[key] and not rows_ahead:
            yield Problem(where, f"its {key} is {shape!r:.200}, the commit record says {want[key]!r:.200}")

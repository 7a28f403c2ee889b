"""From sources to an exact layout: headers only, no tensor read, nothing written."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest import base as bases
from ingest import formats
from ingest.errors import EigenzooError, Refusal
from ingest.formats.options import Options
from ingest.names import Rename
from ingest.reasons import Reason
from ingest.sources import Source, find
from ingest.store import schema
from ingest.store.catalog import EMPTY, AdapterRecord, Commit
from ingest.store.reader import Zoo
from ingest.store.root import read_commit

if TYPE_CHECKING:
    from ingest.formats.adapter import LoraAdapter

# Refusals that took a look at the values; they stand for as long as the files are the same.
_BY_VALUES = frozenset({Reason.NON_FINITE, Reason.UNTRAINED})


@dataclass(frozen=True, slots=True)
class PlannedAdapter:
    """An adapter whose headers raise no objection."""

    name: str
    source: str
    adapter: LoraAdapter


@dataclass(frozen=True, slots=True)
class PlannedMatrix:
    """What the plan adds to one matrix in one dtype; ``chunk`` is the array's rows per chunk, present or to be."""

    layer: str
    side: str
    dtype: str
    rows: int
    width: int
    chunk: int

    @property
    def nbytes(self) -> int:
        """Bytes of the rows."""
        return self.rows * self.width * schema.itemsize(self.dtype)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk."""
        return self.chunk * self.width * schema.itemsize(self.dtype)


@dataclass(frozen=True, slots=True)
class Plan:
    """What an ingest will do.

    Attributes
    ----------
    zoo : str
        Its path.
    commit : Commit
        The zoo as it is (version 0 where there is none).
    base : Base
        The base model, its aliases, and every layer that the zoo will have.
    renames : tuple of str
        ``OLD=NEW`` pairs.
    adapters : tuple of PlannedAdapter
        In the order in which their rows are stored.
    refused : tuple of AdapterRecord
        Refused by what a header can show.
    known : int
        Adapters that the zoo holds already, unchanged.
    matrices : tuple of PlannedMatrix
        Exact rows and bytes, if no value raises an objection.
    """

    zoo: str
    commit: Commit
    base: bases.Base
    renames: tuple[str, ...]
    adapters: tuple[PlannedAdapter, ...]
    refused: tuple[AdapterRecord, ...]
    known: int
    matrices: tuple[PlannedMatrix, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows to be stored."""
        return sum(m.nbytes for m in self.matrices)


def plan(
    sources: Sequence[str | os.PathLike[str]],
    zoo: str | os.PathLike[str],
    *,
    base_model: str | None = None,
    aliases: Sequence[str] = (),
    renames: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Look at every source's headers and lay out the zoo.

    Parameters
    ----------
    sources : sequence of path-like
        See `ingest.sources.find`.
    zoo : path-like
        Where the zoo is or will be.
    base_model : str, optional
        The zoo's base; without it that of the largest group of sources that agree.
    aliases : sequence of str
        Other names of the base.
    renames : sequence of str
        ``OLD=NEW``: leading components of layer names to be replaced.
    progress : callable, optional
        Called with (sources looked at, sources).

    Returns
    -------
    Plan

    Raises
    ------
    EigenzooError
        If a source does not exist, a rename is malformed, or `base_model` contradicts the zoo's.

    Notes
    -----
    Cost: a stat and a header per source; adapters with equal headers share one parsed layout.
    """
    path = os.path.abspath(os.fspath(zoo))
    commit = read_commit(path) or EMPTY
    ledger = Zoo(path, commit).adapters
    rules = tuple(dict.fromkeys((*commit.renames, *renames)))
    known = bases.Base(commit.base_model, frozenset(commit.aliases), {r.layer: r for r in commit.layers})
    candidates = find(sources)
    _check_base(path, commit, base_model, known)

    done = {r.source: r for r in ledger if r.status == "ok"}
    standing = {r.source: r for r in ledger if r.status == "refused"}
    names = _Names({r.name for r in ledger})
    contents = {r.content for r in done.values()}
    parsed = _parse_all(candidates, done, standing, contents, Options(tuple(Rename.parse(r) for r in rules)), progress)

    chosen = bases.choose(
        [(a.base_model, a.modules) for a in parsed if not isinstance(a, Refusal | None)],
        base_model,
        frozenset(aliases),
        known if commit.version and (commit.layers or commit.base_model) else None,
    )
    adapters: list[PlannedAdapter] = []
    refused: list[AdapterRecord] = []
    unchanged = 0
    rows: Counter[tuple[str, str, str, int]] = Counter()
    for candidate, outcome in zip(candidates, parsed, strict=True):
        if outcome is None:
            unchanged += 1
            continue
        before = standing.get(candidate.location)
        name = before.name if before is not None else names.unique(candidate.name)
        if isinstance(outcome, Refusal):
            refused.append(_refused(name, candidate, outcome, None))
        elif (objection := chosen.objection(outcome.base_model, outcome.modules)) is not None:
            refused.append(_refused(name, candidate, Refusal(*objection), outcome))
        else:
            adapters.append(PlannedAdapter(name, candidate.location, outcome))
            for m in outcome.modules:
                rows[m.layer, "A", m.a.dtype, m.a_width] += m.rank
                rows[m.layer, "B", m.b.dtype, m.out] += m.rank
    chunks = {(a.layer, a.side, a.dtype): a.chunk for a in commit.arrays}
    matrices = tuple(
        PlannedMatrix(la, s, d, n, w, chunks.get((la, s, d)) or schema.chunk_rows(w, d, n))
        for (la, s, d, w), n in sorted(rows.items())
    )
    return Plan(path, commit, chosen, rules, tuple(adapters), tuple(refused), unchanged, matrices)


def _check_base(path: str, commit: Commit, base_model: str | None, known: bases.Base) -> None:
    if base_model is not None and commit.base_model is not None and not known.answers_to(base_model):
        raise EigenzooError(
            f"{path}: the zoo's base model is {commit.base_model}, not {base_model}; "
            "a zoo has one base: give another --zoo"
        )


def _parse_all(
    candidates: Sequence[Source],
    done: dict[str, AdapterRecord],
    standing: dict[str, AdapterRecord],
    contents: set[str],
    options: Options,
    progress: Callable[[int, int], None] | None,
) -> list[LoraAdapter | Refusal | None]:
    """Each candidate's parsed headers, or why not, or None where the zoo's ledger already has the answer."""

    def look(candidate: Source) -> LoraAdapter | Refusal | None:
        try:
            fingerprint = _fingerprint(candidate)
            if (record := done.get(candidate.location)) is not None:
                if record.fingerprint == fingerprint:
                    return None
                return Refusal(
                    Reason.CHANGED,
                    f"its files changed since {record.name} was ingested from there; ingest it from another folder",
                )
            record = standing.get(candidate.location)
            if record is not None and record.fingerprint == fingerprint and _stands(record, contents):
                return Refusal(Reason(record.reason), record.detail)
            # What a commit needs of the texts is read again then, so that a plan's size does not depend on them.
            return dataclasses.replace(formats.parse(candidate.files, options), config_text=None, metadata={})
        except Refusal as refusal:
            return refusal

    # One thread: a header takes 0.15 ms, and threads that hand the interpreter's lock around took three times that.
    out: list[LoraAdapter | Refusal | None] = []
    for candidate in candidates:
        out.append(look(candidate))
        if progress is not None and (len(out) % 64 == 0 or len(out) == len(candidates)):
            progress(len(out), len(candidates))
    return out


def _stands(record: AdapterRecord, contents: set[str]) -> bool:
    """Whether a refusal that took a look at the values holds for the same files: a twin only beside its original."""
    return record.reason in _BY_VALUES or (record.reason == Reason.DUPLICATE and record.content in contents)


def _fingerprint(candidate: Source) -> str:
    """The candidate's fingerprint; empty where a file is missing, which parsing will say better."""
    try:
        return formats.fingerprint(candidate.files)
    except Refusal:
        return ""


def _refused(name: str, candidate: Source, refusal: Refusal, adapter: LoraAdapter | None) -> AdapterRecord:
    return AdapterRecord(
        name=name,
        source=candidate.location,
        status="refused",
        reason=refusal.reason.value,
        detail=refusal.detail,
        format=adapter.format if adapter is not None else "",
        base_model=adapter.base_model if adapter is not None else None,
        fingerprint=_fingerprint(candidate),
    )


class _Names:
    """Names taken so far; a name that is taken gains ``~2``, ``~3``, …"""

    def __init__(self, taken: set[str]) -> None:
        self._taken = taken

    def unique(self, wanted: str) -> str:
        name, count = wanted, 1
        while name in self._taken:
            count += 1
            name = f"{wanted}~{count}"
        self._taken.add(name)
        return name

"""From sources to an exact layout: headers only, no factor read, nothing written but what the Hub's cache keeps."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from ingest import base as bases
from ingest import formats
from ingest.errors import EigenzooError, Refusal
from ingest.folders import Source
from ingest.planned import Plan, PlannedAdapter, PlannedMatrix
from ingest.records import Records, fingerprint_of, settled
from ingest.settings import DEFAULT, Settings
from ingest.sources import find
from ingest.storage import open_storage
from ingest.store import schema
from ingest.store.catalog import EMPTY, AdapterRecord
from ingest.store.reader import Zoo
from ingest.store.root import read_commit
from ingest.supply import Supply

if TYPE_CHECKING:
    from ingest.formats.adapter import LoraAdapter


def plan(
    sources: Sequence[str | os.PathLike[str]],
    zoo: str | os.PathLike[str],
    settings: Settings = DEFAULT,
    *,
    supply: Supply | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Look at every source's headers and lay out the zoo.

    Parameters
    ----------
    sources : sequence of path-like
        See `ingest.sources.find`.
    zoo : path-like
        Where the zoo is or will be: a folder, or an object store's URL.
    settings : Settings
    supply : Supply, optional
        Of the ingest that this plan is for; without it what has to be fetched to be looked at is forgotten again.
    progress : callable, optional
        Called with (sources looked at, sources).

    Returns
    -------
    Plan

    Raises
    ------
    EigenzooError
        If a source does not exist, a rename is malformed, or the base model contradicts the zoo's.

    Notes
    -----
    Cost: a stat and a header per local source; per repository on the Hub two requests, remembered by commit.  Adapters
    with equal headers share one parsed layout.
    """
    url = open_storage(zoo).url
    commit = read_commit(url) or EMPTY
    rules = tuple(dict.fromkeys((*commit.renames, *settings.renames)))
    options = settings.options(rules)
    if supply is None:
        with tempfile.TemporaryDirectory() as folder, Supply(os.path.join(folder, "staging"), options) as own:
            return plan(sources, zoo, settings, supply=own, progress=progress)
    known = None
    if any(segment.ok for segment in commit.segments):  # until somebody came in, nothing is decided
        known = bases.Base(commit.base_model, frozenset(commit.aliases), {r.layer: r for r in commit.layers})
        _check_base(url, known, settings.base_model)
    records = Records(Zoo(url, commit).adapters)
    candidates = find(sources, supply.hub, follow_links=settings.follow_links)
    parsed = _parse_all(candidates, records, options, settings, supply, progress)
    chosen = bases.choose(
        [(a.base_model, a.modules) for a in parsed if not isinstance(a, Refusal | None)],
        settings.base_model,
        frozenset(settings.aliases),
        known,
    )
    adapters: list[PlannedAdapter] = []
    refused: list[AdapterRecord] = []
    cleared: list[AdapterRecord] = []
    unchanged = 0
    rows: Counter[tuple[str, str, str, int]] = Counter()
    for candidate, outcome in zip(candidates, parsed, strict=True):
        if outcome is None:
            unchanged += 1
            if candidate.location in records.refused:  # a version that is gone again
                cleared.append(dataclasses.replace(records.live[candidate.location], status="renewed"))
            continue
        name = records.name(candidate)
        replaces = records.live.get(candidate.location)
        if isinstance(outcome, Refusal):
            if replaces is not None:
                outcome = Refusal(outcome.reason, f"{outcome.detail}; the version in the zoo stays")
            refused.append(_refused(name, candidate, outcome, None))
        elif (objection := chosen.objection(outcome.base_model, outcome.modules)) is not None:
            refused.append(_refused(name, candidate, Refusal(*objection), outcome))
        else:
            fingerprint = fingerprint_of(candidate)
            adapters.append(
                PlannedAdapter(name, candidate.location, outcome, fingerprint, candidate.candidate, replaces)
            )
            for m in outcome.modules:
                rows[m.layer, "A", m.a.dtype, m.a_width] += m.rank
                rows[m.layer, "B", m.b.dtype, m.out] += m.rank
    chunks = {(a.layer, a.side, a.dtype): a.chunk for a in commit.arrays}
    matrices = tuple(
        PlannedMatrix(la, s, d, n, w, chunks.get((la, s, d)) or schema.chunk_rows(w, d, n))
        for (la, s, d, w), n in sorted(rows.items())
    )
    news = tuple(r for r in refused if records.is_news(r))
    return Plan(
        url,
        commit,
        chosen,
        rules,
        settings.readmit,
        tuple(adapters),
        tuple(refused),
        (*news, *cleared),
        unchanged,
        matrices,
    )


def _check_base(path: str, known: bases.Base, base_model: str | None) -> None:
    if base_model is not None and known.name is not None and not known.answers_to(base_model):
        raise EigenzooError(
            f"{path}: the zoo's base model is {known.name}, not {base_model}; a zoo has one base: give another --zoo"
        )


def _parse_all(
    candidates: Sequence[Source],
    records: Records,
    options: formats.Options,
    settings: Settings,
    supply: Supply,
    progress: Callable[[int, int], None] | None,
) -> list[LoraAdapter | Refusal | None]:
    """Each candidate's parsed headers, or why not, or None where the zoo's ledger already has the answer."""
    answers = [settled(candidate, records, settings) for candidate in candidates]
    for source, (known, _) in zip(candidates, answers, strict=True):
        if known and source.candidate is not None:
            supply.drop(source.candidate)
    remote = [
        source.candidate
        for source, (known, _) in zip(candidates, answers, strict=True)
        if not known and source.candidate is not None
    ]
    looked: Iterator[LoraAdapter | Refusal] = supply.hub().look(remote) if remote else iter(())
    # One thread for local files: a header takes 0.15 ms, and threads that hand the interpreter's lock around took
    # three times that.
    out: list[LoraAdapter | Refusal | None] = []
    for source, (known, answer) in zip(candidates, answers, strict=True):
        if known:
            out.append(answer)
        else:
            found = next(looked) if source.candidate is not None else _parse(source, options)
            # What a commit needs of the texts is read again then, so that a plan's size does not depend on them.
            out.append(
                found if isinstance(found, Refusal) else dataclasses.replace(found, config_text=None, metadata={})
            )
        if progress is not None and (len(out) % 64 == 0 or len(out) == len(candidates)):
            progress(len(out), len(candidates))
    return out


def _parse(candidate: Source, options: formats.Options) -> LoraAdapter | Refusal:
    try:
        return formats.parse(candidate.files, options)
    except Refusal as refusal:
        return refusal.bare()


def _refused(name: str, candidate: Source, refusal: Refusal, adapter: LoraAdapter | None) -> AdapterRecord:
    remote = candidate.candidate.remote if candidate.candidate is not None else None
    return AdapterRecord(
        name=name,
        source=candidate.location,
        status="refused",
        reason=refusal.reason.value,
        detail=refusal.detail,
        format=adapter.format if adapter is not None else "",
        base_model=adapter.base_model if adapter is not None else None,
        revision=remote.revision if remote is not None else None,
        fingerprint=fingerprint_of(candidate),
    )

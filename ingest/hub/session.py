"""A session with the Hub: sources expanded, adapters described without a download, files fetched and checked."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from ingest.errors import EigenzooError, Refusal
from ingest.formats.adapter import AdapterFiles, LoraAdapter
from ingest.formats.options import Options
from ingest.formats.table import parse
from ingest.hub import local_cache
from ingest.hub.answers import Missing
from ingest.hub.calls import Calls
from ingest.hub.describing import describe
from ingest.hub.fetching import Fetcher
from ingest.hub.peek import Peeker
from ingest.hub.remote import Candidate, RemoteFiles
from ingest.hub.search import Search
from ingest.hub.spec import HubSpec, parse_spec
from ingest.reasons import Reason

_AHEAD = 4  # adapters looked at per thread before the first is taken


class HubSession:
    """One ingest's or one plan's dealings with the Hub.  A context manager; its methods may be called by threads.

    Parameters
    ----------
    staging
        The folder for downloads; None if nothing will be downloaded.
    options
        How adapters are parsed.
    keep
        Whether downloads go to huggingface_hub's cache and stay there.
    threads
        Calls at a time.

    Raises
    ------
    EigenzooError
        If huggingface_hub is not installed.
    """

    def __init__(self, staging: str | None, *, options: Options, keep: bool = False, threads: int = 8) -> None:
        try:
            self.calls = Calls()
        except ImportError as error:
            raise EigenzooError(
                f"sources on the Hub need huggingface_hub ({error}); pip install 'huggingface_hub>=1.2'"
            ) from error
        self._options, self._threads, self._keep = options, max(1, threads), keep
        self._peeker = Peeker(self.calls)
        self._search = Search(self.calls, self._peeker, self._threads, options)
        self._fetcher = Fetcher(self.calls, self._peeker, staging, keep)
        self._prepared: dict[HubSpec, list[Candidate]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all waiting; calls in other threads then fail.  To be called before such threads are joined."""
        self.calls.close()

    def prepare(self, sources: Sequence[str]) -> None:
        """Look up many named repositories at once, side by side, for `expand` to answer from.

        What is no named repository, or malformed, is left for `expand`.
        """
        specs: list[HubSpec] = []
        for source in sources:
            with contextlib.suppress(EigenzooError):
                spec = parse_spec(source)
                if spec.kind == "repo" and spec not in self._prepared:
                    specs.append(spec)
        specs = list(dict.fromkeys(specs))
        self._prepared.update(zip(specs, self._search.named(specs), strict=True))

    def expand(self, source: str) -> list[Candidate]:
        """The candidates of one source.

        Parameters
        ----------
        source
            See `ingest.hub.spec`.

        Returns
        -------
        list of Candidate
            A named repository that cannot be had is a candidate with a refusal; in a user's, a base's or a
            collection's repositories those without any adapter are passed over.

        Raises
        ------
        EigenzooError
            If the source is malformed, a list cannot be had or holds no adapter, the token is rejected, or nothing
            answers.

        Notes
        -----
        Cost: a user or base, one API call per 1,000 repositories; a named PEFT repository, two resolver calls (one
        where its commit was seen before), others one of each kind; many names at once: see `prepare`.
        """
        spec = parse_spec(source)
        if spec.kind != "repo":
            return self._search.bulk(spec)
        self.prepare([source])
        return self._prepared[spec]

    def look(
        self, candidates: Sequence[Candidate], progress: Callable[[int, int], None] | None = None
    ) -> Iterator[LoraAdapter | Refusal]:
        """Describe candidates from their configurations and headers, in their order.

        Parameters
        ----------
        candidates
            As expanded.
        progress
            Called with (adapters looked at, adapters).

        Yields
        ------
        LoraAdapter or Refusal
            The adapter's fingerprint is the remote one's. A scale that is a tensor's value is NaN.

        Raises
        ------
        EigenzooError
            See `expand`.

        Notes
        -----
        Cost: two resolver calls each, one where the configuration is a reason to refuse it, none where the commit
        was looked at before; a third for a header beyond 100 kB, and for a card that alone could name the base.
        Pickles, where allowed, are downloaded.
        """
        pool = ThreadPoolExecutor(self._threads)
        pending: deque[Future[LoraAdapter | Refusal]] = deque()
        try:
            for at, candidate in enumerate(candidates):
                pending.append(pool.submit(self._look, candidate))
                if len(pending) == self._threads * _AHEAD:
                    yield pending.popleft().result()
                    if progress is not None:
                        progress(at + 1 - len(pending), len(candidates))
            while pending:
                yield pending.popleft().result()
                if progress is not None:
                    progress(len(candidates) - len(pending), len(candidates))
        except KeyboardInterrupt:
            self.close()  # else the pool would wait as long as the Hub's limits ask for
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def fetch(self, candidate: Candidate) -> AdapterFiles:
        """Bring an adapter's files here, every one checked against the hash that the Hub states.

        Files that are here already, whole, are not fetched again: from an earlier call, from a session that was
        killed, in huggingface_hub's cache.

        Returns
        -------
        AdapterFiles
            Local paths; `discard` removes what was fetched for it.

        Raises
        ------
        Refusal
            The candidate's own, `not-found`, `gated`, `unavailable` or `wrong-bytes`.
        EigenzooError
            If the files cannot be written, the token is rejected, or nothing answers.

        Notes
        -----
        Cost: one resolver call for the weights and one for the card; with `keep` another for each file.
        """
        if candidate.refusal is not None:
            raise Refusal(candidate.refusal.reason, candidate.refusal.detail)  # the kept one gets no traceback
        if candidate.remote is None:
            raise Refusal(Reason.NOT_FOUND, f"{candidate.location} has no files")
        snapshot = self._snapshot(candidate.remote)
        if snapshot is not None:
            return self._fetcher.local(candidate.remote, snapshot)
        found = self._fetcher.fetch(candidate.remote)
        ref = self._search.refs.get((candidate.remote.repo, candidate.remote.revision))
        if self._keep and ref is not None:
            local_cache.point(candidate.remote, ref)
        return found

    def discard(self, candidate: Candidate) -> None:
        """Remove what `fetch` brought for a candidate; what is in huggingface_hub's cache stays."""
        if candidate.remote is not None:
            self._fetcher.discard(candidate.remote)

    def clean(self) -> None:
        """Remove the partial files that a killed session left in the staging folder."""
        self._fetcher.clean()

    def _snapshot(self, remote: RemoteFiles) -> str | None:
        """The folder of the repository's files when offline."""
        if not local_cache.is_offline():
            return None
        folder = self._search.snapshots.get((remote.repo, remote.revision))
        found = folder or (local_cache.snapshot(remote.repo, remote.revision) or ("", None))[1]
        if found is None:
            raise Refusal(
                Reason.UNAVAILABLE, f"{remote.repo} is not in the Hub's cache and HF_HUB_OFFLINE is set; unset it"
            )
        return found

    def _look(self, candidate: Candidate) -> LoraAdapter | Refusal:
        remote = candidate.remote
        if candidate.refusal is not None:
            return candidate.refusal
        try:
            if remote is None:
                raise Refusal(Reason.NOT_FOUND, f"{candidate.location} has no files")
            if local_cache.is_offline():
                return self._parsed(candidate, remote)
            card = self._search.cards.get((remote.repo, remote.revision))
            found = describe(remote, self._peeker, self._options, card)
            return found if found is not None else self._parsed(candidate, remote)
        except Missing as missing:
            return Refusal(Reason.NOT_FOUND, f"{missing}: no such file there any more; run again")
        except Refusal as refusal:
            return refusal.bare()

    def _parsed(self, candidate: Candidate, remote: RemoteFiles) -> LoraAdapter:
        """The adapter by its local files."""
        files = self.fetch(candidate)
        try:
            found = parse(files, self._options)
        except Refusal:
            self.discard(candidate)
            raise
        return dataclasses.replace(found, fingerprint=remote.fingerprint)

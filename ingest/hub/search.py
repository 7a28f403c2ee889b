"""From sources on the Hub to candidates, with as few calls as they can be had by.

A named PEFT repository costs two resolver calls and none to the API: the request for its configuration tells the
commit, that for the header whether the weights are there, and both stay in the cache of pieces.  Only where there is no
configuration, the API has to list the files.  Many names of one author are looked up in a listing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from ingest.errors import EigenzooError, Refusal
from ingest.formats.card import CARD, LICENCES, Card
from ingest.formats.lora_config import read_config
from ingest.formats.options import Options
from ingest.hub import listing, local_cache, pieces
from ingest.hub.answers import COMMIT, Missing
from ingest.hub.calls import Calls
from ingest.hub.listing import Repository
from ingest.hub.peek import Peeker
from ingest.hub.remote import Candidate, RemoteFiles, located
from ingest.hub.selection import candidates
from ingest.hub.spec import HubSpec
from ingest.reasons import Reason
from ingest.selection import CONFIG, PEFT_WEIGHTS

WORTH_LISTING = 8
"""Names of one author from which on a page of the author's listing is cheaper than asking for each."""


class Search:
    """Finds candidates and remembers what the listings say of their cards.

    Attributes
    ----------
    cards
        (repository, commit) → what its card states, as far as a listing told.
    snapshots
        The same → the local folder of its files; only when offline.
    refs
        The same → the branch or tag by which it was found.
    """

    def __init__(self, calls: Calls, peeker: Peeker, threads: int, options: Options) -> None:
        self._calls, self._peeker, self._threads, self._options = calls, peeker, threads, options
        self.cards: dict[tuple[str, str], Card] = {}
        self.snapshots: dict[tuple[str, str], str] = {}
        self.refs: dict[tuple[str, str], str] = {}

    def bulk(self, spec: HubSpec) -> list[Candidate]:
        """The candidates of a user, a base or a collection; repositories without any are passed over.

        Raises
        ------
        EigenzooError
            If the list cannot be had or holds no candidate.
        """
        if local_cache.is_offline():
            raise EigenzooError(f"hub:{spec.name}: cannot be listed offline; unset HF_HUB_OFFLINE or name repositories")
        if spec.kind == "collection":
            names = [HubSpec("repo", name) for name in listing.collected(self._calls, spec.name)]
            count = len(names)
            groups: Iterable[list[Candidate]] = self._look_up(names)
        else:
            repositories = list(listing.listed(self._calls, spec))
            count = len(repositories)
            groups = (self._of(repository) for repository in repositories)
        found = [candidate for group in groups for candidate in group]
        if not found:
            raise EigenzooError(
                f"hub:{spec.name}: none of its {count} repositories holds an adapter; check the name"
                if count
                else f"hub:{spec.name}: no repository there; check the name"
            )
        return found

    def named(self, specs: Sequence[HubSpec]) -> list[list[Candidate]]:
        """The candidates of each named repository: one or more, or one with a refusal."""
        return [
            found or [_nothing(spec.name, spec.folder)] for spec, found in zip(specs, self._look_up(specs), strict=True)
        ]

    def _look_up(self, specs: Sequence[HubSpec]) -> list[list[Candidate]]:
        if local_cache.is_offline():
            return [self._offline(spec) for spec in specs]
        listed = self._by_author(specs)
        known = [listed.get(spec.name) if spec.revision is None else None for spec in specs]
        with ThreadPoolExecutor(self._threads) as pool:
            try:
                return list(pool.map(self._one, specs, known))
            except KeyboardInterrupt:
                self._calls.close()  # else the pool would wait as long as the Hub's limits ask for
                raise

    def _by_author(self, specs: Sequence[HubSpec]) -> dict[str, Repository]:
        authors: defaultdict[str, set[str]] = defaultdict(set)
        for spec in specs:
            if spec.revision is None:
                authors[spec.name.partition("/")[0]].add(spec.name)
        out: dict[str, Repository] = {}
        for author, names in authors.items():
            if len(names) >= WORTH_LISTING:
                try:
                    out.update(listing.some_of(self._calls, author, names, len(names) // WORTH_LISTING))
                except Refusal:
                    continue  # asking for each will say what is wrong
        return out

    def _one(self, spec: HubSpec, repository: Repository | None) -> list[Candidate]:
        try:
            if repository is None:
                found = self._probe(spec)
                if found is not None:
                    return [found]
                repository = listing.one(self._calls, spec.name, spec.revision or "main")
            return self._of(repository, spec.folder, spec.revision or "main")
        except Refusal as refusal:
            return [_refused(spec, refusal.bare())]
        except Missing:
            return [_refused(spec, Refusal(Reason.NOT_FOUND, f"{spec.name}: no such repository on the Hub"))]

    def _of(self, repository: Repository, folder: str = "", ref: str = "main") -> list[Candidate]:
        """The candidates of a listed repository."""
        self._note(repository.name, repository.commit, ref)
        self.cards[repository.name, repository.commit] = repository.card
        found = candidates(repository.name, repository.commit, repository.paths, folder)
        if not repository.gated or self._calls.authorized:
            return found
        refusal = Refusal(
            Reason.GATED,
            f"{repository.name} is not given to everybody; ask at {self._calls.endpoint}/{repository.name}, "
            "then log in (hf auth login) or set HF_TOKEN",
        )
        return [Candidate(c.location, c.name, c.remote, c.refusal or refusal) for c in found]

    def _probe(self, spec: HubSpec) -> Candidate | None:
        """The adapter at the place of a PEFT adapter, None if there is none; two resolver calls."""
        config = f"{spec.folder}/{CONFIG}" if spec.folder else CONFIG
        weights = config.removesuffix(CONFIG) + PEFT_WEIGHTS[0]
        repo, commit = spec.name, spec.revision or "main"
        try:
            local = pieces.kept(repo, commit, config, CONFIG) if COMMIT.fullmatch(commit) else None
            if local is None:
                data, told = self._peeker.small_at(repo, commit, config)
                if told.commit is None:
                    return None
                repo, commit = told.repo or repo, told.commit
                local = pieces.put(pieces.path_of(repo, commit, config, CONFIG), data)
            self._note(repo, commit, spec.revision or "main")
            remote = RemoteFiles(repo, commit, weights, config, CARD, LICENCES[0])
            name = f"{repo}/{spec.folder}" if spec.folder else repo
            try:
                read_config(local, self._options)  # what it forbids needs no weights
                self._peeker.header(remote)
            except Refusal as refusal:
                return Candidate(remote.location, name, remote, refusal.bare())
        except Missing:
            return None
        return Candidate(remote.location, name, remote)

    def _note(self, repo: str, commit: str, ref: str) -> None:
        if not COMMIT.fullmatch(ref):
            self.refs[repo, commit] = ref

    def _offline(self, spec: HubSpec) -> list[Candidate]:
        """The candidates of a repository in the Hub's cache."""
        found = local_cache.snapshot(spec.name, spec.revision)
        if found is None:
            refusal = Refusal(
                Reason.UNAVAILABLE, f"{spec.name} is not in the Hub's cache and HF_HUB_OFFLINE is set; unset it"
            )
            return [_refused(spec, refusal)]
        commit, folder = found
        self.snapshots[spec.name, commit] = folder
        return candidates(spec.name, commit, local_cache.files_below(folder), spec.folder)


def _refused(spec: HubSpec, refusal: Refusal) -> Candidate:
    name = f"{spec.name}/{spec.folder}" if spec.folder else spec.name
    return Candidate(located(spec.name, spec.folder), name, None, refusal)


def _nothing(repo: str, folder: str) -> Candidate:
    where = f"{repo}/{folder}" if folder else repo
    return Candidate(
        located(repo, folder),
        where,
        None,
        Refusal(Reason.NO_WEIGHTS, f"{where} has no adapter: no {CONFIG} with weights, no LoRA in safetensors"),
    )

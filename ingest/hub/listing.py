"""Repositories by the Hub's API: a user's, an author's named ones, a base's adapters, a collection's, one by name."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ingest.errors import EigenzooError, Refusal
from ingest.formats.card import Card
from ingest.hub.answers import COMMIT
from ingest.hub.calls import Calls
from ingest.hub.paging import json_of, pages
from ingest.hub.spec import HubSpec, is_repo
from ingest.reasons import Reason

PAGE = 1000
_FIELDS = ("sha", "siblings", "gated", "cardData")
_LONGEST = 80


@dataclass(frozen=True, slots=True)
class Repository:
    """What one call tells of a repository.

    Attributes
    ----------
    name
        ORG/NAME.
    commit
        The commit that the paths are those of.
    paths
        All its files, as the Hub spells them: not yet checked.
    gated
        Whether its owner grants access on request.
    card
        What its card states.
    """

    name: str
    commit: str
    paths: tuple[str, ...]
    gated: bool
    card: Card


def listed(calls: Calls, spec: HubSpec) -> Iterator[Repository]:
    """The repositories of a user, or the adapters of a base; a call per 1,000.

    Raises
    ------
    EigenzooError
        If the listing cannot be had: half of it would pass for all.
    """
    if spec.kind == "user":
        what, query = f"the list of {spec.name}'s repositories", {"author": spec.name}
    else:
        what, query = f"the list of {spec.name}'s adapters", {"filter": f"base_model:adapter:{spec.name}"}
    try:
        for page in _pages(calls, query, what):
            yield from page
    except Refusal as refusal:
        raise EigenzooError(refusal.detail) from refusal


def some_of(calls: Calls, author: str, names: Collection[str], most: int) -> dict[str, Repository]:
    """Those of an author's repositories that are named, as far as the first pages show them."""
    out: dict[str, Repository] = {}
    for number, page in enumerate(_pages(calls, {"author": author}, f"the list of {author}'s repositories"), 1):
        out.update((r.name, r) for r in page if r.name in names)
        if len(out) == len(names) or number == most:
            break
    return out


def collected(calls: Calls, slug: str) -> list[str]:
    """The names of a collection's models, in its order.

    Raises
    ------
    EigenzooError
        If the collection cannot be had.
    """
    what = f"the collection {slug}"
    try:
        found = json_of(calls, f"/api/collections/{slug}", what=what)
    except Refusal as refusal:
        if refusal.reason is Reason.NOT_FOUND:
            raise EigenzooError(f"{what}: there is none on the Hub, or it is private; check its name") from refusal
        raise EigenzooError(refusal.detail) from refusal
    items = found.get("items") if isinstance(found, dict) else None
    names = [item.get("id") for item in items or () if isinstance(item, dict) and item.get("type") == "model"]
    return [name for name in names if isinstance(name, str) and is_repo(name)]


def one(calls: Calls, name: str, revision: str) -> Repository:
    """A repository by its name, today's or an older one.

    Raises
    ------
    Refusal
        `not-found`, `unavailable`, or as `Calls.get` says.
    """
    path = f"/api/models/{name}/revision/{quote(revision, safe='')}"
    found = json_of(calls, path, {"expand": list(_FIELDS)}, what=name)
    repository = _repository(found)
    if repository is None:
        raise Refusal(Reason.UNAVAILABLE, f"{name}: the Hub names no commit for it; try again later")
    return repository


def _pages(calls: Calls, query: dict[str, str], what: str) -> Iterator[list[Repository]]:
    params = {**query, "limit": PAGE, "expand": list(_FIELDS)}
    for page in pages(calls, "/api/models", params, what=what):
        yield [found for found in map(_repository, page) if found is not None]


def _repository(item: Any) -> Repository | None:
    """One item of a listing; None if it has no commit yet, or is not what an item should be."""
    if not isinstance(item, dict):
        return None
    name, commit, siblings = item.get("id"), item.get("sha"), item.get("siblings")
    if not (isinstance(name, str) and is_repo(name) and isinstance(commit, str) and COMMIT.fullmatch(commit)):
        return None
    paths = [s.get("rfilename") for s in siblings if isinstance(s, dict)] if isinstance(siblings, list) else []
    return Repository(
        name,
        commit,
        tuple(p for p in paths if isinstance(p, str)),
        bool(item.get("gated")),
        _card(item.get("cardData")),
    )


def _card(data: Any) -> Card:
    """As `read_card` reads the same fields from the card itself."""
    fields = data if isinstance(data, dict) else {}
    licence = _first(fields.get("license"))
    if licence in ("other", "unknown"):
        licence = _first(fields.get("license_name")) or licence
    return Card(licence, _first(fields.get("base_model")))


def _first(value: Any) -> str | None:
    if isinstance(value, list):
        value = value[0] if value else None
    return value[:_LONGEST] if isinstance(value, str) and value.isprintable() and value else None

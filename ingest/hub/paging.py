"""What the Hub's API answers in JSON: one answer, or the pages of a listing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from ingest.errors import EigenzooError, Refusal
from ingest.hub.answers import read_at_most
from ingest.hub.calls import Again, Calls
from ingest.reasons import Reason

MOST_JSON = 64 << 20
"""Bytes of one answer, at most."""
_FEWER = 10  # times fewer items are asked for where a page was larger


class _TooLong(Exception):
    """The answer is longer than `MOST_JSON`."""


def json_of(calls: Calls, path: str, params: Mapping[str, Any] | None = None, *, what: str) -> Any:
    """The JSON that an API address gives; errors as for `Calls.get`."""
    try:
        return _answer(calls, f"{calls.endpoint}{path}", params, what)[0]
    except _TooLong as error:
        raise _refusal(what) from error


def pages(calls: Calls, path: str, params: Mapping[str, Any], *, what: str) -> Iterator[list[Any]]:
    """The pages of a listing, each asked for when it is wanted; errors as for `Calls.get`.

    Parameters
    ----------
    calls
        The session's.
    path
        Of the API.
    params
        Of the query; ``limit`` is the items of a page, fewer where so many are longer than `MOST_JSON`.
    what
        The list, for messages.
    """
    from huggingface_hub.utils import fix_hf_endpoint_in_url

    limit = int(params["limit"])
    link: str | None = f"{calls.endpoint}{path}?{urlencode(params, doseq=True)}"
    seen: set[str] = set()
    while link and link not in seen:
        seen.add(link)
        try:
            items, after = _answer(calls, link, None, what)
        except _TooLong as error:
            if limit == 1:
                raise _refusal(what) from error
            limit = max(1, limit // _FEWER)
            link = _with_limit(link, limit)
            continue
        yield items if isinstance(items, list) else []
        link = after and fix_hf_endpoint_in_url(after, calls.endpoint)
        if link and urlsplit(link)[:2] != urlsplit(calls.endpoint)[:2]:
            raise EigenzooError(f"{what}: the next page is said to be at {link[:100]}, which is not the Hub")


def _answer(calls: Calls, url: str, params: Mapping[str, Any] | None, what: str) -> tuple[Any, str | None]:
    """The JSON at an address, and the address of the next page."""

    def read(response: Any) -> tuple[Any, str | None]:
        raw = read_at_most(calls.parts(response), MOST_JSON + 1)
        if len(raw) > MOST_JSON:
            raise _TooLong
        try:
            return json.loads(raw), response.links.get("next", {}).get("url")
        except (ValueError, RecursionError) as error:
            raise Again(f"it sent no JSON ({error})") from error

    return calls.get(url, read, what=what, params=params)


def _with_limit(link: str, limit: int) -> str:
    url = urlsplit(link)
    query = [(key, value) for key, value in parse_qsl(url.query) if key != "limit"]
    return urlunsplit(url._replace(query=urlencode([*query, ("limit", limit)])))


def _refusal(what: str) -> Refusal:
    return Refusal(Reason.UNAVAILABLE, f"{what}: the Hub's answer is longer than {MOST_JSON} bytes; try again later")

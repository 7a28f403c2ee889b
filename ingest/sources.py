"""Where adapters are: folders at any depth, globs, single files, the Hugging Face Hub, text files of all these."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest.errors import EigenzooError
from ingest.folders import Source, checked, single, walk
from ingest.formats.adapter import AdapterFiles
from ingest.hub.spec import is_hub
from ingest.selection import CONFIG, WEIGHTS

if TYPE_CHECKING:
    from ingest.hub.session import HubSession

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
_KINDS = "a folder, a file, a glob, a text file of sources, ORG/NAME on the Hub or hub:USER"


def find(
    sources: Sequence[str | os.PathLike[str]],
    hub: Callable[[], HubSession],
    *,
    follow_links: bool = False,
) -> list[Source]:
    """All candidates of the given sources, in a fixed order, each file once.

    Parameters
    ----------
    sources : sequence of path-like
        Folders (searched at any depth), weight files, globs, names on the Hub (see `ingest.hub.spec`), or text files
        with one source a line (``#`` begins a comment; relative lines start at the text file's folder).
    hub : callable
        Gives the session with the Hub; called only if a source is there.
    follow_links : bool
        Whether links that lead out of a source folder are followed.

    Returns
    -------
    list of Source
        In the order of `sources`, and of path below each.

    Raises
    ------
    EigenzooError
        If a source does not exist or holds no candidate.
    """
    if not sources:
        raise EigenzooError(f"no source given; give {_KINDS}")
    finder = _Finder(follow_links)
    found = [one for source in sources for one in finder.expand(os.fspath(source), ())]
    named = [one for one in found if isinstance(one, _OnHub)]
    if named:
        hub().prepare([one.source for one in named])  # many names take fewer calls together
    out: dict[str, Source] = {}
    for one in found:
        for candidate in _expanded(one, hub()) if isinstance(one, _OnHub) else (one,):
            first = out.setdefault(candidate.identity, candidate)
            _check_revision(first, candidate)
            if first.refusal is not None and candidate.refusal is None:  # such as a link that another source resolves
                out[candidate.identity] = candidate
    return list(out.values())


def _check_revision(first: Source, again: Source) -> None:
    revisions = [s.candidate.remote.revision for s in (first, again) if s.candidate and s.candidate.remote]
    if len(set(revisions)) > 1:
        raise EigenzooError(
            f"{first.location} is given at two revisions ({revisions[0][:12]}, {revisions[1][:12]}); "
            "a zoo holds one: leave one out"
        )


@dataclass(frozen=True, slots=True)
class _OnHub:
    """A source on the Hub, and where a text file named it."""

    source: str
    where: str


def _expanded(named: _OnHub, session: HubSession) -> Iterator[Source]:
    try:
        candidates = session.expand(named.source)
    except EigenzooError as error:
        raise EigenzooError(f"{named.where}{error}") from error
    for candidate in candidates:
        weights = candidate.remote.weights if candidate.remote is not None else ""
        files = AdapterFiles(candidate.location, weights, None)
        yield Source(candidate.location, candidate.name, files, candidate, candidate.refusal)


class _Finder:
    def __init__(self, follow_links: bool) -> None:
        self._follow = follow_links

    def expand(
        self, source: str, lists: tuple[str, ...], written: str = "", where: str = ""
    ) -> Iterator[Source | _OnHub]:
        """The candidates of one source.

        `written` is how a text file put it, before its folder came in front; `where` is the file and line.
        """
        name = written or source
        if not source.strip():
            raise EigenzooError(f"a source is empty; give {_KINDS}")
        if _URL.match(name) and not is_hub(name):
            raise EigenzooError(f"{name}: a source cannot be a URL; give {_KINDS}")
        if "\0" in source:
            raise EigenzooError(f"{source!r}: no path has a NUL; give {_KINDS}")
        if name.startswith("hub:"):
            yield _OnHub(name, where)
        elif os.path.isdir(source):
            top = os.path.abspath(source)
            yield from _some(walk(top, top, self._follow), source)
        elif os.path.isfile(source):
            if os.path.basename(source) == CONFIG:
                raise EigenzooError(f"{source}: is an adapter's configuration; give its folder")
            if source.endswith(WEIGHTS):
                path = os.path.abspath(source)
                yield single(path, os.path.splitext(os.path.basename(path))[0])
            else:
                yield from self._list(os.path.abspath(source), lists)
        elif glob.has_magic(source):
            matches = _glob(os.path.abspath(os.path.expanduser(source)))
            if not matches:
                raise EigenzooError(f"{source}: the pattern matches nothing; check it, and quote it for the shell")
            root = os.path.commonpath([os.path.dirname(m) for m in matches])
            yield from _some((s for match in matches for s in self._named(match, root)), source)
        elif is_hub(name) and not os.path.lexists(source):
            yield _OnHub(name, where)
        elif os.path.lexists(source):
            raise EigenzooError(f"{source}: is neither a folder nor a regular file; give {_KINDS}")
        else:
            raise EigenzooError(f"{source}: no such file or folder; give {_KINDS}")

    def _named(self, path: str, root: str) -> Iterator[Source]:
        if os.path.isdir(path):
            yield from walk(path, root, self._follow)
        elif path.endswith(WEIGHTS):
            source = single(path, os.path.splitext(os.path.relpath(path, root))[0].replace(os.sep, "/"))
            yield source if self._follow else checked(source, os.path.realpath(root))

    def _list(self, path: str, lists: tuple[str, ...]) -> Iterator[Source | _OnHub]:
        if path in lists:
            raise EigenzooError(f"{path}: the list names itself; remove that line")
        try:
            with open(path, encoding="utf-8") as file:
                lines = [line.split("#", 1)[0].strip() for line in file]
        except (UnicodeDecodeError, OSError) as error:
            raise EigenzooError(f"{path}: neither an adapter nor a text file of sources ({error})") from error
        if not any(lines):
            raise EigenzooError(f"{path}: names no source; give it one a line")
        for number, line in enumerate(lines, 1):
            if line:
                where = f"{path}, line {number}: "
                try:
                    here = os.path.join(os.path.dirname(path), os.path.expanduser(line))
                    yield from self.expand(here, (*lists, path), line, where)
                except EigenzooError as error:
                    raise EigenzooError(f"{where}{error}") from error


def _some(candidates: Iterator[Source], source: str) -> Iterator[Source]:
    found = list(candidates)
    if not found:
        raise EigenzooError(f"{source}: no adapter in it or below (no {CONFIG}, no .safetensors); check the path")
    return iter(found)


def _glob(pattern: str) -> list[str]:
    """What a pattern matches, in order.  ``**`` is followed into each real folder once: links may go in circles."""
    head, star, tail = pattern.partition(f"{os.sep}**")
    if not star:
        return sorted(glob.glob(pattern))
    out: set[str] = set()
    for root in glob.glob(head) if glob.has_magic(head) else [head]:
        visited: set[str] = set()
        for folder, folders, _ in os.walk(root, followlinks=True):
            real = os.path.realpath(folder)
            if real in visited:
                folders.clear()
                continue
            visited.add(real)
            out.update(glob.glob(f"{glob.escape(folder)}{tail}".replace("**", "*")) if tail else [folder])
    return sorted(out)

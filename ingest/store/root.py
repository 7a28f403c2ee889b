"""The root document: which commit is a zoo's last."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from ingest.errors import EigenzooError
from ingest.storage import Storage, is_remote, open_storage
from ingest.storage.protocol import checked
from ingest.store import schema
from ingest.store.catalog import Commit
from ingest.store.chunks import CODECS
from ingest.store.nodes import nodes_of

LOOK_SECONDS = 30.0
"""How long a zoo in an object store is taken for the one that its root said it was."""

_LARGEST = 2**63  # bytes of an array, and any number
_MOST_CHUNKS = 2**26  # 16 TiB of the smallest ones; their names are listed
_seen: dict[tuple[str, str], object] = {}  # (URL, uuid) → the root in which it was seen, or when


class Compacted(EigenzooError):
    """A snapshot's files are gone, because the zoo was compacted since it was opened."""


def read_commit(zoo: str | Storage) -> Commit | None:
    """The commit record of a zoo, by path, URL or storage; None where there is no zoo.

    Raises
    ------
    EigenzooError
        If something else than a zoo lies there, or it cannot be read.
    """
    commit = read_root(open_storage(zoo) if isinstance(zoo, str) else zoo)[0]
    return commit if commit is not None and commit.version else None


def read_root(storage: Storage) -> tuple[Commit | None, str | None]:
    """The commit record and the root document's version token; errors as for `read_commit`."""
    url = storage.url
    try:
        data, token = storage.read_versioned(schema.ROOT)
        document = json.loads(data)
        record = document["attributes"]["eigenzoo"]
        known = record["format"]
    except FileNotFoundError:
        return None, None
    except NotADirectoryError as error:
        raise EigenzooError(f"{url}: is a file, not a zoo; give a folder") from error
    except EigenzooError:
        raise
    except OSError as error:
        raise EigenzooError(
            f"{url}: its {schema.ROOT} cannot be read ({error.strerror or error}); see to that"
        ) from error
    except (ValueError, RecursionError) as error:
        raise EigenzooError(f"{url}: its {schema.ROOT} is damaged ({error}); restore it from a copy") from error
    except (KeyError, TypeError) as error:
        raise EigenzooError(f"{url}: a zarr store, but no zoo of this program's; give another path") from error
    if known != schema.FORMAT:
        older = isinstance(known, int) and known < schema.FORMAT
        remedy = "ingest its sources again, into a new zoo" if older else "upgrade eigenzoo"
        raise EigenzooError(f"{url}: zoo format {known}, this version reads {schema.FORMAT}; {remedy}")
    try:
        return _checked(Commit.from_json(record), url), token
    except EigenzooError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise EigenzooError(f"{url}: its {schema.ROOT} is damaged ({error!r:.120}); restore it from a copy") from error


def _checked(commit: Commit, url: str) -> Commit:
    """A commit whose numbers can be ones and whose names stay within the zoo; `ValueError` if not."""
    layers = [(layer.out, *layer.a_shape) for layer in commit.layers]
    arrays = [(a.rows, a.width, a.chunk, a.retired) for a in commit.arrays]
    segments = [(s.adapters, s.ok, s.entries) for s in commit.segments]
    log = [(e.version, e.added, e.replaced, e.renewed, e.removed, e.refused, e.rows) for e in commit.log]
    for numbers in ((commit.version, commit.generation), *layers, *arrays, *segments, *log):
        for number in numbers:
            if type(number) is not int or not 0 <= number < _LARGEST:
                raise ValueError(f"{number!r:.40} is no count")
    texts: list[object] = [commit.uuid, commit.time, *commit.aliases, *commit.renames]
    texts += [text for layer in commit.layers for text in (layer.layer, layer.kind)]
    texts += [text for s in commit.segments for text in (s.name, s.digest, s.entries_digest, s.texts_digest)]
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"{text!r:.40} is no text")
    known = {layer.layer for layer in commit.layers}
    for a in commit.arrays:
        checked(a.path, url)
        if a.dtype not in schema.FACTOR_DTYPES or a.side not in schema.SIDES or a.layer not in known:
            raise ValueError(f"{a.path!r:.40} is an array of {a.dtype!r:.40}, {a.side!r:.40}, {a.layer!r:.40}")
        if a.chunk < 1 or a.width < 1 or a.retired > a.rows or max(a.rows, a.chunk) * a.row_bytes >= _LARGEST:
            raise ValueError(f"{a.path!r:.40} has {a.rows} rows of {a.width}, {a.chunk} a chunk, {a.retired} retired")
    if sum(a.chunks for a in commit.arrays) > _MOST_CHUNKS:
        raise ValueError("its arrays have more chunks than any zoo")
    for segment in commit.segments:
        checked(segment.name, url)
    if commit.codec not in CODECS or not isinstance(commit.base_model, str | None):
        raise ValueError(f"codec {commit.codec!r:.40}, base model {commit.base_model!r:.40}")
    return commit


def check_same(storage: Storage, uuid: str) -> None:
    """Make sure that the zoo at a place is still the one of that uuid; nothing is asked for an empty one.

    Cost: in a folder the root's status, and the root itself where it changed since; in an object store the root, once
    per process and `LOOK_SECONDS`.

    Raises
    ------
    EigenzooError
        If it was deleted, or another was made in its place.
    """
    if not uuid:
        return
    key, now = (storage.url, uuid), time.monotonic()
    sign: object = now
    if is_remote(storage.url):
        seen = _seen.get(key)
        if isinstance(seen, float) and now - seen < LOOK_SECONDS:
            return
    else:
        try:
            facts = os.stat(os.path.join(storage.url, schema.ROOT))
            sign = facts.st_mtime_ns, facts.st_size, facts.st_ino
        except OSError:
            sign = None
        if sign is not None and _seen.get(key) == sign:
            return
    commit = read_commit(storage)
    if commit is None or commit.uuid != uuid:
        _seen.pop(key, None)
        what = "is no longer there" if commit is None else "was deleted, and another made in its place"
        raise EigenzooError(f"{storage.url}: the zoo that was opened {what}; open it again")
    _seen[key] = sign


def root_document(commit: Commit, fence: str) -> bytes:
    """The root's metadata as of a commit.

    `fence` differs from one write to the next: a store that knows a version by its content alone must not take a
    later root for one that somebody read before.
    """
    record: dict[str, Any] = {"format": schema.FORMAT, "fence": fence, **commit.to_json()}
    document = {
        **schema.group_document({"eigenzoo": record}),
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": nodes_of(commit)},
    }
    return json.dumps(document, separators=(",", ":")).encode()


def lost(storage: Storage, name: str, what: str, error: Exception) -> EigenzooError:
    """The error for a file of a commit that cannot be read: a compacted zoo no longer has those of old commits."""
    if isinstance(error, FileNotFoundError):
        commit = read_commit(storage)
        held = (*(a.path for a in commit.arrays), *(s.name for s in commit.segments)) if commit else (name,)
        if name not in held:
            return Compacted(f"{storage.url}: the zoo was compacted since it was opened; open it again")
    if isinstance(error, EigenzooError):
        return error  # out of reach rather than lost
    why = getattr(error, "strerror", None) or error
    return EigenzooError(f"{storage.url}: {what} ({why}); see what `eigenzoo verify` says")

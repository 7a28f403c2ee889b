"""The root document: which commit is a zoo's last."""

from __future__ import annotations

import json
from typing import Any

from ingest.errors import EigenzooError
from ingest.storage import Storage, open_storage
from ingest.store import schema
from ingest.store.catalog import Commit
from ingest.store.nodes import nodes_of


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
    return Commit.from_json(record), token


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

"""The root document: which commit is a zoo's last."""

from __future__ import annotations

import json
import os

from ingest.errors import EigenzooError
from ingest.store import schema
from ingest.store.catalog import Commit


def read_commit(path: str) -> Commit | None:
    """The commit record of a zoo; None where there is no zoo.

    Raises
    ------
    EigenzooError
        If something else than a zoo lies there.
    """
    try:
        with open(os.path.join(path, schema.ROOT), "rb") as file:
            document = json.load(file)
        record = document["attributes"]["eigenzoo"]
        known = record["format"]
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise EigenzooError(f"{path}: is a file, not a zoo; give a folder") from error
    except ValueError as error:
        raise EigenzooError(f"{path}: its {schema.ROOT} is damaged ({error}); restore it from a copy") from error
    except (KeyError, TypeError) as error:
        raise EigenzooError(f"{path}: a zarr store, but no zoo of this program's; give another path") from error
    if known != schema.FORMAT:
        raise EigenzooError(f"{path}: zoo format {known}, this version reads {schema.FORMAT}; upgrade eigenzoo")
    return Commit.from_json(record)

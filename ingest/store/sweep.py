"""What a killed writer left in a zoo, and its removal."""

from __future__ import annotations

import os
import shutil

from ingest.store import schema
from ingest.store.reader import Zoo

PARTIAL = ".partial"  # ending of a file that is still being written


def sweep(zoo: Zoo) -> None:
    """Remove what a killed writer left: temporary files, chunks and segments that no commit names."""
    arrays = {a.path: -(-a.rows // a.chunk) for a in zoo.commit.arrays}
    groups = {schema.layer_path(r.layer) for r in zoo.commit.layers}
    segments = {os.path.basename(s.name) for s in zoo.commit.segments}
    extras = {f"{schema.quote(r.name)}.safetensors" for r in zoo.accepted if r.extras}
    for folder, folders, files in os.walk(zoo.path):
        here = os.path.relpath(folder, zoo.path).replace(os.sep, "/")
        if here.startswith("layers/"):
            known = here in groups if here.count("/") == 1 else here in arrays
            if not known:
                folders.clear()
                shutil.rmtree(folder)
                continue
        for file in files:
            if here in arrays and file.startswith("c.") and not file.endswith(PARTIAL):
                stale = int(file.split(".")[1]) >= arrays[here]
            elif here == f"{schema.CATALOG}/extras":
                stale = file not in extras
            else:
                stale = file.endswith(PARTIAL) or (here == schema.CATALOG and file.split(".")[0] not in segments)
            if stale:
                os.unlink(os.path.join(folder, file))

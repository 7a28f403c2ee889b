"""Where a zoo's bytes lie: a folder, or a prefix of a bucket; eight verbs and one writer at a time."""

from __future__ import annotations

from ingest.storage.opening import is_remote, open_storage
from ingest.storage.protocol import ABSENT, ANY, DIRTY, LOCK, PARTIAL, Buffer, Conflict, Storage

__all__ = [
    "ABSENT",
    "ANY",
    "DIRTY",
    "LOCK",
    "PARTIAL",
    "Buffer",
    "Conflict",
    "Storage",
    "is_remote",
    "open_storage",
]

"""Where a zoo's bytes lie: a folder, or a prefix of a bucket; reading, whole-file writing, and one writer at a time."""

from __future__ import annotations

from ingest.storage.opening import is_remote, open_storage
from ingest.storage.protocol import ABSENT, ANY, DIRTY, LOCK, PARTIAL, Buffer, Conflict, Storage, Unreadable

__all__ = [
    "ABSENT",
    "ANY",
    "DIRTY",
    "LOCK",
    "PARTIAL",
    "Buffer",
    "Conflict",
    "Storage",
    "Unreadable",
    "is_remote",
    "open_storage",
]

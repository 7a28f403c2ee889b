"""Adapter files in, a zoo of chunked zarr arrays out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ingest.compact import compact as compact
    from ingest.errors import EigenzooError as EigenzooError
    from ingest.pipeline import ingest as ingest
    from ingest.plan import plan as plan
    from ingest.remove import remove as remove
    from ingest.settings import Settings as Settings
    from ingest.store.reader import Zoo as Zoo
    from ingest.store.reader import open_zoo as open_zoo
    from ingest.verify import verify as verify

__all__ = ["EigenzooError", "Settings", "Zoo", "compact", "ingest", "open_zoo", "plan", "remove", "verify"]

_HOMES = {
    "EigenzooError": "ingest.errors",
    "Zoo": "ingest.store.reader",
    "compact": "ingest.compact",
    "ingest": "ingest.pipeline",
    "open_zoo": "ingest.store.reader",
    "plan": "ingest.plan",
    "remove": "ingest.remove",
    "Settings": "ingest.settings",
    "verify": "ingest.verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ingest' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value

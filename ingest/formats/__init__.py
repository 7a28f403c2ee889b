"""Adapter files → `LoraAdapter`: one module per dialect, a table of them, and what all share."""

from ingest.formats.adapter import AdapterFiles, LoraAdapter, LoraModule, fingerprint
from ingest.formats.table import FORMATS, Format, detect, parse

__all__ = [
    "FORMATS",
    "AdapterFiles",
    "Format",
    "LoraAdapter",
    "LoraModule",
    "detect",
    "fingerprint",
    "parse",
]

"""Adapter files → `LoraAdapter`: one module per dialect, a table of them, and what all share."""

from ingest.formats.adapter import AdapterFiles, LoraAdapter, LoraModule, fingerprint
from ingest.formats.opened import Opened
from ingest.formats.options import Options
from ingest.formats.table import FORMATS, Format, detect, parse, parse_opened

__all__ = [
    "FORMATS",
    "AdapterFiles",
    "Format",
    "LoraAdapter",
    "LoraModule",
    "Opened",
    "Options",
    "detect",
    "fingerprint",
    "parse",
    "parse_opened",
]

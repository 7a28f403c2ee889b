"""One change to an adapter's files: to its weights, to their header, or to its configuration."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.fuzz.corpus import Files

WEIGHTS = (".safetensors", ".bin", ".pt")


@dataclass(frozen=True)
class Mutation:
    """One change, with what it was drawn from for the report of a failure."""

    what: str
    change: Callable[[Files], Files]

    def __repr__(self) -> str:
        return self.what


def weights_of(files: Files) -> str | None:
    return next((name for name in files if name.endswith(WEIGHTS)), None)


def on_weights(what: str, edit: Callable[[bytes], bytes]) -> Mutation:
    def change(files: Files) -> Files:
        name = weights_of(files)
        return files if name is None else {**files, name: edit(files[name])}

    return Mutation(what, change)


def on_header(what: str, edit: Callable[[dict[str, Any]], Any]) -> Mutation:
    """Edit the header of a safetensors file, with the length in front put right."""

    def change(raw: bytes) -> bytes:
        try:
            length = int.from_bytes(raw[:8], "little")
            header = json.loads(raw[8 : 8 + length])
            edited = edit(header)
            text = edited if isinstance(edited, bytes) else json.dumps(edited).encode()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, MemoryError):
            return raw
        return len(text).to_bytes(8, "little") + text + raw[8 + length :]

    return on_weights(what, change)


def on_config(what: str, edit: Callable[[bytes], bytes]) -> Mutation:
    def change(files: Files) -> Files:
        return {**files, "adapter_config.json": edit(files.get("adapter_config.json", b"{}"))}

    return Mutation(what, change)


def nth(mapping: dict[str, Any], n: int) -> str:
    keys = [k for k in mapping if k != "__metadata__"]
    if not keys:
        raise KeyError("no tensor is left")
    return keys[n % len(keys)]

"""Named float64 arrays with facts about them, as one .safetensors file that is there whole or not at all.

The facts are JSON under the metadata key "eigenzoo".
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.atomic import write_atomically
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEY = "eigenzoo"
VERSION = 1
HEADER_BYTES = 100_000_000  # no safetensors header is longer


def write(
    path: str | os.PathLike[str], kind: str, arrays: Mapping[str, NDArray[np.float64]], facts: Mapping[str, Any]
) -> None:
    """Write to a temporary file beside `path`, flush it to disk, and rename."""
    from safetensors.numpy import save

    text = json.dumps({"kind": kind, "version": VERSION, **facts}, ensure_ascii=False)
    plain = {name: np.ascontiguousarray(array, dtype=np.float64) for name, array in arrays.items()}
    write_atomically(Path(path), save(plain, metadata={KEY: text}))


def read(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, NDArray[np.float64]], dict[str, Any]]:
    """Arrays and facts of what `write` wrote.

    Raises
    ------
    EigenzooError
        When the file is missing, truncated, of another kind, or of a newer format.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        data = Path(path).read_bytes()
    except OSError as problem:
        raise EigenzooError(f"{path}: cannot be read ({problem.strerror}); give a file written by save") from problem
    try:
        arrays = load(data)
        metadata = _metadata(data)
    except (SafetensorError, ValueError) as problem:
        reason = " ".join(str(problem).split())
        raise EigenzooError(f"{path}: not a whole safetensors file ({reason}); fit and save it again") from problem
    return arrays, _facts(path, metadata, kind)


def read_facts(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """The facts alone, at the cost of the file's header; errors as for `read`."""
    try:
        with open(path, "rb") as file:
            head = file.read(8)
            metadata = _metadata(head + file.read(min(int.from_bytes(head, "little"), HEADER_BYTES)))
    except (OSError, ValueError) as problem:
        raise EigenzooError(f"{path}: cannot be read ({problem}); give a file written by save") from problem
    return _facts(path, metadata, kind)


def whole(path: str | os.PathLike[str]) -> bool:
    """Whether a file is there with all the bytes that its header promises."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, HEADER_BYTES)))
            end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
            return os.fstat(file.fileno()).st_size == 8 + length + end
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def foreign(path: str | os.PathLike[str], kind: str) -> EigenzooError:
    """What to say of a file that is of another kind."""
    return EigenzooError(f"{path}: not a {kind} of eigenzoo; give a file written by save")


def _facts(path: str | os.PathLike[str], metadata: Mapping[str, Any], kind: str) -> dict[str, Any]:
    try:
        facts = json.loads(metadata[KEY])
        if facts["kind"] != kind:
            raise KeyError(kind)
        if facts["version"] > VERSION:
            raise EigenzooError(
                f"{path}: written in format {facts['version']}, at most {VERSION} is known; update eigenzoo"
            )
    except (KeyError, TypeError, ValueError) as problem:
        raise foreign(path, kind) from problem
    return dict(facts)


def _metadata(data: bytes) -> dict[str, Any]:
    # The library hands metadata out for mapped files only; the header is JSON after its length.
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return dict(header.get("__metadata__", {}))

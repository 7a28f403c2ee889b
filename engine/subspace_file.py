"""A `Subspace` as one .safetensors file: float64 arrays, everything else as JSON under "eigenzoo"."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.atomic import write_atomically
from engine.rank.choice import RankChoice
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from engine.subspace import Subspace

KEY = "eigenzoo"
KIND = "subspace"
VERSION = 1
_ARRAYS = ("mean", "components", "singular_values")
_FACTS = (
    "total_variance",
    "n_rows",
    "n_adapters",
    "center",
    "method",
    "exact",
    "floor",
    "n_zero_variance_columns",
    "passes",
    "source",
)


def write(subspace: Subspace, path: str | os.PathLike[str]) -> None:
    """Write to a temporary file beside `path`, flush it to disk, and rename: a reader sees all or nothing."""
    from safetensors.numpy import save

    facts: dict[str, Any] = {name: getattr(subspace, name) for name in _FACTS}
    facts |= {
        "kind": KIND,
        "version": VERSION,
        "settings": dict(subspace.settings),
        "k_choice": asdict(subspace.k_choice),
        "choices": {name: asdict(choice) for name, choice in subspace.choices.items()},
    }
    arrays = {name: np.ascontiguousarray(getattr(subspace, name), dtype=np.float64) for name in _ARRAYS}
    data = save(arrays, metadata={KEY: json.dumps(facts, ensure_ascii=False)})
    write_atomically(Path(path), data)


def read(path: str | os.PathLike[str]) -> Subspace:
    """What `write` wrote; `EigenzooError` in one line for anything else."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    from engine.subspace import Subspace

    try:
        data = Path(path).read_bytes()
    except OSError as problem:
        raise EigenzooError(f"{path}: cannot be read ({problem.strerror}); give a file written by save") from problem
    try:
        arrays = load(data)
        metadata = _metadata(data)
    except (SafetensorError, ValueError) as problem:
        raise EigenzooError(
            f"{path}: not a whole safetensors file ({_one_line(problem)}); fit and save it again"
        ) from problem
    try:
        facts = json.loads(metadata[KEY])
        if facts["kind"] != KIND:
            raise KeyError(KIND)
        if facts["version"] > VERSION:
            raise EigenzooError(
                f"{path}: written in format {facts['version']}, at most {VERSION} is known; update eigenzoo"
            )
        return Subspace(
            **{name: arrays[name] for name in _ARRAYS},
            **{name: facts[name] for name in _FACTS},
            k_choice=RankChoice(**facts["k_choice"]),
            choices={name: RankChoice(**choice) for name, choice in facts["choices"].items()},
            settings=facts["settings"],
        )
    except (KeyError, TypeError, ValueError) as problem:
        raise EigenzooError(f"{path}: not a subspace of eigenzoo; give a file written by save") from problem


def _metadata(data: bytes) -> dict[str, Any]:
    # The library hands metadata out for mapped files only; the header is JSON after its length.
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return dict(header.get("__metadata__", {}))


def _one_line(problem: Exception) -> str:
    return " ".join(str(problem).split())

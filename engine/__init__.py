"""Matrices of rows → subspaces. Names are handed on lazily, so `import engine` costs what numpy costs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.fitting import fit
    from engine.job import fit_zoo
    from engine.rank.choice import RankChoice
    from engine.rank.explained_variance import explained_variance
    from engine.rank.gavish_donoho import gavish_donoho
    from engine.rows import RowSource
    from engine.run import open_run
    from engine.subspace import Subspace

_HOMES = {
    "RankChoice": "engine.rank.choice",
    "RowSource": "engine.rows",
    "Subspace": "engine.subspace",
    "explained_variance": "engine.rank.explained_variance",
    "fit": "engine.fitting",
    "fit_zoo": "engine.job",
    "gavish_donoho": "engine.rank.gavish_donoho",
    "open_run": "engine.run",
}

__all__ = [
    "RankChoice",
    "RowSource",
    "Subspace",
    "explained_variance",
    "fit",
    "fit_zoo",
    "gavish_donoho",
    "open_run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    # Bound here, so the next look-up is an ordinary attribute.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})

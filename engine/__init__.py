"""Matrices of rows → subspaces. Names are handed on lazily, so `import engine` costs what numpy costs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.fitting import fit
    from engine.incremental import Incremental
    from engine.rank.choice import RankChoice
    from engine.rank.explained_variance import explained_variance
    from engine.rank.gavish_donoho import gavish_donoho
    from engine.rows import RowSource
    from engine.run import open_run
    from engine.runners.dask_ import DaskRunner
    from engine.runners.serial import SerialRunner
    from engine.runners.threads import ThreadsRunner
    from engine.streaming import Moments
    from engine.subspace import Subspace
    from engine.zoo_fit import fit_zoo

_HOMES = {
    "DaskRunner": "engine.runners.dask_",
    "Incremental": "engine.incremental",
    "Moments": "engine.streaming",
    "RankChoice": "engine.rank.choice",
    "RowSource": "engine.rows",
    "SerialRunner": "engine.runners.serial",
    "Subspace": "engine.subspace",
    "ThreadsRunner": "engine.runners.threads",
    "explained_variance": "engine.rank.explained_variance",
    "fit": "engine.fitting",
    "fit_zoo": "engine.zoo_fit",
    "gavish_donoho": "engine.rank.gavish_donoho",
    "open_run": "engine.run",
}

__all__ = [
    "DaskRunner",
    "Incremental",
    "Moments",
    "RankChoice",
    "RowSource",
    "SerialRunner",
    "Subspace",
    "ThreadsRunner",
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

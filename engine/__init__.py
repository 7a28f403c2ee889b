"""Matrices of rows → subspaces. Names are handed on lazily, so `import engine` costs what numpy costs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.analysis.heldout import HeldOut, held_out, held_out_error
    from engine.analysis.overlap import overlap
    from engine.analysis.parallel import parallel_analysis
    from engine.delta import delta_rows
    from engine.fitting import fit
    from engine.incremental import Incremental
    from engine.rank.bulk_edge import bulk_edge
    from engine.rank.choice import RankChoice
    from engine.rank.elbow import elbow
    from engine.rank.explained_variance import explained_variance
    from engine.rank.gavish_donoho import gavish_donoho
    from engine.rank.screenot import screenot
    from engine.rank.shrinkage import shrink
    from engine.rank.whiteness import whiteness
    from engine.rows import RowSource
    from engine.run import open_run
    from engine.runners.dask_ import DaskRunner
    from engine.runners.serial import SerialRunner
    from engine.runners.threads import ThreadsRunner
    from engine.starts.groups import seed_groups, seeds
    from engine.starts.known_noise import known_noise
    from engine.streaming import Moments
    from engine.subspace import Subspace
    from engine.zoo_fit import fit_zoo

_HOMES = {
    "DaskRunner": "engine.runners.dask_",
    "HeldOut": "engine.analysis.heldout",
    "Incremental": "engine.incremental",
    "Moments": "engine.streaming",
    "RankChoice": "engine.rank.choice",
    "RowSource": "engine.rows",
    "SerialRunner": "engine.runners.serial",
    "Subspace": "engine.subspace",
    "ThreadsRunner": "engine.runners.threads",
    "bulk_edge": "engine.rank.bulk_edge",
    "delta_rows": "engine.delta",
    "elbow": "engine.rank.elbow",
    "explained_variance": "engine.rank.explained_variance",
    "fit": "engine.fitting",
    "fit_zoo": "engine.zoo_fit",
    "gavish_donoho": "engine.rank.gavish_donoho",
    "known_noise": "engine.starts.known_noise",
    "held_out": "engine.analysis.heldout",
    "held_out_error": "engine.analysis.heldout",
    "open_run": "engine.run",
    "overlap": "engine.analysis.overlap",
    "parallel_analysis": "engine.analysis.parallel",
    "screenot": "engine.rank.screenot",
    "seed_groups": "engine.starts.groups",
    "seeds": "engine.starts.groups",
    "shrink": "engine.rank.shrinkage",
    "whiteness": "engine.rank.whiteness",
}

__all__ = [
    "DaskRunner",
    "HeldOut",
    "Incremental",
    "Moments",
    "RankChoice",
    "RowSource",
    "SerialRunner",
    "Subspace",
    "ThreadsRunner",
    "bulk_edge",
    "delta_rows",
    "elbow",
    "explained_variance",
    "fit",
    "fit_zoo",
    "gavish_donoho",
    "known_noise",
    "held_out",
    "held_out_error",
    "open_run",
    "overlap",
    "parallel_analysis",
    "screenot",
    "seed_groups",
    "seeds",
    "shrink",
    "whiteness",
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

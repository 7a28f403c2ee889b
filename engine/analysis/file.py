"""``RUN/analysis.json``: what was found out about a run beyond its spectra, as `eigenzoo analyse` leaves it.

Everything in it is optional, and each matrix carries the identity of the rows that it was found from: of a run whose
matrix was fitted again since, the entry is stale (`Analysis.of`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.atomic import write_atomically
from engine.run import ANALYSIS
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from engine.run import MatrixResult, Run

FORMAT = 1


@dataclass(frozen=True, slots=True)
class RuleAnswer:
    """What a rule said that needed more than the spectrum, such as parallel analysis; as `RankChoice`."""

    rule: str
    k: int | None
    threshold: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class HeldOutFigures:
    """Relative squared errors of adapters that were not in the fit, and of its controls, all at `k`.

    Attributes
    ----------
    k : int
    method : str
        "leave-one-out", or "5-fold".
    in_sample, error, mean_only, random_basis : float
        Of the adapters in the fit; of those held out; with the mean alone; with a random basis of `k` directions.
    null : float or None
        Held out, of a zoo of the same sizes and strengths that shares nothing.
    one_per_seed : float or None
        Held out, with one adapter of each seed group.
    curve : tuple of (K, error)
        Held out, over K.
    """

    k: int
    method: str
    in_sample: float
    error: float
    mean_only: float
    random_basis: float
    null: float | None = None
    one_per_seed: float | None = None
    curve: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class OverlapFigures:
    """Mean overlap of two adapters over its expectation by chance; `low` … `high` is what chance itself gives."""

    ratio: float
    low: float
    high: float
    one_per_seed: float | None = None


@dataclass(frozen=True, slots=True)
class ReconstructionFigures:
    """Relative errors ‖X − X̂‖/‖X‖ over the adapters of the fit."""

    mean: float
    median: float
    worst: float
    worst_adapter: str


@dataclass(frozen=True, slots=True)
class LeverageFigures:
    """An adapter that holds `share` of the energy of kept component number `component`, counted from 1."""

    adapter: str
    component: int
    share: float


@dataclass(frozen=True, slots=True)
class MatrixAnalysis:
    """One matrix; `identity`, `n_components` and `center` are those of its result, which it speaks of."""

    layer: str
    side: str
    identity: str
    n_components: int
    center: str
    rules: tuple[RuleAnswer, ...] = ()
    heldout: HeldOutFigures | None = None
    overlap: OverlapFigures | None = None
    reconstruction: ReconstructionFigures | None = None
    leverage: tuple[LeverageFigures, ...] = ()


@dataclass(frozen=True, slots=True)
class SeedFigures:
    """Groups of adapters (by name, two or more each) whose random start is one; `weakest` of the cosines within."""

    groups: tuple[tuple[str, ...], ...] = ()
    weakest: float | None = None


@dataclass(frozen=True, slots=True)
class DeltaFigures:
    """Relative errors ‖ΔW − ΔŴ‖/‖ΔW‖ over the adapters."""

    mean: float
    worst: float
    worst_adapter: str


@dataclass(frozen=True, slots=True)
class LayerAnalysis:
    """One layer, both sides together; `seeds` is None where nobody looked.

    `parts` are what was looked at, as `engine.analysis.whole_run.PARTS` has them.
    """

    layer: str
    seeds: SeedFigures | None = None
    delta: DeltaFigures | None = None
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Analysis:
    """The whole file; `settings` says how it was found, as JSON values."""

    zoo_version: int
    matrices: tuple[MatrixAnalysis, ...] = ()
    layers: tuple[LayerAnalysis, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def of(self, result: MatrixResult) -> MatrixAnalysis | None:
        """What is known of one finished matrix; None where nothing is, or where it was found of another result."""
        speaks_of = (result.layer, result.side, result.identity, result.n_components, result.center)
        for m in self.matrices:
            if (m.layer, m.side, m.identity, m.n_components, m.center) == speaks_of:
                return m
        return None


def analysis_path(run: Run) -> Path:
    """Where the analysis of a run lies."""
    return Path(run.path) / ANALYSIS


def read_analysis(run: Run) -> Analysis | None:
    """The analysis beside a run; None where there is none.

    Raises
    ------
    EigenzooError
        If it is damaged, or of a later format.
    """
    path = analysis_path(run)
    try:
        document = json.loads(path.read_bytes())
        if document["format"] != FORMAT:
            raise EigenzooError(
                f"{path}: analysis format {document['format']}, this version reads {FORMAT}; upgrade eigenzoo"
            )
        return Analysis(
            zoo_version=int(document["zoo_version"]),
            settings=dict(document["settings"]),
            matrices=tuple(_matrix(m) for m in document["matrices"]),
            layers=tuple(_layer(m) for m in document["layers"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EigenzooError(
            f"{path}: cannot be read ({error}); make it again with `eigenzoo analyse {run.path} --restart`"
        ) from error


def write_analysis(run: Run, analysis: Analysis) -> Path:
    """Write the analysis beside its run, in one atomic step; numbers that are not finite become null.

    Raises
    ------
    EigenzooError
        If it cannot be written.
    """
    path = analysis_path(run)
    try:
        write_atomically(path, json.dumps(as_document(analysis), indent=1, allow_nan=False).encode())
    except OSError as error:
        raise EigenzooError(f"{path}: cannot be written ({error.strerror}); make the run's folder writable") from error
    return path


def as_document(analysis: Analysis) -> dict[str, Any]:
    """The file's JSON values."""
    document: dict[str, Any] = _finite({"format": FORMAT, **asdict(analysis)})
    return document


def _matrix(m: Mapping[str, Any]) -> MatrixAnalysis:
    heldout, overlap, reconstruction = m.get("heldout"), m.get("overlap"), m.get("reconstruction")
    return MatrixAnalysis(
        layer=str(m["layer"]),
        side=str(m["side"]),
        identity=str(m["identity"]),
        n_components=int(m["n_components"]),
        center=str(m["center"]),
        rules=tuple(
            RuleAnswer(str(r["rule"]), None if r["k"] is None else int(r["k"]), _maybe(r["threshold"]), str(r["note"]))
            for r in m.get("rules", ())
        ),
        heldout=None
        if heldout is None
        else HeldOutFigures(
            k=int(heldout["k"]),
            method=str(heldout["method"]),
            **{name: _number(heldout[name]) for name in ("in_sample", "error", "mean_only", "random_basis")},
            null=_maybe(heldout.get("null")),
            one_per_seed=_maybe(heldout.get("one_per_seed")),
            curve=tuple((int(k), _number(error)) for k, error in heldout.get("curve", ())),
        ),
        overlap=None
        if overlap is None
        else OverlapFigures(
            **{name: _number(overlap[name]) for name in ("ratio", "low", "high")},
            one_per_seed=_maybe(overlap.get("one_per_seed")),
        ),
        reconstruction=None
        if reconstruction is None
        else ReconstructionFigures(
            **{name: _number(reconstruction[name]) for name in ("mean", "median", "worst")},
            worst_adapter=str(reconstruction["worst_adapter"]),
        ),
        leverage=tuple(
            LeverageFigures(str(v["adapter"]), int(v["component"]), _number(v["share"])) for v in m.get("leverage", ())
        ),
    )


def _layer(m: Mapping[str, Any]) -> LayerAnalysis:
    seeds, delta = m.get("seeds"), m.get("delta")
    return LayerAnalysis(
        layer=str(m["layer"]),
        seeds=None
        if seeds is None
        else SeedFigures(tuple(tuple(map(str, group)) for group in seeds["groups"]), _maybe(seeds.get("weakest"))),
        delta=None
        if delta is None
        else DeltaFigures(_number(delta["mean"]), _number(delta["worst"]), str(delta["worst_adapter"])),
        parts=tuple(map(str, m["parts"])),
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _maybe(value: float | None) -> float | None:
    return None if value is None else float(value)


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity; NumPy's scalars are plain numbers in it."""
    if isinstance(value, Mapping):
        return {str(name): _finite(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if hasattr(value, "item") and not isinstance(value, str | os.PathLike):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value

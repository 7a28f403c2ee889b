from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import engine
from engine.analysis import file as found
from engine.rank import parse_rule
from engine.run import Run, RunRecord, RunSettings, open_run, summary, write_record, write_result
from engine.spectrum import Spectrum
from engine.subspace import Subspace

Items = list[tuple[str, str, NDArray[Any]]]
MakeRun = Callable[..., Run]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """A run of matrices that are fitted here."""

    def make(items: Items, *, k: str = "gavish-donoho", center: str = "feature", base: str | None = "tiny") -> Run:
        path = str(tmp_path / "run")
        write_record(path, RunRecord(RunSettings(center, k), "/data/some zoo.zarr", 7, base))
        for layer, side, x in items:
            subspace = engine.fit(x, k=k, center=center)
            write_result(path, summary(layer, side, subspace), subspace)
        return open_run(path)

    return make


def planted(n: int, width: int, k: int, seed: int = 0) -> NDArray[np.float64]:
    """`k` directions in white noise."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, k)) @ rng.standard_normal((k, width)) + 0.1 * rng.standard_normal((n, width))


def stored(sigma: NDArray[np.float64], *, n_rows: int, width: int, source: str) -> Subspace:
    """A centred subspace of a prescribed spectrum, K by Gavish–Donoho; its components are of no matter."""
    total = float(np.sum(sigma**2)) / (n_rows - 1)
    spectrum = Spectrum(sigma, total, n_rows, width, n_rows - 1, 0, 0.0, "moments")
    choices = {name: parse_rule(name)(spectrum) for name in ("gavish-donoho", "ev:0.8")}
    chosen = choices["gavish-donoho"]
    return Subspace(
        mean=np.zeros(width),
        components=np.eye(chosen.k or 0, width),
        singular_values=sigma,
        total_variance=total,
        n_rows=n_rows,
        n_adapters=200,
        center="feature",
        k_choice=chosen,
        choices=choices,
        method="moments",
        exact=True,
        floor=0.0,
        n_zero_variance_columns=0,
        passes=1,
        source=source,
    )


def large_run(path: Path, *, blocks: int, analysed: bool) -> Run:
    """Of so many blocks of three modules, two sides each; the noise of every seventh matrix is not white."""
    rng = np.random.default_rng(0)
    write_record(str(path), RunRecord(RunSettings(), "/data/large zoo.zarr", 3, "some/base-model"))
    n_rows, width = 900, 300
    white = np.linalg.svd(rng.standard_normal((n_rows, width)), compute_uv=False)
    coloured = np.linalg.svd(rng.standard_normal((n_rows, width)) * rng.lognormal(0, 1, width), compute_uv=False)
    matrices = []
    for at in range(blocks):
        for module in ("mlp.down_proj", "self_attn.q_proj", "self_attn.v_proj"):
            for side in ("A", "B"):
                number = len(matrices)
                k = 2 + number % 11 + (at // 4 if side == "A" else 0)
                bulk = coloured if number % 7 == 0 else white
                rest = np.interp(np.linspace(0, 1, width - k), np.linspace(0, 1, width), bulk)
                sigma = np.concatenate([bulk[0] * np.geomspace(9, 1.6, k), rest])
                layer = f"base_model.layers.{at}.{module}"
                subspace = stored(sigma, n_rows=n_rows, width=width, source=f"rows {number}")
                write_result(str(path), summary(layer, side, subspace), subspace)
                matrices.append((layer, side, subspace))
    run = open_run(path)
    if analysed:
        found.write_analysis(run, _analysis(matrices, rng))
    return run


def _analysis(matrices: list[tuple[str, str, Subspace]], rng: np.random.Generator) -> found.Analysis:
    of_matrices = []
    for layer, side, subspace in matrices:
        share = np.cumsum(subspace.explained_variance_ratio)
        k = subspace.n_components
        held = [(j, float(1 - 0.93 * share[j - 1])) for j in (1, 2, 4, 8, 16, 32)]
        error = float(1 - 0.93 * share[k - 1])
        of_matrices.append(
            found.MatrixAnalysis(
                layer,
                side,
                subspace.source,
                k,
                subspace.center,
                rules=(found.RuleAnswer("parallel", max(k - 1, 0), float(subspace.singular_values[k]) * 1.01),),
                heldout=found.HeldOutFigures(
                    k,
                    "leave-one-out",
                    in_sample=float(1 - share[k - 1]),
                    error=error,
                    mean_only=0.99,
                    random_basis=1 - k / subspace.width,
                    null=float(rng.uniform(0.8, 0.9)),
                    one_per_seed=error * 1.05,
                    curve=tuple(held),
                ),
                overlap=found.OverlapFigures(float(rng.uniform(1, 9)), 0.97, 1.03, 1.01),
                reconstruction=found.ReconstructionFigures(0.2 + error / 2, 0.2 + error / 2, 0.9, "task-0001"),
                leverage=(found.LeverageFigures("task-0007", 1, 0.71),) if k % 5 == 0 else (),
            )
        )
    groups = tuple(tuple(f"author-{g}/adapter-{i}" for i in range(12 - g)) for g in range(3))
    layers = list(dict.fromkeys(layer for layer, _, _ in matrices))
    of_layers = [
        found.LayerAnalysis(
            layer,
            found.SeedFigures(groups if at % 3 else (), 0.981 if at % 3 else None),
            found.DeltaFigures(0.3 + 0.1 * (at % 5), 0.95, "task-0002"),
        )
        for at, layer in enumerate(layers)
    ]
    return found.Analysis(3, tuple(of_matrices), tuple(of_layers), {"seed": 0, "folds": "leave-one-out"})

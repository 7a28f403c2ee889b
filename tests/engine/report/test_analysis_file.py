"""The analysis beside a run: what is written is read, stale entries are not spoken of, damage is one line."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.analysis.file import (
    Analysis,
    DeltaFigures,
    HeldOutFigures,
    LayerAnalysis,
    LeverageFigures,
    MatrixAnalysis,
    OverlapFigures,
    ReconstructionFigures,
    RuleAnswer,
    SeedFigures,
    analysis_path,
    read_analysis,
    write_analysis,
)
from engine.run import Run
from ingest.errors import EigenzooError
from tests.engine.report.conftest import MakeRun, planted

WHOLE = Analysis(
    zoo_version=7,
    settings={"folds": 5, "seed": 0},
    matrices=(
        MatrixAnalysis(
            "q",
            "A",
            "abc",
            3,
            "feature",
            rules=(RuleAnswer("parallel", None, None, "no rows"), RuleAnswer("parallel:init", 3, 1.5, "")),
            heldout=HeldOutFigures(3, "5-fold", 0.1, 0.2, 0.9, 0.8, None, 0.25, ((1, 0.5), (3, 0.2))),
            overlap=OverlapFigures(2.5, 0.9, 1.1, 1.0),
            reconstruction=ReconstructionFigures(0.1, 0.1, 0.7, "x"),
            leverage=(LeverageFigures("x", 1, 0.8),),
        ),
        MatrixAnalysis("q", "B", "def", 0, "none"),
    ),
    layers=(
        LayerAnalysis("q", SeedFigures((("x", "y"),), 0.99), DeltaFigures(0.2, 0.4, "y"), ("seeds", "heldout")),
        LayerAnalysis("v"),
    ),
)


@pytest.fixture
def run(make_run: MakeRun) -> Run:
    return make_run([("q", "A", planted(60, 20, 2))])


def test_what_is_written_is_read(run: Run) -> None:
    assert read_analysis(run) is None
    path = write_analysis(run, WHOLE)
    assert path == analysis_path(run) and path.parent == Path(run.path)
    assert read_analysis(run) == WHOLE
    document = json.loads(path.read_bytes())
    assert document["format"] == 1 and document["matrices"][0]["heldout"]["curve"] == [[1, 0.5], [3, 0.2]]


def test_numbers_that_json_lacks(run: Run) -> None:
    held = HeldOutFigures(np.int64(3), "5-fold", math.nan, np.float64(0.5), math.inf, 1.0)  # type: ignore[arg-type]
    write_analysis(run, Analysis(1, (MatrixAnalysis("q", "A", "", 3, "feature", heldout=held),)))
    again = read_analysis(run)
    assert again is not None and again.matrices[0].heldout is not None
    assert again.matrices[0].heldout.error == 0.5 and again.matrices[0].heldout.k == 3
    assert math.isnan(again.matrices[0].heldout.in_sample) and math.isnan(again.matrices[0].heldout.mean_only)


def test_other_rows_are_not_spoken_of(run: Run) -> None:
    (result,) = run.matrices
    mine = MatrixAnalysis(result.layer, result.side, result.identity, result.n_components, result.center)
    assert Analysis(1, (mine,)).of(result) is mine
    assert Analysis(1, (mine,)).of(replace(result, identity="other")) is None
    for other in (replace(result, side="B"), replace(result, n_components=9), replace(result, center="none")):
        assert Analysis(1, (mine,)).of(other) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"format": 2}', "upgrade"),
        ('{"format": 1}', "cannot be read"),
    ],
)
def test_damage_is_one_line(run: Run, text: str, says: str) -> None:
    analysis_path(run).write_text(text)
    with pytest.raises(EigenzooError, match=says) as caught:
        read_analysis(run)
    assert "\n" not in str(caught.value)

"""Fits of the largest values alone: as many components as the rule counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
import engine.subspace as module
from engine.eigen import SMALLEST
from engine.rank import parse_rule
from engine.rank.choice import RankRule
from engine.rank.compare import SPECTRAL
from engine.rank.gavish_donoho import GavishDonoho
from engine.subspace import Subspace

# Over (n · width)^¼, where directions begin to show: four far above the noise of level 1, and two that stand above its
# edge and below Gavish and Donoho's threshold.
STRENGTHS = (8.0, 6.0, 5.0, 4.0, 1.45, 1.4)
SHAPE = (1000, SMALLEST)
RULES: tuple[str | RankRule, ...] = (
    *SPECTRAL,
    "gavish-donoho:1",
    "gavish-donoho:0.85",
    "gavish-donoho:0.3",
    "bulk-edge:1",
    "bulk-edge:0.95",
    "bulk-edge:0.5",
    "shrinkage:operator",
    "shrinkage:nuclear",
    GavishDonoho(0.6, init=True, why="as said"),
)


@pytest.fixture(scope="module")
def x() -> Any:
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.standard_normal((side, len(STRENGTHS))))[0] for side in SHAPE)
    return rng.standard_normal(SHAPE) + (u * ((SHAPE[0] * SHAPE[1]) ** 0.25 * np.array(STRENGTHS))) @ v.T


@pytest.fixture(scope="module")
def whole(x: Any) -> Subspace:
    return engine.fit(x, 0, device="cpu")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule if isinstance(rule, str) else rule.name)
def test_there_are_as_many_components_as_the_rule_counts(rule: str | RankRule, x: Any, whole: Subspace) -> None:
    top = engine.fit(x, rule, device="cpu", spectrum="top")
    assert top.n_components == (top.k_choice.k or 0) <= len(top.singular_values)
    assert "may be larger" not in top.k_choice.note
    given = parse_rule(rule)
    if getattr(given, "noise", None):
        expected = given(whole.as_spectrum())
        assert (top.k_choice.k, top.k_choice.threshold) == (expected.k, expected.threshold)
    if rule in ("gavish-donoho", "bulk-edge", "shrinkage"):
        assert top.k_choice.k == given(whole.as_spectrum()).k == (4 if rule == "gavish-donoho" else 6)
    if rule == "gavish-donoho":
        assert top.spectrum == "top"
    if rule == "gavish-donoho:0.3":
        assert top.spectrum == "full" and (top.k_choice.k or 0) > 300


def test_a_stored_result_answers_as_the_fit_did(x: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = engine.fit(x, device="cpu", spectrum="top")
    top.save(tmp_path / "top")
    loaded = Subspace.load(tmp_path / "top")
    assert loaded.as_spectrum().following == top.following > 0
    assert GavishDonoho()(loaded.as_spectrum()) == top.k_choice
    monkeypatch.setattr(module, "_LATER", tuple(name for name in module._LATER if name != "following"))
    top.save(tmp_path / "old")
    assert Subspace.load(tmp_path / "old").following == 0.0
    np.testing.assert_array_equal(Subspace.load(tmp_path / "old").singular_values, top.singular_values)

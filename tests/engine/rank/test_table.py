"""The table of rules: every name reads back, declines with a reason, and can be asked of a stored result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import engine
from bench.planted import planted, spectrum_of
from engine.rank import RULES, parse_rule, read_rule
from engine.rank.compare import SPECTRAL, answer, side_by_side
from engine.rank.gavish_donoho import GavishDonoho
from engine.rank.noise import noise_estimate
from engine.spectrum import Spectrum, from_trace
from engine.subspace import Subspace
from ingest.errors import EigenzooError

NAMES = (
    *SPECTRAL,
    "gavish-donoho:0.5",
    "gavish-donoho:init",
    "bulk-edge:0.25",
    "screenot:20",
    "shrinkage:operator",
    "shrinkage:nuclear",
    "ev:1",
    "7",
)


@pytest.fixture(scope="module")
def spectrum() -> Spectrum:
    found: Spectrum = spectrum_of(planted("white", 900, 120, 6))
    return found


def test_every_entry_says_what_it_is() -> None:
    assert set(RULES) == {"gavish-donoho", "bulk-edge", "screenot", "shrinkage", "parallel", "elbow", "ev", "fixed"}
    for name, rule in RULES.items():
        assert rule.usage and rule.reference and rule.assumes and rule.needs
        assert rule.usage.startswith(name) or name == "fixed"
    assert set(name.partition(":")[0] for name in SPECTRAL) == set(RULES) - {"fixed", "parallel"}


@pytest.mark.parametrize("name", NAMES)
def test_names_read_back_and_answers_carry_them(name: str, spectrum: Spectrum) -> None:
    rule = parse_rule(name)
    assert rule.name == name and parse_rule(rule.name) == rule
    assert rule(spectrum).rule == name


def test_answers_on_white_noise(spectrum: Spectrum) -> None:
    found = {name: choice.k for name, choice in side_by_side(spectrum, map(parse_rule, SPECTRAL)).items()}
    assert {found[name] for name in ("gavish-donoho", "bulk-edge", "screenot", "shrinkage")} == {6}
    assert 1 <= (found["ev:0.5"] or 0) < (found["ev:0.8"] or 0) < (found["ev:0.95"] or 0) and found["elbow"]


@pytest.mark.parametrize("name", NAMES)
def test_laws(name: str, spectrum: Spectrum) -> None:
    """Scaling the matrix scales thresholds, and K does not know rows from columns."""
    rule = parse_rule(name)
    choice = answer(spectrum, rule)
    flat = replace(spectrum, n_effective=spectrum.n_rows)
    turned = replace(flat, n_rows=flat.width, width=flat.n_rows, n_effective=flat.width)
    turned = replace(turned, total_variance=flat.total_variance * (flat.n_rows - 1) / (turned.n_rows - 1))
    assert rule(turned).k == rule(flat).k
    if name in SPECTRAL or ":" not in name or not name[-1].isdigit():
        s = 3.0
        values, total = s * spectrum.singular_values, s * s * spectrum.total_variance
        scaled = replace(spectrum, singular_values=values, total_variance=total)
        assert rule(scaled).k == choice.k
        if choice.threshold is not None and not name.startswith("ev"):
            assert rule(scaled).threshold == pytest.approx(s * choice.threshold, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_of_a_truncated_spectrum_rules_use_its_noise_or_decline(name: str, spectrum: Spectrum) -> None:
    known = spectrum.singular_values[:20]
    noise = noise_estimate(known, float((spectrum.singular_values**2).sum()), spectrum.effective_shape)
    top = replace(spectrum, singular_values=known, kind="top", noise=noise.value, noise_from=from_trace(noise))
    choice = answer(top, parse_rule(name))
    if name in ("gavish-donoho", "bulk-edge", "shrinkage"):
        assert choice.k == 6 and "noise by the exact trace" in choice.note and "± 0." in choice.note
    elif name in ("screenot", "elbow", "screenot:20", "gavish-donoho:init", "ev:0.95", "ev:1"):
        assert choice.k is None and choice.note
    for cut in ("gavish-donoho", "bulk-edge", "shrinkage"):
        short = replace(top, singular_values=known[:4])
        assert parse_rule(cut)(short).k == 4 and "may be larger" in parse_rule(cut)(short).note
        nothing = replace(top, noise=0.0)
        assert parse_rule(cut)(nothing).k is None and "no noise to measure" in parse_rule(cut)(nothing).note


def test_a_stored_result_answers_every_rule(tmp_path: Path) -> None:
    x = planted("white", 400, 60, 4) + 2.0
    engine.fit(x).save(tmp_path / "s")
    stored = Subspace.load(tmp_path / "s").as_spectrum()
    for name, choice in side_by_side(stored, map(parse_rule, SPECTRAL)).items():
        fitted = engine.fit(x, name).k_choice
        assert (choice.k, choice.threshold) == (fitted.k, fitted.threshold), name
    assert stored.effective_shape == (399, 60) and stored.kind == "full"


def test_what_only_rows_or_a_zoo_can_answer() -> None:
    x = planted("white", 200, 30, 2)
    with pytest.raises(EigenzooError, match="^k: 'parallel' needs the rows"):
        parse_rule("parallel")
    assert read_rule("parallel:init:5").name == "parallel:init:5"
    assert read_rule("parallel")(spectrum_of(x)).k is None
    found = engine.fit(x, "gavish-donoho:init").k_choice
    assert found.k is None and "fit the zoo" in found.note
    assert GavishDonoho(1.0, init=True, why="as said")(spectrum_of(x)).note == "as said"
    refused = answer(spectrum_of(x), parse_rule(31))
    assert refused.k is None and "ask for at most" in refused.note


def test_public_names() -> None:
    s = np.linalg.svd(planted("white", 300, 50, 3), compute_uv=False)
    assert engine.bulk_edge(s, (300, 50)).k == engine.screenot(s, (300, 50)).k == engine.shrink(s, (300, 50)).k == 3
    assert engine.elbow(s, (300, 50)).k and engine.whiteness(spectrum_of(planted("white", 300, 50))).white

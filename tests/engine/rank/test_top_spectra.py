"""The rules where only the largest singular values are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.rank.explained_variance import ExplainedVariance
from engine.rank.gavish_donoho import GavishDonoho, gavish_donoho
from engine.rank.noise import noise_from_trace
from engine.spectrum import Spectrum
from ingest.errors import EigenzooError


@pytest.fixture(scope="module")
def whole() -> Spectrum:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((900, 80)) * 0.5
    x += (rng.standard_normal((900, 6)) * np.linspace(6, 2, 6)) @ np.linalg.qr(rng.standard_normal((80, 6)))[0].T
    s = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    return Spectrum(s, float((s**2).sum()) / 899, 900, 80, 899, 0, 0.0, "moments")


def top(whole: Spectrum, known: int) -> Spectrum:
    energy = float((whole.singular_values**2).sum())
    noise = noise_from_trace(whole.singular_values[:known], energy, whole.effective_shape)
    first = whole.singular_values[:known]
    return replace(whole, singular_values=first, kind="top", noise=noise, noise_from="the trace")


@pytest.mark.parametrize("known", [7, 20, 79])
def test_the_threshold_is_that_of_the_whole_spectrum(whole: Spectrum, known: int) -> None:
    choice, expected = GavishDonoho()(top(whole, known)), GavishDonoho()(whole)
    assert choice.k == expected.k == 6
    assert choice.threshold == pytest.approx(expected.threshold, rel=0.02)
    assert choice.note == "noise by the trace"


def test_it_says_when_k_may_be_larger(whole: Spectrum) -> None:
    choice = GavishDonoho()(top(whole, 4))
    assert choice.k == 4
    assert choice.note == (
        "noise by the trace; all 4 singular values known lie above the threshold, so K may be larger"
    )
    assert "larger" not in GavishDonoho(1e-9)(whole).note  # all there are


def test_a_noise_level_given_by_the_user_comes_first(whole: Spectrum) -> None:
    choice = GavishDonoho(0.5)(top(whole, 20))
    assert choice.threshold == gavish_donoho(whole.singular_values, (899, 80), 0.5).threshold
    assert (choice.k, choice.rule, choice.note) == (6, "gavish-donoho:0.5", "")


def test_no_noise_left_declines(whole: Spectrum) -> None:
    for noise in (0.0, None):
        choice = GavishDonoho()(replace(top(whole, 20), noise=noise))
        assert choice.k is None and choice.threshold is None and "no noise to measure" in choice.note


def test_the_median_rule_still_refuses_a_truncated_list(whole: Spectrum) -> None:
    with pytest.raises(EigenzooError, match="got 20 singular values"):
        gavish_donoho(whole.singular_values[:20], (899, 80))
    with pytest.raises(EigenzooError, match="got 0 singular values"):
        gavish_donoho([], (899, 80), 0.5)


def test_a_share_that_the_known_values_do_not_reach_declines(whole: Spectrum) -> None:
    ratio = np.cumsum(whole.singular_values**2) / (whole.singular_values**2).sum()
    assert ExplainedVariance(0.5)(top(whole, 20)).k == int(np.argmax(ratio >= 0.5)) + 1
    choice = ExplainedVariance(0.9999)(top(whole, 20))
    assert choice.k is None and "20 singular values known carry a share of 0." in choice.note
    assert ExplainedVariance(1.0)(whole).k == 80

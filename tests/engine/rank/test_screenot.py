from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from screenot.ScreeNOT import adaptiveHardThresholding, computeOptThreshold, createPseudoNoise

from bench.planted import NOISES, planted, spectrum_of
from engine.rank.screenot import BOUND, ScreeNOT, optimal_threshold, pseudo_noise, screenot
from ingest.errors import EigenzooError

EPS = 1e-5  # the package's own, absolute


@pytest.mark.parametrize("shape", [(400, 120), (120, 400), (150, 150)])
@pytest.mark.parametrize("kind", [k for k in NOISES if k != "zeros"])
@pytest.mark.parametrize(("k", "bound"), [(0, 50), (6, 50), (6, 8)])
def test_it_is_the_authors_package(shape: tuple[int, int], kind: str, k: int, bound: int) -> None:
    x = planted(kind, *shape, k, seed=3)
    _, threshold, rank = adaptiveHardThresholding(x, bound)
    choice = screenot(np.linalg.svd(x, compute_uv=False), shape, bound)
    assert choice.k == rank
    assert choice.threshold == pytest.approx(threshold, abs=EPS, rel=0)


@pytest.mark.parametrize("bound", [1, 2, 7, 49])
def test_imputed_values_are_the_packages(bound: int) -> None:
    values = np.sort(np.random.default_rng(bound).gamma(2.0, size=100))[::-1]
    theirs = createPseudoNoise(values.copy(), bound)[::-1]
    np.testing.assert_allclose(pseudo_noise(values, bound), theirs, rtol=1e-14)
    np.testing.assert_array_equal(pseudo_noise(values, 0), values)
    assert optimal_threshold(theirs, 0.4) == pytest.approx(computeOptThreshold(theirs, 0.4), abs=EPS, rel=0)


def test_it_scales_with_the_values_where_the_package_cannot() -> None:
    s = np.linalg.svd(planted("columns", 300, 120, 4), compute_uv=False)
    choice = screenot(s, (300, 120))
    for factor in (1e-9, 1e6):
        scaled = screenot(factor * s, (120, 300))
        assert scaled.k == choice.k and scaled.threshold == pytest.approx(factor * (choice.threshold or 0), rel=1e-12)
    assert screenot(s[::-1], (300, 120)) == choice  # in any order


def test_a_bound_that_is_too_high_is_lowered_and_said() -> None:
    s = np.linalg.svd(planted("white", 200, 40, 3), compute_uv=False)
    choice = screenot(s, (200, 40))
    assert choice.k == 3 and choice.note.startswith("upper bound lowered to 10, a quarter of 40: ")
    assert choice == replace(screenot(s, (200, 40), 10), note=choice.note) and screenot(s, (200, 40), 10).note == ""
    assert screenot(s, (200, 40), 19).note == ""  # asked for, and can be had
    reached = screenot(s, (200, 40), 3)
    assert reached.k == 3 and "the upper bound 3 is reached" in reached.note


def test_declines_and_refusals() -> None:
    assert screenot([2.0, 1.0], (5, 2)).k is None
    assert screenot(np.r_[np.full(10, 3.0), np.zeros(90)], (200, 100)).k is None
    with pytest.raises(EigenzooError, match="got 30 singular values of a 200 × 100 matrix, 100 are needed"):
        screenot(np.ones(30), (200, 100))
    with pytest.raises(EigenzooError, match="upper bound must be 0 or more"):
        screenot(np.ones(3), (9, 3), -1)
    for bad in ("x", "-1", "1.5"):
        with pytest.raises(EigenzooError, match="^k: 'screenot:"):
            ScreeNOT.parse(bad)


def test_over_a_spectrum() -> None:
    x = planted("white", 400, 120, 4)
    padded = np.zeros((400, 300))
    padded[:, 50:170] = x
    spectrum = spectrum_of(padded)
    choice, expected = ScreeNOT()(spectrum), screenot(spectrum_of(x).singular_values, (399, 120), BOUND)
    assert choice.rule == expected.rule == "screenot" and choice.k == expected.k == 4
    assert choice.threshold == pytest.approx(expected.threshold, rel=1e-9)
    alone = spectrum_of(planted("zeros", 400, 300))
    assert alone.n_zero_variance_columns == 180 and ScreeNOT()(alone).k == 0
    assert "180 of 300 columns" in ScreeNOT()(alone).note
    declined = ScreeNOT()(replace(spectrum, kind="top"))
    assert declined.k is None and "all of them" in declined.note

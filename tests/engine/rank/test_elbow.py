from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.planted import planted, spectrum_of
from engine.rank.elbow import Elbow, elbow
from ingest.errors import EigenzooError


def profile_likelihood(d: np.ndarray) -> int:
    """The paper's algorithm, word for word."""
    p, best, at = len(d), -np.inf, 0
    for q in range(1, p):
        first, second = d[:q], d[q:]
        variance = (((first - first.mean()) ** 2).sum() + ((second - second.mean()) ** 2).sum()) / (p - 2)
        squares = ((first - first.mean()) ** 2).sum() + ((second - second.mean()) ** 2).sum()
        value = -p / 2 * np.log(2 * np.pi * variance) - squares / (2 * variance)
        if value > best + 1e-9:
            best, at = value, q
    return at


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_most_likely_gap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    s = np.sort(rng.gamma(1.5, size=rng.integers(3, 60)))[::-1]
    choice = elbow(s, (200, len(s)))
    assert choice.k == profile_likelihood(s**2)
    assert s[choice.k] < choice.threshold < s[choice.k - 1]


def test_a_clear_gap_and_laws() -> None:
    s = np.r_[np.linspace(10.5, 10, 7), np.linspace(2, 1, 50)]
    choice = elbow(s, (300, 57))
    assert choice.k == 7
    assert elbow(5 * s[::-1], (57, 300)).k == 7
    assert elbow([2.0, 2.0, 1.0, 1.0], (9, 4)).k == 2  # two exact levels
    assert Elbow()(spectrum_of(planted("white", 500, 80, 5, (3.0, 2.8)))).k == 5


def test_declines_and_refusals() -> None:
    assert elbow([2.0, 1.0], (9, 2)).k is None
    assert "alike" in elbow(np.ones(9), (9, 9)).note and "alike" in elbow(np.zeros(9), (9, 9)).note
    with pytest.raises(EigenzooError, match="got 3 singular values"):
        elbow(np.ones(3), (9, 9))
    assert Elbow()(replace(spectrum_of(planted("white", 60, 30)), kind="top")).k is None
    with pytest.raises(EigenzooError, match="^k: 'elbow:3'"):
        Elbow.parse("3")

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.rank import parse_rule
from engine.rank.explained_variance import ExplainedVariance, explained_variance
from engine.rank.fixed import Fixed
from engine.rank.gavish_donoho import GavishDonoho
from engine.spectrum import Spectrum
from ingest.errors import EigenzooError

SIGMA = np.sqrt([6.0, 3.0, 1.0, 0.0])
SPECTRUM = Spectrum(SIGMA, 10.0 / 9, 10, 4, 9, 0, 0.0, "moments")
UNCENTRED = Spectrum(SIGMA, 10.0 / 9, 10, 4, 10, 0, 0.0, "moments")  # variances are over n − 1 here too


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ("gavish-donoho", GavishDonoho()),
        ("gavish-donoho:0.5", GavishDonoho(0.5)),
        ("gavish-donoho:0.0123456789", GavishDonoho(0.0123456789)),
        ("gavish-donoho:1e-05", GavishDonoho(1e-5)),
        ("ev:0.9999999", ExplainedVariance(0.9999999)),
        ("ev:0.8", ExplainedVariance(0.8)),
        ("ev:1", ExplainedVariance(1.0)),
        (12, Fixed(12)),
        ("12", Fixed(12)),
        (0, Fixed(0)),
        (Fixed(3), Fixed(3)),
    ],
)
def test_parse(given: Any, rule: Any) -> None:
    assert parse_rule(given) == rule
    assert parse_rule(given).name == (str(given) if isinstance(given, str | int) else given.name)
    assert parse_rule(parse_rule(given).name) == rule  # a name reads back as its rule


def test_names_are_exact() -> None:
    third = float(np.float64(1) / 3)
    for rule in (ExplainedVariance(third), GavishDonoho(third), ExplainedVariance(float(np.nextafter(1, 0)))):
        assert parse_rule(rule.name) == rule
    assert ExplainedVariance(np.float64(0.8)).name == explained_variance(SIGMA, np.float64(0.8)).rule == "ev:0.8"
    assert explained_variance(SIGMA, 0.9999999).rule == "ev:0.9999999"


@pytest.mark.parametrize(
    "given",
    [
        "",
        "ev",
        "ev:",
        "ev:x",
        "ev:0",
        "ev:1.5",
        "-3",
        -3,
        "twelve",
        "gavish-donoho:x",
        "gavish-donoho:0",
        "gavish-donoho:-1",
        "gavish-donoho:nan",
        True,
        None,
        2.5,
        "1.5",
    ],
)
def test_parse_refuses(given: Any) -> None:
    with pytest.raises(EigenzooError, match="^k: ") as caught:
        parse_rule(given)
    assert "\n" not in str(caught.value)


def test_numpy_integers_are_numbers() -> None:
    assert parse_rule(np.int64(3)) == Fixed(3) and parse_rule(np.int64(3)).name == "3"


@pytest.mark.parametrize(("fraction", "k"), [(0.1, 1), (0.6, 1), (0.61, 2), (0.9, 2), (0.91, 3), (1.0, 3)])
@pytest.mark.parametrize("spectrum", [SPECTRUM, UNCENTRED], ids=["centred", "uncentred"])
def test_smallest_k_that_reaches_the_share(spectrum: Spectrum, fraction: float, k: int) -> None:
    choice = ExplainedVariance(fraction)(spectrum)
    assert not choice.note
    assert (choice.k, choice.threshold, choice.rule) == (k, fraction, f"ev:{fraction:g}")


def test_share_is_of_the_exact_total() -> None:
    assert explained_variance(SIGMA[:1], 0.5, total=10.0).k == 1
    short = explained_variance(SIGMA[:1], 0.8, total=10.0)
    assert short.k is None and "0.6" in short.note
    assert explained_variance(np.zeros(3), 0.8).k is None


def test_fixed_stops_at_the_rank() -> None:
    assert Fixed(3)(SPECTRUM).k == 3
    with pytest.raises(EigenzooError, match="10 × 4 matrix of rank 3; ask for at most 3"):
        Fixed(4)(SPECTRUM)

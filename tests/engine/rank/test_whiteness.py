"""The whiteness test: what it lets stand, what it flags, and that it changes no K."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.planted import planted, spectrum_of
from bench.whiteness import weak
from engine.rank.bulk_edge import BulkEdge
from engine.rank.gavish_donoho import GavishDonoho, gavish_donoho
from engine.rank.screenot import ScreeNOT
from engine.rank.shrinkage import Shrinkage
from engine.rank.whiteness import LEAST, critical_distance, whiteness

COLOURED = ("adapters", "columns", "ar1")


def below(x: np.ndarray) -> tuple[object, int]:
    spectrum = spectrum_of(x)
    return spectrum, gavish_donoho(spectrum.singular_values, spectrum.effective_shape).k or 0


@pytest.mark.parametrize("noise", ["white", "uniform"])
@pytest.mark.parametrize(("shape", "draws"), [((60, 40), 60), ((400, 40), 40), ((120, 120), 20), ((60, 200), 25)])
@pytest.mark.parametrize("signal", ["none", "strong", "weak too"])
def test_white_noise_passes(noise: str, shape: tuple[int, int], draws: int, signal: str) -> None:
    alarms = 0
    for seed in range(draws):
        x = planted(noise, *shape, 0 if signal == "none" else 5, seed=1000 + seed)
        x = x + weak(*shape, 2, seed) if signal == "weak too" else x
        alarms += whiteness(*below(x)).white is not True  # type: ignore[arg-type]
    assert alarms <= 1


@pytest.mark.parametrize("shape", [(1500, 30), (1500, 400), (500, 500)])
def test_large_white_noise_passes(shape: tuple[int, int]) -> None:
    found = whiteness(*below(planted("white", *shape, 6)))  # type: ignore[arg-type]
    assert found.white is True and found.note == "" and found.distance < found.critical


@pytest.mark.parametrize("kind", COLOURED)
@pytest.mark.parametrize("shape", [(400, 100), (1500, 200), (150, 500)])
@pytest.mark.parametrize("seed", range(3))
def test_other_noise_is_flagged_wherever_the_hard_threshold_is_misled(
    kind: str, shape: tuple[int, int], seed: int
) -> None:
    spectrum, k = below(planted(kind, *shape, seed=seed))
    found = whiteness(spectrum, k)  # type: ignore[arg-type]
    if k:
        assert found.white is False and found.distance > found.critical and "Marchenko–Pastur" in found.note


@pytest.mark.parametrize("kind", COLOURED)
def test_the_kinds_do_mislead_it(kind: str) -> None:
    assert max(below(planted(kind, 1500, 200, seed=seed))[1] for seed in range(3)) > 0


def test_a_rank_deficient_bulk_is_not_white() -> None:
    spectrum = spectrum_of(planted("deficient", 600, 100))
    found = whiteness(spectrum)
    assert found.white is False
    half = replace(spectrum, singular_values=np.r_[spectrum.singular_values[:40], np.zeros(60)])
    assert whiteness(half).white is False and "60 of the 100 values" in whiteness(half).note


def test_columns_without_variance_leave_the_width_first() -> None:
    spectrum = spectrum_of(planted("zeros", 600, 200))
    assert whiteness(spectrum).white is True
    assert whiteness(replace(spectrum, n_zero_variance_columns=0)).white is False


def test_laws() -> None:
    x = planted("columns", 300, 100, 3)
    rng = np.random.default_rng(0)
    spectrum = replace(spectrum_of(x), n_effective=300)
    found = whiteness(spectrum, 3)
    assert whiteness(replace(spectrum, singular_values=7 * spectrum.singular_values), 3) == pytest.approx(found) or (
        whiteness(replace(spectrum, singular_values=7 * spectrum.singular_values), 3).distance
        == pytest.approx(found.distance, abs=1e-12)
    )
    turned = replace(spectrum, n_rows=100, n_effective=100, width=300)
    assert whiteness(turned, 3) == found
    shuffled = spectrum_of(x[rng.permutation(300)][:, rng.permutation(100)])
    assert whiteness(replace(shuffled, n_effective=300), 3).distance == pytest.approx(found.distance, abs=1e-9)


def test_it_cannot_tell() -> None:
    spectrum = spectrum_of(planted("white", 300, 40))
    assert "bulk" in whiteness(replace(spectrum, kind="top")).note
    few = whiteness(spectrum, 40 - LEAST + 1)
    assert (few.white, few.distance, few.critical) == (None, None, None) and f"{LEAST} are needed" in few.note
    assert whiteness(spectrum, 40 - LEAST).white is not None
    short = whiteness(replace(spectrum, singular_values=spectrum.singular_values[:30]))
    assert short.white is None and short.note == "only 30 of 40 singular values are known"
    coarse = whiteness(replace(spectrum, eigenvalue_error=300.0))
    assert coarse.white is None and "rounding" in coarse.note
    # what the values may be off by is no evidence
    columns = spectrum_of(planted("columns", 300, 100))
    blurred = replace(columns, eigenvalue_error=5.0)
    assert whiteness(blurred).distance < whiteness(columns).distance


def test_rules_that_take_noise_for_white_say_so_and_keep_their_k() -> None:
    spectrum = spectrum_of(planted("columns", 1500, 200))
    for rule in (GavishDonoho(), GavishDonoho(1.0), BulkEdge(), Shrinkage()):
        choice = rule(spectrum)
        assert choice.note.startswith("noise is not white: the values below K are 0."), rule.name
    known = gavish_donoho(spectrum.singular_values, spectrum.effective_shape)
    assert (GavishDonoho()(spectrum).k, GavishDonoho()(spectrum).threshold) == (known.k, known.threshold)
    assert ScreeNOT()(spectrum).note == ""
    assert GavishDonoho()(spectrum_of(planted("white", 1500, 200, 4))).note == ""


def test_the_critical_distance_is_a_few_ranks() -> None:
    for m in (20, 100, 4096):
        assert 2 <= m * critical_distance(m) <= 6
    assert critical_distance(1) == 1.0

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.planted import planted, spectrum_of
from engine.rank.shrinkage import LOSSES, Shrinkage, least, shrink, shrinker
from ingest.errors import EigenzooError

BETAS = [0.01, 0.3, 1.0]


def seen(x: np.ndarray, beta: float) -> np.ndarray:
    """Where a direction of strength x is seen (Gavish and Donoho 2017, equation 3)."""
    return np.sqrt((x + 1 / x) * (x + beta / x))


@pytest.mark.parametrize("beta", BETAS)
def test_the_operator_norms_shrinker_gives_the_strength_back(beta: float) -> None:
    x = np.linspace(beta**0.25 * 1.001, 9, 50)
    np.testing.assert_allclose(shrinker(seen(x, beta), beta, "operator"), x, rtol=1e-6)


@pytest.mark.parametrize("beta", BETAS)
def test_the_frobenius_norms_shrinker_is_strength_times_both_cosines(beta: float) -> None:
    x = np.linspace(beta**0.25 * 1.01, 9, 50)
    left = np.sqrt((x**4 - beta) / (x**4 + beta * x**2))  # equation 4
    right = np.sqrt((x**4 - beta) / (x**4 + x**2))
    np.testing.assert_allclose(shrinker(seen(x, beta), beta, "frobenius"), x * left * right, rtol=1e-9)
    sines = np.sqrt((1 - left**2) * (1 - right**2))
    nuclear = np.maximum(x * (left * right - sines), 0)  # equation 9 in terms of the cosines
    np.testing.assert_allclose(shrinker(seen(x, beta), beta, "nuclear"), nuclear, atol=1e-9)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("loss", LOSSES)
def test_values_up_to_the_least_become_0(beta: float, loss: str) -> None:
    start = least(beta, loss)
    assert start >= 1 + math.sqrt(beta) or start == pytest.approx(1 + math.sqrt(beta))
    below, above = shrinker(np.array([start * (1 - 1e-6), start * (1 + 1e-6)]), beta, loss).tolist()
    assert below == 0 < above
    y = np.linspace(start * 1.001, 20, 100)
    eta = shrinker(y, beta, loss)
    assert (np.diff(eta) > 0).all() and (eta < y).all()


@pytest.mark.parametrize("noise", [None, 1.0])
def test_it_is_nearer_to_the_signal_than_any_other_loss_and_than_cutting(noise: float | None) -> None:
    n, d, k = 600, 200, 8
    x = planted("white", n, d, k, (2.0, 0.9), 5)
    signal = x - planted("white", n, d, 0, seed=5)
    u, s, vt = np.linalg.svd(x, full_matrices=False)

    def off(values: np.ndarray, norm: str | int) -> float:
        return float(np.linalg.norm((u * values) @ vt - signal, norm))  # type: ignore[arg-type]

    by_loss = {loss: shrink(s, (n, d), noise, loss).values for loss in LOSSES}
    cut = np.where(np.arange(d) < k, s, 0.0)
    for norm, best in (("fro", "frobenius"), ("nuc", "nuclear")):
        for other in LOSSES:
            assert off(by_loss[best], norm) <= off(by_loss[other], norm) * (1 + 1e-9)
        assert off(by_loss[best], norm) < off(cut, norm)


def test_laws() -> None:
    s = np.linalg.svd(planted("white", 500, 80, 5), compute_uv=False)
    for loss in LOSSES:
        found = shrink(s, (500, 80), loss=loss)
        assert found.k == 5 == np.count_nonzero(found.values) and found.noise == pytest.approx(1.0, rel=0.03)
        turned, scaled = shrink(s, (80, 500), loss=loss), shrink(3 * s, (500, 80), loss=loss)
        np.testing.assert_array_equal(turned.values, found.values)
        np.testing.assert_allclose(scaled.values, 3 * found.values, rtol=1e-12)
        np.testing.assert_allclose(shrink(s[:9], (500, 80), found.noise, loss).values, found.values[:9], rtol=1e-12)


def test_over_a_spectrum() -> None:
    spectrum = spectrum_of(planted("white", 500, 80, 5))
    choice = Shrinkage()(spectrum)
    assert (choice.k, choice.rule) == (5, "shrinkage") and choice.note == ""
    assert choice.threshold == pytest.approx((1 + math.sqrt(80 / 499)) * math.sqrt(499), rel=0.03)
    assert Shrinkage("nuclear")(spectrum).rule == "shrinkage:nuclear"


def test_refusals() -> None:
    with pytest.raises(EigenzooError, match="choose frobenius, operator, nuclear"):
        shrink([1.0], (1, 1), loss="max")
    with pytest.raises(EigenzooError, match="noise must be positive"):
        shrink([1.0], (1, 1), 0.0)
    with pytest.raises(EigenzooError, match="got 1 singular values"):
        shrink([1.0], (9, 3))
    nothing = shrink(np.r_[2.0, np.zeros(9)], (50, 10))
    assert nothing.k is None and "9 of 10" in nothing.note
    with pytest.raises(EigenzooError, match="^k: 'shrinkage:max'"):
        Shrinkage.parse("max")

from __future__ import annotations

import numpy as np
import pytest

from engine.rank.marchenko_pastur import edge, largest_of_noise, marchenko_pastur_cdf, marchenko_pastur_median

BETAS = [0.001, 0.05, 0.3, 0.75, 1.0]


@pytest.mark.parametrize("beta", BETAS)
def test_the_distribution_function_is_the_densitys_integral(beta: float) -> None:
    nodes, weights = np.polynomial.legendre.leggauss(400)
    for share in (0.1, 0.5, 0.9):
        theta = np.pi * share  # x = 1 + β + 2√β cos θ falls in θ, so this is the mass above
        t = (nodes + 1) * theta / 2
        above = weights @ (2 / np.pi * np.sin(t) ** 2 / (1 + beta + 2 * np.sqrt(beta) * np.cos(t))) * theta / 2
        x = 1 + beta + 2 * np.sqrt(beta) * np.cos(theta)
        assert marchenko_pastur_cdf(x, beta) == pytest.approx(1 - above, abs=1e-11)


@pytest.mark.parametrize("beta", BETAS)
def test_it_rises_from_0_to_1_and_is_a_half_at_the_median(beta: float) -> None:
    root = np.sqrt(beta)
    x = np.linspace((1 - root) ** 2, (1 + root) ** 2, 1001)
    found = marchenko_pastur_cdf(x, beta)
    assert found[0] == pytest.approx(0, abs=1e-8 / beta) and found[-1] == pytest.approx(1, abs=1e-8 / beta)
    assert (np.diff(found) > -1e-8 / beta).all() and (np.diff(found[::50]) > 0).all()
    assert marchenko_pastur_cdf(marchenko_pastur_median(beta), beta) == pytest.approx(0.5, abs=1e-11)
    assert marchenko_pastur_cdf([0.0, 9.0], beta).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("draw", ["standard_normal", "uniform"])
@pytest.mark.parametrize("shape", [(80, 20), (20, 80), (40, 40)])
def test_noise_passes_its_largest_value_once_in_a_hundred(shape: tuple[int, int], draw: str) -> None:
    rng = np.random.default_rng(0)
    size = (1500, *shape)
    x = rng.standard_normal(size) if draw == "standard_normal" else rng.uniform(-np.sqrt(3), np.sqrt(3), size)
    largest = np.linalg.norm(x, ord=2, axis=(1, 2))
    assert 0 < (largest > largest_of_noise(shape)).mean() <= 0.015
    assert largest_of_noise(shape) == largest_of_noise(shape[::-1])
    assert edge((10**8, 10**6)) == pytest.approx(largest_of_noise((10**8, 10**6)), rel=1e-3)

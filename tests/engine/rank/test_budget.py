"""The allocation of a byte budget: exact against brute force, and never worse than simpler rules."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest

from engine.rank import knapsack
from engine.rank.budget import (
    Allocation,
    Curve,
    allocate,
    allocate_error,
    greedy,
    greedy_error,
    uniform,
    uniform_error,
)
from ingest.errors import EigenzooError

NEAR = 1e-12


def draw(rng: np.random.Generator) -> list[Curve]:
    """One to four matrices of up to five components: smooth, flat, tied, empty, truncated; units shared or not."""
    units = rng.choice([2, 3, 5, 7, 12, 100, 101], size=rng.integers(1, 4))
    curves = []
    for _ in range(rng.integers(1, 5)):
        n = int(rng.integers(0, 6))
        energies = (
            np.sort(rng.exponential(size=n))[::-1],
            np.full(n, float(rng.integers(1, 4))),
            np.sort(rng.integers(0, 4, size=n))[::-1].astype(float),
        )[rng.integers(3)]
        curves.append(Curve(energies, int(rng.choice(units)), float(rng.integers(2)) * 0.25))
    return curves


def every(curves: list[Curve]) -> list[tuple[int, float]]:
    """(bytes, tail) of all allocations there are."""
    out = []
    for k in itertools.product(*(range(len(c.energies) + 1) for c in curves)):
        nbytes = sum(c.unit * n for c, n in zip(curves, k, strict=True))
        out.append((nbytes, math.fsum(c.tail(n) for c, n in zip(curves, k, strict=True))))
    return out


def check(curves: list[Curve], found: Allocation) -> None:
    assert all(0 <= n <= c.useful for n, c in zip(found.k, curves, strict=True))
    assert found.nbytes == sum(c.unit * n for c, n in zip(curves, found.k, strict=True))
    assert found.tail == pytest.approx(sum(c.tail(n) for c, n in zip(curves, found.k, strict=True)), rel=NEAR)


@pytest.mark.parametrize("case", range(200))
def test_no_allocation_is_better(case: int) -> None:
    rng = np.random.default_rng(case)
    curves = draw(rng)
    all_of_them = every(curves)
    nbytes = int(rng.integers(0, max(b for b, _ in all_of_them) + 10))
    found = allocate(curves, nbytes)
    check(curves, found)
    assert found.nbytes <= nbytes and found.gap == 0.0
    best = min(tail for b, tail in all_of_them if b <= nbytes)
    assert found.tail <= best + NEAR
    for other in (greedy(curves, nbytes), uniform(curves, nbytes)):
        check(curves, other)
        assert other.nbytes <= nbytes and found.tail <= other.tail + NEAR
    # and the other way round: the fewest bytes for a tail that can be had
    tail = float(rng.choice([t for _, t in all_of_them])) + float(rng.choice([0.0, 0.1]))
    least = allocate_error(curves, tail)
    check(curves, least)
    assert least.tail <= tail + NEAR and least.gap == 0.0
    assert least.nbytes == min(b for b, t in all_of_them if t <= tail + NEAR)
    for other in (greedy_error(curves, tail), uniform_error(curves, tail)):
        check(curves, other)
        assert other.tail <= tail + NEAR and least.nbytes <= other.nbytes


def test_uniform_is_the_largest_k_that_fits() -> None:
    curves = [Curve(np.array([4.0, 3.0, 2.0]), 10), Curve(np.array([9.0]), 5), Curve(np.zeros(2), 1)]
    for nbytes, k in ((14, (0, 0, 0)), (15, (1, 1, 0)), (24, (1, 1, 0)), (25, (2, 1, 0)), (1000, (3, 1, 0))):
        assert uniform(curves, nbytes).k == k
    assert uniform_error(curves, 5.0).k == (1, 1, 0) and uniform_error(curves, 4.9).k == (2, 1, 0)
    assert uniform_error(curves, 18.0).k == (0, 0, 0)


def test_greedy_can_be_beaten() -> None:
    curves = [Curve(np.array([10.0]), 6), Curve(np.array([8.0, 8.0]), 5)]
    assert greedy(curves, 10).tail == 16.0 and allocate(curves, 10).k == (0, 2)


def test_nothing_to_keep() -> None:
    for curves in ([], [Curve(np.zeros(3), 4)], [Curve(np.empty(0), 4, 2.0)]):
        found = allocate(curves, 100)
        assert sum(found.k) == found.nbytes == 0 and found.tail == sum(c.beyond for c in curves)
        assert greedy(curves, 100).k == uniform(curves, 100).k == found.k
    assert allocate([Curve(np.array([1.0]), 4)], 3).k == (0,)


def test_what_cannot_be() -> None:
    with pytest.raises(EigenzooError, match="-1 bytes; give 0 or more"):
        allocate([], -1)
    with pytest.raises(EigenzooError, match="lies beyond the singular values known"):
        allocate_error([Curve(np.array([1.0]), 4, 0.5)], 0.4)
    for energies in ([1.0, 2.0], [1.0, -1.0], [np.nan], [np.inf]):
        with pytest.raises(EigenzooError, match="fall and are not negative"):
            Curve(np.array(energies), 4)
    with pytest.raises(EigenzooError, match="unit of 0 bytes"):
        Curve(np.array([1.0]), 0)


def zoo(shape: str, seed: int = 0) -> list[Curve]:
    """384 matrices as a large zoo has them: widths of a model, 16,000 rows or as many as a layer happens to have."""
    rng = np.random.default_rng(seed)
    curves = []
    for i in range(384):
        width = (1024, 4096, 4096, 14336)[i % 4]
        rows = 16000 if shape != "irregular" else int(rng.integers(8000, 16000))
        n = min(width, 2048)
        energies = np.exp(rng.normal()) * np.arange(1, n + 1) ** -rng.uniform(0.8, 2.0) + 1e-4 * rng.uniform(0.9, 1.1)
        if shape == "flat":
            energies = np.sort(rng.uniform(0.9, 1.0, n))[::-1]
        curves.append(Curve(energies, 2 * (width + rows)))
    return curves


@pytest.mark.parametrize("shape", ["regular", "irregular", "flat"])
def test_a_large_zoo_takes_seconds(shape: str) -> None:
    curves = zoo(shape)
    most = sum(c.unit * len(c.energies) for c in curves)
    for share in (0.002, 0.05):
        begin = time.process_time()
        found = allocate(curves, int(share * most))
        seconds = time.process_time() - begin
        assert found.gap == 0.0 and seconds < 10, f"{seconds:.1f} s, gap {found.gap}"
        check(curves, found)
        assert found.nbytes <= share * most
        assert found.tail <= min(f(curves, int(share * most)).tail for f in (greedy, uniform)) * (1 + NEAR)


def test_what_is_not_proven_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    curves = [Curve(np.sort(rng.exponential(size=30))[::-1], int(u)) for u in rng.integers(900, 1100, size=12)]
    proven = allocate(curves, 60_000)
    monkeypatch.setattr(knapsack, "_BEAM", 2)
    monkeypatch.setattr(knapsack, "_MOST", 2)
    found = allocate(curves, 60_000)
    assert proven.gap == 0.0 < found.gap and found.tail - found.gap <= proven.tail <= found.tail
    monkeypatch.undo()
    monkeypatch.setattr(knapsack, "_PAIRS", 50)
    assert allocate(curves, 60_000).gap > 0

"""Moments that rows go into and out of: whatever the order, the rows held decide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import engine
from engine import Moments
from engine.kept.state_file import packed_bytes
from engine.methods import COARSE_WIDTH
from ingest.errors import EigenzooError
from tests.engine.spectra import prescribed, reference

Matrix = NDArray[np.float64]


def truth(x: NDArray[Any]) -> tuple[Matrix, Matrix]:
    """Mean and scatter in extended precision."""
    y = x.astype(np.longdouble)
    mean = y.mean(axis=0)
    return mean.astype(np.float64), ((y - mean).T @ (y - mean)).astype(np.float64)


def scatter_of(moments: Moments) -> Matrix:
    return moments.covariance() * max(moments.n_rows - 1, 1)


def far(found: Matrix, wanted: Matrix) -> float:
    """Frobenius norm of the difference, relative to that of what is wanted."""
    return float(np.linalg.norm(found - wanted) / max(np.linalg.norm(wanted), 1e-300))


def tree(parts: list[Moments], rng: np.random.Generator) -> Moments:
    while len(parts) > 1:
        i, j = sorted(rng.choice(len(parts), 2, replace=False))
        right = parts.pop(j)
        parts[i] = right.merge(parts[i]) if rng.random() < 0.5 else parts[i].merge(right)
    return parts[0]


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    width=st.integers(1, 12),
    offset=st.sampled_from([0.0, 1.0, 100.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_blocks_order_and_merges_do_not_matter(counts: list[int], width: int, offset: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((sum(counts), width)) + offset * rng.standard_normal(width)
    blocks = np.split(x, np.cumsum(counts)[:-1])
    mean, scatter = truth(x)
    found = [Moments().update(x), tree([Moments(device="cpu").update(block) for block in blocks], rng)]
    one = Moments(width)
    for i in rng.permutation(len(blocks)):
        one.update(blocks[i])
    size = max(np.linalg.norm(scatter), 1e-2 * np.abs(x).max() ** 2)  # a single row's scatter is 0
    for moments in (*found, one):
        assert moments.n_rows == len(x)
        assert np.abs(moments.mean - mean).max() <= 1e-14 * max(np.abs(x).max(), 1.0)
        assert np.linalg.norm(scatter_of(moments) - scatter) <= 1e-12 * size
        assert moments.error_bound < 1e-12 and not moments.needs_rebuild


@settings(max_examples=60, deadline=None)
@given(
    kept=st.integers(2, 200),
    gone=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    width=st.integers(1, 12),
    larger=st.sampled_from([1.0, 1e2, 1e4]),
    offset=st.sampled_from([0.0, 10.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_is_added_and_taken_out_was_never_there(
    kept: int, gone: list[int], width: int, larger: float, offset: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((kept, width)) + offset * rng.standard_normal(width)
    strangers = [larger * rng.standard_normal((n, width)) for n in gone]
    moments = Moments().update(x)
    for block in strangers:
        moments.update(block)
    for block in rng.permutation(len(strangers)):
        moments.subtract(strangers[block])
    mean, scatter = truth(x)
    assert moments.n_rows == kept
    off = np.linalg.norm(scatter_of(moments) - scatter) / np.trace(scatter)
    assert off <= moments.error_bound, "the stated bound"
    most = np.trace(truth(np.concatenate([x, *strangers]))[1])  # the largest scatter ever held sets the rounding
    assert off * np.trace(scatter) <= 1e-12 * most
    assert np.abs(moments.mean - mean).max() <= 1e-12 * larger * max(1.0, np.abs(mean).max()) * sum(gone)


def test_a_mean_a_million_times_the_spread_costs_few_digits() -> None:
    rng = np.random.default_rng(0)
    x, _ = prescribed(3000, 40, np.geomspace(50, 1, 40), mean=1e6 * rng.standard_normal(40))
    wanted = reference(x.astype(np.longdouble) - x.mean(axis=0))
    moments = tree([Moments().update(part) for part in np.array_split(x, 11)], rng)
    assert np.abs(moments.subspace().singular_values / wanted - 1).max() < 1e-8
    moments.update(x[:30]).subtract(x[:30])
    assert np.abs(moments.subspace().singular_values - wanted).max() < 1e-8 * wanted[0]


@pytest.mark.parametrize("center", ["feature", "none"])
def test_the_subspace_is_that_of_a_fit(center: str) -> None:
    x, _ = prescribed(400, 30, np.geomspace(100, 1e-2, 30), mean=2.0)
    moments = Moments().update(x[:100]).update(x[100:])
    for k in ("gavish-donoho", "ev:0.8", 7):
        mine, theirs = moments.subspace(k, center=center), engine.fit(x, k, center=center)
        assert np.abs(mine.singular_values - theirs.singular_values).max() < 1e-12 * theirs.singular_values[0]
        assert np.abs(mine.components - theirs.components).max() < 1e-10
        assert (mine.n_rows, mine.k_choice.k, mine.center, mine.method) == (400, theirs.k_choice.k, center, "moments")
    assert moments.total_variance == pytest.approx(float((mine.singular_values**2).sum()) / 399) or center == "none"
    assert moments.subspace(3).n_components == 3, "the moments are not used up"


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 60), width=st.integers(1, 20), seed=st.integers(0, 2**32 - 1))
def test_eigenvalues_sum_to_the_trace(n: int, width: int, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((n, width)) * 3 + 1
    moments = Moments().update(x)
    found = moments.subspace()
    trace = np.trace(truth(x)[1])
    assert float((found.singular_values**2).sum()) == pytest.approx(trace, rel=1e-12)
    assert moments.total_variance * (n - 1) == pytest.approx(trace, rel=1e-12)
    assert moments.total_variance == pytest.approx(found.total_variance, rel=1e-14)
    np.testing.assert_allclose(np.diagonal(moments.covariance()), moments.variance)


def test_rows_that_outweighed_the_rest_ask_for_a_rebuild() -> None:
    rng = np.random.default_rng(0)
    x, large = rng.standard_normal((2000, 16)), 1e4 * rng.standard_normal((20, 16))
    moments = Moments().update(x).update(large)
    assert not moments.needs_rebuild
    moments.subtract(large)
    assert moments.needs_rebuild and "rounding may have reached" in moments.rebuild_reason
    assert far(scatter_of(moments), truth(x)[1]) < moments.error_bound < 1e-7
    found = moments.subspace()
    assert found.eigenvalue_error > 0 and found.floor > 1e-5 * found.singular_values[0]
    assert not Moments().update(x).update(x[:20] * 3).subtract(x[:20] * 3).needs_rebuild


def test_what_rounding_left_is_no_direction() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 3)) @ rng.standard_normal((3, 20))
    more = 300 * rng.standard_normal((40, 20))
    moments = Moments().update(x).update(more).subtract(more)
    found = moments.subspace()
    assert np.count_nonzero(found.singular_values) == 3 == np.count_nonzero(engine.fit(x).singular_values)


def test_a_column_that_varied_in_rows_taken_out_alone() -> None:
    rng = np.random.default_rng(0)
    x, more = rng.standard_normal((50, 4)), rng.standard_normal((5, 4))
    x[:, 2] = 7.0
    moments = Moments().update(x[:20]).update(x[20:])
    assert moments.variance[2] == 0 and not moments.needs_rebuild
    moments.update(more).subtract(more)
    assert "1 columns" in moments.rebuild_reason


def test_what_cannot_be_taken_out_leaves_all_as_it_was() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 4))
    moments = Moments().update(x)
    before = scatter_of(moments), moments.mean
    for rows, message in (
        (x, "no row would be left"),
        (rng.standard_normal((31, 4)), "31 rows to be taken out, but only 30 are held"),
        (100 * x[:5], "4 columns would be left with a negative variance"),
        (x[:, :3], "width 3, these moments have 4 columns"),
        (np.full((2, 4), np.nan), "NaN"),
    ):
        with pytest.raises(EigenzooError, match=message) as caught:
            moments.subtract(rows)
        assert "\n" not in str(caught.value)
        assert moments.n_rows == 30 and (scatter_of(moments) == before[0]).all() and (moments.mean == before[1]).all()
    with pytest.raises(EigenzooError, match="NaN"), np.errstate(invalid="ignore"):
        moments.update(np.full((2, 4), np.inf))
    assert moments.n_rows == 30 and moments.subtract(Moments()).merge(Moments()).n_rows == 30


def test_there_must_be_rows() -> None:
    for use in (lambda: Moments().mean, lambda: Moments(3).subspace(), lambda: Moments().subtract(np.ones((1, 2)))):
        with pytest.raises(EigenzooError, match="moments of no rows"):
            use()
    assert Moments().n_rows == 0 and Moments().width is None and Moments().error_bound == 0
    for bad in ({"width": 0}, {"products": "int8"}, {"device": "tpu"}):
        with pytest.raises(EigenzooError):
            Moments(**bad)  # type: ignore[arg-type]


def test_a_merge_leaves_the_other_alone() -> None:
    x = np.random.default_rng(0).standard_normal((60, 5))
    one, two = Moments().update(x[:20]), Moments().update(x[20:])
    before = scatter_of(two)
    both = Moments().merge(one).merge(two)
    assert both.n_rows == 60 and two.n_rows == 40 and (scatter_of(two) == before).all()
    both.subtract(two)
    assert both.n_rows == 20 and far(scatter_of(both), scatter_of(one)) < 1e-13
    twin = one.copy()
    twin.update(x)
    assert one.n_rows == 20 and twin.n_rows == 80


@pytest.mark.parametrize("width", [1, 7, 300])
def test_save_and_load(tmp_path: Path, width: int) -> None:
    x = np.random.default_rng(0).standard_normal((900, width)) + 5
    moments = Moments().update(x)
    moments.save(tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").stat().st_size < packed_bytes(width) + 2000
    again = Moments.load(tmp_path / "m.safetensors")
    assert (again.n_rows, again.n_adapters, again.width) == (900, 1, width)
    assert (scatter_of(again) == scatter_of(moments)).all() and (again.mean == moments.mean).all()
    assert again.error_bound == moments.error_bound
    assert (again.subspace().singular_values == moments.subspace().singular_values).all()
    again.update(x).subtract(x)
    assert far(scatter_of(again), scatter_of(moments)) < 1e-13
    engine.fit(x).save(tmp_path / "s.safetensors")
    with pytest.raises(EigenzooError, match="not a moments of eigenzoo"):
        Moments.load(tmp_path / "s.safetensors")
    data = (tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "m.safetensors").write_bytes(data[:-1])
    with pytest.raises(EigenzooError, match="not a whole"):
        Moments.load(tmp_path / "m.safetensors")


def test_moments_of_two_devices_come_together() -> None:
    pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((900, 300)) + 5
    one, two = Moments(device="cpu").update(x[:500]), Moments(device="torch").update(x[500:])
    whole = truth(x)[1]
    assert far(scatter_of(one.copy().merge(two)), whole) < 1e-13
    assert far(scatter_of(two.copy().merge(one)), whole) < 1e-13
    assert far(scatter_of(two.merge(one).subtract(one)), truth(x[500:])[1]) < 1e-13


def test_coarse_products_are_bounded_as_such() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1500, COARSE_WIDTH)).astype(ml_dtypes.bfloat16)
    centred = x.astype(np.float64) - x.astype(np.float64).mean(axis=0)
    exact = centred.T @ centred
    coarse, fine = Moments().update(x), Moments(products="float64").update(x)
    assert fine.error_bound < 2e-14 and far(scatter_of(fine), exact) < 1e-13
    assert np.linalg.norm(scatter_of(coarse) - exact) / np.trace(exact) < coarse.error_bound
    coarse.update(x[:100]).subtract(x[:100])
    assert np.linalg.norm(scatter_of(coarse) - exact) / np.trace(exact) < coarse.error_bound < 1e-5
    assert not coarse.needs_rebuild
    fine.merge(coarse)
    assert fine.n_rows == 3000 and fine.error_bound > 1e-8, "the least precise products count"
    assert "float64" not in fine.subspace(4).products


def test_sources_are_told_by_their_identity(tmp_path: Path) -> None:
    from tests.engine.spectra import FileRows

    x = np.random.default_rng(0).standard_normal((40, 4))
    parts = []
    for i, part in enumerate(np.split(x, 2)):
        np.save(tmp_path / f"{i}.npy", part)
        parts.append(FileRows(tmp_path / f"{i}.npy", 7))
        parts[i].identity = f"part {i}"
    forth, back = Moments().update(parts[0]).update(parts[1]), Moments().update(parts[1]).update(parts[0])
    assert forth.source == back.source != Moments().update(parts[0]).source
    assert forth.n_adapters == 2 and forth.subspace().source == forth.source
    assert forth.subtract(parts[1]).source == Moments().update(parts[0]).source
    assert forth.update(x).source == ""


def test_a_state_with_one_changed_byte_is_refused(tmp_path: Path) -> None:
    from ingest.errors import EigenzooError

    path = tmp_path / "state"
    Moments().update(np.random.default_rng(0).standard_normal((60, 12))).save(path)
    data = bytearray(path.read_bytes())
    data[-40] ^= 0x5A
    path.write_bytes(data)
    with pytest.raises(EigenzooError, match="damaged"):
        Moments.load(path)
    with pytest.raises(EigenzooError, match="merge: got ndarray"):
        Moments().merge(np.ones((3, 3)))  # type: ignore[arg-type]

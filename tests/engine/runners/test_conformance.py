"""One suite for every runner; the serial runner is the reference."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.fitting import fit_reduction
from engine.reductions.moments import Moments
from engine.rows import as_rows
from engine.runners import partition
from engine.runners.serial import SerialRunner
from engine.runners.threads import ThreadsRunner
from ingest.errors import EigenzooError
from tests.engine.runners.passes import Means
from tests.engine.spectra import BrokenRows, FileRows, assert_alike


@pytest.fixture(params=["serial", "threads", "dask"])
def runner(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "dask":
        yield request.getfixturevalue("dask_runner")
        return
    with SerialRunner() if request.param == "serial" else ThreadsRunner(3) as runner:
        yield runner


@pytest.fixture
def many_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks small enough that a test matrix is cut into many; ranges are made in this process only."""
    monkeypatch.setattr(partition, "TASK_WORK", 1)


def saved(folder: Path, n: int, width: int, seed: int = 0, kind: type[FileRows] = FileRows) -> FileRows:
    x = np.random.default_rng(seed).standard_normal((n, width)) * np.linspace(3, 1, width) + 4
    path = folder / f"{seed}.npy"
    np.save(path, x)
    return kind(path, 50)


@pytest.mark.parametrize("shape", [(2000, 32), (130, 32), (1, 4), (20, 60)])
def test_fit_is_the_serial_fit(runner: Any, shape: tuple[int, int], tmp_path: Path, many_tasks: None) -> None:
    from threadpoolctl import threadpool_limits

    rows = saved(tmp_path, *shape)
    assert len(partition.ranges_of(rows)) == {2000: 15}.get(shape[0], 1)
    reduction = fit_reduction(rows, "ev:0.5", device="cpu")
    reduction.start()
    with threadpool_limits(1):
        expected = SerialRunner().run(reduction, rows)
        shared = runner.run(reduction, rows)
        whole = dict(runner.run_many((i, reduction, rows) for i in range(9)))[0]
    assert_alike(shared, expected)
    for name in ("mean", "components", "singular_values"):  # one task did it, as the serial runner does: the same bits
        np.testing.assert_array_equal(getattr(whole, name), getattr(expected, name))
    assert whole.choices == expected.choices


def test_states_match_one_pass_over_all_rows(runner: Any, tmp_path: Path, many_tasks: None) -> None:
    rows = saved(tmp_path, 1000, 16)
    reduction = fit_reduction(rows, 1, device="cpu").solver
    state = runner.run(reduction, rows)
    whole = Moments(16, reduction.backend)
    expected = whole.step(whole.start(), rows.read(0, 1000))
    scale = np.abs(expected.scatter).max()
    np.testing.assert_allclose(np.tril(state.scatter), np.tril(expected.scatter), atol=1e-12 * scale, rtol=0)
    assert state.n == 1000


def test_arrays_in_memory(runner: Any, many_tasks: None) -> None:
    x = np.random.default_rng(1).standard_normal((600, 20))
    before = x.copy()
    rows = as_rows(x)
    found = runner.run(fit_reduction(rows, 4, device="cpu"), rows)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_allclose(found.singular_values, np.linalg.svd(x - x.mean(axis=0), compute_uv=False), rtol=1e-11)


def test_zarr_and_dask_arrays(runner: Any, tmp_path: Path, many_tasks: None) -> None:
    zarr, da = pytest.importorskip("zarr"), pytest.importorskip("dask.array")
    x = np.random.default_rng(2).standard_normal((600, 20))
    array = zarr.create_array(tmp_path / "x.zarr", shape=x.shape, chunks=(64, 20), dtype=x.dtype)
    array[:] = x
    expected = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    for given in (array, da.from_zarr(str(tmp_path / "x.zarr"))):
        rows = as_rows(given)
        found = runner.run(fit_reduction(rows, 4, device="cpu"), rows)
        np.testing.assert_allclose(found.singular_values, expected, rtol=1e-11)


def test_many_matrices_each_under_its_key(runner: Any, tmp_path: Path) -> None:
    sources = {seed: saved(tmp_path, 60 + seed, 8, seed) for seed in range(11)}
    taken = []

    def work() -> Any:
        for seed, rows in sources.items():
            taken.append(seed)
            yield seed, fit_reduction(rows, 1, device="cpu"), rows

    results = {}
    for key, sub in runner.run_many(work()):
        if not results:
            assert len(taken) < 11  # consumed as capacity allows
        results[key] = sub
    assert set(results) == set(sources)
    assert all(sub.n_rows == 60 + seed for seed, sub in results.items())


def test_a_second_pass_over_the_same_rows(runner: Any, tmp_path: Path, many_tasks: None) -> None:
    sources = {seed: saved(tmp_path, n, 12, seed) for seed, n in enumerate((700, 90, 300, 40))}
    found = dict(runner.run_many((key, Means(12), rows) for key, rows in sources.items()))
    assert found.keys() == sources.keys()
    for key, rows in sources.items():
        np.testing.assert_allclose(found[key], SerialRunner().run(Means(12), rows), rtol=1e-12)
        x = rows.read(0, rows.shape[0])
        np.testing.assert_allclose(found[key], ((x - x.mean(axis=0)) ** 2).sum(axis=0), rtol=1e-12)


def test_a_failure_in_a_second_pass_names_its_matrix(runner: Any, tmp_path: Path, many_tasks: None) -> None:
    rows = saved(tmp_path, 200, 8)
    with pytest.raises(EigenzooError, match=r"^k_proj/A: ValueError: operands could not be broadcast"):
        list(runner.run_many([("k_proj/A", Means(7), rows)]))


def test_memory_that_everyone_has(runner: Any) -> None:
    runner.check_memory(2**20, "a small one")


def test_nothing_to_do(runner: Any) -> None:
    assert list(runner.run_many([])) == []


def test_a_failure_is_one_line_that_names_its_matrix(runner: Any, tmp_path: Path) -> None:
    good, bad = saved(tmp_path, 60, 8, 1), saved(tmp_path, 60, 8, 2, BrokenRows)
    work = [(key, fit_reduction(rows, 1, device="cpu"), rows) for key, rows in (("q_proj/A", good), ("v_proj/B", bad))]
    with pytest.raises(EigenzooError, match="^v_proj/B: OSError: the disk is gone$"):
        list(runner.run_many(work))
    with pytest.raises(EigenzooError, match=r"^q_proj/A: k: 9 components asked"):
        list(runner.run_many([("q_proj/A", fit_reduction(good, 9, device="cpu"), good)]))
    assert dict(runner.run_many(work[:1]))["q_proj/A"].n_rows == 60  # and the runner is still good

"""Real adapters, from their files to exact subspaces, against LAPACK's full SVD of the same rows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import engine
from engine.backends import get_backend
from engine.reductions.moments import Moments
from engine.runners.dask_ import DaskRunner
from engine.runners.serial import SerialRunner
from ingest.pipeline import ingest
from ingest.store.reader import Zoo, open_zoo
from ingest.verify import verify

REAL = os.environ.get("EIGENZOO_REAL_ZOO", "")
pytestmark = [
    pytest.mark.skipif(not REAL, reason="EIGENZOO_REAL_ZOO is not set"),
    pytest.mark.xdist_group("real-zoo"),
]

# family → adapters, layers, base model
FAMILIES = {
    "roberta-base": (9, 36, "roberta-base"),
    "gpt2": (3, 36, "gpt2"),
    "sd1.x-unet-r4": (3, 128, None),
}


@pytest.fixture(scope="module", params=FAMILIES)
def zoo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    path = tmp_path_factory.mktemp(request.param) / "z"
    ingest(f"{REAL}/{request.param}__*", path)
    return open_zoo(path)


@pytest.fixture(scope="module")
def dask_runner() -> Iterator[DaskRunner]:
    with DaskRunner(workers=2) as runner:
        yield runner


def test_a_family_makes_one_whole_zoo(zoo: Zoo) -> None:
    family = next(f for f in FAMILIES if f"{f}__" in zoo.adapters[0].source)
    adapters, layers, base = FAMILIES[family]
    assert len(zoo.accepted) == adapters and len(zoo.layers) == layers and zoo.base_model == base
    refused = [(Path(r.source).name, r.reason) for r in zoo.adapters if r.status == "refused"]
    assert refused == ([("pytorch_lora_weights.bin", "pickle")] if family.startswith("sd") else [])
    assert verify(zoo).problems == ()


def test_every_matrix_agrees_with_lapack(zoo: Zoo) -> None:
    for m in zoo.matrices:
        rows = zoo.rows(m.layer, side=m.side)
        x = rows.read(0, m.rows).astype(np.float64)
        n, width = x.shape
        _, s, vh = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
        kept = min(n - 1, width)
        sub = engine.fit(rows, k=kept)
        where = f"{m.layer} {m.side}"
        assert np.abs(sub.singular_values[:kept] - s[:kept]).max() <= 1e-10 * s[0], where
        assert sub.singular_values.shape == s.shape and (sub.singular_values[kept:] == 0).all(), where
        cos = np.abs(np.sum(sub.components * vh[:kept], axis=1))
        gap = np.minimum(np.abs(np.diff(s, prepend=np.inf)), np.abs(np.diff(s, append=0)))[:kept]
        clear = gap > 1e-3 * s[0]
        assert clear.any() and cos[clear].min() >= 1 - 1e-8, where
        theirs = engine.gavish_donoho(s[:kept], (n - 1, width))
        assert sub.choices["gavish-donoho"].k == theirs.k is not None, where
        assert np.isclose(sub.total_variance, (s**2).sum() / (n - 1), rtol=1e-12), where


def test_serial_and_dask_moments_are_equal(zoo: Zoo, dask_runner: DaskRunner) -> None:
    work = {}
    for m in zoo.matrices:
        work[f"{m.layer} {m.side}"] = (Moments(m.width, get_backend("cpu")), zoo.rows(m.layer, side=m.side))
    for key, other in dask_runner.run_many((key, *job) for key, job in work.items()):
        mine = SerialRunner().run(*work[key])
        assert mine.n == other.n and np.abs(mine.mean - other.mean).max() <= 1e-15
        a, b = np.tril(mine.scatter), np.tril(other.scatter)
        assert np.abs(a - b).max() <= 1e-12 * a.diagonal().max(), key  # a norm of M2 is no less than its diagonal


def test_serial_and_dask_fits_are_equal(zoo: Zoo, dask_runner: DaskRunner, tmp_path: Path) -> None:
    serial = engine.fit_zoo(zoo, tmp_path / "serial")
    dask = engine.fit_zoo(zoo, tmp_path / "dask", runner=dask_runner)
    assert [m.key for m in serial.matrices] == [m.key for m in dask.matrices] and len(serial.matrices) == len(
        zoo.matrices
    )
    for mine, other in zip(serial.matrices, dask.matrices, strict=True):
        a = serial.subspace(mine.layer, side=mine.side)
        b = dask.subspace(mine.layer, side=mine.side)
        assert mine.k == other.k
        assert np.abs(a.singular_values - b.singular_values).max() <= 1e-12 * a.singular_values[0]
        assert np.abs(a.mean - b.mean).max() <= 1e-15
        assert np.abs(a.components - b.components).max(initial=0) <= 1e-8

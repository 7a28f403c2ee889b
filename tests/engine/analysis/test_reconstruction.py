"""Reconstruction errors from the factors against those of dense weight changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import engine.delta as delta_module
from engine.analysis.reconstruction import Errors, Projection, pair_errors, reconstruction
from engine.zoo_fit import fit_zoo
from ingest import synthetic
from ingest.errors import EigenzooError
from ingest.pipeline import ingest
from ingest.store.reader import Zoo, open_zoo
from tests.engine.paired import delta, draw, paired

LAYERS = (synthetic.Layer("layers.0.q", 24, 16, 3, 2), synthetic.Layer("layers.1.q", 20, 32, 2, 2))


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    path = tmp_path_factory.mktemp("error")
    synthetic.write(path / "in", synthetic.Settings(LAYERS, adapters=14, broken=False))
    ingest(path / "in", path / "z")
    return open_zoo(path / "z")


def basis(width: int, k: int, seed: int) -> Projection:
    rng = np.random.default_rng(seed)
    return Projection(rng.standard_normal(width), np.linalg.qr(rng.standard_normal((width, k)))[0].T)


def test_every_adapter_of_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = draw((3, 5, 1, 3), 20, 14)
    a, b = basis(20, 4, 1), basis(14, 6, 2)
    for batch in (None, 1):
        if batch:
            monkeypatch.setattr(delta_module, "_BATCH_BYTES", batch)
        found = pair_errors(paired(drawn), a, b)
        half = pair_errors(paired(drawn), a, None)
        for i, (x, y, s) in enumerate(drawn):
            back_x = (x - a.offset) @ a.components.T @ a.components + a.offset
            back_y = ((y.T - b.offset) @ b.components.T @ b.components + b.offset).T
            for (residual, energy), m, n in (
                (found.A, x, back_x),
                (found.B, y, back_y),
                (found.delta, delta(drawn[i]), s * back_y @ back_x),
                (half.delta, delta(drawn[i]), s * y @ back_x),
            ):
                assert residual[i] == pytest.approx(np.sum((m - n) ** 2), rel=1e-11)
                assert energy[i] == pytest.approx(np.sum(m**2), rel=1e-12)
        assert (half.B[0] == 0).all()


def test_small_errors_keep_their_digits() -> None:
    width, out, k = 30, 20, 3
    a = Projection(np.zeros(width), basis(width, k, 1).components)
    b = Projection(np.zeros(out), basis(out, k, 2).components)
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(3):
        x = rng.standard_normal((4, k)) @ a.components + 1e-9 * rng.standard_normal((4, width))
        y = (rng.standard_normal((4, k)) @ b.components + 1e-9 * rng.standard_normal((4, out))).T
        drawn.append((x, y, 1.0))
    residual, energy = pair_errors(paired(drawn), a, b).delta
    p, q = b.components.T @ b.components, a.components.T @ a.components
    for i, f in enumerate(drawn):
        w = delta(f)
        wanted = np.linalg.norm((w - p @ w) @ q + w @ (np.eye(width) - q))
        assert 1e-10 < np.sqrt(residual[i] / energy[i]) < 1e-8
        assert np.sqrt(residual[i]) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("space", ["factor", "delta"])
def test_a_run(zoo: Zoo, tmp_path: Path, space: str) -> None:
    run = fit_zoo(zoo, tmp_path / "run", space=space, k=4)
    found = reconstruction(run)
    assert found.space == space and [e.layer for e in found.layers] == ["layers.0.q", "layers.1.q"]
    residual = energy = 0.0
    for e in found.layers:
        subs = {side: run.subspace(e.layer, side=side) for side in "AB"}
        wanted = []
        for record in zoo.accepted:
            (m,) = [m for m in zoo.adapter(record.name) if m.layer == e.layer]
            x, y = m.A.astype(float), m.B.astype(float)
            back_x = subs["A"].inverse_transform(subs["A"].transform(x))
            back_y = subs["B"].inverse_transform(subs["B"].transform(y.T)).T
            wanted.append((m.scale**2 * np.sum((y @ x - back_y @ back_x) ** 2), m.scale**2 * np.sum((y @ x) ** 2)))
        squares = np.array(wanted).T
        residual, energy = residual + squares[0].sum(), energy + squares[1].sum()
        relative = np.sqrt(squares[0] / squares[1])
        assert np.allclose(e.delta.relative, relative, rtol=1e-9)
        assert e.delta.mean == pytest.approx(relative.mean()) and e.delta.median == pytest.approx(np.median(relative))
        assert e.delta.worst == pytest.approx(relative.max())
        assert e.delta.worst_adapter == zoo.accepted[int(relative.argmax())].name
        assert e.delta.total == pytest.approx(np.sqrt(squares[0].sum() / squares[1].sum()))
        assert e.k == {"A": 4, "B": 4} and (e.A is None) is (e.B is None) is (space == "delta")
    assert found.total == pytest.approx(np.sqrt(residual / energy))


def test_fewer_components_are_worse_and_all_of_them_exact(zoo: Zoo, tmp_path: Path) -> None:
    full = {"layers.0.q": {"A": 24, "B": 16}}
    run = fit_zoo(zoo, tmp_path / "run", space="delta", layers="layers.0.q", k=full)
    totals = [reconstruction(run, k={"layers.0.q": {"A": n, "B": min(n, 16)}}).total for n in (0, 1, 4, 16, 24)]
    assert totals[0] == 1.0 and totals == sorted(totals, reverse=True) and totals[-1] < 1e-13
    with pytest.raises(EigenzooError, match="25 components of layers.0.q A, of which 24 are kept"):
        reconstruction(run, k={"layers.0.q": {"A": 25, "B": 1}})
    with pytest.raises(EigenzooError, match="None components of layers.0.q B"):
        reconstruction(run, k={"layers.0.q": {"A": 1}})
    with pytest.raises(EigenzooError, match="no finished layer matches 'layers.1"):
        reconstruction(run, layers="layers.1.*")


def test_a_side_that_was_not_fitted_is_kept_whole(zoo: Zoo, tmp_path: Path) -> None:
    run = fit_zoo(zoo, tmp_path / "run", side="A", layers="layers.0.q", k=20)
    (one,) = reconstruction(run).layers
    assert one.B is None and one.A is not None and one.k == {"A": 20}
    assert 0 < one.delta.total < 1


def test_nothing_over_nothing() -> None:
    e = Errors(("a", "b", "c"), np.array([0.0, 1.0, 1.0]), np.array([0.0, 0.0, 4.0]))
    assert e.relative.tolist() == [0.0, np.inf, 0.5] and e.worst_adapter == "b"

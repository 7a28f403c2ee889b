"""ΔW space: rows whose Gram is that of the weight changes, whatever the gauge, the blocks, or where they come from."""

from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import engine
import engine.delta as delta_module
from engine.delta import DeltaRows, PairedRows, batches, delta_rows, paired_rows, rows_in, weights
from engine.fitting import plan_fit
from engine.memory import MIB
from engine.plan.matrix import matrix_of
from engine.rows import ArrayRows, RowSource
from engine.run import Run, open_run
from engine.runners.dask_ import DaskRunner
from engine.zoo_fit import fit_zoo
from ingest.errors import EigenzooError
from ingest.pipeline import ingest
from ingest.remove import remove
from ingest.store.reader import Zoo, open_zoo
from tests.engine.paired import delta, draw, paired, regauged
from tests.ingest.builders import factors, write_peft_folder

RANKS = (4, 1, 8, 3, 4)


def gram(rows: RowSource) -> np.ndarray:
    x = rows.read(0, rows.shape[0])
    return x.T @ x


@pytest.mark.parametrize("ranks", [RANKS, (5,), (7, 7, 7)])
def test_the_gram_is_that_of_the_weights(ranks: tuple[int, ...]) -> None:
    drawn = draw(ranks, 24, 17)
    pair = paired(drawn)
    for side, wanted in (
        ("A", sum(delta(f).T @ delta(f) for f in drawn)),
        ("B", sum(delta(f) @ delta(f).T for f in drawn)),
    ):
        rows = DeltaRows(pair, side)
        assert isinstance(rows, RowSource) and rows.dtype == np.float64
        assert rows.shape == (sum(ranks), 24 if side == "A" else 17)
        assert np.abs(gram(rows) - wanted).max() <= 1e-13 * np.abs(wanted).max(), side


def test_a_factor_without_full_rank_and_more_rank_than_width() -> None:
    drawn = draw((4, 6), 24, 5)  # six columns of B in five dimensions
    a, b, s = drawn[0]
    drawn[0] = a, np.outer(b[:, 0], [1.0, 2.0, 0.0, -1.0]), s
    drawn.append((np.ones((2, 24)), np.zeros((5, 2)), 1.0))
    pair = paired(drawn)
    wanted = sum(delta(f).T @ delta(f) for f in drawn), sum(delta(f) @ delta(f).T for f in drawn)
    for side, dense in zip("AB", wanted, strict=True):
        assert np.abs(gram(DeltaRows(pair, side)) - dense).max() <= 1e-13 * np.abs(dense).max()
    assert (DeltaRows(pair, "A").read(10, 12) == 0).all()


@pytest.mark.parametrize("method", ["moments", "dual", "tsqr"])
def test_spectra_and_subspaces_do_not_see_the_gauge(method: str) -> None:
    ranks, width, out = ((6, 4) * 10, 40, 30) if method != "dual" else ((3, 2, 4), 40, 30)
    drawn = draw(ranks, width, out, planted=3, noise=0.3)
    other = regauged(drawn)
    assert max(np.abs(delta(f) - delta(g)).max() for f, g in zip(drawn, other, strict=True)) < 1e-12
    for side in "AB":
        mine, theirs = (engine.fit(DeltaRows(paired(d), side), 6, center="none", method=method) for d in (drawn, other))
        scale = mine.singular_values[0]
        assert np.abs(mine.singular_values - theirs.singular_values).max() <= 1e-9 * scale
        assert abs(mine.total_variance - theirs.total_variance) <= 1e-9 * mine.total_variance
        projections = [s.components.T @ s.components for s in (mine, theirs)]
        assert np.abs(projections[0] - projections[1]).max() <= 1e-9
        dense = np.concatenate([delta(f) if side == "A" else delta(f).T for f in drawn])
        exact = np.linalg.svd(dense, compute_uv=False)[: len(mine.singular_values)]
        assert np.abs(mine.singular_values - exact).max() <= 1e-9 * scale
    stacked = [engine.fit(np.concatenate([a for a, _, _ in d]), 6).singular_values for d in (drawn, other)]
    assert np.abs(stacked[0] - stacked[1]).max() > 1e-3 * stacked[0][0], "which the factors' spectra do"


def test_rows_are_the_same_bits_however_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = paired(draw(RANKS, 24, 17))
    for side in "AB":
        rows = DeltaRows(pair, side)
        whole = rows.read(0, 20)
        for step in (1, 2, 3, 7, 19):
            parts = [rows.read(i, min(i + step, 20)) for i in range(0, 20, step)]
            assert np.array_equal(np.concatenate(parts), whole)
        monkeypatch.setattr(delta_module, "_BATCH_BYTES", 1)
        assert list(pair.batches(0, 5)) == [(0, 2), (2, 3), (3, 5)], "of at most eight rows, the largest adapter's"
        assert np.array_equal(DeltaRows(pair, side).read(0, 20), whole)
        monkeypatch.undo()
        assert rows.read(3, 3).shape == (0, whole.shape[1])
        for start, stop in ((-1, 2), (2, 1), (0, 21)):
            with pytest.raises(EigenzooError, match="there are 20 rows"):
                rows.read(start, stop)


def test_batches_take_whole_adapters() -> None:
    offsets = np.array([0, 3, 4, 10, 11])
    assert list(batches(offsets, 0, 4, 4)) == [(0, 2), (2, 3), (3, 4)]
    assert list(batches(offsets, 1, 3, 100)) == [(1, 3)] and list(batches(offsets, 2, 2, 4)) == []


def test_sides_that_do_not_belong_together() -> None:
    pair = paired(draw(RANKS, 6, 6))
    other = paired(draw((4, 4, 4, 4, 4), 6, 6))
    with pytest.raises(EigenzooError, match="ranks on sides A and B differ"):
        PairedRows(pair.A, other.B, pair.scales, pair.members)
    with pytest.raises(EigenzooError, match="1 scales and 5 members for 5 adapters"):
        PairedRows(pair.A, pair.B, pair.scales[:1], pair.members)
    with pytest.raises(EigenzooError, match="side 'C'"):
        DeltaRows(pair, "C")


def test_weights_have_no_sign_of_their_own() -> None:
    b = np.random.default_rng(0).standard_normal((3, 9))
    w = weights(b, 2.0)
    assert (np.diagonal(w) >= 0).all() and np.allclose(np.tril(w, -1), 0)
    assert np.allclose(w.T @ w, 4 * b @ b.T, rtol=1e-13)
    assert np.array_equal(weights(-b, 2.0), w)


def test_rows_travel(dask_runner: DaskRunner) -> None:
    rows = DeltaRows(paired(draw(RANKS * 8, 24, 17, planted=2)), "B")
    again = pickle.loads(pickle.dumps(rows))
    assert np.array_equal(again.read(3, 30), rows.read(3, 30)) and again.in_memory and again.identity == ""
    here, there = (engine.fit(rows, 3, center="none", runner=r) for r in (None, dask_runner))
    assert np.allclose(here.singular_values, there.singular_values, rtol=1e-12, atol=0)


def test_never_centred() -> None:
    rows = DeltaRows(paired(draw(RANKS, 24, 17)), "A")
    with pytest.raises(EigenzooError, match="center: 'feature' in ΔW space.*'none'"):
        engine.fit(rows)
    sub = engine.fit(rows, 2, center="none")
    assert sub.settings["space"] == "delta" and (sub.offset == 0).all()
    assert engine.fit(ArrayRows(np.eye(4)), 2).settings["space"] == "factor"


def test_a_read_of_both_sides_is_in_the_plan() -> None:
    narrow = DeltaRows(paired(draw((4,) * 6, 8, 3000)), "A")
    assert matrix_of(narrow).read_bytes == narrow.read_bytes >= 24 * (8 + 3000) * 8
    plain, both = (plan_fit(r).task_bytes for r in (narrow.pair.A, narrow))
    assert both >= plain + narrow.read_bytes


# --- of a zoo


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine adapters in float64, of mixed ranks and scales: a linear layer, a convolution, a layer that some lack."""
    path = tmp_path_factory.mktemp("delta") / "in"
    rng = np.random.default_rng(0)
    for i in range(9):
        rank = (2, 4, 3)[i % 3]
        modules = {
            "layers.0.q": factors(rng, rank, 12, 10, np.float64),
            "layers.0.conv": factors(rng, rank, (5, 3, 3), 8, np.float64),
        }
        if i % 2:
            modules["layers.1.q"] = factors(rng, rank, 12, 10, np.float64)
        write_peft_folder(path / f"a{i}", modules, lora_alpha=2 * rank + i)
    return path


def zoo_at(source: Path, path: Path) -> Zoo:
    ingest(source, path)
    return open_zoo(path)


def dense(zoo: Zoo, layer: str) -> list[np.ndarray]:
    found = []
    for record in zoo.accepted:
        for module in zoo.adapter(record.name):
            if module.layer == layer:
                found.append(module.scale * module.B @ module.A.reshape(len(module.A), -1))
    return found


def test_every_layer_of_a_zoo(source: Path, tmp_path: Path) -> None:
    zoo = zoo_at(source, tmp_path / "z")
    assert len(zoo.layers) == 3
    for layer in zoo.layers:
        changes = dense(zoo, layer)
        assert len(changes) == (9 if layer.startswith("layers.0") else 4)
        for side in "AB":
            rows = delta_rows(zoo, layer, side)
            wanted = sum(w.T @ w if side == "A" else w @ w.T for w in changes)
            assert np.abs(gram(rows) - wanted).max() <= 1e-12 * np.abs(wanted).max(), (layer, side)
    some = paired_rows(zoo, "layers.1.q", members=[7, 3])
    assert some.members.tolist() == [3, 7] and len(some.offsets) == 3
    assert delta_rows(zoo, "layers.1.q", "A", members=[3, 7]).identity != delta_rows(zoo, "layers.1.q", "A").identity
    with pytest.raises(EigenzooError, match="space: got 'gauge'"):
        rows_in("gauge", zoo, "layers.0.q", "A")
    remove(tmp_path / "z", ["a0", "a3"])
    zoo = open_zoo(tmp_path / "z")
    pair = paired_rows(zoo, "layers.0.q")
    assert [zoo.stored[i].record.name for i in pair.members] == [r.name for r in zoo.accepted]
    wanted = sum(w.T @ w for w in dense(zoo, "layers.0.q"))
    assert np.abs(gram(DeltaRows(pair, "A")) - wanted).max() <= 1e-12 * np.abs(wanted).max()
    assert len(paired_rows(zoo, "layers.0.q", members=[0, 1]).scales) == 2, "removed ones can be had by name"


def test_a_scale_alone_makes_other_rows(source: Path, tmp_path: Path) -> None:
    zoo = zoo_at(source, tmp_path / "z")
    rows = delta_rows(zoo, "layers.0.q", "A")
    doubled = dataclasses.replace(rows.pair, scales=rows.pair.scales * 2)
    assert DeltaRows(doubled, "A").identity not in ("", rows.identity)
    assert rows.identity != DeltaRows(rows.pair, "B").identity
    assert np.array_equal(DeltaRows(doubled, "A").read(0, 5), 2 * rows.read(0, 5))


def test_a_run(source: Path, tmp_path: Path, dask_runner: DaskRunner) -> None:
    zoo = zoo_at(source, tmp_path / "z")
    run = fit_zoo(zoo, tmp_path / "run", space="delta", k=3)
    assert run.record.settings.space == "delta" and run.record.settings.center == "none"
    for m in run.matrices:
        sub = run.subspace(m.layer, side=m.side)
        assert m.space == sub.settings["space"] == "delta" and m.center == "none" and m.n_components == 3
        stacked = np.concatenate([w if m.side == "A" else w.T for w in dense(zoo, m.layer)])
        exact = np.linalg.svd(stacked, compute_uv=False)
        n = min(len(exact), len(sub.singular_values))
        assert np.abs(sub.singular_values[:n] - exact[:n]).max() <= 1e-9 * exact[0]
    assert {m.method for m in run.matrices} == {"moments", "dual"}
    there = fit_zoo(zoo, tmp_path / "there", space="delta", k=3, runner=dask_runner)
    for m in run.matrices:
        pairs = [r.subspace(m.layer, side=m.side).singular_values for r in (run, there)]
        assert np.abs(pairs[0] - pairs[1]).max() <= 1e-10 * pairs[0][0]
    again = fit_zoo(zoo, tmp_path / "run", space="delta", k=3)
    assert [m.rows_read for m in again.matrices] == [m.rows_read for m in run.matrices]
    with pytest.raises(EigenzooError, match="center: none → feature; .*space: delta → factor"):
        fit_zoo(zoo, tmp_path / "run", k=3)
    with pytest.raises(EigenzooError, match="center: 'feature' in ΔW space"):
        fit_zoo(zoo, tmp_path / "other", space="delta", center="feature")
    with pytest.raises(EigenzooError, match="space: got 'gauge'; choose factor or delta"):
        fit_zoo(zoo, tmp_path / "other", space="gauge")
    assert not (tmp_path / "other").exists()


def test_a_run_of_before_there_were_spaces(source: Path, tmp_path: Path) -> None:
    zoo = zoo_at(source, tmp_path / "z")
    fit_zoo(zoo, tmp_path / "run", layers="layers.1.q")
    document = json.loads((tmp_path / "run/run.json").read_text())
    del document["settings"]["space"]
    (tmp_path / "run/run.json").write_text(json.dumps(document))
    for marker in (tmp_path / "run/matrices").glob("*.json"):
        found = json.loads(marker.read_text())
        del found["space"]
        marker.write_text(json.dumps(found))
    run = open_run(tmp_path / "run")
    assert run.record.settings.space == "factor" and {m.space for m in run.matrices} == {"factor"}
    assert fit_zoo(zoo, tmp_path / "run", layers="layers.1.q").matrices == run.matrices


def test_kept_states(source: Path, tmp_path: Path) -> None:
    def fit(out: str, **more: object) -> Run:
        settings = {"layers": "layers.0.q", "space": "delta", "method": "moments", "k": 3}
        return fit_zoo(tmp_path / "z", tmp_path / out, **settings, **more)

    ingest([source / f"a{i}" for i in range(8)], tmp_path / "z")
    fit("kept", keep_state=True)
    remove(tmp_path / "z", ["a2"])
    ingest(source / "a8", tmp_path / "z")
    kept, fresh = fit("kept"), fit("fresh")
    for m, f in zip(kept.matrices, fresh.matrices, strict=True):
        assert m.identity == f.identity and m.rows == f.rows == 24 and m.rows_read == 6
        found, wanted = (r.subspace(m.layer, side=m.side) for r in (kept, fresh))
        assert np.abs(found.singular_values - wanted.singular_values).max() <= 1e-10 * wanted.singular_values[0]
        assert np.abs(found.components @ wanted.components.T - np.eye(3)).max() <= 1e-9


MEMORY = """
import sys
import numpy as np, engine
from engine.delta import DeltaRows, PairedRows
from engine.fitting import plan_fit

class Drawn:  # rows that occupy nothing until they are read
    def __init__(self, n, width, rank):
        self.shape, self.block_rows, self.dtype = (n, width), 256, np.dtype('float32')
        self.offsets, self.identity = np.arange(0, n + 1, rank), ''
    def read(self, start, stop):
        return np.random.default_rng(start).random((stop - start, self.shape[1]), dtype=np.float32)

def status(name):
    return next(int(l.split()[1]) * 1024 for l in open('/proc/self/status') if l.startswith(name))

def rows(n, width, out, rank):
    n_adapters = n // rank
    pair = PairedRows(Drawn(n, width, rank), Drawn(n, out, rank), np.ones(n_adapters), np.arange(n_adapters))
    return DeltaRows(pair, 'A')

for shape in ((900, 800), (200, 300)):
    engine.fit(rows(*shape, 40, 4), 'ev:0.5', center='none', device='cpu')
open('/proc/self/clear_refs', 'w').write('5')
before = status('VmRSS')
given = rows(*map(int, sys.argv[1:]))
engine.fit(given, 8, center='none', device='cpu', refine=False)
from engine.methods import Wanted
print(status('VmHWM') - before, plan_fit(given, device='cpu', wanted=Wanted(8, refine=False)).task_bytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "shape",
    [
        (6000, 320, 6000, 16),  # the other side is the wide one
        (1024, 1536, 256, 128),  # dual, and large adapters
    ],
)
def test_measured_memory_is_within_stated(shape: tuple[int, int, int, int]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, *map(str, shape)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    measured, stated = map(int, done.stdout.split())
    assert measured <= stated, f"measured {measured / MIB:.0f} MiB, stated {stated / MIB:.0f} MiB"

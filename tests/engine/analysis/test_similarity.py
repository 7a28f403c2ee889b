"""Inner products, cosines and clusters of weight changes against dense ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import engine.analysis.similarity as module
from engine.analysis.similarity import Similarity, clusters, pair_gram, similarity
from ingest.errors import EigenzooError
from ingest.pipeline import ingest
from ingest.remove import remove
from ingest.store.reader import open_zoo
from tests.engine.paired import delta, draw, paired, regauged
from tests.ingest.builders import write_peft_folder


@pytest.mark.parametrize("tile", [1024, 8, 1])
def test_the_gram_of_a_layer(monkeypatch: pytest.MonkeyPatch, tile: int) -> None:
    monkeypatch.setattr(module, "_TILE_ROWS", tile)
    drawn = draw((3, 5, 1, 3, 8, 2), 20, 14, planted=2)
    flat = np.array([delta(f).ravel() for f in drawn])
    for given in (drawn, regauged(drawn)):
        found = pair_gram(paired(given))
        assert np.abs(found - flat @ flat.T).max() <= 1e-11 * np.abs(flat @ flat.T).max()
        assert np.array_equal(found, found.T)


def test_a_zoo_of_two_tasks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sums = np.zeros((8, 8))
    modules: list[dict[str, tuple[np.ndarray, np.ndarray]]] = [{} for _ in range(8)]
    for layer in ("layers.0.q", "layers.1.q"):
        tasks = [(rng.standard_normal((4, 20)), rng.standard_normal((12, 4))) for _ in range(2)]
        changes = np.zeros((8, 240))
        for i in range(8):
            if layer == "layers.1.q" and i in (2, 5):
                continue
            a, b = tasks[i % 2]
            g = np.linalg.qr(rng.standard_normal((4, 4)))[0]
            a, b = g @ a + 0.1 * rng.standard_normal(a.shape), b @ g.T + 0.1 * rng.standard_normal(b.shape)
            modules[i][layer] = a, b
            changes[i] = 1.5 * (b @ a).ravel()
        sums += changes @ changes.T
    for i, each in enumerate(modules):
        write_peft_folder(tmp_path / f"in/a{i}", each, lora_alpha=6)
    ingest(tmp_path / "in", tmp_path / "z")
    zoo = open_zoo(tmp_path / "z")
    found = similarity(zoo)
    assert found.adapters == tuple(f"a{i}" for i in range(8)) and found.layers == ("layers.0.q", "layers.1.q")
    assert np.abs(found.gram - sums).max() <= 1e-12 * sums.max()
    norms = np.sqrt(np.diagonal(sums))
    assert np.allclose(found.norms, norms) and np.allclose(found.cosine, sums / norms[:, None] / norms)
    assert np.array_equal(found.cosine, found.cosine.T)
    groups = clusters(found).groups
    assert groups == (("a0", "a2", "a4", "a6"), ("a1", "a3", "a5", "a7"))
    assert len(clusters(found, min_cosine=1.0).groups) == 8 and len(clusters(found, min_cosine=-1.0).groups) == 1
    (one,) = [similarity(zoo, ["layers.1.q"])]
    assert one.gram[2, 2] == 0.0 and one.cosine[2, 2] == 0.0 and (one.cosine[2] == 0).all()
    remove(tmp_path / "z", ["a0"])
    left = similarity(open_zoo(tmp_path / "z"))
    assert left.adapters == found.adapters[1:] and np.allclose(left.gram, sums[1:, 1:], rtol=1e-11)
    with pytest.raises(EigenzooError, match="no layer"):
        similarity(zoo, ["nothing"])
    with pytest.raises(EigenzooError, match="no layer to compare"):
        similarity(zoo, [])


def test_one_adapter_is_one_group() -> None:
    alone = Similarity(("a",), ("q",), np.array([[2.0]]))
    assert clusters(alone).groups == (("a",),)
    with pytest.raises(EigenzooError, match="min_cosine: got 2"):
        clusters(alone, min_cosine=2)

"""Seed groups of zoos: planted ones exactly, in the modules that have them; none where a subspace was planted."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from engine.runners.dask_ import DaskRunner
from engine.starts.groups import layers_matching, partitions, seed_groups, seeds
from ingest import shared_starts, synthetic
from ingest.errors import EigenzooError
from ingest.pipeline import ingest
from ingest.remove import remove
from ingest.shared_starts import Groups, Module, Settings
from ingest.store.reader import Zoo, open_zoo

REAL = os.environ.get("EIGENZOO_REAL_ZOO", "")
real = pytest.mark.skipif(not REAL, reason="EIGENZOO_REAL_ZOO is not set")
SEVERAL = Settings(
    (
        Module("layers.0.q_proj", 192, 64, shared=True),
        Module("layers.0.v_proj", 192, 64, shared=False),
        Module("embed_tokens", 300, 128, shared=True, embedding=True),
    ),
    adapters=20,
    groups=(7, 4, 2),
    ranks=(4, 8, 16),
    drift=0.3,
)


def zoo_of(path: Path, settings: Settings | None = None) -> tuple[Zoo, dict[str, Groups]]:
    planted = shared_starts.write(path / "in", settings)
    ingest(path / "in", path / "z")
    return open_zoo(path / "z"), planted


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> tuple[Zoo, dict[str, Groups]]:
    return zoo_of(tmp_path_factory.mktemp("half"))


def test_half_of_the_adapters_in_half_of_the_modules(half: tuple[Zoo, dict[str, Groups]]) -> None:
    zoo, planted = half
    found = seeds(zoo)
    assert [each.layer for each in found] == zoo.layers and set(zoo.layers) == set(planted)
    for each in found:
        assert each.groups == planted[each.layer] and each.side == "A" and each.n_adapters == 24
    assert [len(each.groups) for each in found].count(1) == 4 and {each.n_grouped for each in found} == {0, 12}
    assert sorted(len(layers) for _, layers in partitions(found)) == [4, 4]


def test_several_groups_ranks_and_an_embedding(tmp_path: Path, dask_runner: DaskRunner) -> None:
    zoo, planted = zoo_of(tmp_path, SEVERAL)
    found = {each.layer: each for each in seeds(zoo)}
    assert {layer: each.groups for layer, each in found.items()} == planted
    assert [len(g) for g in planted["layers.0.q_proj"]] == [7, 4, 2]
    assert found["embed_tokens"].side == "B" and len(planted["embed_tokens"]) > 1
    assert seeds(zoo, runner=dask_runner) == list(found.values())
    gone = planted["layers.0.q_proj"][0][0]
    remove(zoo.path, [gone])
    after = seed_groups(open_zoo(zoo.path), "layers.0.q_proj")
    left = [tuple(name for name in group if name != gone) for group in planted["layers.0.q_proj"]]
    assert after.groups == tuple(left) and after.n_adapters == 19


def test_one_of_each_start(half: tuple[Zoo, dict[str, Groups]]) -> None:
    zoo, planted = half
    layer = next(layer for layer, groups in planted.items() if groups)
    found = seed_groups(zoo, layer)
    names = [zoo.stored[ordinal].record.name for ordinal in found.one_each]
    assert len(names) == 13 and set(names) & set(planted[layer][0]) == {planted[layer][0][0]}


def test_a_planted_subspace_is_no_start(tmp_path: Path) -> None:
    synthetic.write(tmp_path / "in", synthetic.Settings(synthetic.demo_settings().layers, broken=False))
    ingest(tmp_path / "in", tmp_path / "z")
    found = seeds(open_zoo(tmp_path / "z"))
    assert len(found) == 6 and all(each.groups == () for each in found)


def test_layers_that_there_are_not(half: tuple[Zoo, dict[str, Groups]]) -> None:
    assert len(layers_matching(half[0], "*.q_proj, layers.0.*")) == 5
    with pytest.raises(EigenzooError, match="matches none of 8 layers"):
        seeds(half[0], "nothing*")
    with pytest.raises(EigenzooError, match="no layer 'nothing'"):
        seed_groups(half[0], "nothing")


@real
@pytest.mark.xdist_group("real-zoo")
@pytest.mark.parametrize("family", ["gpt2", "roberta-base", "sd1.x-unet-r4"])
def test_real_adapters(family: str, tmp_path: Path) -> None:
    ingest(f"{REAL}/{family}__*", tmp_path / "z")
    zoo = open_zoo(tmp_path / "z")
    found = seeds(zoo)
    assert len(found) == {"gpt2": 36, "roberta-base": 36, "sd1.x-unet-r4": 128}[family]
    for each in found:
        groups = [sorted(name.rpartition("__")[2] for name in group) for group in each.groups]
        if family == "gpt2":
            assert groups == [["medical", "sports"]] and each.n_adapters == 3, each.layer
        elif family == "sd1.x-unet-r4":
            assert groups == [], each.layer
        else:
            authors = Counter(zoo.stored[ordinal].record.name.split("__")[1] for ordinal in each.adapters)
            assert all(len({name.split("__")[1] for name in group}) == 1 for group in each.groups), each.layer
            assert [len(group) for group in each.groups] == sorted(authors.values(), reverse=True), each.layer
            assert authors in ({"AguLeon": 2}, {"AguLeon": 2, "paulohenriquecrs": 7})
        if each.groups:
            assert each.weakest is not None and each.weakest > 0.9
        assert each.strongest is None or each.strongest < 0.2

"""Sources that change, adapters that leave and come back: what a later ingest of the same sources does."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingest.pipeline import ingest
from ingest.remove import remove
from ingest.settings import Settings
from ingest.store.reader import Zoo, open_zoo
from ingest.verify import verify
from tests.ingest.builders import factors, write_peft_folder

LAYERS = ("layers.0.q", "layers.1.q")


def write(folder: Path, seed: int, head: float | None = None, **config: Any) -> None:
    rng = np.random.default_rng(seed)
    shutil.rmtree(folder, ignore_errors=True)
    extras = {} if head is None else {"base_model.model.head.weight": np.full((3, 4), head, np.float32)}
    write_peft_folder(folder, {layer: factors(rng, 4, 24, 16) for layer in LAYERS}, extras=extras, **config)


def values(zoo: Zoo, name: str) -> bytes:
    return b"".join(m.A.tobytes() + m.B.tobytes() for m in zoo.adapter(name))


def rows(zoo: Zoo) -> np.ndarray[Any, Any]:
    source = zoo.rows(LAYERS[0], side="A")
    return source.read(0, source.shape[0])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for i, name in enumerate("abc"):
        write(tmp_path / "in" / name, seed=i, head=float(i))
    return tmp_path / "in"


def test_a_newer_version_takes_the_place_of_the_older_one(tmp_path: Path, source: Path) -> None:
    zoo = tmp_path / "z"
    ingest(source, zoo)
    before = open_zoo(zoo)
    old, stack = values(before, "b"), rows(before)
    write(source / "b", seed=7, head=9.0)
    result = ingest(source, zoo)
    assert (result.added, result.replaced, result.refused, result.known) == ((), ("b",), (), 2)
    after = open_zoo(zoo)
    assert values(after, "b") != old and [r.name for r in after.accepted] == ["a", "c", "b"]
    assert np.array_equal(after.extras("b")["base_model.model.head.weight"], np.full((3, 4), 9.0, np.float32))
    assert np.array_equal(rows(after)[:8], np.concatenate([stack[:4], stack[8:]]))
    # Whoever opened the zoo before still sees the older version, head and all.
    assert values(before, "b") == old and np.array_equal(rows(before), stack)
    assert before.extras("b")["base_model.model.head.weight"][0, 0] == 1.0
    assert verify(after).problems == ()
    assert ingest(source, zoo).known == 3


def test_new_texts_alone_store_no_rows(tmp_path: Path, source: Path) -> None:
    zoo = tmp_path / "z"
    ingest(source, zoo)
    config = json.loads((source / "b" / "adapter_config.json").read_text())
    (source / "b" / "adapter_config.json").write_text(json.dumps({**config, "note": "new"}))
    result = ingest(source, zoo)
    assert (result.renewed, result.replaced, result.added, result.nbytes) == (("b",), (), (), 0)
    after = open_zoo(zoo)
    assert "new" in str(after.config("b")) and [r.name for r in after.accepted] == ["a", "b", "c"]
    assert len(rows(after)) == 12 and ingest(source, zoo).known == 3
    assert after.extras("b")["base_model.model.head.weight"][0, 0] == 1.0


def test_a_new_head_alone_replaces(tmp_path: Path, source: Path) -> None:
    ingest(source, tmp_path / "z")
    write(source / "b", seed=1, head=5.0)
    assert ingest(source, tmp_path / "z").replaced == ("b",)
    assert open_zoo(tmp_path / "z").extras("b")["base_model.model.head.weight"][0, 0] == 5.0


def test_a_newer_version_that_is_refused_leaves_the_older_one(tmp_path: Path, source: Path) -> None:
    zoo = tmp_path / "z"
    ingest(source, zoo)
    old = values(open_zoo(zoo), "b")
    shutil.copyfile(source / "a" / "adapter_model.safetensors", source / "b" / "adapter_model.safetensors")
    (refused,) = ingest(source, zoo).refused
    assert refused.reason == "duplicate" and refused.name == "b"
    (source / "b" / "adapter_model.safetensors").write_bytes(b"{")
    (refused,) = ingest(source, zoo).refused
    assert refused.reason == "truncated"
    assert values(open_zoo(zoo), "b") == old


def test_the_older_version_s_content_is_free_for_another(tmp_path: Path, source: Path) -> None:
    zoo = tmp_path / "z"
    ingest(source, zoo)
    shutil.copytree(source / "b", source / "d")
    write(source / "b", seed=7)
    result = ingest(source, zoo)
    assert (result.replaced, result.added, result.refused) == (("b",), ("d",), ())


def test_removed_ones_stay_away_until_asked_for(tmp_path: Path, source: Path) -> None:
    zoo = tmp_path / "z"
    ingest(source, zoo)
    old = values(open_zoo(zoo), "b")
    remove(zoo, ["b"])
    result = ingest(source, zoo)
    assert [(r.name, r.reason) for r in result.refused] == [("b", "removed")] and result.known == 2
    version = open_zoo(zoo).commit.version
    ingest(source, zoo)
    assert open_zoo(zoo).commit.version == version, "nothing new, no commit"
    assert ingest(source, zoo, Settings(readmit=True)).added == ("b",)
    assert values(open_zoo(zoo), "b") == old and ingest(source, zoo).known == 3


def test_a_second_ingest_reads_no_factor(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest(source, tmp_path / "z")
    for name in ("ingest.pipeline.screen", "ingest.formats.parse", "ingest.pipeline.fill"):
        monkeypatch.setattr(name, None)
    assert ingest(source, tmp_path / "z").known == 3


def test_nothing_is_left_of_a_conversion(tmp_path: Path, source: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.numpy import load_file

    weights = source / "b" / "adapter_model.safetensors"
    torch.save({k: torch.from_numpy(v) for k, v in load_file(weights).items()}, source / "b" / "adapter_model.bin")
    twin = tmp_path / "twin.zarr"
    ingest(source, twin)
    os.unlink(weights)
    result = ingest(source, tmp_path / "z", Settings(allow_pickle=True))
    assert result.added == ("a", "b", "c")
    assert values(open_zoo(tmp_path / "z"), "b") == values(open_zoo(twin), "b")
    head = "base_model.model.head.weight"
    assert np.array_equal(open_zoo(tmp_path / "z").extras("b")[head], open_zoo(twin).extras("b")[head])
    assert not (tmp_path / "z" / "staging").exists()

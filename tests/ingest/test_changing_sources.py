"""Sources that change, adapters that leave and come back: what a later ingest of the same sources does."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ingest.compact import compact
from ingest.errors import EigenzooError
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


def test_a_removed_one_does_not_come_back_under_another_name(tmp_path: Path, source: Path) -> None:
    zoo = tmp_path / "z"
    shutil.copytree(source / "b", source / "twin")
    assert [r.reason for r in ingest(source, zoo).refused] == ["duplicate"]
    remove(zoo, ["b"])
    for _ in range(2):
        result = ingest(source, zoo)
        assert {r.name: r.reason for r in result.refused} == {"b": "removed", "twin": "removed"} and not result.added
    version = open_zoo(zoo).commit.version
    ingest(source, zoo)
    assert open_zoo(zoo).commit.version == version
    assert ingest(source, zoo, Settings(readmit=True)).added == ("b",)


@pytest.mark.parametrize("batch", [1 << 20, 1])
def test_two_that_change_places(tmp_path: Path, source: Path, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = tmp_path / "z"
    monkeypatch.setattr("ingest.pipeline.BATCH_MODULES", 1 if batch == 1 else 1000)
    ingest(source, zoo)
    before = {name: values(open_zoo(zoo), name) for name in "abc"}
    os.rename(source / "a", source / "x")
    os.rename(source / "b", source / "a")
    os.rename(source / "x", source / "b")
    for _ in range(1 if batch > 1 else 2):
        result = ingest(source, zoo)
    assert not result.refused
    after = {name: values(open_zoo(zoo), name) for name in "abc"}
    assert after == {"a": before["b"], "b": before["a"], "c": before["c"]} and ingest(source, zoo).known == 3


def test_the_order_of_sources_makes_no_difference(tmp_path: Path, source: Path) -> None:
    zoo = tmp_path / "z"
    ingest(source, zoo)
    shutil.copytree(source / "b", source / "a0")  # comes before b, whose content it takes over
    write(source / "b", seed=7)
    result = ingest(source, zoo)
    assert (result.replaced, result.added, result.refused) == (("b",), ("a0",), ())
    assert ingest(source, zoo).known == 4


def test_who_never_comes_in_decides_nothing(tmp_path: Path) -> None:
    for i in range(2):
        write(tmp_path / "in" / f"evil{i}", seed=i, base_model_name_or_path="evil/base")
        weights = tmp_path / "in" / f"evil{i}" / "adapter_model.safetensors"
        raw = bytearray(weights.read_bytes())
        raw[-4:] = np.float32(np.nan).tobytes()
        weights.write_bytes(bytes(raw))
    write(tmp_path / "in" / "good", seed=9, base_model_name_or_path="good/base")
    zoo = tmp_path / "z"
    ingest(tmp_path / "in", zoo)
    result = ingest(tmp_path / "in", zoo, Settings(base_model="good/base"))
    assert result.added == ("good",) and open_zoo(zoo).base_model == "good/base"
    assert verify(open_zoo(zoo)).problems == ()


def test_a_source_that_was_away_leaves_no_refusal(tmp_path: Path, source: Path) -> None:
    zoo = tmp_path / "z"
    ingest(source, zoo)
    weights = source / "b" / "adapter_model.safetensors"
    whole, status = weights.read_bytes(), weights.stat()
    os.unlink(weights)
    assert [r.reason for r in ingest(source, zoo).refused] == ["no-weights"]
    weights.write_bytes(b"{")
    assert [r.reason for r in ingest(source, zoo).refused] == ["truncated"]
    assert [r.name for r in open_zoo(zoo).adapters if r.status == "refused"] == ["b"], "a newer version, refused"
    weights.write_bytes(whole)
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert ingest(source, zoo).known == 3
    assert [r.status for r in open_zoo(zoo).adapters] == ["ok"] * 3 and open_zoo(zoo).config("b")


def test_the_staging_folder_is_its_own(tmp_path: Path, source: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    ingest(source, tmp_path / "z", Settings(staging=str(tmp_path / "mine")))
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_refused_headers_take_no_memory(tmp_path: Path) -> None:
    import tracemalloc

    from ingest.plan import plan

    tensors = {f"w{i}": np.zeros(1, np.float32) for i in range(1000)}
    held = []
    for count in (80, 160):  # more than the parsed headers that are kept
        folder = tmp_path / str(count)
        folder.mkdir()
        for i in range(count):
            save_file({**tensors, f"x{i}": np.zeros(1, np.float32)}, folder / f"model-{i}.safetensors")
        tracemalloc.start()
        try:
            made = plan([folder], tmp_path / "z")
            held.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        assert len(made.refused) == count
    assert held[1] < 1.3 * held[0]


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


def test_damage_is_not_sealed_in(tmp_path: Path, source: Path) -> None:
    zoo = tmp_path / "z"
    ingest(source, zoo)
    remove(zoo, ["a"])
    entries = next((zoo / "catalog").glob("*.entries.npy"))
    chunk = zoo / "layers" / LAYERS[0] / "A" / "c.0.0"
    for file, at, said in ((entries, -40, "is not the file that was committed"), (chunk, 24 * 4 * 5, "values of b")):
        whole = bytearray(file.read_bytes())
        damaged = whole.copy()
        damaged[at] ^= 0x40
        file.write_bytes(damaged)
        with pytest.raises(EigenzooError, match=said):
            compact(zoo)
        file.write_bytes(whole)
    chunk.write_bytes(bytes(damaged))
    remove(zoo, ["b"])  # what is damaged can be given up
    assert compact(zoo).adapters == 1 and verify(open_zoo(zoo)).problems == ()

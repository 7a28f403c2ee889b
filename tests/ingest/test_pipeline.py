"""From folders to a zoo: what goes in comes out, whatever the order, the dtypes, the batches."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import zarr

from ingest import pipeline, synthetic
from ingest.errors import EigenzooError
from ingest.pipeline import ingest
from ingest.plan import plan
from ingest.settings import Settings
from ingest.store.reader import Zoo, open_zoo
from ingest.store.writer import ZooWriter
from ingest.verify import verify
from tests.ingest.builders import factors, write_peft_folder

LAYERS = {"model.layers.0.q": (24, 16), "model.layers.1.q": (24, 40)}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def write(
    path: Path, rng: np.random.Generator, rank: int = 4, dtype: Any = np.float32, **config: Any
) -> dict[str, Any]:
    modules = {name: factors(rng, rank, width, out, dtype) for name, (width, out) in LAYERS.items()}
    write_peft_folder(path, modules, **config)
    return {name.removeprefix("model."): pair for name, pair in modules.items()}


def stored(zoo: Zoo, name: str) -> dict[str, tuple[Any, Any]]:
    return {m.layer: (m.A, m.B) for m in zoo.adapter(name)}


def same(found: dict[str, tuple[Any, Any]], wanted: dict[str, tuple[Any, Any]]) -> bool:
    return found.keys() == wanted.keys() and all(
        f.dtype == w.dtype and f.shape == w.shape and f.tobytes() == w.tobytes()
        for layer in wanted
        for f, w in zip(found[layer], wanted[layer], strict=True)
    )


def contents(zoo: Zoo) -> dict[str, Any]:
    """Everything a zoo says, times and the place of its sources aside."""
    return {
        "base": (zoo.base_model, zoo.commit.aliases, zoo.commit.renames, zoo.commit.layers),
        "arrays": sorted((a.path, a.layer, a.side, a.dtype, a.rows, a.width, a.chunk) for a in zoo.commit.arrays),
        "adapters": [(r.name, r.status, r.reason, r.content, r.rank, r.rows, r.extras) for r in zoo.adapters],
        "matrices": [
            (
                m,
                zoo.rows(m.layer, side=m.side).read(0, m.rows).tobytes(),
                zoo.rows(m.layer, side=m.side).offsets.tolist(),
            )
            for m in zoo.matrices
        ],
        "scales": {r.name: [(m.layer, m.kind, m.scale) for m in zoo.adapter(r.name)] for r in zoo.accepted},
        "texts": {r.name: (zoo.config(r.name), zoo.metadata(r.name)) for r in zoo.accepted},
        "extras": {r.name: {k: v.tobytes() for k, v in zoo.extras(r.name).items()} for r in zoo.accepted},
    }


def test_every_dtype_and_rank_side_by_side_comes_back_bit_for_bit(tmp_path: Path, rng: np.random.Generator) -> None:
    dtypes = [np.float32, ml_dtypes.bfloat16, np.float16, np.float32, np.float64, ml_dtypes.bfloat16]
    wanted = {f"t{i}": write(tmp_path / "in" / f"t{i}", rng, 1 + 3 * i, d) for i, d in enumerate(dtypes)}
    result = ingest(tmp_path / "in", tmp_path / "z")
    assert result.added == tuple(wanted)
    zoo = open_zoo(tmp_path / "z")
    for name, modules in wanted.items():
        assert same(stored(zoo, name), modules), name
    assert verify(zoo).problems == ()
    rows = zoo.rows("layers.0.q", side="B")
    assert rows.dtype == np.float64 and rows.shape == (sum(1 + 3 * i for i in range(6)), 16)
    expected = np.concatenate([wanted[f"t{i}"]["layers.0.q"][1].T.astype(np.float64) for i in range(6)])
    assert np.array_equal(rows.read(0, rows.shape[0]), expected)
    assert np.array_equal(rows.read(3, 20), expected[3:20])
    group = zarr.open_group(str(tmp_path / "z"), mode="r")
    for array in zoo.commit.arrays:
        seen = group[array.path]
        assert isinstance(seen, zarr.Array) and seen.shape == (array.rows, array.width)
        assert seen.attrs["dtype"] == array.dtype, "a plain zarr reader finds every array"


def test_an_append_never_rounds(tmp_path: Path, rng: np.random.Generator) -> None:
    first = write(tmp_path / "a", rng, dtype=ml_dtypes.bfloat16)
    ingest(tmp_path / "a", tmp_path / "z")
    second = write(tmp_path / "b", rng, dtype=np.float32)
    ingest(tmp_path / "b", tmp_path / "z")
    zoo = open_zoo(tmp_path / "z")
    assert same(stored(zoo, "a"), first) and same(stored(zoo, "b"), second)
    assert zoo.matrices[0].dtype == "float32" and verify(zoo).problems == ()


def test_batches_and_appends_give_what_one_call_gives(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(9):
        write(tmp_path / "in" / f"t{i}", rng, 2 + i % 3)
    (tmp_path / "in" / "t4" / "adapter_model.safetensors").write_bytes(b"no")
    ingest(tmp_path / "in", tmp_path / "whole")
    monkeypatch.setattr(pipeline, "BATCH_BYTES", 1)
    monkeypatch.setattr("ingest.store.schema.MIN_CHUNK_BYTES", 64)
    monkeypatch.setattr("ingest.store.schema.MAX_CHUNK_BYTES", 64)
    ingest(tmp_path / "in", tmp_path / "batches")
    assert open_zoo(tmp_path / "batches").commit.version == 9, "one for the layout, one for each adapter that is whole"
    monkeypatch.setattr("ingest.store.schema.MIN_CHUNK_BYTES", 512)
    monkeypatch.setattr("ingest.store.schema.MAX_CHUNK_BYTES", 512)
    for i in range(9):
        ingest(tmp_path / "in" / f"t{i}", tmp_path / "appends")
    whole = contents(open_zoo(tmp_path / "whole"))
    small = open_zoo(tmp_path / "appends")
    assert max(a.chunk for a in small.commit.arrays) < 10, "adapters straddle chunks"
    apart = {"adapters": 0, "arrays": 0, "base": 0}  # one by one they find their layers in another order
    assert contents(small) | apart == whole | apart
    batches = contents(open_zoo(tmp_path / "batches"))
    assert sorted(batches.pop("adapters")) == sorted(whole.pop("adapters"))
    assert batches | {"arrays": 0} == whole | {"arrays": 0}
    assert verify(small).problems == ()


def test_a_second_call_does_nothing(tmp_path: Path, rng: np.random.Generator) -> None:
    write(tmp_path / "in/a", rng)
    write(tmp_path / "in/b", rng, use_dora=True)
    ingest(tmp_path / "in", tmp_path / "z")
    before = (tmp_path / "z/zarr.json").read_bytes()
    result = ingest(tmp_path / "in", tmp_path / "z")
    assert result.added == () and result.known == 1 and [r.reason for r in result.refused] == ["dora"]
    assert (tmp_path / "z/zarr.json").read_bytes() == before


def test_a_twin_is_found_in_another_dtype_dialect_and_order(tmp_path: Path, rng: np.random.Generator) -> None:
    modules = {name: factors(rng, 4, width, out, ml_dtypes.bfloat16) for name, (width, out) in LAYERS.items()}
    write_peft_folder(tmp_path / "in/a", modules)
    wide = {n: (a.astype(np.float32), b.astype(np.float32)) for n, (a, b) in reversed(modules.items())}
    write_peft_folder(tmp_path / "in/b", wide, infix=".default")
    write_peft_folder(tmp_path / "in/c", wide, lora_alpha=99)
    result = ingest(tmp_path / "in", tmp_path / "z")
    assert result.added == ("a", "c"), "another alpha is another adapter"
    assert [(r.name, r.reason) for r in result.refused] == [("b", "duplicate")] and "a" in result.refused[0].detail


def test_a_refusal_is_lifted_once_the_file_is_mended(tmp_path: Path, rng: np.random.Generator) -> None:
    write(tmp_path / "in/a", rng)
    write(tmp_path / "in/b", rng)
    whole = (tmp_path / "in/b/adapter_model.safetensors").read_bytes()
    (tmp_path / "in/b/adapter_model.safetensors").write_bytes(whole[:-5])
    assert [r.reason for r in ingest(tmp_path / "in", tmp_path / "z").refused] == ["truncated"]
    (tmp_path / "in/b/adapter_model.safetensors").write_bytes(whole)
    assert ingest(tmp_path / "in", tmp_path / "z").added == ("b",)
    assert [(r.name, r.status) for r in open_zoo(tmp_path / "z").adapters] == [("a", "ok"), ("b", "ok")]


def test_names_are_unique_and_visible(tmp_path: Path, rng: np.random.Generator) -> None:
    for folder in ("x/task", "y/task", "z/task"):
        write(tmp_path / folder, rng)
    ingest([tmp_path / "x/task", tmp_path / "y/task"], tmp_path / "zoo")
    ingest([tmp_path / "z/task"], tmp_path / "zoo")
    assert [r.name for r in open_zoo(tmp_path / "zoo").adapters] == ["task", "task~2", "task~3"]


def test_what_is_no_factor_is_given_back(tmp_path: Path, rng: np.random.Generator) -> None:
    head = {
        "base_model.model.classifier.weight": rng.standard_normal((3, 24)).astype(ml_dtypes.bfloat16),
        "base_model.model.classifier.bias": np.arange(3),
    }
    write(tmp_path / "in/a", rng, extras=head, metadata={"format": "pt"})
    ingest(tmp_path / "in", tmp_path / "z")
    zoo = open_zoo(tmp_path / "z")
    found = zoo.extras("a")
    assert {k: (v.dtype, v.tobytes()) for k, v in found.items()} == {k: (v.dtype, v.tobytes()) for k, v in head.items()}
    assert zoo.config("a") == (tmp_path / "in/a/adapter_config.json").read_text()
    assert verify(zoo).problems == ()


def meddle_after_screening(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """Change a file's last bytes when its batch has been screened."""
    judge = pipeline.judge

    def meddle(*args: Any) -> Any:
        with open(file, "r+b") as handle:
            handle.seek(-8, os.SEEK_END)
            handle.write(b"\x01" * 8)
        return judge(*args)

    monkeypatch.setattr(pipeline, "judge", meddle)


def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {name: write(tmp_path / "in" / name, rng) for name in "abc"}
    meddle_after_screening(monkeypatch, tmp_path / "in/b/adapter_model.safetensors")
    result = ingest(tmp_path / "in", tmp_path / "z")
    assert result.added == ("a", "c") and [(r.name, r.reason) for r in result.refused] == [("b", "changed")]
    zoo = open_zoo(tmp_path / "z")
    assert same(stored(zoo, "c"), wanted["c"]) and verify(zoo).problems == ()
    monkeypatch.undo()
    assert ingest(tmp_path / "in", tmp_path / "z").added == ("b",)


def test_the_plan_is_exact_and_writes_nothing(tmp_path: Path) -> None:
    planted = synthetic.write(tmp_path / "in", synthetic.Settings(synthetic.demo_settings().layers, adapters=12))
    made = plan([tmp_path / "in"], tmp_path / "z")
    assert not (tmp_path / "z").exists()
    by_header = {n for n, r in planted.refused.items() if r not in ("non-finite", "untrained", "duplicate")}
    assert {r.name for r in made.refused} == by_header
    for name in set(planted.refused) - by_header:
        (tmp_path / "in" / name / "adapter_model.safetensors").unlink()
    made = plan([tmp_path / "in"], tmp_path / "z")
    ingest(tmp_path / "in", tmp_path / "z")
    planned: dict[tuple[str, str], int] = {}
    for m in made.matrices:
        planned[m.layer, m.side] = planned.get((m.layer, m.side), 0) + m.rows
    assert planned == {(m.layer, m.side): m.rows for m in open_zoo(tmp_path / "z").matrices}


def test_the_synthetic_zoo_is_refused_as_it_says(tmp_path: Path) -> None:
    planted = synthetic.write(tmp_path / "in", synthetic.Settings(synthetic.demo_settings().layers, adapters=6))
    result = ingest(tmp_path / "in", tmp_path / "z")
    assert {r.name: r.reason for r in result.refused} == planted.refused and len(result.added) == planted.sound


def test_too_little_memory_is_said_before_anything_is_written(tmp_path: Path, rng: np.random.Generator) -> None:
    write(tmp_path / "in/a", rng)
    with pytest.raises(EigenzooError, match="raise --memory"):
        ingest(tmp_path / "in", tmp_path / "z", Settings(memory=1000))
    assert not (tmp_path / "z").exists()


def test_renames_bring_one_module_to_one_name(tmp_path: Path, rng: np.random.Generator) -> None:
    write(tmp_path / "a", rng)
    modules = {f"wrapped.layers.{i}.q": factors(rng, 2, 24, out) for i, out in enumerate((16, 40))}
    write_peft_folder(tmp_path / "b", modules)
    ingest(tmp_path / "a", tmp_path / "z")
    assert [r.reason for r in ingest(tmp_path / "b", tmp_path / "z").refused] == ["no-common-layer"]
    ingest(tmp_path / "b", tmp_path / "z", Settings(renames=["wrapped.layers=layers"]))
    zoo = open_zoo(tmp_path / "z")
    assert zoo.layers == ["layers.0.q", "layers.1.q"] and zoo.commit.renames == ("wrapped.layers=layers",)
    assert [m.rows for m in zoo.matrices] == [6, 6, 6, 6]


@pytest.mark.parametrize(
    "part", ["chunk", "missing chunk", "ledger", "metadata", "entries", "scale", "texts", "extras", "no extras"]
)
def test_verify_finds_what_is_damaged(tmp_path: Path, rng: np.random.Generator, part: str) -> None:
    write(tmp_path / "in/a", rng, extras={"base_model.model.head.weight": np.ones(3, np.float32)})
    ingest(tmp_path / "in", tmp_path / "z")
    assert verify(open_zoo(tmp_path / "z")).problems == ()
    chunk = tmp_path / "z/layers/layers.0.q/B/c.0.0"
    if part == "chunk":
        data = bytearray(chunk.read_bytes())
        data[5] ^= 1
        chunk.write_bytes(data)
    elif part == "missing chunk":
        chunk.unlink()
    elif part == "ledger":
        ledger = tmp_path / "z/catalog/000002.json"
        ledger.write_text(ledger.read_text().replace('"ok"', '"ko"'))
    elif part == "metadata":
        document = tmp_path / "z/layers/layers.0.q/A/zarr.json"
        document.write_text(json.dumps(json.loads(document.read_text()) | {"data_type": "float64"}))
    elif part == "entries":
        entries = np.load(tmp_path / "z/catalog/000002.entries.npy")
        entries["a_start"][0] += 1
        np.save(tmp_path / "z/catalog/000002.entries.npy", entries)
    elif part == "scale":
        entries = np.load(tmp_path / "z/catalog/000002.entries.npy")
        entries["scale"] *= 3
        np.save(tmp_path / "z/catalog/000002.entries.npy", entries)
    elif part == "texts":
        (tmp_path / "z/catalog/000002.texts.json").write_text("{}")
    elif part == "no extras":
        next((tmp_path / "z/catalog/extras").rglob("*.safetensors")).unlink()
    else:
        next((tmp_path / "z/catalog/extras").rglob("*.safetensors")).write_bytes(b"x")
    problems = verify(open_zoo(tmp_path / "z")).problems
    assert problems and all("\n" not in p.what for p in problems)


def test_threads_that_fill_are_over_before_a_batch_is_laid_out_anew(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.memory.THREADED_BYTES", 0)
    monkeypatch.setattr("ingest.memory.os.cpu_count", lambda: 4)
    wanted = {f"t{i:02}": write(tmp_path / f"in/t{i:02}", rng) for i in range(12)}
    meddle_after_screening(monkeypatch, tmp_path / "in/t05/adapter_model.safetensors")
    fill = pipeline.fill
    slow = iter([0.0, 0.3, 0.3, 0.3])

    def some_are_slow(writer: Any, work: Any, group: Any, **rest: Any) -> int:
        time.sleep(next(slow, 0.0))
        return fill(writer, work, group, **rest)

    monkeypatch.setattr(pipeline, "fill", some_are_slow)
    result = ingest(tmp_path / "in", tmp_path / "z")
    zoo = open_zoo(tmp_path / "z")
    assert len(result.added) == 11 and verify(zoo).problems == ()
    assert all(same(stored(zoo, name), wanted[name]) for name in result.added)


def test_a_twin_of_one_that_changed_is_accepted_in_its_place(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = {name: factors(rng, 4, width, out) for name, (width, out) in LAYERS.items()}
    for name in ("a", "b"):
        write_peft_folder(tmp_path / "in" / name, modules)
    meddle_after_screening(monkeypatch, tmp_path / "in/a/adapter_model.safetensors")
    assert ingest(tmp_path / "in", tmp_path / "z").added == ("b",)


def test_other_tensors_that_change_are_noticed(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "in/a", rng)
    write(tmp_path / "in/b", rng, extras={"base_model.model.zz.weight": np.ones(300, np.float32)})
    meddle_after_screening(monkeypatch, tmp_path / "in/b/adapter_model.safetensors")
    result = ingest(tmp_path / "in", tmp_path / "z")
    assert result.added == ("a",) and [r.reason for r in result.refused] == ["changed"]
    assert verify(open_zoo(tmp_path / "z")).problems == ()
    assert list((tmp_path / "z/catalog").rglob("*.safetensors")) == [], "what was given up is removed"


def test_a_name_like_a_temporary_file_is_nothing_special(tmp_path: Path, rng: np.random.Generator) -> None:
    write(tmp_path / "my.partial-run", rng, extras={"base_model.model.head.weight": np.ones(3, np.float32)})
    ingest(tmp_path / "my.partial-run", tmp_path / "z")
    (tmp_path / "z/writing").touch()
    write(tmp_path / "b", rng)
    ingest(tmp_path / "b", tmp_path / "z")
    assert open_zoo(tmp_path / "z").extras("my.partial-run") and verify(open_zoo(tmp_path / "z")).problems == ()


def unnamed(path: Path, rng: np.random.Generator, *layers: str, base: str | None = None, width: int = 8) -> None:
    write_peft_folder(path, {la: factors(rng, 2, width, 8) for la in layers}, base_model_name_or_path=base)


def test_adapters_that_belong_bring_their_layers(tmp_path: Path, rng: np.random.Generator) -> None:
    unnamed(tmp_path / "in/a", rng, "layers.0.q", base="x")
    unnamed(tmp_path / "in/b", rng, "layers.0.q", "layers.1.q")
    unnamed(tmp_path / "in/c", rng, "layers.1.q", "layers.2.q")
    unnamed(tmp_path / "in/d", rng, "layers.0.q", "layers.3.q", base="y")
    result = ingest(tmp_path / "in", tmp_path / "z", Settings(aliases=["y"]))
    assert result.added == ("a", "b", "c", "d") and len(open_zoo(tmp_path / "z").layers) == 4


@pytest.mark.parametrize("kill_after", range(1, 6))
def test_a_second_start_decides_as_the_first_would_have(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, kill_after: int
) -> None:
    unnamed(tmp_path / "in/a0", rng, "layers.0.q", base="x")
    unnamed(tmp_path / "in/a1", rng, "layers.0.q", "layers.1.q", base="x")
    unnamed(tmp_path / "in/b0", rng, "layers.0.q", "layers.5.q", base="x", width=8)
    unnamed(tmp_path / "in/b1", rng, "layers.0.q", "layers.5.q", base="other", width=9)
    unnamed(tmp_path / "in/c0", rng, "layers.1.q", "layers.4.q")
    unnamed(tmp_path / "in/c1", rng, "layers.4.q", "layers.6.q", width=8)
    unnamed(tmp_path / "in/c2", rng, "layers.0.q", width=9, base="x")
    monkeypatch.setattr(pipeline, "_batches", lambda made: [[planned] for planned in made.adapters])
    ingest(tmp_path / "in", tmp_path / "whole")
    save, left = ZooWriter.save, kill_after

    def dies(*args: Any) -> Any:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        return save(*args)

    monkeypatch.setattr(ZooWriter, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        ingest(tmp_path / "in", tmp_path / "z")
    monkeypatch.setattr(ZooWriter, "save", save)
    ingest(tmp_path / "in", tmp_path / "z")
    one, other = (contents(open_zoo(tmp_path / name)) for name in ("whole", "z"))
    assert sorted(one.pop("adapters")) == sorted(other.pop("adapters")) and one == other


def test_a_zoo_that_accepts_nobody_has_no_base_yet(tmp_path: Path, rng: np.random.Generator) -> None:
    write(tmp_path / "in/a", rng)
    assert ingest(tmp_path / "in", tmp_path / "z", Settings(base_model="mistyped")).added == ()
    zoo = open_zoo(tmp_path / "z")
    assert zoo.base_model is None and [r.reason for r in zoo.adapters] == ["other-base"]
    assert ingest(tmp_path / "in", tmp_path / "z", Settings(base_model="some/base")).added == ("a",)


def test_no_source_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EigenzooError, match="no source given"):
        ingest([], tmp_path / "z")
    assert not (tmp_path / "z").exists()

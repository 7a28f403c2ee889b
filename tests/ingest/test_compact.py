"""A compacted zoo is the zoo that its live adapters alone would have made, at bounded cost."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from ingest import pipeline
from ingest.compact import compact
from ingest.errors import EigenzooError
from ingest.pipeline import ingest
from ingest.remove import remove
from ingest.screen import canonical_digest
from ingest.settings import Settings
from ingest.store.catalog import AdapterRecord, ArrayRecord, Commit, LayerRecord, entry_dtype
from ingest.store.reader import Zoo, open_zoo
from ingest.store.writer import ZooWriter
from ingest.verify import verify
from tests.ingest.builders import factors, write_peft_folder


def said(zoo: Zoo) -> dict[str, object]:
    return {
        "commit": (zoo.base_model, zoo.commit.layers, zoo.commit.codec),
        "arrays": sorted((a.layer, a.side, a.dtype, a.rows, a.retired, a.chunk) for a in zoo.commit.arrays),
        "live": sorted((r.name, r.content, r.rank, r.rows, r.extras) for r in zoo.accepted),
        "rows": [(m, zoo.rows(m.layer, side=m.side).read(0, m.rows).tobytes()) for m in zoo.matrices],
        "texts": {r.name: (zoo.config(r.name), zoo.metadata(r.name)) for r in zoo.accepted},
        "extras": {r.name: {k: v.tobytes() for k, v in zoo.extras(r.name).items()} for r in zoo.accepted},
    }


@pytest.mark.parametrize("codec", ["", "lz4"])
def test_it_is_the_zoo_of_the_live_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str) -> None:
    rng = np.random.default_rng(0)
    for name in ("live", "gone"):
        for i in range(5):
            dtype = (np.float32, ml_dtypes.bfloat16, np.float16)[i % 3]
            modules = {"layers.0.q": factors(rng, 2 + i, 24, 16, dtype), "layers.1.c": factors(rng, 3, (6, 3, 3), 8)}
            head = {"base_model.model.head.weight": rng.standard_normal((3, 5)).astype(np.float32)}
            write_peft_folder(tmp_path / name / f"{name}{i}", modules, extras=head if i % 2 else None)
    ingest(tmp_path / "live", tmp_path / "alone", Settings(codec=codec))
    monkeypatch.setattr(pipeline, "BATCH_BYTES", 1)
    ingest([tmp_path / "gone", tmp_path / "live"], tmp_path / "both", Settings(codec=codec))
    remove(tmp_path / "both", [f"gone{i}" for i in range(5)])
    compact(tmp_path / "both")
    compact(tmp_path / "alone")
    assert said(open_zoo(tmp_path / "both")) == said(open_zoo(tmp_path / "alone"))
    assert verify(open_zoo(tmp_path / "both")).problems == ()
    names = {p.name for p in (tmp_path / "both").iterdir()}
    assert names - {"writer.lock"} == {
        "zarr.json",
        "catalog",
        f"layers-{open_zoo(tmp_path / 'both').commit.version:06d}",
    }


def test_nothing_to_do_is_quickly_done(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write_peft_folder(tmp_path / "in/a", {"layers.0.q": factors(rng, 4, 24, 16)})
    ingest(tmp_path / "in", tmp_path / "zoo")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "zoo").rglob("*") if p.is_file() and p.name != "writer.lock"}
    result = compact(tmp_path / "zoo")
    assert result.nbytes == 0 and result.adapters == 1 and result.version == open_zoo(tmp_path / "zoo").commit.version
    now = {p: p.stat().st_mtime_ns for p in (tmp_path / "zoo").rglob("*") if p.is_file() and p.name != "writer.lock"}
    assert now == before
    with pytest.raises(EigenzooError, match="codec 'zip': give 'lz4'"):
        compact(tmp_path / "zoo", codec="zip")
    with pytest.raises(EigenzooError, match="no zoo there"):
        compact(tmp_path / "none")


def big(path: Path, adapters: int, rank: int, width: int, chunk: int) -> int:
    """A zoo of one wide layer; its bytes."""
    record = LayerRecord("q", "linear", (width,), 4)
    rows = adapters * rank
    arrays = tuple(
        ArrayRecord(f"layers/q/{side}", "q", side, "float32", rows, w, chunk) for side, w in (("A", width), ("B", 4))
    )
    entries = np.zeros(adapters, entry_dtype())
    entries["adapter"], entries["rank"] = np.arange(adapters), rank
    entries["a_start"] = entries["b_start"] = np.arange(adapters) * rank
    entries["b_array"] = 1
    for i in range(adapters):
        for side, w in (("a", width), ("b", 4)):
            values = np.repeat(np.arange(rank * i, rank * (i + 1), dtype=np.float32)[:, None], w, axis=1)
            factor = np.ascontiguousarray(values if side == "a" else values.T)
            entries[f"{side}_digest"][i] = np.frombuffer(canonical_digest(factor), np.uint8)
    records = [AdapterRecord(f"t{i}", f"/t{i}", "ok", rank=rank, rows=rank) for i in range(adapters)]
    with ZooWriter(str(path)) as writer:
        for array in arrays:
            for index in range(rows // chunk):
                values = np.arange(index * chunk, (index + 1) * chunk, dtype=np.float32)
                writer.write_chunk(array, index, np.repeat(values[:, None], array.width, axis=1))
        commit = Commit("", 0, "b", (), (), (record,), arrays, ())
        writer.save(commit, records, entries, {r.name: {"config": None, "metadata": {}} for r in records})
    return rows * width * 4


@pytest.mark.parametrize("every", [2, 16])
def test_memory_is_a_matter_of_chunks(tmp_path: Path, every: int) -> None:
    nbytes = big(tmp_path / "zoo", 1024, 8, 4096, 256)
    kept = list(range(0, 1024, every))
    remove(tmp_path / "zoo", [f"t{i}" for i in range(1024) if i % every])
    seen: list[tuple[int, int]] = []
    tracemalloc.start()
    compact(tmp_path / "zoo", progress=lambda done, total: seen.append((done, total)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20 < nbytes // 2
    assert seen[-1][0] == seen[-1][1] and len(seen) > 1
    zoo = open_zoo(tmp_path / "zoo")
    rows = zoo.rows("q", side="A").read(0, 8 * len(kept))
    wanted = np.concatenate([np.arange(8 * i, 8 * i + 8, dtype=np.float32) for i in kept])
    assert np.array_equal(rows, np.repeat(wanted[:, None], 4096, axis=1))
    assert [r.name for r in zoo.accepted] == [f"t{i}" for i in kept]

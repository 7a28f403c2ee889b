"""The store by itself: what is committed is seen, whole; what is not is not."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import zarr

from ingest.compact import compact
from ingest.errors import EigenzooError
from ingest.remove import remove
from ingest.store import schema
from ingest.store.catalog import AdapterRecord, ArrayRecord, Commit, LayerRecord, entry_dtype
from ingest.store.ledger import replay
from ingest.store.reader import open_zoo
from ingest.store.writer import ZooWriter
from tests.ingest.store.zoos import make

LAYER = LayerRecord("h.0.q", "linear", (16,), 8)


def array(side: str, dtype: str, rows: int, chunk: int = 4) -> ArrayRecord:
    width = 16 if side == "A" else 8
    return ArrayRecord(f"layers/h.0.q/{side}", "h.0.q", side, dtype, rows, width, chunk)


def commit_rows(writer: ZooWriter, a: np.ndarray, b: np.ndarray, ranks: list[int]) -> Commit:
    """Write all rows given (those of earlier commits first) and commit adapters of the given ranks at the end."""
    records = [array("A", a.dtype.name, len(a)), array("B", b.dtype.name, len(b))]
    for record, values in zip(records, (a, b), strict=True):
        for chunk in range(-(-len(values) // record.chunk)):
            block = np.zeros((record.chunk, record.width), values.dtype)
            part = values[chunk * record.chunk : (chunk + 1) * record.chunk]
            block[: len(part)] = part
            writer.write_chunk(record, chunk, block)
    first = len(writer.zoo().accepted)
    start = len(a) - sum(ranks)
    entries = np.zeros(len(ranks), entry_dtype())
    for i, rank in enumerate(ranks):
        entries[i]["adapter"], entries[i]["rank"], entries[i]["scale"] = first + i, rank, 0.5
        entries[i]["a_start"] = entries[i]["b_start"] = start
        entries[i]["b_array"] = 1
        start += rank
    names = [f"t{first + i}" for i in range(len(ranks))]
    adapters = [AdapterRecord(n, f"/{n}", "ok", rank=r, rows=r) for n, r in zip(names, ranks, strict=True)]
    texts = {n: {"config": f'{{"name": "{n}"}}', "metadata": {}} for n in names}
    return writer.save(Commit("", 0, "gpt2", (), (), (LAYER,), tuple(records), ()), adapters, entries, texts)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_rows_come_back_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((7, 16)).astype(schema.numpy_dtype(dtype))
    b = rng.standard_normal((7, 8)).astype(np.float32)
    with ZooWriter(str(tmp_path / "z")) as writer:
        commit_rows(writer, a, b, [3, 4])
    zoo = open_zoo(tmp_path / "z")
    rows = zoo.rows("h.0.q", side="A")
    assert rows.shape == (7, 16) and rows.dtype == a.dtype and rows.offsets.tolist() == [0, 3, 7]
    assert rows.read(0, 7).tobytes() == a.tobytes()
    assert rows.read(2, 6).tobytes() == a[2:6].tobytes()
    (module,) = zoo.adapter("t1")
    assert module.A.tobytes() == a[3:].tobytes() and module.B.tobytes() == b[3:].T.copy().tobytes()
    assert module.scale == 0.5 and zoo.config("t1") == '{"name": "t1"}'


def test_a_plain_zarr_reader_sees_the_last_commit(tmp_path: Path) -> None:
    a, b = np.ones((6, 16), ml_dtypes.bfloat16), np.ones((6, 8), np.float32)
    with ZooWriter(str(tmp_path / "z")) as writer:
        commit_rows(writer, a, b, [6])
    group = zarr.open_group(str(tmp_path / "z"), mode="r")
    stored = group["layers/h.0.q/A"]
    assert stored.shape == (6, 16) and stored.dtype == np.uint16 and stored.attrs["dtype"] == "bfloat16"
    assert stored[:].view(ml_dtypes.bfloat16).astype(np.float32).min() == 1
    assert zarr.open_array(str(tmp_path / "z/layers/h.0.q/B"), mode="r").shape == (6, 8)


def test_a_snapshot_outlives_later_commits(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((11, 16)).astype(np.float32), rng.standard_normal((11, 8)).astype(np.float32)
    with ZooWriter(str(tmp_path / "z")) as writer:
        commit_rows(writer, a[:6], b[:6], [6])
        before = open_zoo(tmp_path / "z")
        commit_rows(writer, a, b, [5])
    assert np.array_equal(before.rows("h.0.q", side="A").read(0, 6), a[:6])
    after = open_zoo(tmp_path / "z")
    assert after.commit.version == 2 and np.array_equal(after.rows("h.0.q", side="B").read(0, 11), b)
    with pytest.raises(EigenzooError, match="there are 6 rows"):
        before.rows("h.0.q", side="A").read(0, 7)


def test_rows_that_were_not_committed_are_swept(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((6, 16)).astype(np.float32), rng.standard_normal((6, 8)).astype(np.float32)
    path = tmp_path / "z"
    with ZooWriter(str(path)) as writer:
        commit_rows(writer, a, b, [6])
    whole = sorted(p.relative_to(path) for p in path.rglob("*"))
    with pytest.raises(KeyboardInterrupt), ZooWriter(str(path)) as writer:
        writer.write_chunk(array("A", "float32", 12), 2, np.ones((4, 16), np.float32))
        stray = ArrayRecord("layers/new/A", "new", "A", "float32", 4, 16, 4)
        writer.write_chunk(stray, 0, np.ones((4, 16), np.float32))
        writer.write_extras("never", [b"x"])
        (path / "catalog/000002.json").write_text("{}")
        raise KeyboardInterrupt
    assert np.array_equal(open_zoo(path).rows("h.0.q", side="A").read(0, 6), a)
    with ZooWriter(str(path)):
        pass
    assert sorted(p.relative_to(path) for p in path.rglob("*") if p.name != "extras") == whole


def test_of_two_writers_one_is_refused(tmp_path: Path) -> None:
    with ZooWriter(str(tmp_path / "z")), pytest.raises(EigenzooError, match="another process is writing"):
        ZooWriter(str(tmp_path / "z")).__enter__()


def test_a_writer_that_wrote_nothing_leaves_nothing(tmp_path: Path) -> None:
    with ZooWriter(str(tmp_path / "z")):
        pass
    assert not (tmp_path / "z").exists()


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(EigenzooError, match="folder with other files"):
        ZooWriter(str(tmp_path)).__enter__()
    assert os.listdir(tmp_path) == ["notes.txt"]
    with pytest.raises(EigenzooError, match="no zoo there"):
        open_zoo(tmp_path)
    zarr.create_group(str(tmp_path / "other"))
    with pytest.raises(EigenzooError, match="no zoo of this program"):
        open_zoo(tmp_path / "other")
    (tmp_path / "f").write_text("")
    with pytest.raises(EigenzooError, match="is a file"):
        open_zoo(tmp_path / "f")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    with ZooWriter(str(tmp_path / "z")) as writer:
        commit_rows(writer, np.ones((2, 16), np.float32), np.ones((2, 8), np.float32), [2])
    root = tmp_path / "z/zarr.json"
    document = json.loads(root.read_text())
    document["attributes"]["eigenzoo"]["format"] = 99
    root.write_text(json.dumps(document))
    with pytest.raises(EigenzooError, match="zoo format 99"):
        open_zoo(tmp_path / "z")


@pytest.mark.parametrize(
    "name", ["h.0.q", "..", ".", "", "a/b", "c\\d", "ünïcode", "%2e", "x" * 400, "_zarr", "A b", "zarr.json"]
)
def test_any_layer_name_becomes_one_safe_component(name: str) -> None:
    quoted = schema.quote(name)
    assert quoted and "/" not in quoted and "\\" not in quoted and len(quoted) <= 150
    assert quoted not in (".", "..") and not quoted.startswith(("_", "."))


def test_quoted_names_stay_apart() -> None:
    names = ["a b", "a%20b", "a_b", "x" * 400, "x" * 399 + "y", "é", "e\u0301", "", "%"]
    assert len({schema.quote(n) for n in names}) == len(names)


def test_chunks_hold_whole_rows_of_a_few_mib() -> None:
    for width, dtype, rows in [
        (320, "float32", 100),
        (4096, "bfloat16", 10**6),
        (50257, "float32", 16),
        (10**8, "float64", 3),
    ]:
        chunk = schema.chunk_rows(width, dtype, rows)
        nbytes = chunk * width * schema.itemsize(dtype)
        assert chunk >= 1 and (chunk == 1 or nbytes <= schema.MAX_CHUNK_BYTES)
    assert schema.chunk_rows(4096, "bfloat16", 10**6) * 4096 * 2 == schema.MAX_CHUNK_BYTES


def test_the_ledger_keeps_the_last_word_on_a_source() -> None:
    no = AdapterRecord("a", "/a", "refused", "non-finite")
    yes = AdapterRecord("a", "/a", "ok")
    other = AdapterRecord("b", "/b", "ok")
    assert replay([[no, other], [yes]]).adapters == (other, yes)
    assert replay([[no], [no]]).adapters == (no,)
    changed = AdapterRecord("a~2", "/a", "refused", "changed")
    assert replay([[yes], [changed]]).adapters == (yes, changed)


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_chunk_is_an_error_and_never_zeros(tmp_path: Path, damage: str) -> None:
    with ZooWriter(str(tmp_path / "z")) as writer:
        commit_rows(writer, np.ones((6, 16), np.float32), np.ones((6, 8), np.float32), [6])
    chunk = tmp_path / "z/layers/h.0.q/A/c.1.0"
    if damage == "missing":
        chunk.unlink()
    else:
        os.truncate(chunk, 100)
    rows = open_zoo(tmp_path / "z").rows("h.0.q", side="A")
    assert rows.read(0, 4).min() == 1
    with pytest.raises(EigenzooError, match="cannot read rows 3:6"):
        rows.read(3, 6)


def test_extras_are_written_part_by_part(tmp_path: Path) -> None:
    path = tmp_path / "z/catalog/extras/000001/a.safetensors"

    def parts() -> Iterator[bytes]:
        for i in range(3):
            if i:
                assert os.path.getsize(f"{path}.partial") == i * 1000, "the part before is on its way to the disk"
            yield b"x" * 1000

    with ZooWriter(str(tmp_path / "z")) as writer:
        writer.write_extras("a", parts())
        assert path.read_bytes() == b"x" * 3000


def test_zarr_itself_opens_what_is_written(tmp_path: Path) -> None:
    for codec in ("", "lz4"):
        url = str(tmp_path / f"z{codec}")
        make(url, [[("a", 1), ("b", 2), ("c", 3)], [("d", 4), ("e", 5)]], codec)
        remove(url, ["a"])
        compact(url)
        zoo = open_zoo(url)
        group = zarr.open_group(url, mode="r")
        for record in zoo.commit.arrays:
            array = group[record.path]
            assert isinstance(array, zarr.Array) and array.shape == (record.rows, record.width)
            alone = zarr.open_array(f"{url}/{record.path}", mode="r")
            assert np.array_equal(array[:], alone[:])
            if record.dtype == "float32":
                members = [i for i, s in enumerate(zoo.stored) if int(s.record.fingerprint[6:]) % 3 != 2]
                rows = zoo.rows(record.layer, side=record.side, members=members)
                assert rows.read(0, rows.shape[0]).tobytes() == np.asarray(array[:]).tobytes()

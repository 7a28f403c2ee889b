"""Adapters come, are replaced and renewed, and go: the same on a disk, in memory and on a real S3 server."""

from __future__ import annotations

import dataclasses
import uuid
from pathlib import Path

import numpy as np
import pytest

from ingest.compact import compact
from ingest.errors import EigenzooError
from ingest.remove import remove
from ingest.storage import open_storage
from ingest.store.catalog import entry_dtype
from ingest.store.reader import open_zoo
from ingest.store.root import Compacted
from ingest.store.writer import ZooWriter
from ingest.verify import verify
from tests.ingest.store.zoos import CHUNK, check_adapter, contents, factors, leftovers, make, put

BATCHES = [[("a", 1), ("b", 2), ("c", 3)], [("d", 4), ("e", 5)], [("f", 7)]]
SEEDS = {name: seed for batch in BATCHES for name, seed in batch}


@pytest.fixture(params=["local", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "zoo")
    pytest.importorskip("obstore")
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}/zoo"
    return str(request.getfixturevalue("s3_url"))


def test_batches_are_appended(url: str) -> None:
    zoo = make(url, BATCHES)
    assert [r.name for r in zoo.accepted] == list("abcdef")
    for name, seed in SEEDS.items():
        check_adapter(zoo, name, seed)
    wanted = np.concatenate([factors(s)["h.0.q"][0].astype(np.float32) for s in SEEDS.values()])
    rows = zoo.rows("h.0.q", side="A")
    assert rows.dtype == np.float32 and np.array_equal(rows.read(0, len(wanted)), wanted)
    assert np.array_equal(rows.read(3, 11), wanted[3:11])
    assert verify(zoo).problems == () and leftovers(url) == set()
    assert [(e.version, e.action, e.added, e.refused) for e in zoo.commit.log] == [
        (1, "ingest", 3, 1),
        (2, "ingest", 2, 1),
        (3, "ingest", 1, 1),
    ]


def test_a_second_start_changes_nothing(url: str) -> None:
    version = make(url, BATCHES).commit.version
    files = {n: open_storage(url).read_versioned(n) for n in open_storage(url).list() if n != "writer.lock"}
    assert make(url, BATCHES).commit.version == version
    assert {n: open_storage(url).read_versioned(n) for n in open_storage(url).list() if n != "writer.lock"} == files


def test_a_newer_version_takes_the_place_of_the_older(url: str) -> None:
    before = make(url, BATCHES)
    old = {m.layer: m.A.tobytes() for m in before.adapter("b")}
    with ZooWriter(url) as writer:
        put(writer, [("b", 9), ("g", 10)])
    zoo = open_zoo(url)
    assert [r.name for r in zoo.accepted] == ["a", "c", "d", "e", "f", "b", "g"]
    check_adapter(zoo, "b", 9)
    check_adapter(zoo, "a", 1)
    assert (zoo.commit.log[-1].added, zoo.commit.log[-1].replaced) == (1, 1)
    assert [s.live for s in zoo.stored] == [True, False, True, True, True, True, True, True]
    assert verify(zoo).problems == ()
    # The snapshot from before still has the old one, other tensors and all.
    assert {m.layer: m.A.tobytes() for m in before.adapter("b")} == old
    check_adapter(before, "b", 2)
    with ZooWriter(url) as writer:
        put(writer, [("a", 11)])
    check_adapter(before, "a", 1)
    check_adapter(open_zoo(url), "a", 11)


def test_a_renewed_adapter_keeps_its_rows(url: str) -> None:
    make(url, BATCHES)
    with ZooWriter(url) as writer:
        live = writer.zoo().accepted[0]
        new = dataclasses.replace(
            live, status="renewed", source="/other", fingerprint="new", licence="mit", rows=99, content="x"
        )
        texts = {"a": {"config": "new", "metadata": {}}}
        writer.save(writer.commit, [new], np.empty(0, entry_dtype()), texts)
    zoo = open_zoo(url)
    (record,) = [r for r in zoo.adapters if r.name == "a"]
    assert record == dataclasses.replace(live, source="/other", fingerprint="new", licence="mit")
    assert zoo.accepted[0] == record and zoo.config("a") == "new" and zoo.commit.log[-1].renewed == 1
    assert zoo.rows("h.0.q", side="A").shape[0] == sum(len(factors(s)["h.0.q"][0]) for s in SEEDS.values())
    assert verify(zoo).problems == ()


def test_removed_adapters_are_gone_at_once_and_their_rows_are_not(url: str) -> None:
    before = make(url, BATCHES)
    whole = before.rows("h.0.q", side="B")
    result = remove(url, ["e", "b", "e"])
    assert result.removed == ("e", "b") and result.version == 4 and result.retired_bytes > 0
    zoo = open_zoo(url)
    assert [r.name for r in zoo.accepted] == ["a", "c", "d", "f"]
    assert [(r.name, r.status, r.source) for r in zoo.removed] == [("e", "removed", "/e"), ("b", "removed", "/b")]
    for name in "acdf":
        check_adapter(zoo, name, SEEDS[name])
    with pytest.raises(EigenzooError, match="no accepted adapter 'b'"):
        zoo.config("b")
    kept = np.concatenate([factors(SEEDS[n])["h.0.q"][1].T.astype(np.float32) for n in "acdf"])
    rows = zoo.rows("h.0.q", side="B")
    assert np.array_equal(rows.read(0, len(kept)), kept)
    info = next(m for m in zoo.matrices if (m.layer, m.side) == ("h.0.q", "B"))
    assert info.rows == rows.shape[0] == len(kept)
    gone = zoo.rows("h.0.q", side="B", members=[1, 4])
    values = np.concatenate([factors(SEEDS[n])["h.0.q"][1].T.astype(np.float32) for n in "be"])
    assert np.array_equal(gone.read(0, len(values)).astype(np.float32), values)
    assert zoo.rows("h.0.q", side="B", members=range(6)).identity == whole.identity != rows.identity
    assert zoo.rows("h.0.q", side="B", members=[]).shape == (0, 8)
    with pytest.raises(EigenzooError, match="no adapter of ordinal 6; there are 6"):
        zoo.rows("h.0.q", side="B", members=[6])
    assert verify(zoo).problems == () and verify(zoo).adapters == 6, "what is stored is checked"
    assert (zoo.commit.log[-1].action, zoo.commit.log[-1].removed) == ("remove", 2)


def test_removal_is_all_or_nothing_and_safe_to_repeat(url: str) -> None:
    make(url, BATCHES)
    with pytest.raises(EigenzooError, match=r"2 of 3 adapters are not in the zoo \('x', 'no-a'\)"):
        remove(url, ["a", "x", "no-a"])
    assert len(open_zoo(url).accepted) == 6
    assert remove(url, ["a"]).removed == ("a",)
    again = remove(url, ["a", "b"])
    assert again.removed == ("b",) and again.already == ("a",)
    version = open_zoo(url).commit.version
    assert remove(url, ["a"]).version == version
    with pytest.raises(EigenzooError, match="name one or more"):
        remove(url, [])


def test_a_removed_adapter_may_come_back(url: str) -> None:
    make(url, BATCHES)
    remove(url, ["b"])
    with ZooWriter(url) as writer:
        put(writer, [("b", 2)])
    zoo = open_zoo(url)
    assert zoo.removed == [] and zoo.accepted[-1].name == "b" and zoo.commit.log[-1].added == 1
    check_adapter(zoo, "b", 2)
    assert verify(zoo).problems == ()


@pytest.mark.parametrize("codec", ["", "lz4"])
def test_compact_keeps_the_live_rows_alone(url: str, codec: str) -> None:
    make(url, BATCHES, codec)
    with ZooWriter(url) as writer:
        put(writer, [("c", 8), ("g", 10)])
    remove(url, ["a", "f"])
    before = open_zoo(url)
    said = contents(before)
    result = compact(url)
    zoo = open_zoo(url)
    assert (result.version, result.adapters) == (zoo.commit.version, 5) and result.dropped > 0
    assert len(zoo.commit.segments) == 1 and all(s.live for s in zoo.stored)
    assert sum(a.rows for a in zoo.commit.arrays) == result.rows == sum(a.live for a in before.commit.arrays)
    now = contents(zoo)
    for what in ("adapters", "live", "matrices", "texts", "extras"):
        assert now[what] == said[what], what
    for name, seed in {"b": 2, "c": 8, "d": 4, "e": 5, "g": 10}.items():
        check_adapter(zoo, name, seed)
    assert zoo.commit.log[-1].action == "compact" and len(zoo.commit.log) == len(before.commit.log) + 1
    assert verify(zoo).problems == () and leftovers(url) == set()
    assert compact(url).version == zoo.commit.version, "nothing is left to do"
    with pytest.raises(Compacted, match="the zoo was compacted since it was opened; open it again"):
        before.rows("h.0.q", side="A").read(0, 1)
    with pytest.raises(Compacted):
        verify(before)
    with pytest.raises(Compacted):
        before.config("b")


def test_a_compacted_zoo_goes_on_living(url: str) -> None:
    make(url, BATCHES)
    remove(url, ["a"])
    compact(url)
    with ZooWriter(url) as writer:
        put(writer, [("a", 1), ("b", 12)])
    remove(url, ["d"])
    compact(url)
    zoo = open_zoo(url)
    assert [r.name for r in zoo.accepted] == ["c", "e", "f", "a", "b"] and [r.name for r in zoo.removed] == ["d"]
    for name, seed in {"c": 3, "e": 5, "f": 7, "a": 1, "b": 12}.items():
        check_adapter(zoo, name, seed)
    assert verify(zoo).problems == () and leftovers(url) == set()


def test_a_zoo_may_lose_everybody(url: str) -> None:
    make(url, BATCHES[:1])
    remove(url, ["a", "b", "c"])
    zoo = open_zoo(url)
    assert zoo.layers == [] and zoo.matrices == [] and zoo.rows("h.0.q", side="A").shape == (0, 16)
    compact(url)
    zoo = open_zoo(url)
    assert zoo.accepted == [] and len(zoo.removed) == 3 and zoo.commit.arrays == () and verify(zoo).problems == ()
    with pytest.raises(EigenzooError, match="has no rows"):
        zoo.rows("h.0.q", side="A")
    with ZooWriter(url) as writer:
        put(writer, [("a", 1)])
    check_adapter(open_zoo(url), "a", 1)
    assert leftovers(url) == set()


def test_compact_chooses_chunks_that_fit(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.store.schema.MIN_CHUNK_BYTES", 2 * 16 * 4)
    monkeypatch.setattr("ingest.store.schema.MAX_CHUNK_BYTES", 2 * 16 * 4)
    assert {a.chunk for a in make(url, BATCHES).commit.arrays} == {CHUNK}
    compact(url)
    zoo = open_zoo(url)
    assert {a.chunk for a in zoo.commit.arrays if a.width == 16 and a.dtype == "float32"} == {2}
    for name, seed in SEEDS.items():
        check_adapter(zoo, name, seed)


def test_compact_changes_the_codec(url: str) -> None:
    make(url, BATCHES)
    with pytest.raises(EigenzooError, match="its chunks are raw.*eigenzoo compact .* --compress"):
        ZooWriter(url, "lz4").__enter__()
    compact(url, codec="lz4")
    zoo = open_zoo(url)
    assert zoo.commit.codec == "lz4" and verify(zoo).problems == ()
    for name, seed in SEEDS.items():
        check_adapter(zoo, name, seed)
    with ZooWriter(url) as writer:
        put(writer, [("g", 10)])
    check_adapter(open_zoo(url), "g", 10)
    compact(url, codec="")
    assert open_zoo(url).commit.codec == "" and verify(open_zoo(url)).problems == ()

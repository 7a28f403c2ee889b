"""Whose folder it is, what a failure leaves behind, and how it is set right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from ingest.errors import EigenzooError
from ingest.storage import open_storage
from ingest.store.nodes import files_of
from ingest.store.reader import open_zoo
from ingest.store.writer import ZooWriter
from ingest.verify import verify
from tests.ingest.store.zoos import leftovers, make, put

FIRST = [[("a", 1)]]


@pytest.mark.parametrize("name", ["layers/0.safetensors", "catalog/index.json", "staging/x", "zarr.json.partial"])
@pytest.mark.parametrize("remote", [False, True])
def test_a_strangers_folder_is_no_dead_writers(name: str, remote: bool, tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}-{abs(hash(name))}/x" if remote else str(tmp_path / "x")
    if remote:
        pytest.importorskip("obstore")
    storage = open_storage(url)
    storage.write(name, [b"mine"])
    with pytest.raises(EigenzooError, match="a folder with other files"):
        ZooWriter(url).__enter__()
    assert list(storage.list()) == [name] and storage.read(name) == b"mine"


def test_a_foreign_zarr_store_is_left_as_it_was(tmp_path: Path) -> None:
    zarr.create_group(str(tmp_path / "other"))
    with pytest.raises(EigenzooError, match="a zarr store, but no zoo"):
        ZooWriter(str(tmp_path / "other")).__enter__()
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["zarr.json"]


def test_a_sweep_keeps_to_its_own_places(tmp_path: Path) -> None:
    make(str(tmp_path / "z"), FIRST)
    for name in ("notes.partial", "mine/x.partial", "layers/x.partial", "zarr.json.partial", "writing"):
        (tmp_path / "z" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "z" / name).write_text("")
    with ZooWriter(str(tmp_path / "z")):
        pass
    assert leftovers(str(tmp_path / "z")) == {"notes.partial", "mine/x.partial"}


def test_what_a_commit_names_is_there_and_nothing_else(tmp_path: Path) -> None:
    url = str(tmp_path / "z")
    for batches in (FIRST, [*FIRST, [("b", 4)]]):
        zoo = make(url, batches)
        assert set(files_of(zoo.commit, zoo.stored)) == set(zoo.storage.list()) - {"writer.lock"}
    group = zarr.open_group(url, mode="r", use_consolidated=False)
    assert set(group["layers"].group_keys()) == {"h.0.q", "h.1.q"}


@pytest.mark.parametrize("then", ["nothing", "append"])
def test_metadata_of_a_commit_that_failed_is_taken_back(then: str, tmp_path: Path) -> None:
    url = str(tmp_path / "z")
    make(url, FIRST)

    def write(name: str, parts: Any, expect: str = "*") -> str:
        if name == "layers/h.1.q/B/zarr.json":
            raise EigenzooError("no space left")
        return original(name, parts, expect)

    with pytest.raises(EigenzooError, match="no space left"), ZooWriter(url) as writer:
        original = writer._storage.write
        writer._storage.write = write  # type: ignore[method-assign]
        put(writer, [("c", 3), ("d", 4), ("e", 6)])
    with ZooWriter(url) as writer:
        if then == "append":
            put(writer, [("s", 11)])
    zoo = open_zoo(url)
    for array in zoo.commit.arrays:
        assert zarr.open_array(f"{url}/{array.path}", mode="r").shape == (array.rows, array.width)
    assert verify(zoo).problems == () and leftovers(url) == set() and not (tmp_path / "z/writing").exists()


def test_a_second_attempt_in_one_session_writes_all_metadata(tmp_path: Path) -> None:
    url = str(tmp_path / "z")
    make(url, FIRST)
    with ZooWriter(url) as writer:
        original, failed = writer._storage.write, []

        def write(name: str, parts: Any, expect: str = "*") -> str:
            if name == "layers/h.1.q/B/zarr.json" and not failed:
                failed.append(name)
                raise EigenzooError("no space left")
            return original(name, parts, expect)

        writer._storage.write = write  # type: ignore[method-assign]
        with pytest.raises(EigenzooError, match="no space left"):
            put(writer, [("c", 3), ("d", 4), ("e", 6)])
        put(writer, [("s", 11)])
    zoo = open_zoo(url)
    for array in zoo.commit.arrays:
        assert zarr.open_array(f"{url}/{array.path}", mode="r").shape == (array.rows, array.width)


def test_a_writer_on_a_disk_reads_no_metadata_that_it_replaces(tmp_path: Path) -> None:
    url = str(tmp_path / "z")
    make(url, FIRST)
    with ZooWriter(url) as writer:
        read, seen = writer._storage.read_versioned, list[str]()
        writer._storage.read_versioned = lambda name: (seen.append(name), read(name))[1]  # type: ignore[method-assign]
        put(writer, [("b", 4)])
    assert [name for name in seen if name.endswith("zarr.json")] == []


def test_threads_that_ask_for_several_adapters_get_their_own(tmp_path: Path) -> None:
    zoo = make(str(tmp_path / "z"), [[("a", 1)], [("b", 4)]])
    held: Any = type(zoo)

    class Interrupted(held):  # type: ignore[misc]
        def __setattr__(self, name: str, value: Any) -> None:
            object.__setattr__(self, name, value)
            if name == "_table" and value[0] == 0:
                self.entries_of(1)  # as another thread would, just then

    zoo.__class__ = Interrupted
    assert set(zoo.entries_of(0)["adapter"].tolist()) == {0}


@pytest.mark.parametrize("store", ["local", "memory"])
def test_another_zoo_at_the_same_path_is_not_read(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(tmp_path / "z")
    if store == "memory":
        pytest.importorskip("obstore")
        url = f"memory://{tmp_path.name}-again/x"
        monkeypatch.setattr("ingest.store.root.LOOK_SECONDS", 0.0)
    old = make(url, FIRST)
    rows = old.rows("h.0.q", side="A")
    first = rows.read(0, 2)
    make(url, [*FIRST, [("b", 4)]])
    assert np.array_equal(rows.read(0, 2), first), "another commit is none of its business"
    old.storage.delete(list(old.storage.list()))
    with pytest.raises(EigenzooError):
        rows.read(0, 2)
    make(url, [[("a", 6)]])
    for act in (lambda: rows.read(0, 2), lambda: list(old.adapter("a")), lambda: verify(old)):
        words = "was deleted, and another made in its place" if store == "local" else ""
        with pytest.raises(EigenzooError, match=f"{words}.*; open it again$"):
            act()


def test_verify_sees_metadata_and_files_that_are_not_the_commits(tmp_path: Path) -> None:
    url = str(tmp_path / "z")
    make(url, [[("a", 1)], [("b", 4)]])
    (tmp_path / "z/layers/h.0.q/zarr.json").write_text("garbage")
    (tmp_path / "z/layers/zarr.json").unlink()
    (tmp_path / "z/layers/h.1.q/zarr.json").write_text('{"zarr_format": 3, "node_type": "array", "attributes": {}}')
    (tmp_path / "z/layers/h.0.q/A/c.9.0").write_bytes(b"stray")
    (tmp_path / "z/notes.txt").write_bytes(b"mine")
    found = {p.where: p.what for p in verify(open_zoo(url)).problems}
    assert found.keys() == {"layers", "layers/h.0.q", "layers/h.1.q", "layers/h.0.q/A/c.9.0"}
    assert found["layers/h.0.q/A/c.9.0"] == "belongs to no commit; remove it"
    with ZooWriter(url):  # somebody may be about to commit it
        assert "layers/h.0.q/A/c.9.0" not in {p.where for p in verify(open_zoo(url)).problems}


def test_verify_compares_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.ingest.store.zoos.content", lambda seed: "0" * 64)
    (problem,) = verify(make(str(tmp_path / "z"), FIRST)).problems
    assert problem.what == "the entries of a are not of the content that the ledger says"


@pytest.mark.parametrize("verb", ["read_into", "read", "read_parts", "size", "list"])
def test_a_store_out_of_reach_is_no_damage(verb: str, tmp_path: Path) -> None:
    from ingest.storage import Unreadable

    zoo = make(str(tmp_path / "z"), FIRST)

    def gone(*_: Any) -> Any:
        raise Unreadable("s3://b/z: cannot read 'x': the endpoint cannot be reached")

    setattr(zoo.storage, verb, gone)
    with pytest.raises(Unreadable, match="the endpoint cannot be reached$"):
        verify(zoo)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.pop("uuid"),
        lambda r: r["arrays"][0].update(new=1),
        lambda r: r["arrays"][0].update(chunk=0),
        lambda r: r["arrays"][0].update(rows="9"),
        lambda r: r["arrays"][0].update(rows=-1),
        lambda r: r["arrays"][0].update(rows=2**62),
        lambda r: r["arrays"][0].update(rows=2**40, chunk=1),
        lambda r: r["arrays"][0].update(dtype="object"),
        lambda r: r["arrays"][0].update(path="../../x"),
        lambda r: r["arrays"][0].update(path=7),
        lambda r: r["segments"][0].update(name="/etc/x"),
        lambda r: r["segments"][0].update(ok=True),
        lambda r: r.update(layers=None),
        lambda r: r.update(codec="zip"),
        lambda r: r.update(version="x"),
    ],
)
def test_a_forged_root_is_one_line(change: Any, tmp_path: Path) -> None:
    make(str(tmp_path / "z"), FIRST)
    root = tmp_path / "z/zarr.json"
    document = json.loads(root.read_text())
    change(document["attributes"]["eigenzoo"])
    root.write_text(json.dumps(document))
    with pytest.raises(EigenzooError, match="damaged") as caught:
        open_zoo(tmp_path / "z")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400

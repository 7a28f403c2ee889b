"""One writer at a time; and a writer that lost its lease without noticing does no harm."""

from __future__ import annotations

import itertools
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingest.compact import compact
from ingest.errors import EigenzooError
from ingest.remove import remove
from ingest.storage import lease, open_storage
from ingest.store.catalog import ArrayRecord
from ingest.store.reader import Zoo, open_zoo
from ingest.store.root import read_commit
from ingest.store.writer import ZooWriter
from ingest.verify import verify
from tests.ingest.store.jobs import Jobs
from tests.ingest.store.zoos import check_adapter, contents, leftovers, make, put

FIRST = [[("a", 1), ("b", 2)]]
SLEEP = 0.15
ASLEEP = ("before it wrote", "before its commit", "at the root")


def wrong(zoo: Zoo) -> list[str]:
    """What is wrong with a zoo, but for files that no commit names: those a sleeper may still have written."""
    return [p.what for p in verify(zoo).problems if p.what != "belongs to no commit; remove it"]


def place(store: str, request: pytest.FixtureRequest) -> str:
    pytest.importorskip("obstore")
    return str(request.getfixturevalue("s3_url")) if store == "s3" else f"memory://{uuid.uuid4().hex}/zoo"


@pytest.fixture(params=["memory", "s3"])
def url(request: pytest.FixtureRequest) -> str:
    return place(request.param, request)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that is soon taken for left behind."""
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.1)
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.03)


def suspended(url: str) -> ZooWriter:
    """A writer whose lease nobody renews, and that does not look at the clock before it sends a request."""
    writer = ZooWriter(url).__enter__()
    held: Any = writer._storage
    held._lease._stop.set()
    held._lease.check = lambda: None
    return writer


@pytest.mark.parametrize("where", ["local", "memory", "s3"])
def test_the_second_is_refused(where: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = str(tmp_path / "zoo") if where == "local" else place(where, request)
    make(url, FIRST)
    with ZooWriter(url) as writer:
        for act in (
            lambda: ZooWriter(url).__enter__(),
            lambda: remove(url, ["a"]),
            lambda: compact(url),
        ):
            with pytest.raises(EigenzooError, match="another process is writing to this zoo"):
                act()
        put(writer, [("c", 3)])
    remove(url, ["a"])
    zoo = open_zoo(url)
    assert [r.name for r in zoo.accepted] == ["b", "c"] and verify(zoo).problems == () and leftovers(url) == set()


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("store", "other", "asleep"),
    [
        *itertools.product(["memory"], ["append", "replace", "remove", "compact", "nothing"], ASLEEP),
        *zip(itertools.repeat("s3"), ["append", "compact", "nothing"], ASLEEP, strict=False),
    ],
)
def test_a_writer_that_slept_cannot_damage_what_another_wrote(
    store: str, other: str, asleep: str, request: pytest.FixtureRequest
) -> None:
    url = place(store, request)
    make(url, FIRST)
    old = suspended(url)
    root = old._put_root
    awake = once()

    def meanwhile() -> None:
        if awake():
            time.sleep(SLEEP)
            with ZooWriter(url) as writer:
                if other in ("append", "replace"):
                    put(writer, [("c", 3), ("d", 6)] if other == "append" else [("a", 8)])
            if other == "remove":
                remove(url, ["a"])
            if other == "compact":
                remove(url, ["b"])
                compact(url)
                with ZooWriter(url) as writer:
                    put(writer, [("c", 5)])

    def late_root(commit: Any) -> None:
        if asleep == "at the root":
            meanwhile()
        root(commit)

    old._put_root = late_root  # type: ignore[method-assign]
    if asleep == "before its commit":
        finish = old._finish

        def late_finish(*arguments: Any) -> None:
            meanwhile()
            finish(*arguments)

        old._finish = late_finish  # type: ignore[method-assign]
    if asleep == "before it wrote":
        chunk = old.write_chunk

        def late_chunk(*arguments: Any) -> None:
            meanwhile()
            chunk(*arguments)

        old.write_chunk = late_chunk  # type: ignore[method-assign]
    with pytest.raises(EigenzooError):
        put(old, [("x", 9), ("y", 11), ("z", 13)])
    wanted = {"a": 1, "b": 2}
    wanted |= {"append": {"c": 3, "d": 6}, "replace": {"a": 8}, "compact": {"c": 5}}.get(other, {})
    gone = {"remove": "a", "compact": "b"}.get(other)
    zoo = open_zoo(url)
    assert {r.name for r in zoo.accepted} == wanted.keys() - {gone}
    for name in wanted.keys() - {gone}:
        check_adapter(zoo, name, wanted[name])
    assert wrong(zoo) == []
    # What the sleeper left is in nobody's way.
    with ZooWriter(url) as writer:
        put(writer, [("n", 14), ("o", 13), ("p", 10)])
    zoo = open_zoo(url)
    for name, seed in {"n": 14, "o": 13, "p": 10}.items():
        check_adapter(zoo, name, seed)
    assert wrong(zoo) == []


def once() -> Callable[[], bool]:
    """True the first time, False ever after."""
    left = [True]
    return lambda: bool(left and left.pop())


@pytest.mark.usefixtures("hasty")
def test_a_writer_that_slept_from_the_start_makes_no_zoo(url: str) -> None:
    old = suspended(url)
    chunk = ArrayRecord("layers/h.0.q/A", "h.0.q", "A", "float32", 0, 16, 4)
    old.write_chunk(chunk, 0, np.ones((4, 16), np.float32))
    old.drain()
    time.sleep(SLEEP)
    with ZooWriter(url):
        assert read_commit(url) is None
        with pytest.raises(EigenzooError, match="another took over"):
            put(old, FIRST[0])
    assert read_commit(url) is None
    assert contents(make(url, FIRST)) == contents(make(f"{url}/again", FIRST))


@pytest.fixture(scope="module")
def jobs() -> Iterator[Jobs]:
    jobs = Jobs()
    yield jobs
    jobs.close()


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("stop_at", [9, 14, 25])
def test_a_process_that_was_stopped_wakes_up_too_late(jobs: Jobs, s3_url: str, stop_at: int) -> None:
    make(s3_url, FIRST)
    pid = jobs.start("append", s3_url, stop_at=stop_at)
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.01)
    time.sleep(SLEEP)
    with ZooWriter(s3_url) as writer:
        put(writer, [("c", 3), ("q", 15)])
    wanted = contents(open_zoo(s3_url))
    os.kill(pid, signal.SIGCONT)
    ended = jobs.wait()
    assert ended.status == 1 and "\n" not in ended.error, ended
    zoo = open_zoo(s3_url)
    assert contents(zoo) == wanted and wrong(zoo) == []
    assert jobs.run("append", s3_url).error == ""
    assert wrong(open_zoo(s3_url)) == []


@pytest.mark.parametrize("where", ["local", "memory"])
def test_a_commit_that_came_about_in_spite_of_an_error_is_kept(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = str(tmp_path / "zoo") if where == "local" else place(where, request)
    make(url, FIRST)

    def fail(names: Any) -> None:
        if "zarr.json" in names:
            raise EigenzooError("the disk is gone")

    with pytest.raises(EigenzooError, match="the disk is gone"), ZooWriter(url) as writer:
        writer._storage.sync = fail  # type: ignore[method-assign]
        put(writer, [("c", 3)])
    for _ in range(2):
        zoo = open_zoo(url)
        check_adapter(zoo, "c", 3)
        assert verify(zoo).problems == ()
        make(url, [*FIRST, [("c", 3)]])
    assert leftovers(url) == set()


def test_what_failed_is_removed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(tmp_path / "zoo")
    before = set(open_storage(url).list()) if make(url, FIRST) else set()

    def fail(*_: Any) -> None:
        raise EigenzooError("no space left")

    with pytest.raises(EigenzooError, match="no space left"), ZooWriter(url) as writer:
        monkeypatch.setattr("ingest.store.writer.write_segment", fail)
        put(writer, [("x", 3), ("y", 4), ("z", 9)])
    assert set(open_storage(url).list()) == before and verify(open_zoo(url)).problems == ()


def test_a_lost_lease_is_said_in_one_line(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make(url, FIRST)
    with ZooWriter(url) as writer:
        root = open_storage(url).read("zarr.json")
        open_storage(url).write("zarr.json", [root + b" "])
        with pytest.raises(EigenzooError, match="another process took this zoo over meanwhile; run again"):
            put(writer, [("c", 3)])
        open_storage(url).write("zarr.json", [root])

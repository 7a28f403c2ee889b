"""Readers meet whole commits only, while writers append, remove, compact, and die at it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ingest.errors import EigenzooError
from ingest.store.reader import open_zoo
from ingest.store.root import Compacted, read_commit
from ingest.verify import verify
from tests.ingest.store.jobs import Jobs
from tests.ingest.store.zoos import contents, make


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    jobs = Jobs()
    yield jobs
    jobs.close()


class Reader(threading.Thread):
    """Verifies and reads every commit that it meets."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.over = threading.Event()
        self.met: dict[int, Any] = {}
        self.wrong: list[object] = []
        self.compacted = 0

    def run(self) -> None:
        while not self.over.is_set():
            try:
                self._look()
            except Exception as error:
                self.wrong.append(error)
                return

    def wait_for(self, version: int) -> None:
        while version not in self.met and self.is_alive():
            time.sleep(0.01)

    def _look(self) -> None:
        commit = read_commit(self.url)
        if commit is None:
            return
        zoo = open_zoo(self.url)
        try:
            self.wrong.extend(verify(zoo).problems)
            said = contents(zoo)
        except Compacted:
            now = read_commit(self.url)
            if now is None or now.generation <= zoo.commit.generation:
                self.wrong.append("said to be compacted, and was not")
            self.compacted += 1
            return
        if self.met.setdefault(zoo.commit.version, said) != said:
            self.wrong.append(f"two versions {zoo.commit.version}")


@pytest.mark.parametrize("where", ["local", "s3"])
def test_every_commit_that_is_met_is_whole(
    jobs: Jobs, where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = str(tmp_path / "zoo") if where == "local" else str(request.getfixturevalue("s3_url"))
    readers = [Reader(url) for _ in range(2)]
    for reader in readers:
        reader.start()
    rng, finished = random.Random(where), set()
    try:
        for turn in range(3 if where == "local" else 1):
            for do in ("make", "append", "remove", "compact"):
                if turn and do == "make":
                    continue
                for die_at in (rng.randrange(1, 40), rng.randrange(20, 120), 0):
                    ended = jobs.run(do, url, die_at=die_at)
                    assert not ended.error, ended
                finished.add(open_zoo(url).commit.version)
                for reader in readers:
                    reader.wait_for(max(finished))
    finally:
        for reader in readers:
            reader.over.set()
            reader.join()
    assert [r.wrong for r in readers] == [[], []]
    both = readers[0].met.keys() & readers[1].met.keys()
    assert both >= finished and all(readers[0].met[version] == readers[1].met[version] for version in both)
    zoo = open_zoo(url)
    assert verify(zoo).problems == () and [e.version for e in zoo.commit.log] == [*range(1, zoo.commit.version + 1)]


def test_a_chunk_that_is_lost_is_no_compaction(tmp_path: Path) -> None:
    url = str(tmp_path / "zoo")
    zoo = make(url, [[("a", 1), ("b", 4)]])
    (tmp_path / "zoo" / zoo.commit.arrays[0].chunk_name(1)).unlink()
    with pytest.raises(EigenzooError, match="No such file.*see what `eigenzoo verify` says") as caught:
        zoo.rows("h.0.q", side="A").read(0, 7)
    assert not isinstance(caught.value, Compacted)
    (problem,) = verify(zoo).problems
    assert problem.where == "layers/h.0.q/A" and "values of a, b are lost" in problem.what


def test_a_short_last_chunk_is_found_though_no_row_is_lost(tmp_path: Path) -> None:
    url = str(tmp_path / "zoo")
    zoo = make(url, [[("a", 1), ("b", 4)]])
    chunk = tmp_path / "zoo" / zoo.commit.arrays[0].chunk_name(1)
    chunk.write_bytes(chunk.read_bytes()[:-1])
    assert zoo.rows("h.0.q", side="A").read(0, 7).shape == (7, 16)
    (problem,) = verify(zoo).problems
    assert problem.what == "has 255 bytes of 256"


@pytest.mark.parametrize("damage", [b"", b"x" * 300, None])
def test_a_damaged_compressed_chunk_is_an_error(tmp_path: Path, damage: bytes | None) -> None:
    url = str(tmp_path / "zoo")
    zoo = make(url, [[("a", 1), ("b", 4)]], "lz4")
    chunk = tmp_path / "zoo" / zoo.commit.arrays[0].chunk_name(0)
    chunk.write_bytes(chunk.read_bytes()[:-2] if damage is None else damage)
    with pytest.raises(EigenzooError, match="cannot read rows 0:2 of layers/h.0.q/A .a chunk is no blosc buffer"):
        zoo.rows("h.0.q", side="A").read(0, 2)
    assert verify(zoo).problems

"""kill -9 at twenty moments of every command, or all it has: readers see it whole, a second start does the rest."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.store.reader import open_zoo
from ingest.store.root import read_commit
from ingest.verify import verify
from tests.ingest.store.jobs import FIRST, GONE, MORE, Jobs
from tests.ingest.store.mirror import copy, mirrored
from tests.ingest.store.zoos import contents, leftovers

BEFORE = {"make": [], "append": ["make"], "remove": ["make", "append"], "compact": ["make", "append", "remove"]}


@pytest.fixture(scope="module")
def jobs() -> Iterator[Jobs]:
    jobs = Jobs()
    yield jobs
    jobs.close()


def prepared(jobs: Jobs, do: str, url: str) -> None:
    for step in BEFORE[do]:
        assert jobs.run(step, url).error == ""


def check(
    jobs: Jobs, do: str, url: str, moments: list[int], wanted: dict[str, object], fresh: str, folder: Path
) -> set[int]:
    """Kill one command at these moments, each time on a zoo as it was before it; the versions that were left."""
    versions = set()
    for moment in moments:
        copy(fresh, url)
        assert jobs.run(do, url, die_at=moment).status == -9
        left = mirrored(url, folder)
        commit = read_commit(left)
        versions.add(commit.version if commit else 0)
        if commit is not None:
            assert verify(open_zoo(left)).problems == ()
            contents(open_zoo(left))
        ended = jobs.run(do, url)
        assert ended.error == "", (do, moment)
        whole = mirrored(url, folder)
        zoo = open_zoo(whole)
        assert contents(zoo) == wanted, (do, moment)
        assert verify(zoo).problems == () and leftovers(whole) == set(), (do, moment)
    return versions


def rounds(jobs: Jobs, do: str, base: str, folder: Path, count: int = 20) -> None:
    fresh, url = f"{base}/fresh", f"{base}/zoo"
    prepared(jobs, do, fresh)
    copy(fresh, url)
    ended = jobs.run(do, url)
    assert ended.error == ""
    wanted = contents(open_zoo(url))
    assert leftovers(url) == set()
    possible = range(1, ended.calls + 1)
    moments = sorted(random.Random(do).sample(possible, min(count, len(possible))))
    versions = check(jobs, do, url, moments, wanted, fresh, folder)
    if count >= 20:
        assert len(versions) > 1, "before and after a commit"


@pytest.mark.parametrize("do", BEFORE)
def test_on_a_disk(jobs: Jobs, do: str, tmp_path: Path) -> None:
    # `tests/test_kill.py` has more of a zoo's first moments.
    rounds(jobs, do, str(tmp_path), tmp_path / "seen", 20 if BEFORE[do] else 5)


@pytest.mark.parametrize("do", BEFORE)
def test_in_an_object_store(jobs: Jobs, do: str, s3_url: str, tmp_path: Path) -> None:
    rounds(jobs, do, s3_url, tmp_path / "seen", 20 if BEFORE[do] else 8)


def test_the_commands_change_what_they_are_to_change(jobs: Jobs, tmp_path: Path) -> None:
    url = str(tmp_path / "zoo")
    for do in BEFORE:
        assert jobs.run(do, url).error == ""
    zoo = open_zoo(url)
    names = {name for batch in (*FIRST, *MORE) for name, _ in batch} - set(GONE)
    assert {r.name for r in zoo.accepted} == names and {r.name for r in zoo.removed} == set(GONE)
    assert [e.action for e in zoo.commit.log] == ["ingest"] * 5 + ["remove", "compact"]

"""What every storage does alike: one suite for a folder, for memory, and for a real S3 server."""

from __future__ import annotations

import os
import pickle
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.errors import EigenzooError
from ingest.storage import (
    ABSENT,
    DIRTY,
    LOCK,
    Conflict,
    Storage,
    lease,
    object_,
    object_reading,
    open_storage,
    protocol,
)

ESCAPES = ("", "/etc/passwd", "../x", "a/../../x", "a/..", "./x", "a//b", "a/", "a\0b", "a\\..\\b", "..")


@pytest.fixture(params=["local", "memory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return open_storage(tmp_path / "deep" / "zoo")
    pytest.importorskip("obstore")
    if request.param == "memory":
        return open_storage(f"memory://{uuid.uuid4().hex}/some/zoo")
    return open_storage(str(request.getfixturevalue("s3_url")))


@pytest.fixture
def remote(storage: Storage) -> Storage:
    if "://" not in storage.url:
        pytest.skip("local files are guarded by the lock")
    return storage


def names(storage: Storage, prefix: str = "") -> list[str]:
    return sorted(name for name in storage.list(prefix) if name not in (LOCK, DIRTY))


def test_bytes_come_back_from_any_offset(storage: Storage) -> None:
    data = os.urandom(1000)
    token = storage.write("a/b/c.bin", [data[:300], bytearray(data[300:301]), memoryview(data)[301:]])
    storage.sync(["a/b/c.bin"])
    assert storage.read("a/b/c.bin") == data and storage.size("a/b/c.bin") == 1000
    assert storage.read_versioned("a/b/c.bin") == (data, token)
    assert b"".join(storage.read_parts("a/b/c.bin")) == data
    assert b"".join(storage.read_parts("a/b/c.bin", 990)) == data[990:]
    assert [*storage.read_parts("a/b/c.bin", 1000)] == []
    for offset, count in ((0, 1000), (17, 100), (999, 1), (400, 0)):
        buffer = bytearray(count)
        storage.read_into("a/b/c.bin", offset, memoryview(buffer))
        assert buffer == data[offset : offset + count]


def test_a_file_replaced_is_another_version(storage: Storage) -> None:
    first = storage.write("x", [b"one"])
    second = storage.write("x", [b"three"])
    assert first != second and storage.read_versioned("x") == (b"three", second)


def test_an_empty_file_is_a_file(storage: Storage) -> None:
    storage.write("empty", [])
    storage.write("empty2", [b""])
    assert storage.read("empty") == b"" and storage.size("empty2") == 0 and storage.exists("empty")
    assert [*storage.read_parts("empty")] == []
    with pytest.raises(OSError):
        storage.read_into("empty", 0, memoryview(bytearray(1)))


@pytest.mark.parametrize("offset", [0, 2, 3, 100])
def test_reading_past_the_end_is_an_error(storage: Storage, offset: int) -> None:
    storage.write("x", [b"abc"])
    with pytest.raises(OSError, match="ends at byte 3"):
        storage.read_into("x", offset, memoryview(bytearray(4)))


def test_what_is_absent_is_said_to_be(storage: Storage) -> None:
    storage.write("folder/x", [b"1"])
    for name in ("y", "folder/y", "folder", "nowhere/y"):
        assert not storage.exists(name)
        for act in (
            lambda: storage.read(name),  # noqa: B023
            lambda: storage.read_versioned(name),  # noqa: B023
            lambda: storage.size(name),  # noqa: B023
            lambda: next(storage.read_parts(name)),  # noqa: B023
            lambda: storage.read_into(name, 0, memoryview(bytearray(1))),  # noqa: B023
        ):
            with pytest.raises(FileNotFoundError):
                act()
    assert names(storage, "nowhere") == []


def test_names_are_listed_at_any_depth_and_by_whole_folders(storage: Storage) -> None:
    there = ["a/1", "a/b/2", "a/b/c/3", "ab/4", "top", "q%2Fr~x/c.0.0", "with space/é"]
    for name in there:
        storage.write(name, [name.encode()])
    assert names(storage) == sorted(there)
    assert names(storage, "a") == names(storage, "a/") == ["a/1", "a/b/2", "a/b/c/3"]
    assert names(storage, "a/b") == ["a/b/2", "a/b/c/3"]
    assert names(storage, "top") == []
    assert storage.read("q%2Fr~x/c.0.0") == b"q%2Fr~x/c.0.0"


def test_nothing_is_listed_where_nothing_is(storage: Storage) -> None:
    assert names(storage) == []


def test_deleting_passes_over_what_is_absent(storage: Storage) -> None:
    for name in ("a/b/1", "a/2", "3"):
        storage.write(name, [b"x"])
    storage.delete(["nothing/here", "a/b/1", "a/b/none", "3"])
    assert names(storage) == ["a/2"]
    storage.delete([])
    storage.delete(["a/2"])
    assert names(storage) == []


@pytest.mark.parametrize("name", ESCAPES)
def test_no_name_leaves_the_root(storage: Storage, name: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"mine")
    for act in (
        lambda: storage.read(name),
        lambda: storage.read_versioned(name),
        lambda: storage.read_into(name, 0, memoryview(bytearray(1))),
        lambda: next(storage.read_parts(name)),
        lambda: storage.size(name),
        lambda: storage.exists(name),
        lambda: storage.write(name, [b"1"]),
        lambda: storage.delete([name]),
        lambda: storage.sync([name]),
    ):
        with pytest.raises(EigenzooError, match="no name within a zoo") as caught:
            act()
        assert "\n" not in str(caught.value)
    if name not in ("", "a/"):
        with pytest.raises(EigenzooError):
            next(storage.list(name))
    assert (tmp_path / "x").read_bytes() == b"mine" and names(storage) == []


def test_a_source_that_fails_leaves_no_file_and_its_own_error(storage: Storage) -> None:
    def parts() -> Iterator[bytes]:
        yield b"x"
        raise KeyError("mine")

    storage.write("old", [b"old"])
    for name in ("new", "old"):
        with pytest.raises(KeyError, match="mine"):
            storage.write(name, parts())
    assert names(storage) == ["old"] and storage.read("old") == b"old"


def test_a_large_file_goes_in_parts_from_a_buffer_that_is_used_again(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.storage.local.PART_BYTES", 1 << 20)
    monkeypatch.setattr(object_reading, "PART_BYTES", 1 << 20)
    buffer = bytearray(3 << 20)

    def parts() -> Iterator[memoryview]:
        for i in range(8):
            buffer[:] = bytes([i]) * len(buffer)
            yield memoryview(buffer)

    token = storage.write("large", parts())
    pieces = [*storage.read_parts("large", 5)]
    whole = b"".join(bytes([i]) * len(buffer) for i in range(8))
    assert b"".join(pieces) == whole[5:] and max(map(len, pieces)) == 1 << 20
    assert storage.size("large") == len(whole) and storage.read_versioned("large")[1] == token

    def broken() -> Iterator[memoryview]:
        yield from parts()
        raise OSError("the source is gone")

    with pytest.raises(OSError, match="the source is gone"):
        storage.write("broken", broken())
    assert names(storage) == ["large"]


def test_a_large_file_is_copied_from_a_storage_to_itself(storage: Storage) -> None:
    data = os.urandom(1 << 20) * 10
    storage.write("one", [data])
    storage.write("two", storage.read_parts("one"), ABSENT)
    storage.write("three", storage.read_parts("two"))
    assert storage.read("two") == storage.read("three") == data


def test_a_storage_travels_as_its_url(storage: Storage) -> None:
    storage.write("x", [b"1"])
    data = pickle.dumps(storage)
    again = pickle.loads(data)
    assert again.url == storage.url and again.read("x") == b"1" and len(data) < 500
    assert open_storage(storage.url).read("x") == b"1"


def test_threads_share_one(storage: Storage) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(10):
                name, data = f"{number}/{i}", os.urandom(100)
                storage.write(name, [data])
                assert storage.read(name) == data
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and len(names(storage)) == 60


def test_there_is_one_writer(storage: Storage) -> None:
    assert storage.acquire() is False
    for other in (storage, open_storage(storage.url)):
        with pytest.raises(EigenzooError, match="another process is writing"):
            other.acquire()
    storage.renew()
    storage.write("x", [b"1"])
    storage.release(clean=True)
    other = open_storage(storage.url)
    assert other.acquire() is False
    other.release(clean=True)


def test_of_many_threads_one_becomes_the_writer(storage: Storage) -> None:
    storage.write("x", [b"1"])
    won: list[Storage] = []
    refused: list[str] = []
    barrier = threading.Barrier(6)

    def work() -> None:
        mine = open_storage(storage.url)
        barrier.wait()
        try:
            mine.acquire()
            won.append(mine)
        except EigenzooError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and len(refused) == 5 and all("writ" in text for text in refused)
    won[0].renew()
    won[0].release(clean=True)


def test_a_writer_that_gives_up_unclean_leaves_word(storage: Storage) -> None:
    storage.write("x", [b"1"])
    assert storage.acquire() is False
    storage.release(clean=False)
    assert storage.acquire() is True
    storage.release(clean=False)
    assert storage.acquire() is True
    storage.release(clean=True)
    assert storage.acquire() is False
    storage.release(clean=True)


def test_who_is_not_the_writer_cannot_renew(storage: Storage) -> None:
    with pytest.raises(EigenzooError, match="not open for writing"):
        storage.renew()
    storage.release(clean=True)
    assert names(storage) == []
    storage.acquire()
    storage.release(clean=True)
    with pytest.raises(EigenzooError, match="not open for writing"):
        storage.renew()


def test_a_write_keeps_to_its_expectation(remote: Storage) -> None:
    first = remote.write("x", [b"1"], ABSENT)
    with pytest.raises(Conflict, match="somebody else wrote 'x'"):
        remote.write("x", [b"2"], ABSENT)
    second = remote.write("x", [b"2"], first)
    with pytest.raises(Conflict):
        remote.write("x", [b"3"], first)
    assert remote.read_versioned("x") == (b"2", second)
    remote.delete(["x"])
    with pytest.raises(Conflict):
        remote.write("x", [b"3"], second)
    assert not remote.exists("x")


def test_what_is_there_already_is_a_success(remote: Storage) -> None:
    token = remote.write("x", [b"same"], ABSENT)
    assert remote.write("x", [b"sa", b"me"], ABSENT) == token


def test_of_many_conditional_writes_one_happens(remote: Storage) -> None:
    before = remote.write("x", [b"0"])
    done: list[bytes] = []
    barrier = threading.Barrier(6)

    def work(number: int) -> None:
        barrier.wait()
        try:
            remote.write("x", [b"by %d" % number], before)
            done.append(b"by %d" % number)
        except Conflict:
            pass

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [remote.read("x")]


def halves(letter: bytes) -> Iterator[bytes]:
    yield letter * (6 << 20)
    yield letter * (6 << 20)


def test_a_large_write_keeps_to_its_expectation(remote: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    token = remote.write("x", halves(b"1"), ABSENT)
    assert remote.read_versioned("x") == (b"1" * (12 << 20), token)
    with pytest.raises(Conflict, match="somebody else wrote 'x'"):
        remote.write("x", halves(b"2"), ABSENT)
    assert remote.write("x", halves(b"1"), ABSENT) == token
    assert remote.write("x", halves(b"3"), token) != token
    assert remote.read("x") == b"3" * (12 << 20) and names(remote) == ["x"]

    def broken() -> Iterator[bytes]:
        yield from halves(b"4")
        raise OSError("the source is gone")

    with pytest.raises(OSError, match="the source is gone"):
        remote.write("y", broken(), ABSENT)
    monkeypatch.setattr(object_, "REPLACED_BYTES", 1000)
    with pytest.raises(EigenzooError, match="'x' is over 1000 bytes, too large to replace a version"):
        remote.write("x", halves(b"4"), token)
    assert names(remote) == ["x"]


def test_the_constants_fit_together() -> None:
    assert lease.HEARTBEAT_SECONDS * 2 <= lease.LEASE_SECONDS / 2 and protocol.PART_BYTES <= 4 << 20

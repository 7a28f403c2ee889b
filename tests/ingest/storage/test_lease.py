"""One writer of an object store: who dies loses the lease, and who was only asleep learns of it before doing harm."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from typing import Any

import pytest

from ingest.errors import EigenzooError
from ingest.storage import LOCK, Conflict, Storage, lease, open_storage

pytest.importorskip("obstore")

HOLD = """
import sys, time
from ingest.storage import lease, open_storage
lease.LEASE_SECONDS, lease.HEARTBEAT_SECONDS = float(sys.argv[2]), float(sys.argv[3])
storage = open_storage(sys.argv[1])
try:
    dirty = storage.acquire()
except Exception as error:
    sys.exit(str(error))
print("ready", dirty, flush=True)
for line in sys.stdin:
    try:
        if line.startswith("write"):
            storage.write("by-holder", [b"1"])
        elif line.startswith("renew"):
            storage.renew()
        else:
            storage.release(True)
        print("done", flush=True)
    except Exception as error:
        print(type(error).__name__, error, flush=True)
"""


@pytest.fixture(params=["memory", "s3"])
def storage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.2)
    if request.param == "memory":
        return open_storage(f"memory://{uuid.uuid4().hex}")
    return open_storage(str(request.getfixturevalue("s3_url")))


def hold(url: str, seconds: float = 1.0, heartbeat: float = 0.2) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, url, str(seconds), str(heartbeat)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def tell(holder: subprocess.Popen[str], word: str) -> str:
    assert holder.stdin is not None and holder.stdout is not None
    holder.stdin.write(f"{word}\n")
    holder.stdin.flush()
    return holder.stdout.readline()


def ready(holder: subprocess.Popen[str]) -> str:
    assert holder.stdout is not None
    return holder.stdout.readline()


def end(holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.communicate()


def without_heartbeat(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Acquire as one that is suspended from then on, and whose process cannot be asked about."""
    with monkeypatch.context() as patch:
        patch.setattr(lease, "HEARTBEAT_SECONDS", 1e6)
        patch.setattr(lease, "_machine", lambda: "")
        dirty = storage.acquire()
        threading.Event().wait(0.05)  # until its thread has begun to wait
        return dirty


def test_a_living_holder_keeps_it_beyond_its_time(storage: Storage) -> None:
    storage.acquire()
    other = open_storage(storage.url)
    for _ in range(8):
        time.sleep(0.2)
        with pytest.raises(
            EigenzooError, match=r"another process is writing to this zoo \('.*', process \d+, heard of"
        ):
            other.acquire()
    storage.renew()
    storage.write("x", [b"1"])
    storage.release(clean=True)
    assert other.acquire() is False
    other.release(clean=True)


def test_releasing_ends_the_heartbeat(storage: Storage) -> None:
    storage.acquire()
    (beat,) = (thread for thread in threading.enumerate() if thread.name == f"lease of {storage.url}")
    assert beat.daemon
    storage.release(clean=True)
    beat.join(10)
    assert not beat.is_alive()
    after = storage.read(LOCK)
    time.sleep(0.5)
    assert storage.read(LOCK) == after


def test_a_suspended_writer_loses_it_and_learns_so(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    root = storage.write("root", [b"as committed"])
    assert without_heartbeat(storage, monkeypatch) is False
    storage.write("chunk", [b"mine"])
    other = open_storage(storage.url)
    with pytest.raises(EigenzooError, match="another process"):
        other.acquire()
    time.sleep(1.1)
    assert other.acquire() is True
    other.write("chunk", [b"other's"])
    other.write("root", [b"other's commit"], root)
    for act in (
        lambda: storage.write("chunk", [b"mine again"]),
        lambda: storage.delete(["chunk"]),
        storage.renew,
        lambda: storage.write("root", [b"my commit"], root),
    ):
        with pytest.raises(Conflict, match="did not renew its lease for too long, another took over; run again"):
            act()
    storage.release(clean=True)  # it is not this one's to give back
    other.renew()
    assert other.read("chunk") == b"other's" and other.read("root") == b"other's commit"
    other.release(clean=True)
    assert other.acquire() is False
    other.release(clean=True)


def test_a_conditional_write_alone_stops_a_writer_without_the_lease(storage: Storage) -> None:
    root = storage.write("root", [b"1"])
    other = open_storage(storage.url)
    other.acquire()
    other.write("root", [b"2"], root)
    with pytest.raises(Conflict):
        storage.write("root", [b"3"], root)
    other.release(clean=True)


def test_a_heartbeat_that_finds_it_lost_stops_the_next_write(storage: Storage) -> None:
    storage.acquire()
    thief = json.loads(storage.read(LOCK)) | {"owner": "thief", "turn": "0"}
    open_storage(storage.url).write(LOCK, [json.dumps(thief).encode()])
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            storage.write("x", [b"1"])
            time.sleep(0.02)
        except Conflict:
            break
    else:
        pytest.fail("the writer went on")
    storage.release(clean=True)
    assert json.loads(storage.read(LOCK))["owner"] == "thief"


@pytest.mark.parametrize("wrong", [1e5, -1e5])
def test_a_holder_whose_clock_is_wrong_is_watched_before_it_is_robbed(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    parse = lease._parse

    def skewed(data: bytes) -> dict[str, Any]:
        ticket = parse(data)
        return ticket | {"time": ticket["time"] + wrong}

    storage.acquire()
    with monkeypatch.context() as patch:
        patch.setattr(lease, "_parse", skewed)
        with pytest.raises(EigenzooError, match="another process"):
            open_storage(storage.url).acquire()
    storage.renew()
    storage.release(clean=True)


def test_a_renewal_that_seemed_to_fail_is_no_loss(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    import obstore

    assert without_heartbeat(storage, monkeypatch) is False
    put, calls = obstore.put, []

    def cut_off(*args: object, **options: object) -> object:
        calls.append(put(*args, **options))
        raise obstore.exceptions.GenericError("the connection was lost")

    def unreadable(*_: object, **__: object) -> object:
        raise obstore.exceptions.GenericError("the connection is lost")

    with monkeypatch.context() as patch:
        patch.setattr(obstore, "put", cut_off)
        patch.setattr(obstore, "get", unreadable)
        with pytest.raises(EigenzooError, match="the connection was lost"):
            storage.renew()
    assert len(calls) == 1
    storage.renew()
    storage.write("x", [b"1"])
    storage.release(clean=True)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"state": "held"}', b"[" * 100_000, b"\xff"])
def test_a_damaged_lease_is_an_unclean_one(storage: Storage, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    storage.write(LOCK, [data])
    assert storage.acquire() is True
    (line,) = caplog.messages
    assert line.endswith("its writer.lock is damaged; watching for 0 s whether somebody is writing")
    storage.release(clean=True)
    assert storage.acquire() is False
    storage.release(clean=True)


def test_a_damaged_lease_that_somebody_renews_is_held(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.acquire()
    held = storage.read(LOCK)
    open_storage(storage.url).write(LOCK, [b"damaged"])
    monkeypatch.setattr(lease.time, "sleep", lambda _: open_storage(storage.url).write(LOCK, [held]))
    with pytest.raises(EigenzooError, match="another process is writing"):
        open_storage(storage.url).acquire()


@pytest.mark.parametrize("ignored", ["create", "update"])
def test_a_store_that_ignores_conditions_is_refused(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, ignored: str
) -> None:
    import obstore

    put = obstore.put

    def careless(store: object, name: str, body: bytes, *, mode: object = None, **options: object) -> object:
        if mode == "create" if ignored == "create" else isinstance(mode, dict):
            mode = "overwrite"
        return put(store, name, body, mode=mode, **options)

    monkeypatch.setattr(obstore, "put", careless)
    with pytest.raises(EigenzooError, match="ignores conditional writes"):
        storage.acquire()
    monkeypatch.undo()
    assert storage.acquire() is False
    storage.release(clean=True)


def test_the_lease_of_a_killed_process_is_taken_over_as_dirty(
    s3_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process of this machine that runs no more is not waited for longer than it takes to be sure."""
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.2)
    holder = hold(s3_url, 60, 0.2)
    try:
        assert ready(holder) == "ready False\n"
        storage = open_storage(s3_url)
        with pytest.raises(EigenzooError, match=f"process {holder.pid}, heard of 0 s ago"):
            storage.acquire()
    finally:
        end(holder)
    assert storage.acquire() is True
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("eigenzoo", "WARNING")
    wanted = rf"{s3_url}: its last writer \('.*', process {holder.pid}\) did not close it; watching for 0 s whether .*"
    assert re.fullmatch(wanted, record.getMessage())
    storage.release(clean=True)
    assert storage.acquire() is False
    storage.release(clean=True)


def test_the_lease_of_a_killed_process_elsewhere_ends(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.2)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(lease, "_machine", lambda: "another")
    holder = hold(s3_url)
    try:
        assert ready(holder) == "ready False\n"
    finally:
        end(holder)
    storage = open_storage(s3_url)
    with pytest.raises(EigenzooError, match=f"process {holder.pid}"):
        storage.acquire()
    time.sleep(1.1)
    assert storage.acquire() is True
    storage.release(clean=True)


def test_a_stopped_process_that_goes_on_writes_nothing(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.2)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.0)
    holder = hold(s3_url)
    try:
        assert ready(holder) == "ready False\n"
        assert tell(holder, "write") == "done\n"
        holder.send_signal(signal.SIGSTOP)
        time.sleep(1.2)
        storage = open_storage(s3_url)
        assert storage.acquire() is True
        storage.delete(["by-holder"])
        holder.send_signal(signal.SIGCONT)
        for word in ("write", "renew"):
            answer = tell(holder, word)
            assert answer.startswith("Conflict ") and "another took over" in answer
        assert tell(holder, "release") == "done\n"
        storage.renew()
        assert not storage.exists("by-holder")
        storage.release(clean=True)
    finally:
        end(holder)


def test_of_many_processes_one_becomes_the_writer(s3_url: str) -> None:
    holders = [hold(s3_url, 60, 15) for _ in range(4)]
    try:
        answers = [ready(holder) for holder in holders]
        assert sorted(answers) == ["", "", "", "ready False\n"]
        for holder, answer in zip(holders, answers, strict=True):
            if not answer:
                assert "writ" in holder.communicate()[1]
            else:
                assert tell(holder, "renew") == "done\n" and tell(holder, "release") == "done\n"
    finally:
        for holder in holders:
            if holder.poll() is None:
                end(holder)


def test_a_process_is_known_by_its_start_too() -> None:
    if not lease._machine():
        pytest.skip("this system does not tell")
    ticket = {"machine": lease._machine(), "pid": os.getpid(), "started": lease._started(os.getpid())}
    assert not lease._has_ended(ticket)
    assert lease._has_ended(ticket | {"started": ticket["started"] - 1})
    assert not lease._has_ended(ticket | {"started": 0, "machine": "another"})

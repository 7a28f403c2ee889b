"""What is so of object stores alone: paging, puts whose outcome is unknown, and failures in one line."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ingest.errors import EigenzooError
from ingest.storage import ABSENT, LOCK, Conflict, Storage, clients, object_, object_reading, open_storage
from tests.s3 import free_port

obstore = pytest.importorskip("obstore")


@pytest.fixture
def storage(s3_url: str) -> Storage:
    return open_storage(s3_url)


def test_listing_and_deleting_go_beyond_a_page(storage: Storage) -> None:
    names = [f"layers/{i % 7}/c.{i}.0" for i in range(1203)]
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda name: storage.write(name, [b"x"]), names))) == 1
    assert sorted(storage.list()) == sorted(names)
    storage.delete(name for name in names if name != "layers/3/c.3.0")
    assert [*storage.list("layers")] == ["layers/3/c.3.0"]


def test_stores_that_report_absent_objects_on_deleting_are_passed_over(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = obstore.delete

    def strict(store: Any, paths: Any) -> None:
        for path in [paths] if isinstance(paths, str) else paths:
            obstore.head(store, path)
            delete(store, path)

    for name in "abc":
        storage.write(name, [b"1"])
    monkeypatch.setattr(obstore, "delete", strict)
    storage.delete(["a", "none", "c"])
    assert [*storage.list()] == ["b"]


class Flaky:
    """`obstore.put` (or another verb) with a fault in some calls: before it acts, or after.

    A lease that another test's storage still renews behind its back is none of them.
    """

    def __init__(self, faults: Iterator[tuple[str, Exception] | None], verb: Any = None) -> None:
        self.put, self.faults, self.calls = verb or obstore.put, faults, 0

    def __call__(self, *args: Any, **options: Any) -> Any:
        if len(args) > 1 and str(args[1]).endswith(LOCK):
            return self.put(*args, **options)
        self.calls += 1
        fault = next(self.faults, None)
        if fault is None:
            return self.put(*args, **options)
        when, error = fault
        if when == "after":
            self.put(*args, **options)
        raise error


GENERIC = obstore.exceptions.GenericError("HTTP error: connection closed before message completed")
EXISTS = obstore.exceptions.AlreadyExistsError("409 Conflict")
STALE = obstore.exceptions.PreconditionError("412 Precondition Failed")


@pytest.mark.parametrize("faults", [[("after", GENERIC)], [("after", EXISTS)], [("after", STALE)]])
@pytest.mark.parametrize("create", [True, False])
def test_a_put_that_happened_is_a_success_whatever_was_answered(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, faults: list[Any], create: bool
) -> None:
    expect = ABSENT if create else storage.write("x", [b"0"])
    flaky = Flaky(iter(faults))
    monkeypatch.setattr(obstore, "put", flaky)
    token = storage.write("x", [b"1"], expect)
    assert flaky.calls == 1 and storage.read_versioned("x") == (b"1", token)


@pytest.mark.parametrize("faults", [[("before", GENERIC)], [("before", EXISTS), ("before", EXISTS)]])
@pytest.mark.parametrize("create", [True, False])
def test_a_put_that_did_not_happen_is_tried_again(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, faults: list[Any], create: bool
) -> None:
    expect = ABSENT if create else storage.write("x", [b"0"])
    flaky = Flaky(iter(faults))
    monkeypatch.setattr(obstore, "put", flaky)
    storage.write("x", [b"1"], expect)
    assert flaky.calls == len(faults) + 1 and storage.read("x") == b"1"


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_large_put_whose_end_is_unknown_succeeds(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setattr(object_, "PUT_BYTES", 1000)
    flaky = Flaky(iter([(when, GENERIC)]), obstore.copy)
    monkeypatch.setattr(obstore, "copy", flaky)
    token = storage.write("x", [b"1" * 600, b"2" * 600], ABSENT)
    assert flaky.calls == (2 if when == "before" else 1)
    assert storage.read_versioned("x") == (b"1" * 600 + b"2" * 600, token) and [*storage.list()] == ["x"]


def test_a_writer_that_loses_the_lease_during_an_upload_does_not_finish_it(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_, "PUT_BYTES", 1000)
    storage.acquire()

    def parts() -> Iterator[bytes]:
        yield b"1" * 2000
        thief = json.loads(storage.read(LOCK)) | {"owner": "thief"}
        open_storage(storage.url).write(LOCK, [json.dumps(thief).encode()])
        with pytest.raises(Conflict):
            storage.renew()
        yield b"2" * 2000

    with pytest.raises(Conflict, match="another took over"):
        storage.write("x", parts(), ABSENT)
    assert [*storage.list()] == [LOCK]


def test_a_put_cut_off_while_another_wrote_is_a_conflict(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    expect = storage.write("x", [b"0"])
    storage.write("x", [b"another's"])
    flaky = Flaky(iter([("before", GENERIC)]))
    monkeypatch.setattr(obstore, "put", flaky)
    with pytest.raises(Conflict):
        storage.write("x", [b"1"], expect)
    assert flaky.calls == 1 and storage.read("x") == b"another's"


def test_a_store_that_never_takes_it_is_one_line(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_.time, "sleep", lambda _: None)
    monkeypatch.setattr(obstore, "put", Flaky(("before", GENERIC) for _ in range(99)))
    with pytest.raises(EigenzooError, match="cannot write 'x': 'HTTP error: connection closed"):
        storage.write("x", [b"1"], ABSENT)


def test_parts_of_two_versions_are_never_joined(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_reading, "PART_BYTES", 10)
    storage.write("x", [b"1" * 25])
    parts = storage.read_parts("x")
    assert next(parts) == b"1" * 10
    storage.write("x", [b"2" * 25])
    with pytest.raises(OSError, match="it was replaced meanwhile; run again"):
        list(parts)


def test_a_large_upload_that_fails_leaves_no_parts(storage: Storage, s3_server: str) -> None:
    def parts() -> Iterator[bytes]:
        yield from (b"x" * (6 << 20) for _ in range(4))
        raise OSError("the source is gone")

    with pytest.raises(OSError, match="the source is gone"):
        storage.write("x", parts())
    bucket = storage.url.split("/")[2]
    request = urllib.request.Request(f"{s3_server}/{bucket}?uploads")
    request.add_header("Authorization", "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, x=y")
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert b"<UploadId>" not in answer.read()


def every_verb(storage: Storage) -> dict[str, Callable[[], object]]:
    return {
        "read": lambda: storage.read("x"),
        "read_into": lambda: storage.read_into("x", 0, memoryview(bytearray(1))),
        "read_parts": lambda: [*storage.read_parts("x")],
        "list": lambda: [*storage.list()],
        "write": lambda: storage.write("x", [b"1"]),
        "write on a condition": lambda: storage.write("x", [b"1"], ABSENT),
        "write in parts on a condition": lambda: storage.write("x", (b"1" * (5 << 20) for _ in range(4)), ABSENT),
        "write in parts": lambda: storage.write("x", (b"1" * (5 << 20) for _ in range(4))),
        "delete": lambda: storage.delete(["x"]),
        "acquire": storage.acquire,
    }


def check(storage: Storage, words: str, unreadable: type[Exception] = OSError) -> None:
    for verb, act in every_verb(storage).items():
        with pytest.raises(EigenzooError, match=words) as caught:
            act()
        text = str(caught.value)
        assert "\n" not in text and text.startswith(f"{storage.url}: cannot ") and len(text) < 300, verb
        if verb in ("read", "read_into", "read_parts", "list"):
            assert isinstance(caught.value, unreadable) and not isinstance(caught.value, FileNotFoundError)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, s3_server: str) -> pytest.MonkeyPatch:
    monkeypatch.setattr(clients, "RETRY_SECONDS", 0)
    return monkeypatch


def test_a_missing_bucket_is_one_line(impatient: pytest.MonkeyPatch) -> None:
    check(open_storage("s3://no-such-bucket/x"), "there is no such bucket; make it, or give another URL$")


def test_an_endpoint_out_of_reach_is_one_line(impatient: pytest.MonkeyPatch) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    impatient.setenv("AWS_ENDPOINT_URL", address)
    words = f"the endpoint '{address}' cannot be reached; check the network and AWS_ENDPOINT_URL$"
    check(open_storage("s3://bucket/unreachable"), words)


def test_a_plain_endpoint_needs_leave(impatient: pytest.MonkeyPatch) -> None:
    impatient.delenv("AWS_ALLOW_HTTP")
    check(open_storage("s3://bucket/plain"), "is plain http; set AWS_ALLOW_HTTP=true")


def test_missing_settings_are_one_line(impatient: pytest.MonkeyPatch) -> None:
    impatient.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    storage = open_storage("az://container/x")
    check(storage, "no account; set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY$", EigenzooError)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("Error performing PUT http://169.254.169.254/latest/api/token", "no credentials; set AWS_ACCESS_KEY_ID and"),
        ("status code: 403 Forbidden: <Code>SignatureDoesNotMatch</Code>", "the credentials are not accepted; check"),
        ("status code: 403 Forbidden: <Code>AccessDenied</Code>", "access denied; the bucket's policy must let"),
        ("Received redirect without LOCATION", "in another region; set AWS_REGION"),
        ("HTTP error: operation timed out", "does not answer; try again later"),
        ("Server returned non-2xx status code: 503 Service Unavailable: ", r"\(503 Service Unavailable\); try again"),
        ("something\nelse\n\nDebug source:\nGeneric", "'something'; try again, or see the store's own log"),
    ],
)
def test_failures_say_what_to_do(storage: Storage, monkeypatch: pytest.MonkeyPatch, error: str, words: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise obstore.exceptions.GenericError(error)

    for verb in ("get", "get_range", "put", "delete", "list"):
        monkeypatch.setattr(obstore, verb, fail)
    check(storage, words)


def test_without_the_library_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(EigenzooError, match="object stores need obstore; pip install"):
        open_storage(f"memory://{uuid.uuid4().hex}").acquire()


FORKED = """
import os, sys
from ingest.storage import open_storage
storage = open_storage("memory://x")
storage.write("x", [b"1"])
child = os.fork()
if not child:
    try:
        storage.read("x")
    except Exception as error:
        print(error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


def test_a_forked_process_is_told_instead_of_left_waiting() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60)
    assert done.stdout == "memory://x: object stores cannot be used after a fork; start processes by spawn\n"


def test_the_library_is_imported_when_it_is_needed() -> None:
    code = "import sys, ingest.storage as s; s.open_storage('s3://b/x'); sys.exit('obstore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

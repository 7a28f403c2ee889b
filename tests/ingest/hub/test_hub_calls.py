"""Waiting and trying again: as long as the Hub says, and not for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ingest.errors import EigenzooError, Refusal
from ingest.formats import LoraAdapter, Options
from ingest.hub import calls
from ingest.hub.answers import explain, retry_after
from ingest.hub.calls import Calls
from ingest.hub.session import HubSession
from ingest.reasons import Reason
from tests.ingest.hub.server import HubServer

Peft = Callable[..., dict[str, bytes]]


class Waits:
    """What the calls would have waited, in the Hub's seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds: list[float] = []
        self.limits: list[tuple[str, float]] = []
        wait, limit = Calls._wait, Calls._limit

        def waited(made: Calls, seconds: float) -> None:
            self.seconds.append(seconds)
            wait(made, seconds)

        def limited(made: Calls, kind: str, seconds: float) -> None:
            self.limits.append((kind, seconds))
            limit(made, kind, seconds)

        monkeypatch.setattr(Calls, "_wait", waited)
        monkeypatch.setattr(Calls, "_limit", limited)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    return Waits(monkeypatch)


def test_failures_are_waited_out_twice_as_long_each_time(
    hub: HubServer, session: HubSession, peft: Peft, waits: Waits
) -> None:
    hub.add("org/lora", peft())
    hub.fault("org/lora", "500", path="adapter_config.json")
    (found,) = session.expand("org/lora")
    assert found.refusal is not None and found.refusal.reason is Reason.UNAVAILABLE
    assert "failed 6 times, at last: it answered 500; run the same command again" in found.refusal.detail
    assert waits.seconds == [1.0, 2.0, 4.0, 8.0, 8.0]


def test_a_429_is_waited_for_as_long_as_its_header_says(
    hub: HubServer, session: HubSession, peft: Peft, waits: Waits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "SECOND", 0.005)
    hub.add("org/lora", peft())
    hub.fault("org/lora", "429", seconds=42, times=1)
    (found,) = session.look(session.expand("org/lora"))
    assert isinstance(found, LoraAdapter)
    assert set(waits.limits) == {("resolve", 43.0)}
    assert len(waits.seconds) == 1 and 0 < waits.seconds[0] <= 43.0


def test_a_429_holds_back_all_threads(hub: HubServer, session: HubSession, peft: Peft) -> None:
    for number in range(30):
        hub.add(f"user/lora{number:02}", peft(number))
    hub.limits["resolve"] = (20, 30)
    assert all(isinstance(f, LoraAdapter) for f in session.look(session.expand("hub:user")))
    # At most one call of each of the four threads was under way whenever the quota ran out.
    refused = hub.count("resolve", status=429)
    assert 60 // 20 - 1 <= refused <= 4 * (60 // 20)


def test_a_limit_that_is_used_up_is_heeded_before_it_is_overrun(
    hub: HubServer, session: HubSession, waits: Waits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "SECOND", 0.02)
    answer = SimpleNamespace(history=[], headers={"RateLimit": '"api";r=0;t=7'})
    assert session.calls._note("api", answer) == 8.0
    session.calls._until_free("resolve")
    assert waits.seconds == []
    session.calls._until_free("api")
    assert waits.seconds and max(waits.seconds) <= 8.0
    assert session.calls._note("api", SimpleNamespace(history=[], headers={"RateLimit": '"api";r=3;t=7'})) is None


def test_endless_limits_are_given_up(hub: HubServer, session: HubSession, peft: Peft) -> None:
    hub.add("org/a", peft())
    hub.fault("org/a", "429", seconds=1)
    hub.add("org/b", peft())
    hub.fault("org/b", "429", seconds=100_000)
    (a,), (b,) = session.expand("org/a"), session.expand("org/b")
    assert a.refusal is not None and b.refusal is not None
    assert (a.refusal.reason, b.refusal.reason) == (Reason.UNAVAILABLE, Reason.UNAVAILABLE)
    assert f"failed {calls.RATE_WAITS + 1} times" in a.refusal.detail
    assert "100001 seconds of patience" in b.refusal.detail


@pytest.mark.parametrize(("text", "seconds"), [("7", 7.0), ("", None), ("soon", None), ("-3", None)])
def test_the_forms_of_retry_after(text: str, seconds: float | None) -> None:
    assert retry_after(SimpleNamespace(headers={"Retry-After": text})) == seconds


def test_a_date_to_retry_after() -> None:
    text = formatdate(time.time() + 3600, usegmt=True)
    assert 3000 < (retry_after(SimpleNamespace(headers={"Retry-After": text})) or 0) < 3601


def test_nothing_answers(hub: HubServer, session: HubSession, peft: Peft, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import close_session

    monkeypatch.setattr(calls, "RETRIES", 1)
    for number in range(40):
        hub.add(f"user/lora{number:02}", peft(number))
    found = session.expand("hub:user")
    hub.__exit__()
    close_session()  # and with it the connections that would still be answered
    with pytest.raises(EigenzooError, match="does not answer .*; check the network and HF_ENDPOINT"):
        list(session.look(found))
    assert session.calls.made["resolve"] <= 2 * (calls.SILENCES + 4)


def test_closing_ends_the_waiting(
    hub: HubServer, session: HubSession, peft: Peft, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "SECOND", 1.0)
    hub.add("org/lora", peft())
    hub.fault("org/lora", "429", seconds=600)
    timer = threading.Timer(0.2, session.close)
    timer.start()
    with pytest.raises(EigenzooError, match="session with the Hub is over"):  # not after 600 seconds
        session.expand("org/lora")


@pytest.mark.parametrize(
    ("status", "headers", "reason"),
    [
        (401, {"X-Error-Code": "GatedRepo"}, Reason.GATED),
        (403, {"X-Error-Message": "Access to this resource is disabled."}, Reason.GATED),
        (401, {}, Reason.NOT_FOUND),
        (404, {"X-Error-Code": "RepoNotFound"}, Reason.NOT_FOUND),
        (404, {"X-Error-Code": "RevisionNotFound"}, Reason.NOT_FOUND),
        (410, {}, Reason.NOT_FOUND),
        (400, {}, Reason.NOT_FOUND),
        (451, {}, Reason.NOT_FOUND),
    ],
)
def test_what_an_error_answer_means(status: int, headers: dict[str, str], reason: Reason) -> None:
    url = SimpleNamespace(path="/api/models/org/name")
    answer: Any = SimpleNamespace(status_code=status, headers=headers, history=[], url=url)
    found = explain(answer, "org/name", "https://hub")
    assert isinstance(found, Refusal) and found.reason is reason
    assert "org/name" in found.detail


def test_without_the_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(EigenzooError, match="pip install 'huggingface_hub>=1.2'"):
        HubSession(None, options=Options())


SCRIPT = """
import sys
from ingest.formats import Options
from ingest.hub import calls
from ingest.hub.session import HubSession
calls.SECOND = 0.001
with HubSession(sys.argv[1], options=Options()) as session:
    session.clean()
    for candidate in session.expand("hub:user"):
        session.fetch(candidate)
        print(candidate.name, flush=True)
"""


def test_a_session_killed_while_it_fetches_loses_the_file_that_was_cut_off(
    hub: HubServer, peft: Peft, tmp_path: Path
) -> None:
    files = {f"user/lora{number}": peft(number, width=500) for number in range(6)}
    for name, content in files.items():
        hub.add(name, content)
    hub.fault("user/lora3", "stall", seconds=20, times=1)
    environment = {**os.environ, **hub.environment(tmp_path / "hf"), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "staging")]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert [process.stdout.readline().strip() for _ in range(3)] == [f"user/lora{n}" for n in range(3)]
    while hub.count("storage", repo="user/lora3") == 0:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    process.stdout.close()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(files)
    for name, content in files.items():
        whole = len(content["adapter_model.safetensors"])
        extra = hub.sent(name, "adapter_model.safetensors") - whole
        assert extra == (whole // 2 if name == "user/lora3" else 0)
        assert hub.count("cache", repo=name, path="adapter_config.json") == 1
    assert not list((tmp_path / "staging").rglob("*.partial"))
    assert len(list((tmp_path / "staging").rglob("adapter_model.safetensors"))) == 6


@pytest.mark.parametrize("what", ["small file", "header", "listing"])
def test_closing_ends_the_reading_of_a_body(
    hub: HubServer, session: HubSession, peft: Peft, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    hub.add("org/lora", peft())
    (candidate,) = session.expand("hub:org")
    assert candidate.remote is not None
    remote = candidate.remote
    note = Calls._note

    def interrupted(made: Calls, kind: str, response: Any) -> float | None:
        made.close()  # when the answer is there, and its body is not
        return note(made, kind, response)

    monkeypatch.setattr(Calls, "_note", interrupted)
    ask: dict[str, Callable[[], object]] = {
        "small file": lambda: session._peeker.small_at("org/lora", "main", "adapter_config.json"),
        "header": lambda: session._peeker._span(remote, 0, 100),
        "listing": lambda: session.expand("hub:org"),
    }
    with pytest.raises(EigenzooError, match="session with the Hub is over"):
        ask[what]()

"""Files from the Hub: whole, checked, and not one byte more than needed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ingest import formats
from ingest.errors import EigenzooError, Refusal
from ingest.formats.card import read_card
from ingest.hub import calls, download
from ingest.hub.remote import Candidate
from ingest.hub.session import HubSession
from ingest.reasons import Reason
from tests.ingest.hub.server import HubServer

Peft = Callable[..., dict[str, bytes]]
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def only(session: HubSession, source: str) -> Candidate:
    (found,) = session.expand(source)
    return found


def refused(session: HubSession, source: str) -> Refusal:
    with pytest.raises(Refusal) as caught:
        session.fetch(only(session, source))
    return caught.value


def staged(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "staging").rglob("*") if p.is_file())


def test_the_files_are_those_of_the_repository(hub: HubServer, session: HubSession, peft: Peft, tmp_path: Path) -> None:
    files = {**peft(), "training_args.bin": b"x" * 1000, "checkpoint-1/adapter_model.safetensors": b"y" * 1000}
    hub.add("org/lora", files)
    candidate = only(session, "org/lora")
    found = session.fetch(candidate)
    assert Path(found.weights).read_bytes() == files[WEIGHTS]
    assert found.config is not None and Path(found.config).read_bytes() == files[CONFIG]
    assert read_card(found.folder).licence == "mit"
    assert formats.parse(found).modules == next(session.look([candidate])).modules  # type: ignore[union-attr]
    assert hub.sent("org/lora", "training_args.bin") == hub.sent("org/lora", f"checkpoint-1/{WEIGHTS}") == 0
    assert hub.count("resolve") == 2 + 2  # looking: configuration, header; fetching: weights, card
    session.discard(candidate)
    assert staged(tmp_path) == []


def test_licence_files_are_asked_for_where_the_card_says_nothing(
    hub: HubServer, session: HubSession, peft: Peft
) -> None:
    files = {**peft(), "README.md": b"# no front matter", "LICENSE": b"Own Licence 1.0\n..."}
    hub.add("org/lora", files)
    assert read_card(session.fetch(only(session, "org/lora")).folder).licence == "Own Licence 1.0"
    hub.add("org/bare", {CONFIG: files[CONFIG], WEIGHTS: files[WEIGHTS]})
    assert read_card(session.fetch(only(session, "org/bare")).folder).licence is None


def test_a_folder_has_its_repositorys_card(hub: HubServer, session: HubSession, peft: Peft) -> None:
    files = peft()
    card = files.pop("README.md")
    hub.add("org/many", {"README.md": card, **{f"{f}/{n}": d for f in ("a", "b") for n, d in files.items()}})
    found = [session.fetch(c) for c in session.expand("hub:org")]
    assert [read_card(f.folder).licence for f in found] == ["mit", "mit"]
    assert hub.count("resolve", path="README.md") == 1


def test_what_is_here_whole_is_not_fetched_again(
    hub: HubServer, session: HubSession, again: Callable[..., HubSession], peft: Peft, tmp_path: Path
) -> None:
    hub.add("org/lora", peft())
    first = session.fetch(only(session, "org/lora"))
    hub.forget()
    with again() as second:
        second.clean()
        assert second.fetch(only(second, "org/lora")) == first
        assert hub.count("storage") == 0
        weights = Path(first.weights)
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x55")
        second.fetch(only(second, "org/lora"))
        assert hub.count("storage") == 1
        assert weights.read_bytes() == peft()[WEIGHTS]


def test_partial_files_of_a_killed_session_are_cleaned(
    hub: HubServer, session: HubSession, peft: Peft, tmp_path: Path
) -> None:
    hub.add("org/lora", peft())
    found = session.fetch(only(session, "org/lora"))
    other = tmp_path / "staging" / "hub" / "0123"
    other.mkdir()
    (other / f"{WEIGHTS}.partial").write_bytes(b"half")
    foreign = tmp_path / "staging" / "converted.partial"
    foreign.write_bytes(b"not of the Hub's")
    session.clean()
    assert not other.exists() and foreign.exists()
    assert Path(found.weights).exists()


def test_a_broken_connection_is_taken_up_where_it_broke(hub: HubServer, session: HubSession, peft: Peft) -> None:
    files = peft(width=1000)
    hub.add("org/lora", files)
    candidate = only(session, "org/lora")
    hub.fault("org/lora", "drop", times=3)
    hub.forget()
    assert Path(session.fetch(candidate).weights).read_bytes() == files[WEIGHTS]
    assert [c.range == "" for c in hub.select("storage")] == [True, False, False, False]
    assert hub.sent("org/lora", WEIGHTS) == len(files[WEIGHTS])


def test_a_server_that_knows_no_ranges_starts_again(hub: HubServer, session: HubSession, peft: Peft) -> None:
    files = peft(width=300)
    hub.add("org/lora", files)
    candidate = only(session, "org/lora")
    hub.fault("org/lora", "drop", times=1)
    hub.fault("org/lora", "no-range")
    assert Path(session.fetch(candidate).weights).read_bytes() == files[WEIGHTS]


def test_a_connection_that_always_breaks_is_given_up(
    hub: HubServer, session: HubSession, peft: Peft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "MAX_ATTEMPTS", 9)
    hub.add("org/lora", peft(width=1000))
    candidate = only(session, "org/lora")
    hub.fault("org/lora", "drop")
    with pytest.raises(Refusal, match="unavailable: org/lora/adapter_model.safetensors: the Hub failed 9 times"):
        session.fetch(candidate)
    assert staged(tmp_path) == []


def test_a_stalled_connection_is_cut_and_taken_up(hub: HubServer, session: HubSession, peft: Peft) -> None:
    hub.add("org/lora", peft())
    candidate = only(session, "org/lora")
    session.calls._timeout = 0.1
    hub.fault("org/lora", "stall", times=1, seconds=0.3)
    assert Path(session.fetch(candidate).weights).read_bytes() == peft()[WEIGHTS]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("wrong-bytes", "without the hash that the Hub states"),
        ("pointer", "comes as 135 bytes, but the Hub says"),
        ("html", "bytes, but the Hub says"),
        ("longer", "has more bytes than the"),
        ("no-hash", "without a hash"),
    ],
)
def test_wrong_bytes_are_refused_and_leave_no_file(
    hub: HubServer, session: HubSession, peft: Peft, tmp_path: Path, kind: str, said: str
) -> None:
    hub.add("org/lora", peft())
    candidate = only(session, "org/lora")
    hub.fault("org/lora", kind)
    with pytest.raises(Refusal) as caught:
        session.fetch(candidate)
    assert caught.value.reason is Reason.WRONG_BYTES
    assert said in caught.value.detail
    assert staged(tmp_path) == []


def test_a_download_stops_at_the_announced_size(
    hub: HubServer, session: HubSession, peft: Peft, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.add("org/lora", peft())
    candidate = only(session, "org/lora")
    hub.fault("org/lora", "longer")
    written: list[int] = []

    class Watched(download._Sink):
        def take(self, response: object) -> object:  # type: ignore[override]
            try:
                return super().take(response)
            finally:
                written.append(self.received)

    monkeypatch.setattr(download, "_Sink", Watched)
    with pytest.raises(Refusal, match="has more bytes"):
        session.fetch(candidate)
    assert max(written) <= len(peft()[WEIGHTS])


def test_refusals_while_fetching(hub: HubServer, session: HubSession, peft: Peft) -> None:
    for name in ("gone", "gated", "failing", "fine"):
        hub.add(f"org/{name}", peft())
    found = {c.name: c for c in session.expand("hub:org")}
    hub.fault("org/gone", "404")
    hub.fault("org/gated", "gated")
    hub.fault("org/failing", "500")
    for name, why in [("gone", Reason.NOT_FOUND), ("gated", Reason.GATED), ("failing", Reason.UNAVAILABLE)]:
        with pytest.raises(Refusal) as caught:
            session.fetch(found[f"org/{name}"])
        assert caught.value.reason is why
    del hub.repos["org/fine"].commits[hub.repos["org/fine"].commit][WEIGHTS]
    with pytest.raises(Refusal, match="not-found: org/fine/adapter_model.safetensors: no such file there any more"):
        session.fetch(found["org/fine"])
    with pytest.raises(Refusal, match="not-found"):
        session.fetch(only(session, "org/never"))


def test_without_a_staging_folder_nothing_is_downloaded(hub: HubServer, peft: Peft) -> None:
    from ingest.formats import Options

    hub.add("org/lora", peft())
    with HubSession(None, options=Options()) as session:
        candidate = only(session, "org/lora")
        with pytest.raises(EigenzooError, match="no staging folder"):
            session.fetch(candidate)
        session.discard(candidate)
        session.clean()


def test_kept_downloads_lie_in_the_librarys_cache(
    hub: HubServer,
    again: Callable[..., HubSession],
    peft: Peft,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub import try_to_load_from_cache

    files = peft()
    commit = hub.add("org/lora", files)
    with again(keep=True) as session:
        candidate = only(session, "org/lora")
        found = session.fetch(candidate)
        session.discard(candidate)
        for name in (WEIGHTS, CONFIG, "README.md"):
            cached = try_to_load_from_cache("org/lora", name, revision=commit)
            assert isinstance(cached, str) and Path(cached).read_bytes() == files[name]
        assert found.weights == try_to_load_from_cache("org/lora", WEIGHTS, revision=commit)
        assert hub.count("storage", method="GET") == 2  # the header, the file
        hub.forget()
        assert session.fetch(candidate).weights == found.weights
        assert hub.count() == 0
    with again() as session:
        assert session.fetch(candidate).weights == found.weights
        assert hub.sent("org/lora", WEIGHTS) == 0
        session.discard(candidate)
        assert Path(found.weights).read_bytes() == files[WEIGHTS]
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with again() as session:
            offline = only(session, "org/lora")
            assert Path(session.fetch(offline).weights).read_bytes() == files[WEIGHTS]
            assert next(session.look([offline])).fingerprint == candidate.remote.fingerprint
    blob = Path(os.path.realpath(found.weights))
    blob.write_bytes(blob.read_bytes()[:-1] + b"\x55")
    with again() as session, pytest.raises(Refusal, match="wrong-bytes: .* in the Hub's cache does not have its hash"):
        session.fetch(candidate)


def test_a_new_commit_is_fetched_anew(
    hub: HubServer, session: HubSession, again: Callable[..., HubSession], peft: Peft
) -> None:
    hub.add("org/lora", peft(1))
    old = only(session, "org/lora")
    first = session.fetch(old)
    hub.add("org/lora", peft(2))
    with again() as second:
        new = only(second, "org/lora")
        assert new.location == old.location
        assert Path(second.fetch(new).weights).read_bytes() == peft(2)[WEIGHTS]
        assert Path(first.weights).read_bytes() == peft(1)[WEIGHTS]


def test_a_full_disk_is_one_line_and_leaves_no_partial_file(
    hub: HubServer, session: HubSession, peft: Peft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/lora", peft())
    candidate = only(session, "org/lora")

    class Full(download._Sink):
        def take(self, response: object) -> object:  # type: ignore[override]
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "_Sink", Full)
    with pytest.raises(EigenzooError, match="cannot be written .No space left on device.; make room or give"):
        session.fetch(candidate)
    assert staged(tmp_path) == []


def test_an_assets_cache_that_cannot_be_written_is_one_line(
    hub: HubServer, session: HubSession, peft: Peft, tmp_path: Path
) -> None:
    hub.add("org/lora", peft())
    (tmp_path / "hf").mkdir(exist_ok=True)
    (tmp_path / "hf" / "assets").write_text("a file where a folder should be")
    with pytest.raises(EigenzooError, match="set HF_ASSETS_CACHE"):
        list(session.look(session.expand("org/lora")))


def test_two_processes_that_fetch_the_same_do_not_write_one_file(
    hub: HubServer, session: HubSession, again: Callable[..., HubSession], peft: Peft, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/lora", peft())
    candidate = only(session, "org/lora")
    both = threading.Barrier(2, timeout=30)
    partial: list[str] = []

    class Together(download._Sink):
        def take(self, response: object) -> object:  # type: ignore[override]
            both.wait()
            taken = super().take(response)
            partial.append(self._file.name)
            both.wait()
            return taken

    monkeypatch.setattr(download, "_Sink", Together)
    with again() as second, ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda one: one.fetch(candidate), (session, second)))
    assert len(set(partial)) == 2 and found[0] == found[1]
    assert Path(found[0].weights).read_bytes() == peft()[WEIGHTS]


@pytest.mark.parametrize("planted", ["staging", "staging/hub"])
def test_a_planted_staging_folder_is_refused(
    hub: HubServer, session: HubSession, peft: Peft, tmp_path: Path, planted: str
) -> None:
    hub.add("org/lora", peft())
    candidate = only(session, "org/lora")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / planted).parent.mkdir(exist_ok=True)
    (tmp_path / planted).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EigenzooError, match="is a link, a file or somebody else's"):
        session.fetch(candidate)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_download_stops_when_the_session_is_closed(
    hub: HubServer, session: HubSession, peft: Peft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/lora", peft(width=20_000))
    candidate = only(session, "org/lora")
    written: list[int] = []

    class Interrupted(download._Sink):
        def take(self, response: object) -> object:  # type: ignore[override]
            genuine = self._file

            class File:
                def __getattr__(self, name: str) -> object:
                    return getattr(genuine, name)

                def write(self, view: memoryview) -> int:
                    session.close()
                    written.append(len(view))
                    return int(genuine.write(view))

            self._file = File()
            return super().take(response)

    monkeypatch.setattr(download, "_Sink", Interrupted)
    with pytest.raises(EigenzooError, match="session with the Hub is over"):
        session.fetch(candidate)
    assert sum(written) < len(peft(width=20_000)[WEIGHTS]) and staged(tmp_path) == []

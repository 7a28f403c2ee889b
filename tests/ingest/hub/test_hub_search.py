"""From sources to candidates, and what that costs in calls."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ingest.errors import EigenzooError
from ingest.hub import calls
from ingest.hub.remote import Candidate
from ingest.hub.session import HubSession
from ingest.reasons import Reason
from tests.ingest.hub.server import HubServer

Peft = Callable[..., dict[str, bytes]]
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def reason(candidate: Candidate) -> Reason | None:
    return candidate.refusal.reason if candidate.refusal is not None else None


def test_a_user_is_one_call_per_page(hub: HubServer, session: HubSession, peft: Peft) -> None:
    for number in range(7):
        hub.add(f"user/lora{number}", peft(number))
    hub.add("other/lora", peft(9))
    hub.page = 3
    found = session.expand("hub:user")
    assert [c.name for c in found] == [f"user/lora{number}" for number in range(7)]
    assert [c.remote.revision for c in found if c.remote] == [hub.repos[c.name].commit for c in found]
    assert hub.count() == hub.count("api") == 3


def test_a_bulk_source_passes_over_repositories_without_adapters(
    hub: HubServer, session: HubSession, peft: Peft
) -> None:
    hub.add("user/lora", peft())
    hub.add("user/dataset-card", {"README.md": b"nothing"})
    hub.add("user/model", {"config.json": b"{}", "model.safetensors": b"12345678"})
    assert [c.name for c in session.expand("hub:user")] == ["user/lora"]
    hub.repos.pop("user/lora")
    with pytest.raises(EigenzooError, match="none of its 2 repositories holds an adapter"):
        session.expand("hub:user")
    with pytest.raises(EigenzooError, match="hub:nobody: no repository there"):
        session.expand("hub:nobody")


def test_a_bases_adapters(hub: HubServer, session: HubSession, peft: Peft) -> None:
    hub.add("a/one", peft(1), card={"base_model": "some/base"})
    hub.add("b/two", peft(2), card={"base_model": "some/base"})
    hub.add("b/three", peft(3), card={"base_model": "other/base"})
    assert [c.name for c in session.expand("hub:base/some/base")] == ["a/one", "b/two"]


def test_a_collection_in_its_order(hub: HubServer, session: HubSession, peft: Peft) -> None:
    hub.add("a/one", peft(1))
    hub.add("b/two", peft(2))
    hub.add("c/nothing", {"README.md": b""})
    hub.collections["user/best-1"] = [
        ("model", "b/two"),
        ("dataset", "b/data"),
        ("model", "c/nothing"),
        ("model", "a/one"),
        ("model", "d/gone"),
        ("model", "../../etc"),
    ]
    found = session.expand("hub:collection/user/best-1")
    assert [(c.name, reason(c)) for c in found] == [
        ("b/two", None),
        ("a/one", None),
        ("d/gone", Reason.NOT_FOUND),
    ]
    with pytest.raises(EigenzooError, match="the collection user/none: there is none"):
        session.expand("hub:collection/user/none")


def test_a_named_peft_repository_needs_two_calls_and_no_api(hub: HubServer, session: HubSession, peft: Peft) -> None:
    commit = hub.add("org/lora", peft())
    (only,) = session.expand("org/lora")
    assert only.refusal is None and only.remote is not None
    assert (only.remote.repo, only.remote.revision, only.remote.weights) == ("org/lora", commit, WEIGHTS)
    (adapter,) = session.look([only])
    assert len(adapter.modules) == 2  # type: ignore[union-attr]
    assert (hub.count("resolve"), hub.count("api")) == (2, 0)


def test_a_second_session_asks_a_named_repository_for_its_commit_only(
    hub: HubServer, session: HubSession, again: Callable[..., HubSession], peft: Peft
) -> None:
    commit = hub.add("org/lora", peft())
    list(session.look(session.expand("org/lora")))
    hub.forget()
    with again() as second:
        list(second.look(second.expand("org/lora")))
        assert (hub.count("resolve"), hub.count("api")) == (1, 0)
        list(second.look(second.expand(f"org/lora@{commit}")))
        assert (hub.count("resolve"), hub.count("api")) == (1, 0)


def test_revisions_and_folders(hub: HubServer, session: HubSession, peft: Peft) -> None:
    old = hub.add("org/lora", peft(1))
    new = hub.add("org/lora", {f"v2/{name}": data for name, data in peft(2).items()})
    hub.repos["org/lora"].refs["v1"] = old
    assert [c.remote.revision for c in session.expand("org/lora@v1") if c.remote] == [old]
    (main,), (folder,) = session.expand("org/lora"), session.expand("hub:org/lora@main:v2")
    assert main.location == folder.location == "hub:org/lora/v2"
    assert main.remote is not None and folder.remote is not None
    assert (main.remote.revision, folder.remote.revision) == (new, new)
    (missing,) = session.expand("hub:org/lora:v3")
    assert (reason(missing), missing.location) == (Reason.NO_WEIGHTS, "hub:org/lora/v3")
    (none,) = session.expand("org/lora@v9")
    assert none.refusal is not None and none.refusal.reason is Reason.NOT_FOUND and "revision" in none.refusal.detail


def test_a_renamed_repository_is_one_adapter_under_its_new_name(
    hub: HubServer, session: HubSession, peft: Peft
) -> None:
    hub.add("old/peft", peft())
    hub.rename("old/peft", "new/peft")
    hub.add("old/plain", {"lora.safetensors": peft()[WEIGHTS]})
    hub.rename("old/plain", "new/plain")
    assert session.expand("old/peft") == session.expand("new/peft")
    assert session.expand("old/plain") == session.expand("new/plain")
    assert [c.location for c in session.expand("old/peft")] == ["hub:new/peft"]


def test_what_cannot_be_had_is_a_refusal_by_name(hub: HubServer, session: HubSession, peft: Peft) -> None:
    hub.add("org/private", peft(), private=True)
    hub.add("org/gated", peft(), gated=True)
    hub.add("org/empty", {"README.md": b""})
    for name, why in [
        ("org/gone", Reason.NOT_FOUND),
        ("org/private", Reason.NOT_FOUND),
        ("org/gated", Reason.GATED),
        ("org/empty", Reason.NO_WEIGHTS),
    ]:
        (only,) = session.expand(name)
        assert (only.location, only.name, reason(only)) == (f"hub:{name}", name, why)
        assert list(session.look([only])) == [only.refusal]
        if why is Reason.GATED:
            assert only.refusal is not None and f"ask at {hub.url}/org/gated" in only.refusal.detail


def test_a_gated_repository_in_a_listing_costs_no_call(hub: HubServer, session: HubSession, peft: Peft) -> None:
    hub.add("user/gated", peft(), gated=True)
    (only,) = session.expand("hub:user")
    assert reason(only) is Reason.GATED and only.remote is not None
    assert hub.count() == 1


def test_a_token_opens_gated_repositories_and_a_wrong_one_is_said(
    hub: HubServer, again: Callable[..., HubSession], peft: Peft, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("user/gated", peft(), gated=True)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    with again() as session:
        (adapter,) = session.look(session.expand("hub:user"))
        assert len(adapter.modules) == 2  # type: ignore[union-attr]
        assert session.expand("user/gated")[0].refusal is None
        assert hub.count("storage", status=206) == 1  # which the token was not sent to
    monkeypatch.setenv("HF_TOKEN", "hf_stale")
    with again() as session, pytest.raises(EigenzooError, match="rejects the token"):
        session.expand("user/gated")


def test_many_names_of_one_author_are_one_listing(hub: HubServer, session: HubSession, peft: Peft) -> None:
    names = [f"author/lora{number:02}" for number in range(20)]
    for number, name in enumerate(names):
        hub.add(name, peft(number))
    hub.add("author/old", peft(99))
    hub.rename("author/old", "author/zoo")
    wanted = [*names, "author/old", "author/gone", "other/gone"]
    session.prepare(wanted)
    assert hub.count("api", path="list") == 1
    found = [session.expand(name) for name in wanted]
    assert [c.location for group in found for c in group] == [
        *(f"hub:{name}" for name in names),
        "hub:author/zoo",
        "hub:author/gone",
        "hub:other/gone",
    ]
    assert [reason(c) for group in found[-2:] for c in group] == [Reason.NOT_FOUND] * 2
    assert hub.count("resolve") == 5  # two for the renamed, whose old name redirects first; one for each of the gone
    assert hub.count("api") == 1


def test_listings_stop_where_asking_by_name_is_cheaper(hub: HubServer, session: HubSession, peft: Peft) -> None:
    for number in range(8):
        hub.add(f"author/z{number}", {"README.md": b""})
    for number in range(12):
        hub.add(f"author/a{number}", {"README.md": b""})
    hub.page = 4
    session.prepare([f"author/z{number}" for number in range(8)])
    assert hub.count("api", path="list") == 1


def test_a_listing_goes_on_at_the_page_that_failed(hub: HubServer, session: HubSession, peft: Peft) -> None:
    for number in range(6):
        hub.add(f"user/lora{number}", peft(number))
    hub.page = 2
    hub.fault("user/lora2", "500", times=2, where="list")
    hub.fault("user/lora4", "drop", times=1, where="list")
    assert len(session.expand("hub:user")) == 6
    assert hub.count("api", path="list") == 3 + 2 + 1


def test_a_listing_that_keeps_failing_is_an_error_not_half_a_zoo(
    hub: HubServer, session: HubSession, peft: Peft
) -> None:
    for number in range(4):
        hub.add(f"user/lora{number}", peft(number))
    hub.page = 2
    hub.fault("user/lora2", "500", where="list")
    with pytest.raises(
        EigenzooError, match="list of user's repositories: the Hub failed 6 times, at last: it answered 500"
    ):
        session.expand("hub:user")
    assert hub.count("api") == 1 + calls.RETRIES + 1


def test_a_next_page_elsewhere_is_not_followed(
    hub: HubServer, session: HubSession, peft: Peft, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        hub.add(f"user/lora{number}", peft(number))
    hub.page = 2
    monkeypatch.setattr(hub, "url", hub.storage_url)
    with pytest.raises(EigenzooError, match="which is not the Hub"):
        session.expand("hub:user")
    assert hub.count() == 1


def test_items_that_are_no_repositories_are_passed_over(
    hub: HubServer, session: HubSession, peft: Peft, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.ingest.hub import server

    hub.add("user/lora", peft())
    sent = [
        None,
        {"id": "../..", "sha": "a" * 40},
        {"id": "user/nosha", "sha": None, "siblings": [{"rfilename": WEIGHTS}]},
        {"id": "user/badsha", "sha": "../../x", "siblings": [{"rfilename": WEIGHTS}]},
        {"id": "user/badfiles", "sha": "a" * 40, "siblings": [None, {"rfilename": 3}, {}], "cardData": [1]},
    ]
    genuine = server._Hub._item
    monkeypatch.setattr(
        server._Hub,
        "_item",
        lambda *a: sent.pop() if sent else genuine(*a),  # type: ignore[no-untyped-call]
    )
    for number in range(5):
        hub.add(f"user/a{number}", peft())
    assert [c.name for c in session.expand("hub:user")] == ["user/lora"]


def test_cards_from_the_listing_name_the_base(hub: HubServer, session: HubSession, peft: Peft) -> None:
    files = peft(base_model_name_or_path=None)
    hub.add("user/lora", files, card={"base_model": ["some/base"], "license": "other", "license_name": "own"})
    (adapter,) = session.look(session.expand("hub:user"))
    assert (adapter.base_model, adapter.licence) == ("some/base", "own")  # type: ignore[union-attr]
    assert hub.count("resolve") == 2
    (named,) = session.look(session.expand("user/lora@main"))
    assert named.base_model == "some/base"  # type: ignore[union-attr]


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_offline_named_repositories_come_from_the_cache(
    hub: HubServer, again: Callable[..., HubSession], peft: Peft, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import snapshot_download

    commit = hub.add("org/lora", peft())
    hub.add("org/sub", {f"x/{name}": data for name, data in peft(1).items()})
    with again() as session:
        online = [session.expand(name) for name in ("org/lora", "org/sub")]
        looked = [adapter for group in online for adapter in session.look(group)]
    for name in ("org/lora", "org/sub"):
        snapshot_download(name)
    hub.forget()
    offline(monkeypatch)
    with again() as session:
        found = [session.expand(name) for name in ("org/lora", "org/sub")]
        assert [c.location for group in found for c in group] == ["hub:org/lora", "hub:org/sub/x"]
        assert found[0][0].remote is not None and found[0][0].remote.revision == commit
        for group, before in zip(found, looked, strict=True):
            (adapter,) = session.look(group)
            assert (adapter.modules, adapter.fingerprint) == (before.modules, before.fingerprint)  # type: ignore[union-attr]
            files = session.fetch(group[0])
            assert Path(files.weights).read_bytes() == peft(found.index(group))[WEIGHTS]
            session.discard(group[0])
            assert Path(files.weights).exists()
        (absent,) = session.expand("org/absent")
        assert absent.refusal is not None and absent.refusal.reason is Reason.UNAVAILABLE
        assert "HF_HUB_OFFLINE" in absent.refusal.detail
        with pytest.raises(EigenzooError, match="cannot be listed offline"):
            session.expand("hub:org")
    assert hub.count() == 0


def test_the_configuration_alone_refuses_before_the_weights_are_asked_for(
    hub: HubServer, session: HubSession, peft: Peft
) -> None:
    files = peft()
    config = json.loads(files[CONFIG])
    hub.add("org/ia3", {**files, CONFIG: json.dumps({**config, "peft_type": "IA3"}).encode()})
    (refusal,) = session.look(session.expand("org/ia3"))
    assert refusal.reason is Reason.NOT_LORA  # type: ignore[union-attr]
    assert hub.count("resolve") == 1


def test_a_revision_is_not_answered_from_the_listing(hub: HubServer, session: HubSession, peft: Peft) -> None:
    names = [f"author/lora{number}" for number in range(9)]
    old = hub.add(names[0], peft(99))
    for number, name in enumerate(names):
        hub.add(name, peft(number))
    hub.repos[names[0]].refs["v1"] = old
    session.prepare([f"{names[0]}@v1", *names])
    assert hub.count("api", path="list") == 1
    (asked,), (main,) = session.expand(f"{names[0]}@v1"), session.expand(names[0])
    assert asked.remote is not None and main.remote is not None
    assert (asked.remote.revision, main.remote.revision) == (old, hub.repos[names[0]].commit)


def test_a_commit_of_a_renamed_repository_has_its_new_name(
    hub: HubServer, session: HubSession, again: Callable[..., HubSession], peft: Peft
) -> None:
    commit = hub.add("old/lora", peft())
    hub.rename("old/lora", "new/lora")
    with again() as second:
        for one in (session, second):
            assert [c.location for c in one.expand(f"old/lora@{commit}")] == ["hub:new/lora"]


def test_a_page_that_is_too_long_is_asked_for_in_parts(
    hub: HubServer, session: HubSession, peft: Peft, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ingest.hub import listing, paging

    for number in range(30):
        hub.add(f"user/lora{number:02}", peft(number))
    monkeypatch.setattr(paging, "MOST_JSON", 2000)  # a repository takes about 270 bytes
    monkeypatch.setattr(listing, "PAGE", 20)
    assert [c.name for c in session.expand("hub:user")] == [f"user/lora{number:02}" for number in range(30)]
    assert hub.count("api", path="list") == 1 + 15
    monkeypatch.setattr(paging, "MOST_JSON", 100)
    with pytest.raises(EigenzooError, match="list of user's repositories: the Hub's answer is longer than 100 bytes"):
        session.expand("hub:user")
    (one,) = session.expand("user/none-of-these")
    assert reason(one) is Reason.NOT_FOUND
    hub.add("user/plain", {"lora.safetensors": peft()[WEIGHTS]})
    (plain,) = session.expand("user/plain")
    assert reason(plain) is Reason.UNAVAILABLE


def test_a_checkpoint_of_the_whole_model_is_found(hub: HubServer, session: HubSession, peft: Peft) -> None:
    files = peft()
    files["model.safetensors"] = files.pop(WEIGHTS)
    hub.add("org/whole", files)
    for source in ("org/whole", "hub:org"):
        (found,) = session.expand(source)
        assert found.refusal is None and found.remote is not None
        assert (found.location, found.remote.weights) == ("hub:org/whole", "model.safetensors")

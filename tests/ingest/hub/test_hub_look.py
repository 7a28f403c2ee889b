"""Adapters described from afar: as the local files would be, within the Hub's limits, and nothing asked for twice."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from ingest import formats
from ingest.errors import EigenzooError, Refusal
from ingest.formats import LoraAdapter, Options
from ingest.hub import peek
from ingest.hub.session import HubSession
from ingest.reasons import Reason
from tests.ingest.builders import factors, raw_safetensors, write_peft_folder, write_weights
from tests.ingest.hub.server import PAGE, POINTER, HubServer

Peft = Callable[..., dict[str, bytes]]
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def adapters(session: HubSession, *sources: str) -> list[LoraAdapter | Refusal]:
    return [found for source in sources for found in session.look(session.expand(source))]


def refusal(session: HubSession, source: str) -> Refusal:
    (found,) = adapters(session, source)
    assert isinstance(found, Refusal)
    return found


def test_the_remote_description_is_that_of_the_local_files(hub: HubServer, session: HubSession, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    modules = {f"layers.{i}.mlp": factors(rng, 2 + i, 24, 16, np.float16) for i in range(3)}
    extras = {"base_model.model.score.weight": np.ones((2, 16), np.float32)}
    folder = tmp_path / "one"
    write_peft_folder(folder, modules, extras=extras, lora_alpha=7, use_rslora=True)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    hub.add_folder("org/lora", folder, card={"license": "apache-2.0"})
    (remote,) = adapters(session, "hub:org")
    weights, config = str(folder / WEIGHTS), str(folder / CONFIG)
    local = formats.parse(formats.AdapterFiles(str(folder), weights, config))
    assert isinstance(remote, LoraAdapter)
    (candidate,) = session.expand("hub:org")
    assert candidate.remote is not None and remote.fingerprint == candidate.remote.fingerprint
    same = dataclasses.replace(local, files=remote.files, factors=remote.factors, fingerprint=remote.fingerprint)
    assert remote == same


def test_files_without_a_configuration(hub: HubServer, session: HubSession, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    a, b = factors(rng, 4, 8, 8)
    key = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora"
    write_weights(tmp_path, {f"{key}.down.weight": a, f"{key}.up.weight": b})
    hub.add_folder("org/style", tmp_path, card={"base_model": "some/sd"})
    (found,) = adapters(session, "org/style")
    assert isinstance(found, LoraAdapter)
    assert (found.format, found.base_model, len(found.modules)) == ("diffusers", "some/sd", 1)
    assert (hub.count("resolve"), hub.count("api")) == (2, 1)


def test_a_thousand_repositories_stay_within_the_anonymous_limits(
    hub: HubServer, session: HubSession, again: Callable[..., HubSession], peft: Peft
) -> None:
    shared = peft()
    for number in range(120):  # a page holds 100 here, so that the shape is that of 1,000 in pages of 1,000
        hub.add(f"user/lora{number:03}", shared)
    hub.page = 100
    assert len(adapters(session, "hub:user")) == 120
    assert (hub.count("api"), hub.count("resolve")) == (2, 240)
    assert session.calls.made == {"api": 2, "resolve": 240}
    hub.forget()
    with again() as second:
        assert len(adapters(second, "hub:user")) == 120
    assert (hub.count("api"), hub.count()) == (2, 2)


def test_a_plan_that_stops_goes_on_where_it_was(
    hub: HubServer, session: HubSession, again: Callable[..., HubSession], peft: Peft
) -> None:
    for number in range(40):
        hub.add(f"user/lora{number:02}", peft(number))
    looked = session.look(session.expand("hub:user"))
    for _ in range(5):
        next(looked)
    looked.close()  # type: ignore[attr-defined]
    done = hub.count("resolve") // 2
    assert 5 <= done < 40
    with again() as second:
        assert len(adapters(second, "hub:user")) == 40
    assert hub.count("resolve") == 80


def test_pieces_that_are_half_there_are_asked_for_again(
    hub: HubServer, session: HubSession, again: Callable[..., HubSession], peft: Peft, tmp_path: Path
) -> None:
    hub.add("org/lora", peft())
    (first,) = adapters(session, "org/lora")
    (header,) = (tmp_path / "hf" / "assets").rglob("header")
    header.write_bytes(b"\0\0")
    with again() as second:
        assert adapters(second, "org/lora") == [first]
    whole = header.read_bytes()
    header.write_bytes(whole[: len(whole) // 2])
    with again() as third:
        assert adapters(third, "org/lora") == [first]


def test_order_and_progress(hub: HubServer, session: HubSession, peft: Peft) -> None:
    for number in range(30):
        hub.add(f"user/lora{number:02}", peft(number, width=16 + number))
    hub.fault("user/lora00", "slow", seconds=0.05, times=2)
    hub.fault("user/lora07", "404")
    steps: list[tuple[int, int]] = []
    found = list(session.look(session.expand("hub:user"), lambda done, total: steps.append((done, total))))
    widths = [f.modules[0].out if isinstance(f, LoraAdapter) else f.reason for f in found]
    assert widths == [Reason.NOT_FOUND if n == 7 else 16 + n for n in range(30)]
    assert steps == [(n + 1, 30) for n in range(30)]


def test_a_header_beyond_the_first_request_costs_one_more(
    hub: HubServer, session: HubSession, peft: Peft, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peek, "FIRST_BYTES", 600)
    files = peft()
    assert int.from_bytes(files[WEIGHTS][:8], "little") > 300
    monkeypatch.setattr(peek, "FIRST_BYTES", 200)
    hub.add("org/lora", files)
    (found,) = adapters(session, "org/lora")
    assert isinstance(found, LoraAdapter)
    assert hub.count("resolve", path=WEIGHTS) == 2
    assert hub.sent("org/lora", WEIGHTS) == 200 + 8 + int.from_bytes(files[WEIGHTS][:8], "little") - 200


def test_a_server_without_ranges_is_not_read_to_the_end(
    hub: HubServer, session: HubSession, peft: Peft, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peek, "FIRST_BYTES", 200)
    hub.add("org/lora", peft(width=2000))
    hub.fault("org/lora", "no-range")
    (found,) = adapters(session, "org/lora")
    assert isinstance(found, LoraAdapter)
    assert hub.count("resolve", path=WEIGHTS) == 2


@pytest.mark.parametrize(
    ("content", "reason", "said"),
    [
        (POINTER, Reason.WRONG_BYTES, "Git LFS pointer"),
        (PAGE, Reason.WRONG_BYTES, "web page"),
        (b"", Reason.TRUNCATED, "0 bytes"),
        (b"\0\0", Reason.TRUNCATED, "2 bytes"),
        (b"\xff" * 200, Reason.HEADER_MISMATCH, "header"),
        ((1 << 40).to_bytes(8, "little") + b"{" * 100, Reason.HEADER_MISMATCH, "announces a header"),
        ((5000).to_bytes(8, "little") + b"{" * 100, Reason.TRUNCATED, "its header alone"),
        (raw_safetensors({}), Reason.NO_WEIGHTS, "no tensors"),
    ],
)
def test_weights_that_are_none(
    hub: HubServer, session: HubSession, peft: Peft, content: bytes, reason: Reason, said: str
) -> None:
    hub.add("org/lora", {**peft(), WEIGHTS: content})
    found = refusal(session, "org/lora")
    assert (found.reason, said in found.detail) == (reason, True), found
    assert refusal(session, "hub:org") == found or str(refusal(session, "hub:org")) == str(found)


@pytest.mark.parametrize("kind", ["pointer", "html", "longer"])
def test_what_the_storage_sends_in_place_of_weights(hub: HubServer, session: HubSession, peft: Peft, kind: str) -> None:
    hub.add("org/lora", peft())
    hub.fault("org/lora", kind)
    assert refusal(session, "hub:org").reason is Reason.WRONG_BYTES


def test_a_configuration_with_other_bytes_than_stated(hub: HubServer, session: HubSession, peft: Peft) -> None:
    hub.add("org/a", peft())
    hub.fault("org/a", "wrong-bytes", path=CONFIG)
    hub.add("org/b", peft())
    hub.fault("org/b", "no-hash", path=CONFIG)
    first, second = adapters(session, "hub:org")
    assert isinstance(first, Refusal) and isinstance(second, Refusal)
    assert (first.reason, second.reason) == (Reason.WRONG_BYTES, Reason.WRONG_BYTES)
    assert "does not have the hash" in first.detail and "without a hash" in second.detail


def test_faults_that_pass_and_faults_that_stay(
    hub: HubServer, session: HubSession, again: Callable[..., HubSession], peft: Peft
) -> None:
    for name, kind, more in [
        ("a", "500", {"times": 2}),
        ("b", "drop", {"times": 2}),
        ("c", "429", {"times": 3, "seconds": 1}),
        ("d", "drop", {"path": CONFIG, "times": 1}),
        ("e", "500", {}),
        ("f", "drop", {}),
        ("g", "404", {}),
        ("h", "gated", {}),
    ]:
        hub.add(f"org/{name}", peft())
        hub.fault(f"org/{name}", kind, **more)
    found = adapters(session, "hub:org")
    reasons = [f.reason if isinstance(f, Refusal) else None for f in found]
    assert reasons == [None] * 4 + [Reason.UNAVAILABLE, Reason.UNAVAILABLE, Reason.NOT_FOUND, Reason.GATED]
    for repo in hub.repos.values():
        repo.faults.clear()
    with again() as second:
        assert all(isinstance(f, LoraAdapter) for f in adapters(second, "hub:org"))


def test_pickles_are_refused_without_a_download(hub: HubServer, session: HubSession, peft: Peft) -> None:
    files = peft()
    files["adapter_model.bin"] = files.pop(WEIGHTS)
    hub.add("org/lora", files)
    for source in ("org/lora", "hub:org"):
        found = refusal(session, source)
        assert found.reason is Reason.PICKLE and "--allow-pickle" in found.detail
    assert hub.sent("org/lora", "adapter_model.bin") == 0


def test_allowed_pickles_are_fetched_and_parsed_here(
    hub: HubServer, again: Callable[..., HubSession], peft: Peft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ingest.hub import session as module

    files = peft()
    files["adapter_model.bin"] = files[WEIGHTS]
    del files[WEIGHTS]
    hub.add("org/lora", files)
    seen: list[bytes] = []
    local = formats.parse(write_peft_folder(tmp_path / "local", {"x": factors(np.random.default_rng(0), 2, 8, 8)}))

    def parsed(found: formats.AdapterFiles, options: Options) -> LoraAdapter:
        seen.append(Path(found.weights).read_bytes())
        return local

    monkeypatch.setattr(module, "parse", parsed)
    with again(options=Options(allow_pickle=True)) as session:
        (candidate,) = session.expand("org/lora")
        (found,) = session.look([candidate])
        assert isinstance(found, LoraAdapter) and candidate.remote is not None
        assert found.fingerprint == candidate.remote.fingerprint
        assert seen == [files["adapter_model.bin"]]
        session.fetch(candidate)
    assert hub.count("storage") == 1
    session = HubSession(None, options=Options(allow_pickle=True))
    with session, pytest.raises(EigenzooError, match="no staging folder"):
        list(session.look([candidate]))


def test_a_repository_of_hostile_names_is_described_and_writes_nothing_outside(
    hub: HubServer, session: HubSession, tmp_path: Path
) -> None:
    a, b = factors(np.random.default_rng(0), 4, 8, 8)
    key = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora"
    weights = save({f"{key}.down.weight": a, f"{key}.up.weight": b})
    long = f"{'lora' * 75}.safetensors"
    names = [
        "../lora.safetensors",
        "/abs/lora.safetensors",
        "ü😀 lora#?%41.safetensors",
        "LORA.safetensors",
        long,
        "lora.safetensors",
    ]
    hub.add("org/hostile", {name: weights for name in names})
    before = {p for p in tmp_path.rglob("*") if "hf" not in p.parts and "staging" not in p.parts}
    candidates = session.expand("hub:org")
    found = list(session.look(candidates))
    good = [c for c, f in zip(candidates, found, strict=True) if isinstance(f, LoraAdapter)]
    assert sorted(c.remote.weights for c in good if c.remote) == sorted(names[2:])
    fetched = [session.fetch(c) for c in good]
    assert len({f.weights.lower() for f in fetched}) == 4
    staging = tmp_path / "staging"
    assert all(Path(f.weights).resolve().is_relative_to(staging) for f in fetched)
    after = {p for p in tmp_path.rglob("*") if "hf" not in p.parts and "staging" not in p.parts}
    assert after == before
    assert all(len(part) < 200 and part.isascii() for p in staging.rglob("*") for part in p.relative_to(staging).parts)


def test_a_wrong_type_in_a_configuration_is_a_refusal(hub: HubServer, session: HubSession, peft: Peft) -> None:
    for number, config in enumerate([b"[]", b"{", b"\xff", b"[" * 100_000, json.dumps({"peft_type": 3}).encode()]):
        hub.add(f"org/c{number}", {**peft(), CONFIG: config})
    assert [f.reason for f in adapters(session, "hub:org") if isinstance(f, Refusal)] == [Reason.BAD_CONFIG] * 5


def test_what_the_user_allows_holds_from_afar(
    hub: HubServer, session: HubSession, again: Callable[..., HubSession], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    modules = {"layers.0.q_proj": factors(rng, 4, 16, 16)}
    magnitude = {"base_model.model.layers.0.q_proj.lora_magnitude_vector": np.ones(16, np.float32)}
    write_peft_folder(tmp_path / "dora", modules, extras=magnitude, use_dora=True)
    prefix = "base_model.model.layers.0.q_proj.hada_"
    loha = {f"{prefix}w{i}_{s}": rng.standard_normal((16, 2) if s == "a" else (2, 16)) for i in (1, 2) for s in "ab"}
    tensors = {key: value.astype(np.float32) for key, value in loha.items()}
    write_peft_folder(tmp_path / "loha", {}, extras=tensors, peft_type="LOHA", r=2, alpha=2)
    for name in ("dora", "loha"):
        hub.add_folder(f"org/{name}", tmp_path / name)
    sources = ("hub:org", "org/dora", "org/loha")
    refused = [f.reason for f in adapters(session, *sources) if isinstance(f, Refusal)]
    assert refused == [Reason.DORA, Reason.NOT_LORA] * 2
    with again(options=Options(ignore_magnitude=True, convert=frozenset(("loha",)))) as allowed:
        found = adapters(allowed, *sources)
        assert [f.format for f in found if isinstance(f, LoraAdapter)] == ["peft (magnitude ignored)", "loha"] * 2
        for adapter, name in zip(found, ("dora", "loha", "dora", "loha"), strict=True):
            folder = tmp_path / name
            files = formats.AdapterFiles(str(folder), str(folder / WEIGHTS), str(folder / CONFIG))
            assert adapter.modules == formats.parse(files, allowed._options).modules  # type: ignore[union-attr]


def test_an_empty_piece_is_asked_for_again(
    hub: HubServer, session: HubSession, again: Callable[..., HubSession], peft: Peft, tmp_path: Path
) -> None:
    hub.add("org/lora", peft())
    (first,) = adapters(session, "hub:org")
    (config,) = (tmp_path / "hf" / "assets").rglob(CONFIG)
    config.write_bytes(b"")  # as a loss of power leaves it
    with again() as second:
        assert adapters(second, "hub:org") == [first]
    assert config.read_bytes() == peft()[CONFIG]


def test_a_pickle_that_is_refused_leaves_nothing_behind(
    hub: HubServer, again: Callable[..., HubSession], peft: Peft, tmp_path: Path
) -> None:
    files = {CONFIG: peft()[CONFIG], "adapter_model.bin": b"no pickle at all"}
    hub.add("org/lora", files)
    with again(options=Options(allow_pickle=True)) as session:
        assert isinstance(refusal(session, "hub:org"), Refusal)
    assert hub.sent("org/lora", "adapter_model.bin") == len(files["adapter_model.bin"])
    assert not [path for path in (tmp_path / "staging").rglob("*") if path.is_file()]


def test_a_refusal_keeps_nothing_of_what_was_read(hub: HubServer, session: HubSession, peft: Peft) -> None:
    import tracemalloc

    header = {
        f"other.{i:04}.weight": {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i in range(500)
    }
    strange = {**peft(), WEIGHTS: raw_safetensors(header, b"\0" * 2000)}
    broken = {**peft(), WEIGHTS: raw_safetensors(json.dumps(header).encode()[:-1])}
    for number in range(20):
        hub.add(f"few/lora{number:03}", strange if number % 2 else broken)
    for number in range(80):
        hub.add(f"many/lora{number:03}", strange if number % 2 else broken)

    def kept(user: str) -> int:
        names = [name for name in hub.repos if name.startswith(user)]
        tracemalloc.start()
        try:
            named = [c.refusal for name in names for c in session.expand(f"{name}@main")]
            listed = adapters(session, f"hub:{user}")
            assert [isinstance(f, Refusal) for f in named] == [True, False] * (len(names) // 2)
            assert [isinstance(f, Refusal) for f in listed] == [True] * len(names)
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    kept("few")
    few, many = kept("few"), kept("many")
    assert many - few < 60 * 20_000, "a header here has 40 kB, and was read twice"

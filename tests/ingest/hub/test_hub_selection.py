"""Which of a repository's files are adapters."""

from __future__ import annotations

import pytest

from ingest.hub.remote import Candidate
from ingest.hub.selection import candidates
from ingest.reasons import Reason

SHA = "a" * 40
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def found(*paths: str, folder: str = "") -> list[Candidate]:
    return candidates("org/name", SHA, paths, folder)


def names(*paths: str, folder: str = "") -> list[tuple[str, str]]:
    return [(c.name, c.remote.weights) for c in found(*paths, folder=folder) if c.remote is not None]


def test_the_roots_adapter_hides_its_checkpoints() -> None:
    (only,) = found("README.md", CONFIG, WEIGHTS, f"checkpoint-5/{CONFIG}", f"checkpoint-5/{WEIGHTS}", "LICENSE.txt")
    assert only.name == "org/name" and only.location == "hub:org/name" and only.refusal is None
    assert only.remote is not None
    assert (only.remote.weights, only.remote.config) == (WEIGHTS, CONFIG)
    assert (only.remote.card, only.remote.licence) == ("README.md", "LICENSE.txt")


def test_without_one_at_the_root_every_folder_that_has_one() -> None:
    paths = [
        "README.md",
        f"b/{CONFIG}",
        f"b/{WEIGHTS}",
        f"a/c/{CONFIG}",
        f"a/c/{WEIGHTS}",
        "a/c/README.md",
        "x/note.txt",
    ]
    a, b = found(*paths)
    assert (a.name, a.location) == ("org/name/a/c", "hub:org/name/a/c")
    assert (b.name, b.location) == ("org/name/b", "hub:org/name/b")
    assert a.remote is not None and b.remote is not None
    assert (a.remote.card, b.remote.card) == ("a/c/README.md", "README.md")


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["pytorch_lora_weights.safetensors"], [("org/name", "pytorch_lora_weights.safetensors")]),
        (["thing.safetensors"], [("org/name", "thing.safetensors")]),
        (["one.safetensors", "two.safetensors"], []),
        (["my_LoRA.safetensors", "vae.safetensors"], [("org/name", "my_LoRA.safetensors")]),
        (
            ["a-lora.safetensors", "b-lora.safetensors"],
            [("org/name/a-lora", "a-lora.safetensors"), ("org/name/b-lora", "b-lora.safetensors")],
        ),
        (["model.safetensors", "config.json"], []),
        (["unet/diffusion_pytorch_model.safetensors", "unet/config.json"], []),
        (["model.safetensors"], [("org/name", "model.safetensors")]),
        ([CONFIG, "adapter_model.bin"], [("org/name", "adapter_model.bin")]),
        (["lora.pt", "optimizer.pt"], [("org/name", "lora.pt")]),
        (["lora.pt", "lora.safetensors"], [("org/name", "lora.safetensors")]),
        (["optimizer.pt", "README.md"], []),
        (["sub/lora.safetensors"], [("org/name/sub", "sub/lora.safetensors")]),
        ([], []),
    ],
)
def test_files_without_a_configuration(paths: list[str], expected: list[tuple[str, str]]) -> None:
    assert names(*paths) == expected


def test_a_file_keeps_its_location_when_others_come() -> None:
    (alone,) = found("lora-a.safetensors")
    both = found("lora-a.safetensors", "lora-b.safetensors")
    assert alone.location == both[0].location == "hub:org/name/lora-a.safetensors"


def test_a_configuration_without_weights_is_refused_unless_a_folder_below_has_both() -> None:
    (only,) = found(CONFIG, "README.md")
    assert only.refusal is not None and only.refusal.reason is Reason.NO_WEIGHTS
    assert names(CONFIG, f"final/{CONFIG}", f"final/{WEIGHTS}") == [("org/name/final", f"final/{WEIGHTS}")]


def test_a_folder_that_is_asked_for() -> None:
    paths = [CONFIG, WEIGHTS, f"a/{CONFIG}", f"a/{WEIGHTS}", f"ab/{CONFIG}", f"ab/{WEIGHTS}"]
    assert names(*paths, folder="a") == [("org/name/a", f"a/{WEIGHTS}")]
    assert names(*paths, folder="none") == []
    assert names(f"a/b/{CONFIG}", f"a/b/{WEIGHTS}", folder="a") == [("org/name/a/b", f"a/b/{WEIGHTS}")]


@pytest.mark.parametrize(
    "path",
    [
        "../lora.safetensors",
        "/etc/lora.safetensors",
        "a/../../lora.safetensors",
        "a//lora.safetensors",
        "./lora.safetensors",
        "a\\..\\lora.safetensors",
        "lora\0.safetensors",
        "lora\n.safetensors",
        "lora\u202e.safetensors",
        "\ud800lora.safetensors",
    ],
)
def test_hostile_names_are_refused_by_name(path: str) -> None:
    (only,) = found(path)
    assert only.remote is None and only.refusal is not None
    assert only.refusal.reason is Reason.UNREADABLE
    assert only.location.isprintable() and only.name.isprintable()
    assert ".." not in only.name.split("/")


def test_hostile_names_do_not_hide_the_others() -> None:
    assert names(CONFIG, WEIGHTS, "../lora.safetensors", "\0") == [("org/name", WEIGHTS)]


def test_names_that_differ_in_case_only_stay_apart() -> None:
    both = found(f"A/{CONFIG}", f"A/{WEIGHTS}", f"a/{CONFIG}", f"a/{WEIGHTS}")
    assert len({c.remote.fingerprint for c in both if c.remote is not None}) == 2


def test_a_fingerprint_changes_with_the_commit_alone() -> None:
    (one,), (two,), (new,) = (
        found(CONFIG, WEIGHTS),
        found(CONFIG, WEIGHTS, "x"),
        candidates("org/name", "b" * 40, [CONFIG, WEIGHTS]),
    )
    assert one.remote is not None and two.remote is not None and new.remote is not None
    assert one.remote.fingerprint == two.remote.fingerprint != new.remote.fingerprint
    assert len(one.remote.fingerprint) == 32
    assert one.location == new.location

"""Candidates are found where people put them, each once, in a fixed order."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from ingest.errors import EigenzooError
from ingest.folders import Source
from ingest.hub.session import HubSession
from ingest.reasons import Reason
from ingest.sources import find as find_with


def no_hub() -> HubSession:
    raise AssertionError("nothing here is on the Hub")


def find(sources: Sequence[str | os.PathLike[str]], *, follow_links: bool = False) -> list[Source]:
    return find_with(sources, no_hub, follow_links=follow_links)


def touch(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b/checkpoint-500", "a/checkpoint-500", "a/deep/er/task"):
        touch(tmp_path / "in" / name / "adapter_config.json", "{}")
        touch(tmp_path / "in" / name / "adapter_model.safetensors")
    touch(tmp_path / "in/a/checkpoint-500/optimizer.pt")
    touch(tmp_path / "in/only-config/adapter_config.json", "{}")
    touch(tmp_path / "in/unet/pytorch_lora_weights.safetensors")
    touch(tmp_path / "in/two/one.safetensors")
    touch(tmp_path / "in/two/two.safetensors")
    touch(tmp_path / "in/old/pytorch_lora_weights.bin")
    touch(tmp_path / "in/trainer/optimizer.pt")
    touch(tmp_path / "in/.cache/hidden.safetensors")
    touch(tmp_path / "in/zoo.zarr/zarr.json", "{}")
    touch(tmp_path / "in/zoo.zarr/catalog/extras/x.safetensors")
    touch(tmp_path / "in/run/run.json", "{}")
    touch(tmp_path / "in/run/matrices/x.A.safetensors")
    return tmp_path / "in"


def test_folders_at_any_depth(tree: Path) -> None:
    names = [s.name for s in find([tree])]
    assert names == [
        "a/checkpoint-500",
        "a/deep/er/task",
        "b/checkpoint-500",
        "old",
        "only-config",
        "two/one",
        "two/two",
        "unet",
    ]


def test_a_folder_that_is_the_adapter_gives_its_own_name(tree: Path) -> None:
    (source,) = find([tree / "a/checkpoint-500"])
    assert source.name == "checkpoint-500" and source.location == str(tree / "a/checkpoint-500")
    assert source.files.config is not None and source.files.weights.endswith("adapter_model.safetensors")


def test_a_weights_file_of_a_peft_folder_stands_for_the_folder(tree: Path) -> None:
    assert find([tree / "a/checkpoint-500/adapter_model.safetensors"]) == find([tree / "a/checkpoint-500"])


def test_the_only_weights_file_beside_a_configuration_is_the_adapter(tree: Path) -> None:
    for name in ("model.safetensors", "optimizer.pt", "rng_state.pth"):
        touch(tree / "only-config" / name)
    (source,) = find([tree / "only-config"])
    assert source.files.weights.endswith("model.safetensors")
    os.rename(tree / "only-config/model.safetensors", tree / "only-config/model-00001-of-00002.safetensors")
    (source,) = find([tree / "only-config"])
    assert source.files.weights.endswith("adapter_model.safetensors"), "a shard is no whole model"


def test_globs_name_by_what_they_leave_open(tree: Path) -> None:
    assert [s.name for s in find([str(tree / "*" / "checkpoint-*")])] == [
        "a/checkpoint-500",
        "b/checkpoint-500",
    ]
    assert [s.name for s in find([str(tree / "two" / "*.safetensors")])] == ["one", "two"]


def test_a_text_file_of_sources(tree: Path) -> None:
    listing = touch(tree.parent / "list.txt", "# mine\nin/b   # one\n\nin/two/*.safetensors\n" + str(tree / "unet"))
    assert [s.name for s in find([listing])] == ["checkpoint-500", "one", "two", "unet"]


def test_each_file_is_taken_once(tree: Path) -> None:
    os.symlink(tree / "a", tree / "b" / "again")
    assert len(find([tree, tree / "a", str(tree / "*")])) == len(find([tree]))


def test_links_in_a_circle_end(tree: Path) -> None:
    for name in ("loop", "pool", "polo"):
        os.symlink(tree, tree / "a" / name)
    assert len(find([tree])) == 8
    assert len(find([str(tree / "**" / "checkpoint-*")])) == 2
    names = [s.name for s in find([str(tree / "**" / "*.safetensors")])]
    assert {"a/checkpoint-500", "b/checkpoint-500", "two/one"} <= set(names)


def test_a_line_that_is_wrong_is_named(tree: Path) -> None:
    listing = touch(tree.parent / "list.txt", "in/b\nnowhere\n")
    with pytest.raises(EigenzooError, match=r"list\.txt, line 2: .*nowhere: no such file"):
        find([listing])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "no such file or folder"),
        ("in/nothing-*", "matches nothing"),
        ("in/trainer", "no adapter in it"),
        ("loop.txt", "names itself"),
        ("binary.dat", "neither an adapter nor a text file"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tree: Path, source: str, message: str) -> None:
    touch(tree.parent / "loop.txt", "loop.txt")
    (tree.parent / "binary.dat").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(EigenzooError, match=message) as caught:
        find([tree.parent / source])
    assert "\n" not in str(caught.value)


def test_a_link_out_of_the_source_is_refused_unless_asked_for(tree: Path) -> None:
    elsewhere = tree.parent / "elsewhere"
    touch(elsewhere / "task" / "adapter_config.json", "{}")
    touch(elsewhere / "task" / "adapter_model.safetensors")
    touch(elsewhere / "secret.txt", "secret")
    os.symlink(elsewhere, tree / "a" / "out")
    os.symlink(elsewhere / "secret.txt", tree / "two" / "three.safetensors")
    found = {s.name: s for s in find([tree])}
    for name in ("a/out", "two/three"):
        refusal = found[name].refusal
        assert refusal is not None and refusal.reason is Reason.UNREADABLE and "--follow-links" in refusal.detail
    assert "a/out/task" not in found and found["two/one"].refusal is None
    followed = {s.name: s for s in find([tree], follow_links=True)}
    assert followed["a/out/task"].refusal is None and followed["two/three"].refusal is None


def test_the_links_of_a_hub_cache_are_followed(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / "abc"
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        touch(repository / "blobs" / f"blob-of-{name}")
        snapshot.mkdir(parents=True, exist_ok=True)
        os.symlink(f"../../blobs/blob-of-{name}", snapshot / name)
    (source,) = find([snapshot])
    assert source.refusal is None
    touch(tmp_path / "other" / "weights.safetensors")
    os.symlink(tmp_path / "other" / "weights.safetensors", snapshot / "pytorch_lora_weights.safetensors")
    os.unlink(snapshot / "adapter_config.json")
    refused = [s for s in find([snapshot]) if s.refusal is not None]
    assert [s.files.weights.rpartition("/")[2] for s in refused] == ["pytorch_lora_weights.safetensors"]


def test_the_place_of_a_candidate_is_the_same_through_every_link(tree: Path) -> None:
    os.symlink(tree, tree.parent / "alias")
    plain, linked = find([tree]), find([tree.parent / "alias"])
    assert [s.location for s in linked] == [s.location for s in plain]
    for name in ("a/checkpoint-500", "two/one.safetensors", "a/checkpoint-500/adapter_model.safetensors"):
        (direct,), (through,) = find([tree / name]), find([tree.parent / "alias" / name])
        assert (direct.location, direct.name) == (through.location, through.name)
    (renamed,) = find([str(tree.parent / "al*" / "unet")])
    assert (renamed.name, renamed.location) == ("unet", str(tree / "unet/pytorch_lora_weights.safetensors"))
    os.symlink(tree / "unet", tree / "mine")
    (named,) = find([tree / "mine"])
    assert (named.name, named.location) == ("mine", str(tree / "unet/pytorch_lora_weights.safetensors"))


def test_a_file_of_a_whole_checkpoint_stands_for_its_folder(tree: Path) -> None:
    touch(tree / "only-config/model.safetensors")
    (folder,) = find([tree / "only-config"])
    (file,) = find([tree / "only-config/model.safetensors"])
    assert file == folder and file.files.config is not None


def test_two_weights_files_of_one_folder_are_two_places(tree: Path) -> None:
    touch(tree / "a/checkpoint-500/adapter_model.bin")
    found = find([tree / "a/checkpoint-500", tree / "a/checkpoint-500/adapter_model.bin"])
    assert len(found) == len({s.location for s in found}) == 2


def test_snapshots_that_share_a_configuration_are_two(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    touch(repository / "blobs/config", "{}")
    for number in ("1", "2"):
        touch(repository / "blobs" / number)
        snapshot = repository / "snapshots" / number
        snapshot.mkdir(parents=True)
        os.symlink("../../blobs/config", snapshot / "adapter_config.json")
        os.symlink(f"../../blobs/{number}", snapshot / "adapter_model.safetensors")
    assert [s.refusal for s in find([repository])] == [None, None]


@pytest.mark.parametrize("name", ["README.md", "LICENSE", "COPYING"])
def test_a_card_that_is_a_link_out_of_the_source_is_refused(tree: Path, name: str) -> None:
    touch(tree.parent / "secret", "root:x:0:0")
    os.symlink(tree.parent / "secret", tree / "unet" / name)
    found = {s.name: s.refusal for s in find([tree])}
    refusal = found.pop("unet")
    assert refusal is not None and refusal.detail.startswith(f"{name} is a link that leads out of the source")
    assert not any(found.values())
    (followed,) = find([tree / "unet"], follow_links=True)
    assert followed.refusal is None


def test_a_pattern_does_not_enter_a_linked_folder_outside(tree: Path) -> None:
    touch(tree.parent / "elsewhere/x.safetensors")
    os.symlink(tree.parent / "elsewhere", tree / "out")
    refused = {s.name for s in find([str(tree / "*/*.safetensors")]) if s.refusal is not None}
    assert refused == {"out/x"}


@pytest.mark.parametrize("blobs", ["a link", "a link inside"])
def test_a_feigned_hub_cache_is_refused(tree: Path, blobs: str) -> None:
    touch(tree.parent / "elsewhere/secret.safetensors")
    repository = tree / "repo"
    (repository / "snapshots/c").mkdir(parents=True)
    os.symlink(tree.parent / "elsewhere", repository / "blobs")
    target = (
        "../../blobs/secret.safetensors" if blobs == "a link inside" else tree.parent / "elsewhere/secret.safetensors"
    )
    os.symlink(target, repository / "snapshots/c/x.safetensors")
    (source,) = [s for s in find([tree]) if s.name == "repo/snapshots/c"]
    assert source.refusal is not None and "leads out of the source" in source.refusal.detail

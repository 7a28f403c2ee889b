"""The same files are the same adapters, whether in a folder here or in a repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ingest.hub.selection import candidates
from ingest.hub.session import HubSession
from ingest.selection import Chosen, choose
from ingest.sources import find

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def no_hub() -> HubSession:
    raise AssertionError("nothing here is on the Hub")


@pytest.mark.parametrize(
    "names",
    [
        [CONFIG, WEIGHTS, "adapter_model.bin", "optimizer.pt"],
        [CONFIG, "adapter_model.bin"],
        [CONFIG, "model.safetensors"],
        [CONFIG, "config.json", "model.safetensors", "training_args.bin", "optimizer.pt"],
        [CONFIG, "pytorch_model.bin"],
        ["model.safetensors"],
        ["adapter_model.pt"],
        ["a-lora.safetensors", "b-lora.safetensors", "b-lora.bin", "c-LoRA.ckpt"],
        ["pytorch_lora_weights.safetensors", "x-lora.safetensors"],
    ],
)
def test_a_folder_and_a_repository_get_one_verdict(tmp_path: Path, names: list[str]) -> None:
    folder = tmp_path / "name"
    folder.mkdir()
    for name in names:
        (folder / name).write_text("{}")
    here = [
        (s.name, os.path.basename(s.files.weights), s.files.config and os.path.basename(s.files.config))
        for s in find([folder], no_hub)
    ]
    there = [
        (c.name.removeprefix("org/"), c.remote.weights, c.remote.config)
        for c in candidates("org/name", "a" * 40, names)
        if c.remote is not None
    ]
    assert here == there and here


def test_a_configuration_beside_shards_or_several_files_misses_its_weights() -> None:
    for names in (["model-00001-of-00002.safetensors"], ["a.safetensors", "b.safetensors"], []):
        assert choose([CONFIG, *names]) == [Chosen(WEIGHTS, CONFIG, "")]
        (only,) = candidates("org/name", "a" * 40, [CONFIG, *names])
        assert only.refusal is not None and only.remote is None

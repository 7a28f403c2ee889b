"""cloneofsimo's numbered pairs: names as its loader finds them, and what is refused."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ingest.errors import Refusal
from ingest.formats import parse
from ingest.formats.cloneofsimo import _CROSS, _FF, _SELF, _unet
from ingest.reasons import Reason
from ingest.safetensors_file import read_all
from tests.ingest.builders import factors, write_peft_folder, write_weights
from tests.ingest.formats import cloneofsimo_loader as loader

Tensors = dict[str, NDArray[Any]]
RNG = np.random.default_rng(6)
ALL = ["CrossAttention", "Attention", "GEGLU"]


def numbered(part: str, model: Any, targets: list[str]) -> tuple[Tensors, dict[str, str]]:
    """A file's tensors and metadata for this model, ranks in turn."""
    tensors: Tensors = {}
    metadata = {part: json.dumps(targets)}
    for i, (_, module) in enumerate(loader.find_linear(model, targets)):
        rank = 1 + i % 2
        a, b = factors(RNG, rank, module.in_features, module.out_features, np.float16)
        tensors[f"{part}:{i}:up"], tensors[f"{part}:{i}:down"] = b, a
        metadata[f"{part}:{i}:rank"] = str(rank)
    return tensors, metadata


def assert_loaded(path: Path, part: str, model: Any, targets: list[str], as_list: bool = False) -> None:
    tensors, metadata = numbered(part, model, targets)
    want = loader.loaded(model, targets, loader.weights_in_order(part, tensors))
    if as_list:
        tensors = {f"list{key.removeprefix(part)}": value for key, value in tensors.items()}
    adapter = parse(write_weights(path, tensors, metadata=None if as_list else metadata))
    values = read_all(adapter.factors)
    assert [m.layer for m in adapter.modules] == sorted(f"{part}.{name.removeprefix('text_model.')}" for name in want)
    for name, (a, b, scale) in want.items():
        layer = f"{part}.{name.removeprefix('text_model.')}"
        module = next(module for module in adapter.modules if module.layer == layer)
        assert values[module.a.key].tobytes() == a.tobytes() and values[module.b.key].tobytes() == b.tobytes()
        assert module.scale == scale


@pytest.mark.parametrize("as_list", [False, True], ids=["safetensors", "list"])
@pytest.mark.parametrize("cross", [768, 1024])
@pytest.mark.parametrize("targets", [ALL, ALL[:2]], ids=["with GEGLU", "attention only"])
@pytest.mark.parametrize("then", [True, False], ids=["attn1 ff attn2", "attn1 attn2 ff"])
def test_the_unet_as_the_loader_finds_it(
    tmp_path: Path, cross: int, targets: list[str], then: bool, as_list: bool
) -> None:
    pytest.importorskip("diffusers")
    assert_loaded(tmp_path, "unet", loader.unet(cross, then), targets, as_list)


def test_geglu_alone(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    assert_loaded(tmp_path, "unet", loader.unet(768), ["GEGLU"])


@pytest.mark.parametrize("as_list", [False, True], ids=["safetensors", "list"])
@pytest.mark.parametrize("layers, width", [(12, 768), (23, 1024)])
def test_the_text_encoder_as_the_loader_finds_it(tmp_path: Path, layers: int, width: int, as_list: bool) -> None:
    pytest.importorskip("transformers")
    assert_loaded(tmp_path, "text_encoder", loader.text_encoder(layers, width), ["CLIPAttention"], as_list)


def test_another_unet_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    tensors, metadata = numbered("unet", loader.unet(768, channels=(320, 640, 1280, 640)), ALL)
    with pytest.raises(Refusal) as caught:
        parse(write_weights(tmp_path, tensors, metadata=metadata))
    assert caught.value.reason is Reason.UNKNOWN_KEYS and "other shapes" in caught.value.detail


COUNT = 48
TEXT: Tensors = {}
for number in range(COUNT):
    TEXT[f"text_encoder:{number}:down"], TEXT[f"text_encoder:{number}:up"] = factors(RNG, 1, 768, 768, np.float16)
META = {"text_encoder": '["CLIPAttention"]', **{f"text_encoder:{i}:rank": "1" for i in range(COUNT)}}


def without(entries: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in entries.items() if key not in keys}


LAST = f"text_encoder:{COUNT - 1}"
WIDE = np.zeros((1, 1024), np.float16)
CONV = {"text_encoder:0:down": np.zeros((1, 768, 1, 1)), "text_encoder:0:up": np.zeros((768, 1, 1, 1))}
REFUSED: dict[str, tuple[Tensors, dict[str, str], Reason, str]] = {
    "one pair less": (without(TEXT, f"{LAST}:up", f"{LAST}:down"), META, Reason.UNKNOWN_KEYS, "47 modules"),
    "a gap": (without(TEXT, "text_encoder:3:up", "text_encoder:3:down"), META, Reason.UNKNOWN_KEYS, ":3:up"),
    "no up": (without(TEXT, "text_encoder:3:up"), META, Reason.UNPAIRED, "no up"),
    "no down": (without(TEXT, f"{LAST}:down"), META, Reason.UNPAIRED, "no down"),
    "another width": (TEXT | {"text_encoder:9:down": WIDE}, META, Reason.UNKNOWN_KEYS, "other shapes"),
    "a convolution": (TEXT | CONV, META, Reason.UNKNOWN_KEYS, "other shapes"),
    "a rank that is none": (TEXT, META | {"text_encoder:0:rank": "4"}, Reason.BAD_SHAPE, "'4'"),
    "no rank": (TEXT, without(META, "text_encoder:0:rank"), Reason.BAD_CONFIG, "no rank"),
    "no targets": (TEXT, without(META, "text_encoder"), Reason.BAD_CONFIG, "missing"),
    "targets no JSON": (TEXT, META | {"text_encoder": "["}, Reason.BAD_CONFIG, "JSON"),
    "targets deep": (TEXT, META | {"text_encoder": "[" * 4000}, Reason.BAD_CONFIG, "JSON"),
    "targets long": (TEXT, META | {"text_encoder": "[" * 5000}, Reason.BAD_CONFIG, "5000 characters"),
    "targets no list": (TEXT, META | {"text_encoder": '{"a": 1}'}, Reason.BAD_CONFIG, "list of classes"),
    "targets empty": (TEXT, META | {"text_encoder": "[]"}, Reason.BAD_CONFIG, "list of classes"),
    "other targets": (TEXT, META | {"text_encoder": '["CLIPMLP"]'}, Reason.UNKNOWN_KEYS, "CLIPMLP"),
    "an embedding not announced": (TEXT | {"<s1>": np.ones(768)}, META, Reason.NOT_LORA, "<s1>"),
    "another part": (TEXT | {"vae:0:up": np.ones((2, 1))}, META, Reason.UNKNOWN_KEYS, "vae"),
    "a list beside": (
        TEXT | {"list:0:up": np.ones((2, 1)), "list:0:down": np.ones((1, 2))},
        META,
        Reason.UNKNOWN_KEYS,
        "list",
    ),
}


@pytest.mark.parametrize("tensors, metadata, reason, word", REFUSED.values(), ids=REFUSED)
def test_refused(tmp_path: Path, tensors: Tensors, metadata: dict[str, str], reason: Reason, word: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse(write_weights(tmp_path, tensors, metadata=metadata))
    assert caught.value.reason is reason and word in caught.value.detail and "\n" not in caught.value.detail


def test_resnets_between_are_refused(tmp_path: Path) -> None:
    tensors = {key.replace("text_encoder", "unet"): value for key, value in TEXT.items()}
    metadata = {key.replace("text_encoder", "unet"): value for key, value in META.items()}
    metadata["unet"] = json.dumps([*ALL, "ResnetBlock2D"])
    with pytest.raises(Refusal) as caught:
        parse(write_weights(tmp_path, tensors, metadata=metadata))
    assert caught.value.reason is Reason.UNKNOWN_KEYS and "ResnetBlock2D" in caught.value.detail


def test_a_configuration_beside_is_refused(tmp_path: Path) -> None:
    write_peft_folder(tmp_path, {})
    with pytest.raises(Refusal) as caught:
        parse(write_weights(tmp_path, TEXT, metadata=META, config="adapter_config.json"))
    assert caught.value.reason is Reason.BAD_CONFIG


@pytest.mark.parametrize("parts", [(_SELF, _CROSS), (_SELF, _CROSS, _FF)])
def test_shapes_tell_in_which_order_a_block_was_walked(parts: tuple[tuple[str, ...], ...]) -> None:
    """Whichever of attn1, attn2 and ff came first: no two orders have the same shapes, so none is assumed."""
    found = set()
    for order in itertools.permutations(parts):
        names = tuple(itertools.chain.from_iterable(order))
        found |= {tuple(layer[1:] for layer in _unet(names, cross)) for cross in (768, 1024)}
    assert len(found) == 2 * math.factorial(len(parts))

"""DoRA: refused by default; on request its factors, with the magnitudes kept beside them and the record saying so."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingest.errors import Refusal
from ingest.formats import AdapterFiles, Options, parse
from ingest.formats.recipes import materialize
from ingest.pipeline import ingest
from ingest.reasons import Reason
from ingest.safetensors_file import read_all
from ingest.settings import Settings
from ingest.store.reader import open_zoo
from tests.ingest.builders import factors, write_peft_folder, write_weights

IGNORED = Options(ignore_magnitude=True)
RNG = np.random.default_rng(1)
A, B = factors(RNG, 2, 8, 12)
MAGNITUDE = RNG.standard_normal(12).astype(np.float32)
KOHYA = "lora_unet_mid_block_attentions_0_proj_in"
TO_Q = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
UNET = "unet.mid_block.attentions.0.proj_in"


def peft(path: Path, key: str = "lora_magnitude_vector", **config: Any) -> AdapterFiles:
    extras = {f"base_model.model.layers.0.q.{key}": MAGNITUDE} if key else {}
    return write_peft_folder(
        path, {"layers.0.q": (A, B)}, extras=extras, **{"use_dora": True, "lora_alpha": 3, **config}
    )


def kohya(path: Path) -> AdapterFiles:
    tensors = {f"{KOHYA}.lora_down.weight": A, f"{KOHYA}.lora_up.weight": B, f"{KOHYA}.alpha": np.array(3, np.float32)}
    return write_weights(path, {**tensors, f"{KOHYA}.dora_scale": MAGNITUDE[:, None]})


def diffusers(path: Path) -> AdapterFiles:
    tensors = {f"{UNET}.lora_A.weight": A, f"{UNET}.lora_B.weight": B, f"{UNET}.lora_magnitude_vector": MAGNITUDE}
    stated = {"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 3})}
    return write_weights(path, tensors, metadata=stated)


CASES = {
    "peft": peft,
    "peft, adapter's name": lambda path: peft(path, "lora_magnitude_vector.default.weight"),
    "peft, silent configuration": lambda path: peft(path, use_dora=False),
    "peft, lost magnitudes": lambda path: peft(path, ""),
    "kohya": kohya,
    "diffusers": diffusers,
}


@pytest.mark.parametrize("name", CASES)
def test_refused_by_default(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse(CASES[name](tmp_path))
    assert caught.value.reason is Reason.DORA
    if name in ("peft", "peft, lost magnitudes"):
        assert "--ignore-magnitude" in caught.value.detail


@pytest.mark.parametrize("name", CASES)
def test_on_request_the_factors_alone(tmp_path: Path, name: str) -> None:
    adapter = parse(CASES[name](tmp_path), IGNORED)
    assert adapter.format == f"{name.partition(',')[0]} (magnitude ignored)"
    (module,) = adapter.modules
    assert module.scale == 3 / 2 and adapter.recipe == ""
    tensors = read_all(adapter.factors)
    assert tensors[module.a.key].tobytes() == A.tobytes() and tensors[module.b.key].tobytes() == B.tobytes()
    kept = [tensors[ref.key].tobytes() for ref in adapter.extras]
    assert kept == ([] if name == "peft, lost magnitudes" else [MAGNITUDE.tobytes()])


def test_the_option_leaves_a_plain_lora_as_it_is(tmp_path: Path) -> None:
    files = peft(tmp_path, "", use_dora=False)
    assert parse(files, IGNORED) == parse(files)


def test_a_loha_with_magnitudes_needs_both_options(tmp_path: Path) -> None:
    shapes = {"hada_w1_a": (20, 2), "hada_w1_b": (2, 12), "hada_w2_a": (20, 2), "hada_w2_b": (2, 12)}
    tensors = {f"{TO_Q}.{part}": RNG.standard_normal(shape).astype(np.float32) for part, shape in shapes.items()}
    files = write_weights(tmp_path, {f"{TO_Q}.dora_scale": MAGNITUDE[:, None], **tensors})
    loha = Options(convert=frozenset(("loha",)))
    with pytest.raises(Refusal) as caught:
        parse(files, loha)
    assert caught.value.reason is Reason.DORA
    both = dataclasses.replace(loha, ignore_magnitude=True)
    done = materialize(parse(files, both), both, str(tmp_path / "out"))
    assert done.format == "loha (magnitude ignored)"
    (extra,) = done.extras
    assert read_all(done.factors)[extra.key].tobytes() == MAGNITUDE.tobytes()


def test_hira_is_refused_whatever_is_allowed(tmp_path: Path) -> None:
    for fields in ({"peft_type": "HIRA"}, {"use_hira": True}):
        with pytest.raises(Refusal) as caught:
            parse(peft(tmp_path, "", use_dora=False, **fields), IGNORED)
        assert caught.value.reason is Reason.VARIANT and "elementwise" in caught.value.detail
    keys = {f"base_model.model.layers.0.q.hira_{side}.weight": A for side in "AB"}
    files = write_weights(tmp_path, keys, "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2}))
    with pytest.raises(Refusal) as caught:
        parse(dataclasses.replace(files, config=str(tmp_path / "adapter_config.json")), IGNORED)
    assert caught.value.reason is Reason.VARIANT


def test_the_zoo_says_how_it_was_taken(tmp_path: Path) -> None:
    folder = peft(tmp_path / "in").folder
    result = ingest([folder], tmp_path / "zoo")
    assert [record.reason for record in result.refused] == ["dora"] and result.added == ()
    assert ingest([folder], tmp_path / "zoo", Settings(ignore_magnitude=True)).added == ("in",)
    zoo = open_zoo(tmp_path / "zoo")
    assert [record.format for record in zoo.accepted] == ["peft (magnitude ignored)"]
    assert [value.tobytes() for value in zoo.extras("in").values()] == [MAGNITUDE.tobytes()]

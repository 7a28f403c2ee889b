"""Files that no format claims are named for what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ingest.errors import Refusal
from ingest.formats import parse
from ingest.reasons import Reason
from tests.ingest.builders import write_weights

KOHYA = "lora_unet_down_blocks_0_attentions_0_proj_in"
MODULE = "base_model.model.encoder.layer.0.query."


@pytest.mark.parametrize(
    "key, reason, word",
    [
        (KOHYA + ".lora_down.bias", Reason.UNKNOWN_KEYS, "kohya"),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1.diff", Reason.UNKNOWN_KEYS, "kohya"),
        (KOHYA + ".hada_w1_a", Reason.NOT_LORA, "LoHa"),
        (KOHYA + ".lokr_w1", Reason.NOT_LORA, "LoKr"),
        (KOHYA + ".lora_mid.weight", Reason.VARIANT, "core"),
        (KOHYA + ".dora_scale", Reason.DORA, "DoRA"),
        ("lycoris_blocks_0_attn.diff", Reason.UNKNOWN_KEYS, "LyCORIS"),
        ("diffusion_model.blocks.0.attn.lora_up.bias", Reason.UNKNOWN_KEYS, "ComfyUI"),
        ("double_blocks.0.processor.proj_lora1.down.weight", Reason.UNKNOWN_KEYS, "XLabs"),
        (MODULE + "ia3_l", Reason.NOT_LORA, "IA3"),
        (MODULE + "vera_lambda_b", Reason.NOT_LORA, "VeRA"),
        (MODULE + "hira_A.weight", Reason.VARIANT, "HiRA"),
        (MODULE + "hada_w1_a", Reason.NOT_LORA, "LoHa"),
        (MODULE + "oft_R.weight", Reason.NOT_LORA, "OFT"),
        (MODULE + "finegates_rows", Reason.NOT_LORA, "FineGates"),
        (MODULE + "lora_E", Reason.NOT_LORA, "AdaLoRA"),
        ("encoder.layer.0.query.lora_A", Reason.UNKNOWN_KEYS, "loralib"),
        ("base_model.unilora_theta_d", Reason.NOT_LORA, "UniLoRA"),
        ("prompt_embeddings", Reason.NOT_LORA, "prompt"),
        ("emb_params", Reason.NOT_LORA, "textual inversion"),
        ("model.layers.0.self_attn.q_proj.weight", Reason.NOT_LORA, "full checkpoint"),
        ("encoder.layer.0.query.lora.weight", Reason.UNKNOWN_KEYS, "no dialect"),
        ("model.layers.0.q_proj.lora_A.weight", Reason.UNKNOWN_KEYS, "no dialect"),
    ],
)
def test_named_for_what_it_is(tmp_path: Path, key: str, reason: Reason, word: str) -> None:
    tensors = {"score.weight": np.zeros((2, 2), np.float32), key: np.zeros((2, 2), np.float32)}
    with pytest.raises(Refusal) as caught:
        parse(write_weights(tmp_path, tensors))
    assert caught.value.reason is reason and word in caught.value.detail


LONG = "lora_unet_" + "down_blocks_0_" * 30
MANY = {
    "kohya": "lora_unet_down_blocks_{}_proj_in.lora_down.weight",
    "sgm": "lora_unet_input_blocks_{}_1_proj_in.lora_down.weight",
    "alphas": "lora_unet_down_blocks_{}_proj_in.alpha",
    "clip": "lora_te_text_model_encoder_layers_{}_mlp_fc1.lora_up.weight",
    "numbered": "unet:{}:up",
    "a list": "list:{}:down",
    "comfy": "diffusion_model.{}.lora_A.weight",
    "lycoris": "lycoris_down_blocks_{}_proj_in.lora_down.weight",
    "diffusers": "unet.{}.lora_A.weight",
    "prefixes": "module." * 60 + "{}.lora_A.weight",
    "no end": ".lora_A" * 60 + ".{}",
    "dots": "." * 400 + "{}.lora_A.weight",
    "long": LONG + "{}.lora_down.weight",
    "whole model": "model.layers.{}.weight",
}


@pytest.mark.parametrize("pattern", MANY.values(), ids=MANY)
def test_many_keys_are_refused_with_one_line(tmp_path: Path, pattern: str) -> None:
    one = np.ones((1, 1), np.float32)
    tensors = {pattern.format(i): one for i in range(20_000)}
    with pytest.raises(Refusal) as caught:
        parse(write_weights(tmp_path, tensors))
    assert "\n" not in caught.value.detail and len(caught.value.detail) < 1500


@pytest.mark.parametrize("name", ["x" * 10_000 + ".lora_A.weight", "lora_unet_" + "a_" * 5000 + ".lora_down.weight"])
def test_a_name_of_ten_kilobytes(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse(write_weights(tmp_path, {name: np.ones((1, 1), np.float32)}))
    assert caught.value.reason is Reason.UNKNOWN_KEYS and len(caught.value.detail) < 300

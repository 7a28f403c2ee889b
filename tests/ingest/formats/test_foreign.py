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
        ("unet:0:up", Reason.UNKNOWN_KEYS, "cloneofsimo"),
        (KOHYA + ".lora_down.weight", Reason.UNKNOWN_KEYS, "kohya"),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight", Reason.UNKNOWN_KEYS, "kohya"),
        ("lora_unet_input_blocks_4_1_proj_in.lora_down.weight", Reason.UNKNOWN_KEYS, "kohya"),
        (KOHYA + ".hada_w1_a", Reason.NOT_LORA, "LoHa"),
        (KOHYA + ".lokr_w1", Reason.NOT_LORA, "LoKr"),
        (KOHYA + ".lora_mid.weight", Reason.VARIANT, "core"),
        (KOHYA + ".dora_scale", Reason.DORA, "DoRA"),
        ("lycoris_blocks_0_attn.lora_down.weight", Reason.UNKNOWN_KEYS, "lycoris"),
        ("diffusion_model.blocks.0.attn.lora_A.weight", Reason.UNKNOWN_KEYS, "ComfyUI"),
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

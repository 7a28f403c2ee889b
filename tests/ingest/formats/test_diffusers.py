"""diffusers' pipeline files: against the library's own conversions, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingest.errors import Refusal
from ingest.formats import AdapterFiles, parse
from ingest.reasons import Reason
from tests.ingest.builders import factors, write_peft_folder, write_weights

RNG = np.random.default_rng(3)
NAME = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
A, B = factors(RNG, 4, 8, 8)
GOOD = {f"{NAME}.lora.down.weight": A, f"{NAME}.lora.up.weight": B}
META = "lora_adapter_metadata"


@pytest.mark.parametrize(
    "targets, converted",
    [
        (["to_q", "to_k", "to_out.0"], True),
        # Converted, diffusers would spell half of these anew and then load the other half only.
        (["to_q", "to_k", "to_out.0", "conv1", "proj_in"], False),
    ],
    ids=["lora.down", "lora_A"],
)
def test_what_the_pipeline_saves(tmp_path: Path, targets: list[str], converted: bool) -> None:
    """`save_lora_weights` with and without metadata; scales as a UNet that loads the file has them."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("peft")
    diffusers = pytest.importorskip("diffusers")
    from diffusers.loaders import StableDiffusionLoraLoaderMixin
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer
    from peft.utils import get_peft_model_state_dict

    def small() -> Any:
        torch.manual_seed(0)
        return diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(4, 8),
            layers_per_block=1,
            norm_num_groups=2,
            cross_attention_dim=6,
            attention_head_dim=2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )

    unet = small()
    config = LoraConfig(
        r=3,
        lora_alpha=5,
        use_rslora=True,
        init_lora_weights="gaussian",
        target_modules=targets,
        rank_pattern={"to_k": 2},
        alpha_pattern={"mid_block.attentions.0.transformer_blocks.0.attn1.to_q": 7},
    )
    unet.add_adapter(config)
    layers = get_peft_model_state_dict(unet)
    if converted:
        layers = convert_state_dict_to_diffusers(layers)
    for metadata in (None, config.to_dict()):
        folder = tmp_path / str(metadata is None)
        StableDiffusionLoraLoaderMixin.save_lora_weights(
            folder, unet_lora_layers=layers, unet_lora_adapter_metadata=metadata
        )
        again = small()
        state, alphas, stated = StableDiffusionLoraLoaderMixin.lora_state_dict(folder, return_lora_metadata=True)
        again.load_lora_adapter(state, prefix="unet", network_alphas=alphas, metadata=stated)
        live = {
            f"unet.{name}": module.scaling["default_0"]
            for name, module in again.named_modules()
            if isinstance(module, LoraLayer)
        }
        adapter = parse(AdapterFiles(str(folder), str(folder / "pytorch_lora_weights.safetensors")))
        assert {module.layer: module.scale for module in adapter.modules} == live
        assert len(set(live.values())) == (1 if metadata is None else 3)


REFUSED: dict[str, tuple[dict[str, Any], Reason, str]] = {
    "dora": (GOOD | {f"{NAME}.lora_magnitude_vector": A}, Reason.DORA, "DoRA"),
    "dora scale": (GOOD | {"lora_unet_unet_conv_in.dora_scale": A}, Reason.DORA, "DoRA"),
    "unknown tensor": (GOOD | {f"{NAME}.lora.middle.weight": A}, Reason.UNKNOWN_KEYS, "middle"),
    "unknown word": (
        {"lora_unet_unet_down_blocks_0_attensions_0_proj_in_lora_down.weight": A} | GOOD,
        Reason.UNKNOWN_KEYS,
        "attensions",
    ),
    "useless projection": (
        GOOD | {"text_encoder.text_model.encoder.layers.0.self_attn.k_proj.to_k_lora.down.weight": A},
        Reason.UNKNOWN_KEYS,
        "to_k_lora",
    ),
    "no component": (
        GOOD | {"transformer_blocks.0.attn.to_q.lora_A.weight": A},
        Reason.UNKNOWN_KEYS,
        "transformer",
    ),
    "two dialects": (
        GOOD | {NAME.removeprefix("unet.").replace("to_q", "processor.to_q_lora") + ".down.weight": A},
        Reason.UNKNOWN_KEYS,
        "of one module",
    ),
    "alpha of nothing": (
        GOOD | {"unet.conv_in.alpha": np.array(1.0)},
        Reason.UNKNOWN_KEYS,
        "alpha of no module",
    ),
    "alpha a vector": (GOOD | {f"{NAME}.alpha": np.ones(4)}, Reason.BAD_SHAPE, "(4,)"),
    "alpha that is not the rank": (GOOD | {f"{NAME}.alpha": np.array(1.0)}, Reason.BAD_CONFIG, "ComfyUI"),
    "alpha infinite": (GOOD | {f"{NAME}.alpha": np.array(np.inf)}, Reason.BAD_CONFIG, "inf"),
}


@pytest.mark.parametrize("tensors, reason, word", REFUSED.values(), ids=REFUSED)
def test_tensors_that_are_refused(tmp_path: Path, tensors: dict[str, Any], reason: Reason, word: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse(write_weights(tmp_path, tensors))
    assert caught.value.reason is reason and word in caught.value.detail and "\n" not in caught.value.detail


@pytest.mark.parametrize(
    "text, reason",
    [
        ("{", Reason.BAD_CONFIG),
        ("[]", Reason.BAD_CONFIG),
        (json.dumps({"r": 4}), Reason.BAD_CONFIG),
        (json.dumps({"unet.r": 4, "unet.target_modules": ["q" * 100] * 11_000}), Reason.BAD_CONFIG),
        (json.dumps({"unet.r": "4"}), Reason.BAD_CONFIG),
        (json.dumps({"unet.r": 2, "unet.lora_alpha": 2}), Reason.BAD_SHAPE),
        (json.dumps({"unet.r": 4, "unet.use_dora": True}), Reason.DORA),
        (json.dumps({"unet.r": 4, "unet.init_lora_weights": "pissa"}), Reason.ALTERED_BASE),
    ],
)
def test_metadata_that_is_refused(tmp_path: Path, text: str, reason: Reason) -> None:
    with pytest.raises(Refusal) as caught:
        parse(write_weights(tmp_path, GOOD, metadata={META: text}))
    assert caught.value.reason is reason


def test_alphas_and_metadata_together(tmp_path: Path) -> None:
    metadata = {META: json.dumps({"unet.r": 4})}
    with pytest.raises(Refusal) as caught:
        parse(write_weights(tmp_path, GOOD | {f"{NAME}.alpha": np.array(1.0)}, metadata=metadata))
    assert caught.value.reason is Reason.BAD_CONFIG


def test_a_configuration_beside_diffusers_keys(tmp_path: Path) -> None:
    config = write_peft_folder(tmp_path, {}).config
    files = write_weights(tmp_path, GOOD)
    with pytest.raises(Refusal) as caught:
        parse(AdapterFiles(files.folder, files.weights, config))
    assert caught.value.reason is Reason.BAD_CONFIG and "adapter_config.json" in caught.value.detail


def test_the_base_model_and_licence_of_the_card(tmp_path: Path) -> None:
    files = write_weights(tmp_path, GOOD)
    adapter = parse(files)
    assert (adapter.base_model, adapter.licence, adapter.config_text) == (None, None, None)
    (tmp_path / "README.md").write_text("---\nlicense: mit\nbase_model: a/b\n---\n# Card\n")
    adapter = parse(files)
    assert (adapter.base_model, adapter.licence) == ("a/b", "mit")

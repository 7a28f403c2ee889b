"""Canonical names: spellings met in real files, and the laws of the rule."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import EigenzooError, Refusal
from ingest.formats.underscored import unet_module
from ingest.names import Rename, canonical, diffusers_module
from ingest.pipeline import ingest
from ingest.prefixes import TASK_PREFIXES
from ingest.settings import Settings
from tests.ingest.builders import factors, write_peft_folder, write_weights

PEFT = "base_model.model."
SPELLINGS = [
    ("roberta.encoder.layer.0.attention.self.query", "encoder.layer.0.attention.self.query"),
    (PEFT + "roberta.encoder.layer.0.attention.self.query", "encoder.layer.0.attention.self.query"),
    (PEFT + "encoder.layer.0.attention.self.query", "encoder.layer.0.attention.self.query"),
    (PEFT + "bert.encoder.layer.11.output.dense", "encoder.layer.11.output.dense"),
    (PEFT + "distilbert.transformer.layer.0.attention.q_lin", "transformer.layer.0.attention.q_lin"),
    (PEFT + "transformer.h.0.attn.c_attn", "h.0.attn.c_attn"),
    (PEFT + "h.0.attn.c_attn", "h.0.attn.c_attn"),
    (PEFT + "model.layers.31.self_attn.q_proj", "layers.31.self_attn.q_proj"),
    (PEFT + "layers.31.self_attn.q_proj", "layers.31.self_attn.q_proj"),
    (PEFT + "model.model.layers.0.mlp.down_proj", "model.layers.0.mlp.down_proj"),
    (PEFT + "model.decoder.layers.0.self_attn.v_proj", "decoder.layers.0.self_attn.v_proj"),
    (PEFT + "gpt_neox.layers.0.attention.query_key_value", "layers.0.attention.query_key_value"),
    (PEFT + "encoder.block.0.layer.0.SelfAttention.q", "encoder.block.0.layer.0.SelfAttention.q"),
    (PEFT + "backbone.layers.3.mixer.in_proj", "layers.3.mixer.in_proj"),
    (PEFT + "vit.encoder.layer.0.attention.attention.key", "encoder.layer.0.attention.attention.key"),
    (PEFT + "model.language_model.layers.0.mlp.up_proj", "language_model.layers.0.mlp.up_proj"),
    (PEFT + "language_model.model.layers.0.mlp.up_proj", "language_model.model.layers.0.mlp.up_proj"),
    (PEFT + "vision_model.encoder.layers.0.mlp.fc1", "vision_model.encoder.layers.0.mlp.fc1"),
    (PEFT + "lm_head", "lm_head"),
    (PEFT + "model.lm_head", "model.lm_head"),
    (PEFT + "model.embed_tokens", "model.embed_tokens"),
    (PEFT + "transformer.wte", "transformer.wte"),
    (PEFT + "lin0", "lin0"),
    ("module." + PEFT + "model.layers.0.q_proj", "layers.0.q_proj"),
    (PEFT + PEFT + "model.layers.0.q_proj", "layers.0.q_proj"),
    (PEFT + "_orig_mod.model.layers.0.q_proj", "layers.0.q_proj"),
    ("model." + PEFT + "model.layers.0.q_proj", "layers.0.q_proj"),
    ("state_dict.model." + PEFT + "model.layers.0.q_proj", "layers.0.q_proj"),
    ("state_dict.module." + PEFT + "roberta.encoder.layer.0.q", "encoder.layer.0.q"),
    ("_forward_module.model.layers.0.q_proj", "layers.0.q_proj"),
    ("state_dict", "state_dict"),
    ("_orig_mod." + PEFT + "model.layers.0._checkpoint_wrapped_module.q_proj", "layers.0.q_proj"),
    ("_fsdp_wrapped_module." + PEFT + "model.layers.0._fsdp_wrapped_module.q_proj", "layers.0.q_proj"),
    (PEFT + "model.layers.0.q_proj.base_layer", "layers.0.q_proj"),
    (PEFT + "text.attn.base_layer.out_proj", "text.attn.out_proj"),
    (PEFT + "down_blocks.0.attentions.0.proj_in", "unet.down_blocks.0.attentions.0.proj_in"),
    (PEFT + "conv_in", "unet.conv_in"),
    (PEFT + "encoder.down_blocks.0.resnets.0.conv1", "encoder.down_blocks.0.resnets.0.conv1"),
    ("modeling.x.y", "modeling.x.y"),
    (PEFT, PEFT),
]
UNET = "down_blocks.0.attentions.1.transformer_blocks.0.attn1"
TEXT = "text_model.encoder.layers.0"
DIFFUSERS_SPELLINGS = [
    (f"{UNET}.processor.to_q_lora", f"unet.{UNET}.to_q"),
    (f"{UNET}.processor.to_out_lora", f"unet.{UNET}.to_out.0"),
    (f"unet.{UNET}.processor.to_v_lora", f"unet.{UNET}.to_v"),
    (f"unet.{UNET}.to_k", f"unet.{UNET}.to_k"),
    (f"unet.{UNET}.to_out.0", f"unet.{UNET}.to_out.0"),
    ("mid_block.attentions.0.proj_in", "unet.mid_block.attentions.0.proj_in"),
    (f"text_encoder.{TEXT}.self_attn.to_q_lora", "text_encoder.encoder.layers.0.self_attn.q_proj"),
    (f"text_encoder.{TEXT}.self_attn.to_out_lora", "text_encoder.encoder.layers.0.self_attn.out_proj"),
    (f"text_encoder.{TEXT}.self_attn.k_proj", "text_encoder.encoder.layers.0.self_attn.k_proj"),
    ("text_encoder.encoder.layers.0.mlp.fc1", "text_encoder.encoder.layers.0.mlp.fc1"),
    (f"text_encoder_2.{TEXT}.mlp.fc2", "text_encoder_2.encoder.layers.0.mlp.fc2"),
    ("text_encoder_2.text_projection", "text_encoder_2.text_projection"),
    ("transformer.transformer_blocks.0.attn.to_q", "transformer.transformer_blocks.0.attn.to_q"),
    ("transformer.transformer_blocks.0.attn.add_q_proj", "transformer.transformer_blocks.0.attn.add_q_proj"),
    (f"text_encoder.{TEXT}.self_attn.k_proj.to_k_lora", None),
    ("unet.attn1.to_x_lora", None),
    ("transformer_blocks.0.attn.to_q", None),
    ("model.layers.0.q_proj", None),
    ("transformer.h.0.attn.c_attn", None),
    ("unet", None),
]


@pytest.mark.parametrize("name, layer", SPELLINGS)
def test_transformers_spellings(name: str, layer: str) -> None:
    assert canonical([name]) == {name: layer}


@pytest.mark.parametrize("name, layer", DIFFUSERS_SPELLINGS)
def test_diffusers_spellings(name: str, layer: str | None) -> None:
    spelled = diffusers_module(name)
    assert (spelled and canonical([spelled], dialect="diffusers")[spelled]) == layer


@pytest.mark.parametrize(
    "names, layers",
    [
        (["model.layers.0.q", "layers.0.q"], ["model.layers.0.q", "layers.0.q"]),
        (
            ["model.layers.0.q", "layers.0.q", "model.layers.1.q"],
            ["model.layers.0.q", "layers.0.q", "layers.1.q"],
        ),
        (["bert.a.b", "vit.a.b"], ["bert.a.b", "vit.a.b"]),
        ([PEFT + "model.a.b", "model.a.b"], [PEFT + "model.a.b", "model.a.b"]),
        (["x.y", "x.base_layer.y"], ["x.y", "x.base_layer.y"]),
        (["mid_block.q", "unet.mid_block.q"], ["mid_block.q", "unet.mid_block.q"]),
        # The first two make room for each other and thereby meet the third.
        (["module.model.a.b", "a.b", "model.a.b"], ["module.model.a.b", "a.b", "model.a.b"]),
    ],
)
def test_collisions_keep_the_longer_names(names: list[str], layers: list[str]) -> None:
    assert list(canonical(names).values()) == layers


def test_text_model_stays_where_it_tells_modules_apart() -> None:
    names = ["text_encoder.text_model.a", "text_encoder.a"]
    assert canonical(names, dialect="diffusers") == {name: name for name in names}


COMPONENT = st.sampled_from(["model", "bert", "module", "base_model", "_orig_mod", "base_layer", "a", "0", "q"])
NAMES = st.lists(st.lists(COMPONENT, min_size=1, max_size=5).map(".".join), unique=True, max_size=8)


@given(NAMES)
def test_names_stay_distinct_whatever_their_order(names: list[str]) -> None:
    result = canonical(names)
    assert list(result) == names
    assert all(result.values()) and len(set(result.values())) == len(names)
    assert canonical(list(reversed(names))) == result


@pytest.mark.parametrize(
    "texts, name, layer",
    [
        (["language_model.layers=layers"], "model.language_model.layers.0.q", "layers.0.q"),
        (["language_model="], "model.language_model.layers.0.q", "layers.0.q"),
        (["layers=model.layers"], "model.layers.0.q", "model.layers.0.q"),
        (["lay=x"], "layers.0.q", "layers.0.q"),
        (["layers.0.q=head"], "layers.0.q", "head"),
        (["layers.0=a", "layers=b"], "layers.0.q", "a.q"),
        (["layers=b", "b=c"], "layers.0.q", "b.0.q"),
        ([" layers = b "], "layers.0.q", "b.0.q"),
    ],
)
def test_renames(texts: Sequence[str], name: str, layer: str) -> None:
    assert canonical([name], [Rename.parse(text) for text in texts]) == {name: layer}


@pytest.mark.parametrize("text", ["", "a", "=b", "a=b=c", ".a=b", "a.=b", "a=b.", "a..b=c", " =x"])
def test_bad_renames_say_how_to_write_them(text: str) -> None:
    with pytest.raises(EigenzooError, match=re.escape(repr(text))):
        Rename.parse(text)


def test_renames_that_collide_are_this_files_fault() -> None:
    with pytest.raises(Refusal, match=r"'a\.q' and 'b\.q' the same name 'c\.q'"):
        canonical(["a.q", "b.q"], [Rename("a", "c"), Rename("b", "c")])


def test_a_file_in_which_a_rename_collides_stops_no_other(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, layers in {"good": ["body.layers.0.q"], "bad": ["layers.0.q", "body.layers.0.q"]}.items():
        write_peft_folder(tmp_path / "in" / name, {layer: factors(rng, 2, 8, 6) for layer in layers})
    result = ingest(tmp_path / "in", tmp_path / "zoo", Settings(renames=("body.layers=layers",)))
    assert result.added == ("good",) and [record.reason for record in result.refused] == ["unknown-keys"]


def test_a_unet_is_the_same_from_a_peft_folder_and_from_a_pipeline_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    modules = {f"{UNET}.to_q": factors(rng, 2, 8, 6), "conv_in": factors(rng, 2, (4, 3, 3), 6)}
    write_peft_folder(tmp_path / "in" / "folder", modules)
    keys = {f"unet.{name}.lora_{side}.weight": ab[side == "B"] for name, ab in modules.items() for side in "AB"}
    write_weights(tmp_path / "in" / "pipeline", keys)
    result = ingest(tmp_path / "in", tmp_path / "zoo")
    assert len(result.added) == 1 and [record.reason for record in result.refused] == ["duplicate"]


@pytest.mark.parametrize(
    "text, name",
    [
        ("down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_q", f"{UNET}.to_q"),
        ("down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_out", f"{UNET}.to_out.0"),
        ("down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_out_0", f"{UNET}.to_out.0"),
        ("down_blocks_0_attentions_1_transformer_blocks_0_attn1_processor_to_q", f"{UNET}.processor.to_q"),
        ("mid_block_attentions_0_proj_in", "mid_block.attentions.0.proj_in"),
        (
            "up_blocks_3_attentions_2_transformer_blocks_0_ff_net_0_proj",
            "up_blocks.3.attentions.2.transformer_blocks.0.ff.net.0.proj",
        ),
        ("down_blocks_0_resnets_1_time_emb_proj", "down_blocks.0.resnets.1.time_emb_proj"),
        ("down_blocks_0_downsamplers_0_conv", "down_blocks.0.downsamplers.0.conv"),
        ("up_blocks_1_resnets_0_conv_shortcut", "up_blocks.1.resnets.0.conv_shortcut"),
        ("conv_in", "conv_in"),
        ("time_embedding_linear_1", "time_embedding.linear_1"),
        ("input_blocks_1_1_proj_in", None),
        ("down_blocks_0_attentionss_1", None),
        ("down_blocks_0_", None),
        ("down_blocks__0", None),
        ("conv_into", None),
        ("", None),
    ],
)
def test_underscored_names(text: str, name: str | None) -> None:
    assert unet_module(text) == name


# Prefixes of transformers that are left out on purpose: submodules of bodies, or parts of a composite model.
AMBIGUOUS = {
    *("encoder", "decoder", "text_model", "vision_model", "language_model", "audio_model", "video_model"),
    *("encoder_decoder", "vision_encoder_decoder", "speech_encoder_decoder", "vision_text_dual_encoder"),
    *("vision_encoder", "audio_video_encoder", "question_encoder", "ctx_encoder", "span_predictor", "talker"),
    *("tracker_model", "detector_model", "bert_model", "timm_model", "internvl_vision", "phi4_vision"),
    *("semantic", "coarse_acoustics", "fine_acoustics", "chmv2", "esmfold2", "neucodec", "rf_detr_dinov2"),
    *(
        "higgs_audio_v2_tokenizer",
        "pocket_tts_audio_tokenizer",
        "vibevoice_acoustic_tokenizer",
        "sam3_tracker",
        "",
    ),
}


def test_every_prefix_of_transformers_is_known_or_ambiguous() -> None:
    transformers = pytest.importorskip("transformers")
    found = set()
    for path in (Path(transformers.__file__).parent / "models").glob("*/modeling_*.py"):
        found |= set(re.findall(r'base_model_prefix\s*=\s*["\']([^"\']*)["\']', path.read_text(encoding="utf-8")))
    assert len(found) > 100
    assert not TASK_PREFIXES & AMBIGUOUS
    missing = {prefix for prefix in found if "." not in prefix} - TASK_PREFIXES - AMBIGUOUS
    # A newer transformers may bring a few; the table need not change for each of them.
    assert len(missing) <= 10, sorted(missing)

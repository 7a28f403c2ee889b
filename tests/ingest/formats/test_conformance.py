"""One suite for all formats: the same factors in every dialect yield the same layers, bytes and scales.

What the cases here expect is written down by hand. What each dialect is held against besides is in `ORACLES`: another
program's live model where there is one, else the rule of its source copied into a test.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ingest.errors import Refusal
from ingest.formats import FORMATS, AdapterFiles, detect, parse
from ingest.reasons import Reason
from ingest.safetensors_file import read_header, read_tensor
from tests.ingest.builders import factors, write_peft_folder, write_weights

Tensors = dict[str, NDArray[Any]]
RNG = np.random.default_rng(2)
ATTENTION = "down_blocks.0.attentions.1.transformer_blocks.0.attn1"
UNET = {
    f"{ATTENTION}.to_q": factors(RNG, 4, 8, 8),
    f"{ATTENTION}.to_k": factors(RNG, 2, 6, 8, np.float16),
    f"{ATTENTION}.to_out.0": factors(RNG, 4, 8, 8, ml_dtypes.bfloat16),
}
CONV = {"down_blocks.0.resnets.0.conv1": factors(RNG, 3, (4, 3, 3), 5)}
TEXT = {
    "text_model.encoder.layers.0.self_attn.q_proj": factors(RNG, 4, 8, 8),
    "text_model.encoder.layers.0.self_attn.out_proj": factors(RNG, 4, 8, 8),
}
MLP = {"text_model.encoder.layers.0.mlp.fc1": factors(RNG, 4, 8, 12)}
FLUX = {
    "transformer_blocks.0.attn.to_q": factors(RNG, 4, 8, 8),
    "single_transformer_blocks.1.norm.linear": factors(RNG, 4, 8, 9),
}


def spelled(modules: Mapping[str, Any], key: Callable[[str, str], str], ways: str = "down up") -> Tensors:
    down, up = ways.split()
    out: Tensors = {}
    for name, (a, b) in modules.items():
        out[key(name, down)], out[key(name, up)] = a, b
    return out


def old(name: str) -> str:
    """`attn1.to_out.0` → `attn1.processor.to_out_lora`, `self_attn.q_proj` → `self_attn.to_q_lora`."""
    if "self_attn" in name:
        head, _, last = name.rpartition(".")
        return f"{head}.to_{last.removesuffix('_proj')}_lora"
    head, _, last = name.removesuffix(".0").rpartition(".")
    return f"{head}.processor.{last}_lora"


def under(name: str) -> str:
    return "lora_unet_unet_" + name.replace(".", "_")


def flat(prefix: str) -> Callable[[str, str], str]:
    """Names with underscores for dots: `lora_unet_…_to_q.lora_down.weight`."""
    return lambda name, way: f"{prefix}_{name.replace('.', '_')}.lora_{way}.weight"


def inside(modules: Mapping[str, Any]) -> Tensors:
    """A whole model as it is saved: base weights, norms and embeddings around the factors."""
    out = spelled(modules, lambda n, w: f"model.{n}.lora_{w}.default.weight", "A B")
    for name, (a, b) in modules.items():
        out[f"model.{name}.base_layer.weight"] = np.zeros((len(b), *a.shape[1:]), np.float32)
        out[f"model.{name}.base_layer.bias"] = np.zeros(len(b), np.float32)
    out["model.norm.weight"] = np.ones(8, np.float32)
    out["model.embed_tokens.weight"] = np.zeros((5, 8), np.float32)
    out["model.score.modules_to_save.default.weight"] = np.ones((2, 8), np.float32)
    return out


def at(component: str, modules: Mapping[str, Any]) -> dict[str, Any]:
    """The canonical layers of a component's modules."""
    return {f"{component}.{name.removeprefix('text_model.')}": pair for name, pair in modules.items()}


@dataclass(frozen=True)
class Case:
    """A file in one dialect and what must come out of it: layer → (A, B), and scales where they are not 1."""

    format: str
    tensors: Tensors
    layers: Mapping[str, Any]
    scales: Mapping[str, float] | None = None
    metadata: Mapping[str, str] | None = None
    extras: tuple[str, ...] = ()


BODY = {f"layers.{i}.self_attn.{name}": factors(RNG, 4, 8, 8) for i in range(2) for name in ("q_proj", "v_proj")}
ORIGINAL = {"double_blocks.0.img_attn.qkv": factors(RNG, 4, 8, 24), "img_in": factors(RNG, 2, 3, 8, np.float16)}
CLIP = [f"encoder.layers.{i}.self_attn.{name}_proj" for i in range(12) for name in ("k", "v", "q", "out")]
NUMBERED = {name: factors(RNG, 1, 768, 768, np.float16) for name in CLIP}
Q, K = f"{ATTENTION}.to_q", f"{ATTENTION}.to_k"
STATED = {
    "unet.r": 4,
    "unet.lora_alpha": 6,
    "unet.use_rslora": False,
    "unet.rank_pattern": {"to_k": 2},
    "unet.alpha_pattern": {f"^{K}": 5},
    "unet.target_modules": ["to_q", "to_k", "to_out.0"],
    "text_encoder.r": 4,
    "text_encoder.lora_alpha": 9,
    "text_encoder.use_rslora": True,
}
BOTH = {
    **spelled(UNET, lambda n, w: f"unet.{n}.lora_{w}.weight", "A B"),
    **spelled(TEXT, lambda n, w: f"text_encoder.{n}.lora_{w}.weight", "A B"),
}
BF16_ALPHA = ml_dtypes.bfloat16(1.7)
CASES = {
    "bare processors": Case("diffusers", spelled(UNET, lambda n, w: f"{old(n)}.{w}.weight"), at("unet", UNET)),
    "processors": Case(
        "diffusers",
        {
            **spelled(UNET, lambda n, w: f"unet.{old(n)}.{w}.weight"),
            **spelled(TEXT, lambda n, w: f"text_encoder.{old(n)}.{w}.weight"),
        },
        at("unet", UNET) | at("text_encoder", TEXT),
    ),
    "lora.down": Case(
        "diffusers",
        {
            **spelled(UNET | CONV, lambda n, w: f"unet.{n}.lora.{w}.weight"),
            **spelled(TEXT | MLP, lambda n, w: f"text_encoder.{n}.lora_linear_layer.{w}.weight"),
            "unet.conv_out.bias": np.zeros(3, np.float32),
            f"unet.{Q}.lora.up.bias": np.zeros(3, np.float32),
        },
        at("unet", UNET | CONV) | at("text_encoder", TEXT | MLP),
        extras=("unet.conv_out.bias", f"unet.{Q}.lora.up.bias"),
    ),
    "lora_A": Case("diffusers", BOTH, at("unet", UNET) | at("text_encoder", TEXT)),
    "flux": Case(
        "diffusers",
        spelled(FLUX, lambda n, w: f"transformer.{n}.lora_{w}.weight", "A B"),
        at("transformer", FLUX),
    ),
    "underscored": Case(
        "diffusers", spelled(UNET | CONV, lambda n, w: f"{under(n)}_lora_{w}.weight"), at("unet", UNET | CONV)
    ),
    "underscored, dotted end, alpha": Case(
        "diffusers",
        {
            **spelled(UNET, lambda n, w: f"{under(n)}.lora_{w}.weight"),
            under(Q) + ".alpha": np.array(4.0, np.float32),
        },
        at("unet", UNET),
    ),
    "alpha that is the rank": Case(
        "diffusers",
        {
            **spelled(UNET, lambda n, w: f"unet.{n}.lora_{w}.weight", "A B"),
            f"unet.{K}.alpha": np.array([ml_dtypes.bfloat16(2)]),
            f"unet.{Q}.alpha": np.array(4, np.int64),
        },
        at("unet", UNET),
    ),
    "stated in the metadata": Case(
        "diffusers",
        BOTH,
        at("unet", UNET) | at("text_encoder", TEXT),
        {
            f"unet.{Q}": 6 / 4,
            f"unet.{ATTENTION}.to_out.0": 6 / 4,
            f"unet.{K}": 5 / 2,
            "text_encoder.encoder.layers.0.self_attn.q_proj": 9 / 2.0,
            "text_encoder.encoder.layers.0.self_attn.out_proj": 9 / 2.0,
        },
        {"format": "pt", "lora_adapter_metadata": json.dumps(STATED)},
    ),
    "peft": Case(
        "peft",
        spelled(UNET | CONV, lambda n, w: f"base_model.model.{n}.lora_{w}.weight", "A B"),
        at("unet", UNET | CONV),
        {
            **{f"unet.{Q}": 3 / 4, f"unet.{ATTENTION}.to_out.0": 3 / 4, f"unet.{K}": 3 / 2},
            "unet.down_blocks.0.resnets.0.conv1": 3 / 3,
        },
    ),
    "peft without its prefix": Case(
        "peft",
        spelled(BODY, lambda n, w: f"model.{n}.lora_{w}.default.weight", "A B"),
        BODY,
        dict.fromkeys(BODY, 3 / 4),
    ),
    "checkpoint": Case(
        "checkpoint",
        {f"state_dict.model.base_model.model.{key}": value for key, value in inside(BODY).items()},
        BODY,
        dict.fromkeys(BODY, 3 / 4),
        extras=("state_dict.model.base_model.model.model.score.modules_to_save.default.weight",),
    ),
    "kohya": Case(
        "kohya",
        {
            **spelled(UNET | CONV, flat("lora_unet")),
            **spelled(TEXT | MLP, flat("lora_te")),
            flat("lora_unet")(Q, "").partition(".")[0] + ".alpha": np.array(1.5, np.float16),
            flat("lora_unet")(K, "").partition(".")[0] + ".alpha": np.array([BF16_ALPHA]),
            "bundle_emb.token.string_to_param.*": np.ones((1, 8), np.float32),
        },
        at("unet", UNET | CONV) | at("text_encoder", TEXT | MLP),
        {f"unet.{Q}": 1.5 / 4, f"unet.{K}": float(BF16_ALPHA) / 2},
        extras=("bundle_emb.token.string_to_param.*",),
    ),
    "kohya, two text encoders": Case(
        "kohya",
        {**spelled(TEXT, flat("lora_te1")), **spelled(MLP, flat("lora_te2"))},
        at("text_encoder", TEXT) | at("text_encoder_2", MLP),
    ),
    "kohya, transformer": Case("kohya", spelled(FLUX, flat("lora_transformer")), at("transformer", FLUX)),
    "cloneofsimo": Case(
        "cloneofsimo",
        {
            **{f"text_encoder:{i}:down": NUMBERED[name][0] for i, name in enumerate(CLIP)},
            **{f"text_encoder:{i}:up": NUMBERED[name][1] for i, name in enumerate(CLIP)},
            "<s1>": np.ones(768, np.float32),
        },
        at("text_encoder", NUMBERED),
        metadata={
            "text_encoder": '["CLIPAttention"]',
            **{f"text_encoder:{i}:rank": "1" for i in range(len(CLIP))},
            "<s1>": "<embed>",
        },
        extras=("<s1>",),
    ),
    "comfy": Case(
        "comfy",
        {
            **spelled(ORIGINAL, lambda n, w: f"diffusion_model.{n}.lora_{w}.weight", "A B"),
            "diffusion_model.img_in.alpha": np.array(3.0, np.float32),
            "diffusion_model.norm.diff": np.ones(8, np.float32),
        },
        at("diffusion_model", ORIGINAL),
        {"diffusion_model.img_in": 3 / 2},
        extras=("diffusion_model.norm.diff",),
    ),
    "comfy, down and up": Case(
        "comfy",
        spelled(ORIGINAL, lambda n, w: f"diffusion_model.{n}.lora_{w}.weight"),
        at("diffusion_model", ORIGINAL),
    ),
    "lycoris": Case(
        "lycoris",
        {
            **spelled(UNET | CONV, flat("lycoris")),
            flat("lycoris")(K, "").partition(".")[0] + ".alpha": np.array(1.0, np.float32),
        },
        at("unet", UNET | CONV),
        {f"unet.{K}": 1 / 2},
    ),
    "lycoris, transformer": Case("lycoris", spelled(FLUX, flat("lycoris")), at("transformer", FLUX)),
}
WITH_CONFIG = ("peft", "checkpoint")
ORACLES = {
    "peft": ("live peft models, bit for bit", "test_peft.test_reads_what_peft_has"),
    "checkpoint": ("a live peft model's state dict, bit for bit", "test_checkpoint.test_a_live_model_saved_whole"),
    "diffusers": ("UNets into which diffusers loaded the file, bit for bit", "test_real_zoo.test_stable_diffusion"),
    "kohya": ("diffusers' loader; sd-scripts' rule for scales", "test_kohya.test_scales_are_sd_scripts_own"),
    "cloneofsimo": ("its loader's walk copied, on live models", "test_real_zoo.test_cloneofsimo"),
    "comfy": ("diffusers' loader; ComfyUI's rule for scales", "test_original_names.test_comfy_as_diffusers_reads_it"),
    "lycoris": ("live lycoris modules", "test_original_names.test_lycoris_as_it_loads_itself"),
    "loha": ("live lycoris and peft modules, to rounding", "test_recipes.test_equals_lycoris"),
    "lokr": ("live lycoris and peft modules, to rounding", "test_recipes.test_equals_peft"),
}
"""Format → what besides this file's cases it is held against, and where."""


def written(path: Path, case: Case) -> AdapterFiles:
    if case.format not in WITH_CONFIG:
        return write_weights(path, case.tensors, metadata=case.metadata)
    files = write_peft_folder(path, {}, r=4, lora_alpha=3, rank_pattern={"to_k": 2, "conv1": 3})
    write_weights(path, case.tensors, "adapter_model.safetensors")
    return files


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_layers_bytes_and_scales(tmp_path: Path, case: Case) -> None:
    files = written(tmp_path, case)
    adapter = parse(files)
    assert adapter.format == case.format
    assert [module.layer for module in adapter.modules] == sorted(case.layers)
    with open(files.weights, "rb") as file:
        for module in adapter.modules:
            a, b = case.layers[module.layer]
            for ref, want in ((module.a, a), (module.b, b)):
                got = read_tensor(file, ref, adapter.data_start)
                assert got.dtype == want.dtype and got.shape == want.shape
                assert got.tobytes() == want.tobytes()
            assert type(module.scale) is float
            assert module.scale == (case.scales or {}).get(module.layer, 1.0)
            assert module.kind == ("linear" if a.ndim == 2 else "conv")
    assert tuple(ref.key for ref in adapter.extras) == case.extras
    assert (adapter.config_text is None) == (files.config is None)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_one_format_claims_each_file(tmp_path: Path, case: Case) -> None:
    files = written(tmp_path, case)
    keys = read_header(files.weights).tensors
    entry = detect(keys, files.config is not None)
    assert entry is not None and entry.name == case.format
    if case.format not in WITH_CONFIG:
        assert [entry.name for entry in FORMATS if entry.claims(keys, False)] == [case.format]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_missing_factor_is_unpaired(tmp_path: Path, case: Case) -> None:
    names = [key for key in case.tensors if ("lora" in key and key.endswith("weight")) or ":" in key]
    for lost in (names[0], names[-1]):
        less = {key: value for key, value in case.tensors.items() if key != lost}
        with pytest.raises(Refusal) as caught:
            parse(written(tmp_path, Case(case.format, less, {}, None, case.metadata)))
        assert caught.value.reason in (Reason.UNPAIRED, Reason.UNKNOWN_KEYS)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_no_tensor_is_lost(tmp_path: Path, case: Case) -> None:
    """Every tensor is a factor, an alpha or an extra; a checkpoint's other weights are the base's."""
    adapter = parse(written(tmp_path, case))
    kept = {ref.key for module in adapter.modules for ref in (module.a, module.b)}
    kept |= {ref.key for ref in adapter.extras}
    lost = {key for key in case.tensors if key not in kept and not key.endswith(".alpha")}
    assert all(case.format == "checkpoint" and "lora" not in key for key in lost)


def test_every_format_has_an_oracle_and_the_test_exists() -> None:
    assert ORACLES.keys() == {entry.name for entry in FORMATS}
    for _, place in ORACLES.values():
        module, _, function = place.partition(".")
        assert f"def {function}(" in (Path(__file__).parent / f"{module}.py").read_text()


def test_every_format_has_a_case() -> None:
    converted = {"loha", "lokr"}  # on request only, in their own tests
    assert {case.format for case in CASES.values()} == {entry.name for entry in FORMATS} - converted


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.format not in WITH_CONFIG])
def test_a_configuration_beside_is_refused(tmp_path: Path, name: str) -> None:
    files = written(tmp_path, CASES[name])
    config = write_peft_folder(tmp_path, {}).config
    try:
        adapter = parse(AdapterFiles(files.folder, files.weights, config))
    except Refusal as refusal:
        assert refusal.reason in (Reason.BAD_CONFIG, Reason.BAD_SHAPE)
        return
    # What peft could have saved itself is peft's.
    assert adapter.format == "peft"


PARTS = [
    "unet",
    "transformer",
    "text_encoder",
    "down_blocks",
    "base_model.model",
    "model",
    "0",
    "attn1",
    "processor",
]
ENDS = [
    "lora_A.weight",
    "lora_B.weight",
    "lora_A.x.weight",
    "lora.down.weight",
    "to_q_lora.up.weight",
    "alpha",
]
ENDS += [
    "lora_embedding_A",
    "lora_linear_layer.up.weight",
    "lora_B.bias",
    "weight",
    "lora",
    "lora_magnitude_vector",
]
FLAT = [
    *("lora_unet_conv_in", "lora_unet_input_blocks_4_1_proj_in", "lora_unet_down_blocks_0_attentions_0_proj_in"),
    *("lora_te_text_model_encoder_layers_0_mlp_fc1", "lora_te3_x", "lora_transformer_proj_out", "lycoris_conv_in"),
    *("lycoris_x", "diffusion_model.a", "diffusion_model.input_blocks.0"),
]
FLAT_ENDS = ["lora_down.weight", "lora_up.weight", "lora_A.weight", "lora_mid.weight", "alpha", "dora_scale", "weight"]
KEYS = st.one_of(
    st.tuples(st.lists(st.sampled_from(PARTS), max_size=4), st.sampled_from(ENDS)).map(
        lambda k: ".".join([*k[0], k[1]])
    ),
    st.sampled_from(["lora_unet_unet_conv_in_lora_down.weight", "lora_unet_unet_conv_in.alpha", "..lora_A.weight", ""]),
    st.tuples(st.sampled_from(FLAT), st.sampled_from(FLAT_ENDS)).map(".".join),
    st.sampled_from(
        ["unet:0:up", "unet:0:down", "text_encoder:0:up", "list:0:up", "list:0:down", "<s1>", "unet:00:up"]
    ),
    st.text(max_size=8).map(lambda text: text + ".lora_A.weight"),
)
SHAPES = st.sampled_from([(), (1,), (2, 3), (3, 2), (2, 3, 1, 1), (0, 2), (2, 2)])
VALUES: st.SearchStrategy[Any] = st.sampled_from([None, True, 0, 2, -1, 1.5, "x", [], {}, {"q": 2}, {"(": 1}, "pissa"])
FIELDS = st.sampled_from(["r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_dora", "use_rslora"])
STATEMENTS = st.dictionaries(st.one_of(FIELDS, FIELDS.map(lambda name: f"unet.{name}")), VALUES, max_size=3)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(KEYS, SHAPES, max_size=5), st.booleans(), STATEMENTS)
def test_whatever_a_file_holds_it_is_read_or_refused(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], has_config: bool, fields: dict[str, Any]
) -> None:
    tensors = {key: np.ones(shape, np.float32) for key, shape in shapes.items()}
    metadata = {"lora_adapter_metadata": json.dumps(fields)} if fields else None
    files = write_weights(tmp_path, tensors, metadata=metadata)
    if has_config:
        files = AdapterFiles(files.folder, files.weights, write_peft_folder(tmp_path, {}, **fields).config)
    try:
        adapter = parse(files)
    except Refusal as refusal:
        assert refusal.detail
        return
    used = [ref.key for module in adapter.modules for ref in (module.a, module.b)]
    used += [ref.key for ref in adapter.extras]
    assert sorted(used) == sorted(key for key in tensors if not key.endswith("alpha") or key in used)
    assert adapter.modules and all(module.rank == module.b.shape[1] > 0 for module in adapter.modules)


def test_names_of_formats_are_distinct() -> None:
    assert len({entry.name for entry in FORMATS}) == len(FORMATS)

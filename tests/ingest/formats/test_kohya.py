"""kohya's files: layers, factors and scales as diffusers ends up with them, and what is refused."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ingest.errors import EigenzooError, Refusal
from ingest.formats import Options, parse
from ingest.formats.sgm import sgm_module
from ingest.reasons import Reason
from ingest.safetensors_file import read_all
from tests.ingest.builders import factors, write_weights

Tensors = dict[str, NDArray[Any]]
RNG = np.random.default_rng(5)
# Stable Diffusion XL in small: the same blocks and depths, narrow.
XL: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 8,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [4, 8, 16],
    "layers_per_block": 2,
    "norm_num_groups": 2,
    "attention_head_dim": 2,
    "cross_attention_dim": 12,
    "transformer_layers_per_block": [1, 2, 3],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 20,
}
SD: dict[str, Any] = {
    **{key: XL[key] for key in ("sample_size", "norm_num_groups", "attention_head_dim", "cross_attention_dim")},
    "block_out_channels": [4, 8, 8, 8],
    "layers_per_block": 2,
}


@functools.cache
def unet(small: str) -> Any:
    diffusers = pytest.importorskip("diffusers")
    fields = {"xl": XL, "sd": SD}[small]
    return diffusers.UNet2DConditionModel(**{key: value for key, value in fields.items() if key != "_class_name"})


def layers(model: Any) -> Iterator[tuple[str, tuple[int, ...], int]]:
    """Every linear layer and convolution: name, shape of a row of A, out."""
    torch = pytest.importorskip("torch")
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            yield name, (module.in_features,), module.out_features
        elif isinstance(module, torch.nn.Conv2d):
            yield name, (module.in_channels, *module.kernel_size), module.out_channels


def spelled(names: dict[str, str], shapes: dict[str, Any], alphas: tuple[float, ...] = (1.0, 0.7, 4.0)) -> Tensors:
    """A kohya file: canonical names → kohya's; ranks and alphas go round."""
    out: Tensors = {}
    for i, (name, kohya) in enumerate(names.items()):
        width, out_width = shapes[name]
        rank = (2, 3)[i % 2]
        out[f"{kohya}.lora_down.weight"], out[f"{kohya}.lora_up.weight"] = factors(RNG, rank, width, out_width)
        if alphas:
            out[f"{kohya}.alpha"] = np.array(alphas[i % len(alphas)], np.float32)
    return out


def sgm_names() -> dict[str, str]:
    """The original implementation's underscored names of SDXL's modules, by counting as its constructor does."""
    depth = (0, *XL["transformer_layers_per_block"][1:])
    places: list[tuple[str, str]] = []
    number = 1
    for block in range(3):
        for layer in range(2):
            places.append((f"down_blocks.{block}.resnets.{layer}", f"input_blocks_{number}_0"))
            if depth[block]:
                places.append((f"down_blocks.{block}.attentions.{layer}", f"input_blocks_{number}_1"))
            number += 1
        if block < 2:
            places.append((f"down_blocks.{block}.downsamplers.0", f"input_blocks_{number}_0"))
            number += 1
    places += [(f"mid_block.resnets.{i}", f"middle_block_{2 * i}") for i in range(2)]
    places.append(("mid_block.attentions.0", "middle_block_1"))
    number = 0
    for block in range(3):
        attends = depth[2 - block] > 0
        for layer in range(3):
            places.append((f"up_blocks.{block}.resnets.{layer}", f"output_blocks_{number}_0"))
            if attends:
                places.append((f"up_blocks.{block}.attentions.{layer}", f"output_blocks_{number}_1"))
            if layer == 2 and block < 2:
                places.append((f"up_blocks.{block}.upsamplers.0", f"output_blocks_{number}_{1 + attends}"))
            number += 1
    words = {"conv1": "in_layers_2", "conv2": "out_layers_3", "time_emb_proj": "emb_layers_1"}
    words |= {"conv_shortcut": "skip_connection"}
    outer = {"conv_in": "input_blocks_0_0", "conv_out": "out_2"}
    outer |= {f"time_embedding.linear_{i + 1}": f"time_embed_{2 * i}" for i in range(2)}
    outer |= {f"add_embedding.linear_{i + 1}": f"label_emb_0_{2 * i}" for i in range(2)}
    names: dict[str, str] = {}
    for name, _, _ in layers(unet("xl")):
        place = next(((ours, theirs) for ours, theirs in places if name.startswith(f"{ours}.")), None)
        if place is None:
            names[name] = f"lora_unet_{outer[name]}"
            continue
        rest = name.removeprefix(f"{place[0]}.")
        if "downsamplers" in name:
            rest = "op"
        names[name] = f"lora_unet_{place[1]}_{words.get(rest, rest.replace('.', '_'))}"
    return names


def live(model: Any, adapter: str, prefix: str) -> dict[str, tuple[Any, Any, float]]:
    from peft.tuners.lora import LoraLayer

    return {
        prefix + name: (
            module.lora_A[adapter].weight.detach().numpy().copy(),
            module.lora_B[adapter].weight.detach().numpy().copy(),
            module.scaling[adapter],
        )
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }


def as_diffusers(tensors: Tensors, small: str) -> dict[str, tuple[Any, Any, float]]:
    """What diffusers' UNet has loaded, and the scales by the alphas that diffusers has read."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("peft")
    from diffusers.loaders import StableDiffusionXLLoraLoaderMixin
    from diffusers.utils import convert_unet_state_dict_to_peft

    model = copy.deepcopy(unet(small))
    state = {key: torch.from_numpy(value.copy()) for key, value in tensors.items()}
    state, alphas = StableDiffusionXLLoraLoaderMixin.lora_state_dict(state, unet_config=model.config)
    model.load_lora_adapter(state, prefix="unet", network_alphas=alphas, adapter_name="real")
    loaded = live(model, "real", "unet.")
    if len(set(alphas.values())) < 2:
        return loaded
    # Where alphas differ, diffusers drops those of attentions on the way from here into the model.
    keys = [key.removesuffix(".alpha").removesuffix(".down.weight") for key in alphas]
    names = [
        key.partition(".lora_A")[0] for key in convert_unet_state_dict_to_peft({f"{k}.down.weight": 0 for k in keys})
    ]
    names = [name.removesuffix(".down.weight") for name in names]
    read = dict(zip(names, alphas.values(), strict=True))
    return {name: (a, b, read[name] / len(a)) for name, (a, b, _) in loaded.items()}


def assert_equal(path: Path, tensors: Tensors, want: dict[str, Any], options: Options = Options()) -> None:  # noqa: B008
    adapter = parse(write_weights(path, tensors), options)
    assert adapter.format == "kohya"
    values = read_all(adapter.factors)
    assert [module.layer for module in adapter.modules] == sorted(want)
    for module in adapter.modules:
        a, b, scale = want[module.layer]
        assert module.scale == scale, module.layer
        assert values[module.a.key].tobytes() == a.tobytes() and module.a.shape == a.shape
        assert values[module.b.key].tobytes() == b.tobytes() and module.b.shape == b.shape


def config_file(path: Path, **changes: Any) -> str:
    (path / "config.json").write_text(json.dumps(XL | changes))
    return str(path / "config.json")


@pytest.mark.filterwarnings("ignore:The following alpha_pattern")
@pytest.mark.parametrize("alphas", [(), (0.7,), (1.0, 0.7, 4.0)])
def test_stable_diffusion_as_diffusers_has_it(tmp_path: Path, alphas: tuple[float, ...]) -> None:
    """Every module of the UNet, under diffusers' names with underscores."""
    shapes = {name: (width, out) for name, width, out in layers(unet("sd"))}
    names = {name: "lora_unet_" + name.replace(".", "_") for name in shapes}
    tensors = spelled(names, shapes, alphas)
    want = as_diffusers(tensors, "sd")
    assert len(want) == len(names)
    assert_equal(tmp_path, tensors, want)


@pytest.mark.filterwarnings("ignore:The following alpha_pattern")
@pytest.mark.parametrize("alphas", [(0.7,), (1.0, 0.7, 4.0)])
def test_sgm_names_as_diffusers_has_them(tmp_path: Path, alphas: tuple[float, ...]) -> None:
    """Every module of SDXL's UNet, under the original implementation's names."""
    shapes = {name: (width, out) for name, width, out in layers(unet("xl"))}
    tensors = spelled(sgm_names(), shapes, alphas)
    want = as_diffusers(tensors, "xl")
    assert len(want) == len(shapes)
    assert_equal(tmp_path, tensors, want, Options(unet_config=config_file(tmp_path)))


def test_every_sgm_name_finds_the_module_it_was_made_from(tmp_path: Path) -> None:
    """Without diffusers' mapping in between: names and places counted by hand."""
    shapes = {name: (width, out) for name, width, out in layers(unet("xl"))}
    names = sgm_names()
    adapter = parse(write_weights(tmp_path, spelled(names, shapes)), Options(unet_config=config_file(tmp_path)))
    assert {module.a.key.partition(".")[0]: module.layer for module in adapter.modules} == {
        theirs: f"unet.{ours}" for ours, theirs in names.items()
    }


@pytest.mark.parametrize("component, prefix", [("text_encoder", "lora_te"), ("text_encoder_2", "lora_te2")])
def test_text_encoders_as_diffusers_has_them(tmp_path: Path, component: str, prefix: str) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("diffusers")
    from diffusers.loaders import StableDiffusionXLLoraLoaderMixin

    config = transformers.CLIPTextConfig(
        vocab_size=9, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2
    )
    model = transformers.CLIPTextModel(config)
    shapes = {name: (width, out) for name, width, out in layers(model)}
    text = {name: name if name.startswith("text_model.") else f"text_model.{name}" for name in shapes}
    names = {name: f"{prefix}_{long.replace('.', '_')}" for name, long in text.items()}
    tensors = spelled(names, shapes, ())
    # diffusers loses alphas of a text encoder that differ.
    tensors |= {f"{name}.alpha": np.array(1.5, np.float32) for name in names.values()}
    state = {key: torch.from_numpy(value.copy()) for key, value in tensors.items()}
    state, alphas = StableDiffusionXLLoraLoaderMixin.lora_state_dict(state)
    StableDiffusionXLLoraLoaderMixin.load_lora_into_text_encoder(
        state, alphas, model, prefix=component, adapter_name="real"
    )
    want = {f"{component}.{name.removeprefix('text_model.')}": value for name, value in live(model, "real", "").items()}
    assert len(want) == len(names)
    assert_equal(tmp_path, tensors, want)


def test_onetrainers_transformer_as_diffusers_reads_it(tmp_path: Path) -> None:
    """Names and updates; diffusers multiplies the scale into the factors, so products are compared."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers

    double = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    modules = [f"transformer_blocks.{i}.attn.{name}" for i in (0, 11) for name in double]
    modules += [f"single_transformer_blocks.7.attn.{name}" for name in double[:3]]
    modules += ["x_embedder", "context_embedder", "norm_out.linear", "time_text_embed.text_embedder.linear_2"]
    names = {name: "lora_transformer_" + name.replace(".", "_") for name in modules}
    tensors = spelled(names, {name: ((8,), 6) for name in names})
    state = _convert_kohya_flux_lora_to_diffusers({key: torch.from_numpy(value) for key, value in tensors.items()})
    adapter = parse(write_weights(tmp_path, tensors))
    values = read_all(adapter.factors)
    assert {module.layer for module in adapter.modules} == {key.partition(".lora_")[0] for key in state}
    for module in adapter.modules:
        want = state[f"{module.layer}.lora_B.weight"].numpy() @ state[f"{module.layer}.lora_A.weight"].numpy()
        np.testing.assert_allclose(
            module.scale * values[module.b.key] @ values[module.a.key], want, rtol=1e-5, atol=1e-6
        )


A, B = factors(RNG, 4, 8, 8)
Q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


def pairs(name: str, a: NDArray[Any] = A, b: NDArray[Any] = B) -> Tensors:
    return {f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b}


REFUSED: dict[str, tuple[Tensors, Reason, str]] = {
    "tucker": (pairs(Q) | {f"{Q}.lora_mid.weight": np.ones((4, 4, 3, 3))}, Reason.VARIANT, "core"),
    "dora": (pairs(Q) | {f"{Q}.dora_scale": B}, Reason.DORA, "DoRA"),
    "loha beside": (pairs(Q) | {"lora_unet_conv_in.hada_w1_a": B}, Reason.NOT_LORA, "LoHa"),
    "flux": (pairs("lora_unet_double_blocks_0_img_attn_qkv"), Reason.UNKNOWN_KEYS, "fused"),
    "sd3": (pairs("lora_unet_joint_blocks_0_x_block_attn_qkv"), Reason.UNKNOWN_KEYS, "fused"),
    "t5": (pairs("lora_te3_encoder_block_0_layer_0_SelfAttention_q"), Reason.UNKNOWN_KEYS, "CLIP"),
    "unknown word": (pairs("lora_unet_down_blocks_0_attensions_0_proj_in"), Reason.UNKNOWN_KEYS, "attensions"),
    "no root": (pairs("lora_unet_attn1_to_q"), Reason.UNKNOWN_KEYS, "attn1"),
    "leading zero": (pairs("lora_unet_down_blocks_00_resnets_0_conv1"), Reason.UNKNOWN_KEYS, "_00_"),
    "unknown tensor": (pairs(Q) | {f"{Q}.lora_middle.weight": A}, Reason.UNKNOWN_KEYS, "lora_middle"),
    "alpha of nothing": (pairs(Q) | {"lora_unet_conv_in.alpha": np.array(1.0)}, Reason.UNKNOWN_KEYS, "no module"),
    "alpha 0": (pairs(Q) | {f"{Q}.alpha": np.array(0.0)}, Reason.BAD_CONFIG, "rank"),
    "alpha a vector": (pairs(Q) | {f"{Q}.alpha": np.ones(4)}, Reason.BAD_SHAPE, "(4,)"),
    "no up": ({f"{Q}.lora_down.weight": A}, Reason.UNPAIRED, "no B"),
    "ranks": (pairs(Q, A[:3]), Reason.BAD_SHAPE, "ranks"),
    "sgm": (pairs("lora_unet_input_blocks_4_1_proj_in"), Reason.UNKNOWN_KEYS, "--unet-config"),
    "two encoders of one name": (
        pairs("lora_te_text_model_encoder_layers_0_mlp_fc1") | pairs("lora_te1_text_model_encoder_layers_1_mlp_fc1"),
        Reason.UNKNOWN_KEYS,
        "twice",
    ),
}


@pytest.mark.parametrize("tensors, reason, word", REFUSED.values(), ids=REFUSED)
def test_refused(tmp_path: Path, tensors: Tensors, reason: Reason, word: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse(write_weights(tmp_path, tensors))
    assert caught.value.reason is reason and word in caught.value.detail and "\n" not in caught.value.detail


@pytest.mark.parametrize(
    "name, layers, module",
    [
        ("output_blocks_2_1_conv", 2, "up_blocks.0.upsamplers.0.conv"),  # Stable Diffusion 1 attends in block 1 first
        ("output_blocks_5_2_conv", 2, "up_blocks.1.upsamplers.0.conv"),
        ("output_blocks_1_1_conv", 2, "up_blocks.0.attentions.1.conv"),  # which no UNet has
        ("output_blocks_1_2_conv", 2, None),
        ("output_blocks_1_1_conv", 1, "up_blocks.0.upsamplers.0.conv"),
    ],
)
def test_where_an_upsampler_is(name: str, layers: int, module: str | None) -> None:
    assert sgm_module(name, layers) == module


def test_the_upsampler_of_a_block_without_attention(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SD1))
    conv = factors(RNG, 2, (16, 3, 3), 16)
    files = write_weights(tmp_path, pairs("lora_unet_output_blocks_2_1_conv", *conv))
    (module,) = parse(files, Options(unet_config=str(tmp_path / "config.json"))).modules
    assert module.layer == "unet.up_blocks.0.upsamplers.0.conv" and module.kind == "conv"


SD1 = {
    "block_out_channels": [4, 8, 16],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 12,
}


def by_the_rule_of_sd_scripts(alpha: float | None, rank: int) -> float:
    """What a LoRAModule of `networks/lora.py` multiplies by: no alpha, or 0, means the rank; a file's is float32 first.

    In the file's own arithmetic the quotient may be float32 again, by numpy's version; a rank of a power of two hides
    that, and the double is what is kept here.
    """
    return 1.0 if not alpha else float(np.float32(alpha)) / rank


def test_scales_are_sd_scripts_own(tmp_path: Path) -> None:
    """Module by module, some without an alpha: diffusers (0.42) gives those the alpha of others, so it is no judge."""
    stated = {"to_q": 0.7, "to_k": 3.0, "to_v": None, "to_out_0": 4.0}
    tensors: Tensors = {}
    for name, alpha in stated.items():
        key = f"{Q.removesuffix('to_q')}{name}"
        tensors |= pairs(key) | ({} if alpha is None else {f"{key}.alpha": np.array(alpha, np.float32)})
    adapter = parse(write_weights(tmp_path, tensors))
    scales = {module.layer.partition("attn1.")[2].replace(".", "_"): module.scale for module in adapter.modules}
    assert scales == {name: by_the_rule_of_sd_scripts(alpha, 4) for name, alpha in stated.items()}


def wide(width: int, out: int) -> tuple[NDArray[Any], NDArray[Any]]:
    return factors(RNG, 2, width, out)


def test_outer_sgm_names_need_no_configuration(tmp_path: Path) -> None:
    adapter = parse(write_weights(tmp_path, pairs("lora_unet_time_embed_2") | pairs("lora_unet_label_emb_0_0")))
    assert [m.layer for m in adapter.modules] == ["unet.add_embedding.linear_1", "unet.time_embedding.linear_2"]


SGM_REFUSED: dict[str, tuple[Tensors, dict[str, Any], str]] = {
    "fewer blocks": (
        pairs("lora_unet_output_blocks_7_0_emb_layers_1", *wide(16, 4)),
        {
            key: XL[key][:2]
            for key in ("block_out_channels", "down_block_types", "up_block_types", "transformer_layers_per_block")
        },
        "up_blocks.2",
    ),
    "no attention there": (pairs("lora_unet_input_blocks_1_1_proj_in", *wide(4, 4)), {}, "attentions"),
    "too deep": (
        pairs("lora_unet_input_blocks_4_1_transformer_blocks_2_attn1_to_q", *wide(8, 8)),
        {},
        "transformer_blocks.2",
    ),
    "more layers": (
        pairs("lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q", *wide(8, 8)),
        {"layers_per_block": 3},
        "down_blocks.0",
    ),
    "another width": (
        pairs("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q", *wide(16, 16)),
        {},
        "8 wide",
    ),
    "another cross attention": (
        pairs("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", *wide(13, 8)),
        {},
        "12 wide",
    ),
    "a downsampler amidst": (pairs("lora_unet_input_blocks_2_0_op", *wide(4, 4)), {}, "no place"),
    "an upsampler amidst": (pairs("lora_unet_output_blocks_1_2_conv", *wide(16, 16)), {}, "no place"),
    "an upsampler of the last block": (pairs("lora_unet_output_blocks_8_2_conv", *wide(4, 4)), {}, "no place"),
    "block 0": (pairs("lora_unet_input_blocks_0_1_proj_in", *wide(4, 4)), {}, "no place"),
    "unknown part": (pairs("lora_unet_input_blocks_4_0_in_layers_0", *wide(4, 4)), {}, "no place"),
    "middle 3": (pairs("lora_unet_middle_block_3_in_layers_2", *wide(4, 4)), {}, "no place"),
    "both namings": (
        pairs("lora_unet_middle_block_1_proj_in", *wide(16, 16)) | pairs("lora_unet_mid_block_attentions_0_proj_out"),
        {},
        "two namings",
    ),
}


@pytest.mark.parametrize("tensors, changes, word", SGM_REFUSED.values(), ids=SGM_REFUSED)
def test_never_to_wrong_blocks(tmp_path: Path, tensors: Tensors, changes: dict[str, Any], word: str) -> None:
    options = Options(unet_config=config_file(tmp_path, **changes))
    with pytest.raises(Refusal) as caught:
        parse(write_weights(tmp_path, tensors), options)
    assert caught.value.reason is Reason.UNKNOWN_KEYS and word in caught.value.detail
    assert "\n" not in caught.value.detail


@pytest.mark.parametrize(
    "text, word",
    [
        ("{", "Expecting"),
        ("[]", "no JSON object"),
        ("[" * 100_000, "unet-config"),
        (json.dumps(XL | {"_class_name": "FluxTransformer2DModel"}), "Flux"),
        (json.dumps(XL | {"layers_per_block": [2, 2, 2]}), "positive integer"),
        (json.dumps(XL | {"layers_per_block": True}), "positive integer"),
        (json.dumps(XL | {"block_out_channels": []}), "block_out_channels"),
        (json.dumps(XL | {"block_out_channels": [4, -8, 16]}), "positive integer"),
        (json.dumps(XL | {"down_block_types": ["DownBlock2D"]}), "down_block_types"),
        (json.dumps(XL | {"up_block_types": [1, 2, 3]}), "up_block_types"),
        (json.dumps(XL | {"transformer_layers_per_block": [1, 2]}), "transformer_layers_per_block"),
        (json.dumps(XL | {"reverse_transformer_layers_per_block": [[1]]}), "reverse_transformer"),
        (json.dumps(XL | {"cross_attention_dim": [12, 12]}), "positive integer"),
        ("\0" * 2_000_000, "at most"),
        (None, "No such file"),
    ],
)
def test_a_configuration_that_is_none_is_the_users_error(tmp_path: Path, text: str | None, word: str) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    options = Options(unet_config=str(tmp_path / "config.json"))
    with pytest.raises(EigenzooError) as caught:
        parse(write_weights(tmp_path, pairs("lora_unet_input_blocks_4_1_proj_in")), options)
    assert not isinstance(caught.value, Refusal)
    assert word in str(caught.value) and "--unet-config" in str(caught.value) and "\n" not in str(caught.value)

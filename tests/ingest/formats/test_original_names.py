"""ComfyUI's and LyCORIS' files: against ComfyUI's formula, diffusers' reading and LyCORIS itself; refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ingest.errors import Refusal
from ingest.formats import parse
from ingest.reasons import Reason
from ingest.safetensors_file import read_all
from tests.ingest.builders import factors, write_weights

Tensors = dict[str, NDArray[Any]]
RNG = np.random.default_rng(8)
A, B = factors(RNG, 4, 8, 8)
WAN = "diffusion_model.blocks.0.self_attn.q"


def pairs(name: str, way: str = "lora_A lora_B") -> Tensors:
    down, up = way.split()
    return {f"{name}.{down}.weight": A, f"{name}.{up}.weight": B}


@pytest.mark.parametrize(
    "way", ["lora_A lora_B", "lora_A.default lora_B.default", "lora_down lora_up", "lora.down lora.up"]
)
@pytest.mark.parametrize("alpha, scale", [(None, 1.0), (2.0, 0.5), (0.0, 0.0)])
def test_comfy(tmp_path: Path, way: str, alpha: float | None, scale: float) -> None:
    tensors = pairs(WAN, way)
    if alpha is not None:
        tensors[f"{WAN}.alpha"] = np.array(alpha, np.float32)
    module = parse(write_weights(tmp_path, tensors)).modules[0]
    assert (module.layer, module.scale, module.a.shape) == (WAN, scale, A.shape)


def test_comfy_as_diffusers_reads_it(tmp_path: Path) -> None:
    """Wan in its original names: the same tensors, module by module, under diffusers' own."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_wan_lora_to_diffusers

    words = {"self_attn": "attn1", "cross_attn": "attn2", "q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}
    tensors: Tensors = {}
    for block in range(2):
        for attention in ("self_attn", "cross_attn"):
            for name in "qkvo":
                key = f"diffusion_model.blocks.{block}.{attention}.{name}"
                tensors[f"{key}.lora_A.weight"], tensors[f"{key}.lora_B.weight"] = factors(RNG, 4, 8, 8)
    state = {key: torch.from_numpy(value) for key, value in tensors.items()}
    state = _convert_non_diffusers_wan_lora_to_diffusers(state)
    adapter = parse(write_weights(tmp_path, tensors))
    values = read_all(adapter.factors)
    assert 2 * len(adapter.modules) == len(state) == 32
    for module in adapter.modules:
        _, blocks, block, attention, name = module.layer.split(".")
        theirs = f"transformer.{blocks}.{block}.{words[attention]}.{words[name]}"
        assert values[module.a.key].tobytes() == state[f"{theirs}.lora_A.weight"].numpy().tobytes()
        assert values[module.b.key].tobytes() == state[f"{theirs}.lora_B.weight"].numpy().tobytes()
        assert module.scale == 1.0


def test_lycoris_as_it_loads_itself(tmp_path: Path) -> None:
    """Its own module, alpha and rank, saved and made anew by LyCORIS, rsLoRA and a scalar folded in."""
    torch = pytest.importorskip("torch")
    locon = pytest.importorskip("lycoris.modules.locon")

    names = {
        "lycoris_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": {"alpha": 2, "rs_lora": True},
        "lycoris_single_transformer_blocks_3_proj_mlp": {"alpha": 3, "use_scalar": True},
    }
    tensors: Tensors = {}
    want = {}
    for name, settings in names.items():
        linear = torch.nn.Linear(8, 6)
        module = locon.LoConModule(name, linear, 1.0, 4, **settings)
        torch.nn.init.normal_(module.lora_up.weight)
        if "use_scalar" in settings:
            torch.nn.init.constant_(module.scalar, 0.5)
        state = {key: value.detach().clone() for key, value in module.state_dict().items() if "org" not in key}
        tensors |= {f"{name}.{key}": value.numpy() for key, value in state.items()}
        again = locon.LoConModule.make_module_from_state_dict(
            name, linear, state["lora_up.weight"], state["lora_down.weight"], None, state["alpha"], None
        )
        want[name] = (again, module.get_diff_weight(1.0)[0].detach().numpy())
    adapter = parse(write_weights(tmp_path, tensors))
    values = read_all(adapter.factors)
    assert [module.layer for module in adapter.modules] == [
        "transformer.single_transformer_blocks.3.proj_mlp",
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    ]
    for module in adapter.modules:
        again, delta = want[module.a.key.partition(".")[0]]
        a, b = values[module.a.key], values[module.b.key]
        assert module.scale == again.scale
        assert a.tobytes() == again.lora_down.weight.detach().numpy().tobytes()
        assert b.tobytes() == again.lora_up.weight.detach().numpy().tobytes()
        np.testing.assert_allclose(module.scale * b @ a, delta, rtol=1e-5, atol=1e-6)


UNET = "lycoris_down_blocks_0_attentions_0_proj_in"
REFUSED: dict[str, tuple[Tensors, Reason, str]] = {
    "comfy, sgm": (pairs("diffusion_model.input_blocks.4.1.proj_in"), Reason.UNKNOWN_KEYS, "convert"),
    "comfy, other part": (pairs(WAN) | pairs("text_encoders.clip_l.x"), Reason.UNKNOWN_KEYS, "text_encoders"),
    "comfy, dora": (pairs(WAN) | {f"{WAN}.dora_scale": B}, Reason.DORA, "DoRA"),
    "comfy, lokr": (pairs(WAN) | {"diffusion_model.x.lokr_w1": B}, Reason.NOT_LORA, "LoKr"),
    "comfy, no B": ({f"{WAN}.lora_A.weight": A}, Reason.UNPAIRED, "no B"),
    "comfy, alpha of nothing": (pairs(WAN) | {"diffusion_model.x.alpha": np.array(1.0)}, Reason.UNKNOWN_KEYS, "alpha"),
    "lycoris, another model": (pairs("lycoris_layers_0_q_proj", "lora_down lora_up"), Reason.UNKNOWN_KEYS, "dots"),
    "lycoris, no root": (pairs("lycoris_attn1_to_q", "lora_down lora_up"), Reason.UNKNOWN_KEYS, "dots"),
    "lycoris, alpha 0": (
        pairs(UNET, "lora_down lora_up") | {f"{UNET}.alpha": np.array(0.0)},
        Reason.BAD_CONFIG,
        "rank",
    ),
    "lycoris, tucker": (
        pairs(UNET, "lora_down lora_up") | {f"{UNET}.lora_mid.weight": B},
        Reason.VARIANT,
        "core",
    ),
    "lycoris, scalar": (
        pairs(UNET, "lora_down lora_up") | {f"{UNET}.scalar": np.array(0.5)},
        Reason.UNKNOWN_KEYS,
        "scalar",
    ),
}


@pytest.mark.parametrize("tensors, reason, word", REFUSED.values(), ids=REFUSED)
def test_refused(tmp_path: Path, tensors: Tensors, reason: Reason, word: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse(write_weights(tmp_path, tensors))
    assert caught.value.reason is reason and word in caught.value.detail and "\n" not in caught.value.detail

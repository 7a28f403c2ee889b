"""Small valid adapters, one of every dialect, as files in memory: what the mutations begin with."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

Files = dict[str, bytes]


def _pair(rng: np.random.Generator, rank: int, width: int, out: int, dtype: Any = np.float32) -> tuple[Any, Any]:
    return rng.standard_normal((rank, width)).astype(dtype), rng.standard_normal((out, rank)).astype(dtype)


def _peft(tensors: Mapping[str, NDArray[Any]], **config: Any) -> Files:
    fields = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "some/base", **config}
    return {
        "adapter_config.json": json.dumps(fields).encode(),
        "adapter_model.safetensors": save(dict(tensors)),
        "README.md": b"---\nlicense: mit\nbase_model: some/base\n---\n",
    }


UNET_CONFIG = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 12,
}
"""Of the UNet whose modules the SGM-named file has."""


def many(modules: int, name: str, patterns: Mapping[str, int]) -> Files:
    """A peft folder of many small modules, `name` their beginning, and patterns for their ranks."""
    one = np.ones((1, 1), np.float32)
    keys = [f"base_model.model.{name}{i}.lora_{side}.weight" for i in range(modules) for side in "AB"]
    return _peft(dict.fromkeys(keys, one), r=1, rank_pattern=dict(patterns))


@functools.cache
def corpus() -> dict[str, Files]:
    """Name → files of one folder."""
    rng = np.random.default_rng(0)
    prefix = "base_model.model.layers"
    plain: dict[str, Any] = {}
    for i, dtype in enumerate((np.float32, np.float16, ml_dtypes.bfloat16)):
        plain[f"{prefix}.{i}.q.lora_A.weight"], plain[f"{prefix}.{i}.q.lora_B.weight"] = _pair(rng, 4, 24, 16, dtype)
    plain["base_model.model.head.weight"] = rng.standard_normal((3, 16)).astype(np.float32)
    embedding = dict(plain)
    embedding[f"{prefix}.9.emb.lora_embedding_A"], embedding[f"{prefix}.9.emb.lora_embedding_B"] = _pair(rng, 4, 50, 8)
    conv = dict(plain)
    conv[f"{prefix}.8.c.lora_A.weight"] = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    conv[f"{prefix}.8.c.lora_B.weight"] = rng.standard_normal((5, 4, 1, 1)).astype(np.float32)
    attention = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    down, up = _pair(rng, 4, 320, 320)
    kohya = f"lora_unet_{attention.replace('.', '_')}_to_q"
    alpha = np.array(2.0, np.float32)
    half = np.float16
    kron = {"lokr_w1": (4, 4), "lokr_w2_a": (80, 2), "lokr_w2_b": (2, 80)}
    original = "diffusion_model.blocks.0.attn.q"
    sgm = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    pairs = (("up", (768, 1)), ("down", (1, 768)))
    hada = {
        f"{kohya}.hada_w{n}_{s}": rng.standard_normal(z) for n in (1, 2) for s, z in (("a", (320, 2)), ("b", (2, 320)))
    }
    return {
        "peft": _peft(plain, rank_pattern={"q": 4}, alpha_pattern={"layers.1.q": 2}),
        "peft-embedding": _peft(embedding),
        "peft-conv": _peft(conv),
        "peft-rslora": _peft({k.replace("lora_A", "lora_A.default"): v for k, v in plain.items()}, use_rslora=True),
        "peft-pickle": _pickled(plain),
        "peft-stream": _pickled(plain, stream=True),
        "checkpoint": _peft(
            {
                **plain,
                **{k.replace("lora_A", "base_layer"): np.zeros((16, 24), half) for k in plain if "lora_A" in k},
            }
        ),
        "diffusers": {
            "pytorch_lora_weights.safetensors": save(
                {f"unet.{attention}.to_q.lora.down.weight": down, f"unet.{attention}.to_q.lora.up.weight": up}
            )
        },
        "kohya": {
            "style_lora.safetensors": save(
                {f"{kohya}.lora_down.weight": down, f"{kohya}.lora_up.weight": up, f"{kohya}.alpha": alpha},
                metadata={"ss_network_dim": "4", "ss_base_model_version": "sd_v1"},
            )
        },
        "loha": {"style.safetensors": save({**{k: v.astype(half) for k, v in hada.items()}, f"{kohya}.alpha": alpha})},
        "lokr": {"style.safetensors": save({f"{kohya}.{k}": rng.random(z).astype(half) for k, z in kron.items()})},
        "sgm": _named(sgm, "lora_down lora_up", *_pair(rng, 2, 16, 16)),
        "comfy": _named(original, "lora_A lora_B", *_pair(rng, 2, 24, 16)),
        "lycoris": _named(kohya.replace("lora_unet", "lycoris"), "lora_down lora_up", down, up),
        "list": _torch("lora.pt", [rng.random(z).astype(half) for _ in range(48) for _, z in pairs]),
        "cloneofsimo": {
            "lora.safetensors": save(
                {f"text_encoder:{i}:{way}": rng.random(z).astype(half) for i in range(48) for way, z in pairs},
                metadata={"text_encoder": '["CLIPAttention"]', **{f"text_encoder:{i}:rank": "1" for i in range(48)}},
            )
        },
    }


def _named(module: str, ways: str, down: NDArray[Any], up: NDArray[Any]) -> Files:
    a, b = ways.split()
    alpha = np.array(2.0, np.float32)
    return {"a.safetensors": save({f"{module}.{a}.weight": down, f"{module}.{b}.weight": up, f"{module}.alpha": alpha})}


def _pickled(tensors: Mapping[str, NDArray[Any]], stream: bool = False) -> Files:
    files = _peft({})
    del files["adapter_model.safetensors"]
    return {**files, **_torch("adapter_model.bin", dict(tensors), stream)}


def _torch(name: str, values: Any, stream: bool = False) -> Files:
    """A file of torch.save: a zip archive, or the stream of before 1.6."""
    import torch

    def tensor(value: NDArray[Any]) -> Any:
        return torch.from_numpy(np.asarray(value, np.float32))

    made = {k: tensor(v) for k, v in values.items()} if isinstance(values, dict) else [tensor(v) for v in values]
    buffer = io.BytesIO()
    torch.save(made, buffer, _use_new_zipfile_serialization=not stream)
    return {name: buffer.getvalue()}

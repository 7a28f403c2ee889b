"""cloneofsimo's loader in small, to be compared with: which layer gets which numbered pair.

Written after `lora_diffusion/lora.py` of github.com/cloneofsimo/lora: `_find_modules_v2` (modules of the target classes
in the order of `model.modules()`, then every linear layer inside in the order of `named_modules()`) and
`parse_safeloras` (weights by `index · 2 + (down)`), as `monkeypatch_or_replace_lora` zips them. Layers whose shapes do
not fit their pair are an error here, as they are in use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def find_linear(model: Any, targets: Sequence[str]) -> list[tuple[str, Any]]:
    """Names and linear layers in the order of the numbers."""
    import torch

    names = {id(module): name for name, module in model.named_modules()}
    return [
        (names[id(module)], module)
        for ancestor in model.modules()
        if type(ancestor).__name__ in targets
        for module in ancestor.modules()
        if isinstance(module, torch.nn.Linear)
    ]


def weights_in_order(part: str, tensors: Mapping[str, Any]) -> list[Any]:
    """[up, down, up, down, …] of one part of a safetensors file."""
    own = {key: value for key, value in tensors.items() if key.split(":")[0] == part}
    out: list[Any] = [None] * len(own)
    for key, value in own.items():
        _, index, direction = key.split(":")
        out[int(index) * 2 + (direction == "down")] = value
    return out


def loaded(model: Any, targets: Sequence[str], weights: Sequence[Any]) -> dict[str, tuple[Any, Any, float]]:
    """Layer → (A, B, scale)."""
    layers = find_linear(model, targets)
    assert len(weights) == 2 * len(layers)
    out = {}
    for i, (name, module) in enumerate(layers):
        up, down = weights[2 * i], weights[2 * i + 1]
        assert (down.shape[1], up.shape[0]) == (module.in_features, module.out_features)
        out[name] = (down, up, 1.0)
    return out


def unet(cross: int, feed_forward_second: bool = True, channels: tuple[int, ...] = (320, 640, 1280, 1280)) -> Any:
    """Stable Diffusion's UNet without memory; its blocks registered as then (attn1, ff, attn2) or as now."""
    import diffusers
    import torch

    with torch.device("meta"):
        model = diffusers.UNet2DConditionModel(cross_attention_dim=cross, block_out_channels=channels)
    for module in model.modules():
        if feed_forward_second and type(module).__name__ == "BasicTransformerBlock":
            own = module._modules
            for name in ("attn2", *(key for key in own if key not in ("attn1", "ff", "attn2"))):
                own[name] = own.pop(name)
    return model


def text_encoder(layers: int = 12, width: int = 768) -> Any:
    """Stable Diffusion's text encoder without memory."""
    import torch
    import transformers

    config = transformers.CLIPTextConfig(
        vocab_size=9, hidden_size=width, intermediate_size=8, num_hidden_layers=layers, num_attention_heads=8
    )
    with torch.device("meta"):
        return transformers.CLIPTextModel(config)

"""The names of UNet modules in the original implementation (SGM), turned into diffusers'.

`input_blocks_4_1_…` → `down_blocks.1.attentions.0.…`, as diffusers' `_maybe_map_sgm_blocks_to_diffusers` does, by
arithmetic on `layers_per_block`. The arithmetic works with any number, so the result is to be held against the
UNet's configuration (`ingest.formats.unet.UnetConfig.widths`): a block, layer or depth that the UNet has not, or a
factor of another width, means that the configuration is another model's.
"""

from __future__ import annotations

import re

from ingest.formats.underscored import unet_module

# Modules outside the blocks: their places do not depend on the configuration.
_OUTER = {
    "input_blocks_0_0": "conv_in",
    "out_2": "conv_out",
    "time_embed_0": "time_embedding.linear_1",
    "time_embed_2": "time_embedding.linear_2",
    "label_emb_0_0": "add_embedding.linear_1",
    "label_emb_0_2": "add_embedding.linear_2",
}
_RESNET = {
    "in_layers_2": "conv1",
    "out_layers_3": "conv2",
    "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}
_BLOCK = re.compile(r"(?P<side>input|output)_blocks_(?P<block>[0-9]{1,3})_(?P<inner>[012])_(?P<rest>.+)")
_MIDDLE = re.compile(r"middle_block_(?P<inner>[012])_(?P<rest>.+)")
_SGM = re.compile(r"(?:input_blocks|output_blocks|middle_block|time_embed_[02]|label_emb|out_2)(?:_|$)")


def is_sgm(text: str) -> bool:
    """Whether an underscored UNet name is one of the original implementation's."""
    return _SGM.match(text) is not None


def is_outer(text: str) -> bool:
    """Whether an SGM name is of a module outside the blocks, whose place needs no configuration."""
    return text in _OUTER


def sgm_module(text: str, layers_per_block: int) -> str | None:
    """diffusers' dotted name of an underscored SGM name; None if no module can have it.

    Input blocks count conv_in, then per block its layers and its downsampler; output blocks per block its
    layers (one more), the last with the upsampler at its end: behind the attention, or in its place (1, not 2) in a
    block that does not attend, as the innermost of Stable Diffusion 1 and 2.
    """
    if text in _OUTER:
        return _OUTER[text]
    middle = _MIDDLE.fullmatch(text)
    if middle is not None:
        inner = int(middle["inner"])
        if inner == 1:
            return _joined("mid_block.attentions.0", unet_module(middle["rest"]))
        return _joined(f"mid_block.resnets.{inner // 2}", _RESNET.get(middle["rest"]))
    match = _BLOCK.fullmatch(text)
    if match is None:
        return None
    number, inner, rest = int(match["block"]), int(match["inner"]), match["rest"]
    if match["side"] == "input":
        if number == 0:
            return None
        block, layer = divmod(number - 1, layers_per_block + 1)
        if rest == "op":
            # Only the last place of a block is its downsampler.
            return f"down_blocks.{block}.downsamplers.0.conv" if (inner, layer) == (0, layers_per_block) else None
        head = f"down_blocks.{block}"
    else:
        block, layer = divmod(number, layers_per_block + 1)
        if inner > 0 and (layer, rest) == (layers_per_block, "conv"):
            return f"up_blocks.{block}.upsamplers.0.conv"
        if inner == 2:
            return None
        head = f"up_blocks.{block}"
    if inner == 0:
        return _joined(f"{head}.resnets.{layer}", _RESNET.get(rest))
    return _joined(f"{head}.attentions.{layer}", unet_module(rest)) if inner == 1 else None


def _joined(head: str, rest: str | None) -> str | None:
    return None if rest is None else f"{head}.{rest}"

"""The modules of diffusers' UNet2DConditionModel, from its config.json alone: which exist, and how wide they are."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ingest.errors import EigenzooError

_MAX_BYTES = 1 << 20
_MAX_BLOCKS = 64

_NUMBER = r"(0|[1-9][0-9]{0,3})"
_PLACE = re.compile(
    rf"(?:(?P<way>down|up)_blocks\.(?P<block>{_NUMBER})|mid_block)\."
    rf"(?P<kind>attentions|resnets|downsamplers|upsamplers)\.(?P<layer>{_NUMBER})\.(?P<rest>.+)"
)
_TRANSFORMER = re.compile(rf"transformer_blocks\.(?P<depth>{_NUMBER})\.(?P<rest>.+)")

Widths = tuple[int | None, int | None]
"""(in, out) of a module; None where the configuration alone does not say."""


@dataclass(frozen=True, slots=True)
class UnetConfig:
    """What of a UNet's configuration places its modules.

    Attributes
    ----------
    layers_per_block
        Resnets (and attentions) of each down block; up blocks have one more.
    channels
        Width of each down block; the up blocks go backwards.
    down, up
        Depth of each block's attentions, 0 where it has none.
    middle
        Depth of the middle block's attention, 0 without one.
    cross
        Width of what the cross attention attends to.
    """

    layers_per_block: int
    channels: tuple[int, ...]
    down: tuple[int, ...]
    up: tuple[int, ...]
    middle: int
    cross: int

    def widths(self, module: str) -> Widths | None:
        """(in, out) of a linear layer or convolution of the blocks, None if the UNet has no such module."""
        place = _PLACE.fullmatch(module)
        if place is None:
            return None
        kind, layer = place["kind"], int(place["layer"])
        if place["way"] is None:
            channels, depth, layers, sampler = self.channels[-1], self.middle, 2, ""
            exists = layer == 0 if kind == "attentions" else layer < layers
        else:
            block, count = int(place["block"]), len(self.channels)
            if block >= count:
                return None
            down = place["way"] == "down"
            channels = self.channels[block if down else count - 1 - block]
            depth = (self.down if down else self.up)[block]
            layers = self.layers_per_block + (0 if down else 1)
            sampler = "" if block == count - 1 else "downsamplers" if down else "upsamplers"
            exists = layer < layers
        if kind == "attentions":
            return self._attention(place["rest"], channels, depth) if exists and depth else None
        if kind == "resnets":
            return self._resnet(place["rest"], channels) if exists else None
        return (channels, channels) if kind == sampler and layer == 0 and place["rest"] == "conv" else None

    def _attention(self, rest: str, channels: int, depth: int) -> Widths | None:
        if rest in ("proj_in", "proj_out"):
            return channels, channels
        inner = _TRANSFORMER.fullmatch(rest)
        if inner is None or int(inner["depth"]) >= depth:
            return None
        return attention_widths(channels, self.cross).get(inner["rest"])

    def _resnet(self, rest: str, channels: int) -> Widths | None:
        table: Mapping[str, Widths] = {
            "conv1": (None, channels),
            "conv2": (channels, channels),
            "conv_shortcut": (None, channels),
            "time_emb_proj": (4 * self.channels[0], channels),
        }
        return table.get(rest)


def attention_widths(channels: int, cross: int) -> dict[str, Widths]:
    """(in, out) of the linear layers of one BasicTransformerBlock with GEGLU."""
    return {
        **{f"attn1.{name}": (channels, channels) for name in ("to_q", "to_k", "to_v", "to_out.0")},
        **{f"attn2.{name}": (channels, channels) for name in ("to_q", "to_out.0")},
        **{f"attn2.{name}": (cross, channels) for name in ("to_k", "to_v")},
        "ff.net.0.proj": (channels, 8 * channels),
        "ff.net.2": (4 * channels, channels),
    }


def read_unet_config(path: str) -> UnetConfig:
    """Read a UNet's config.json, as diffusers saves it.

    Raises
    ------
    EigenzooError
        If the file cannot be read or is no UNet2DConditionModel's configuration.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            raw = file.read(size) if size <= _MAX_BYTES else b""
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise EigenzooError(f"--unet-config {path}: cannot be read ({reason}); give a UNet's config.json") from error
    if size > _MAX_BYTES:
        raise EigenzooError(f"--unet-config {path}: has {size} bytes, at most {_MAX_BYTES}; give a UNet's config.json")
    try:
        return _parsed(raw)
    except (ValueError, RecursionError) as error:
        raise EigenzooError(f"--unet-config {path}: {error}; give a UNet2DConditionModel's config.json") from error


@lru_cache(maxsize=4)
def _parsed(raw: bytes) -> UnetConfig:
    fields = json.loads(raw)
    if not isinstance(fields, dict):
        raise ValueError("no JSON object")
    name = fields.get("_class_name", "UNet2DConditionModel")
    if name != "UNet2DConditionModel":
        raise ValueError(f"describes {str(name)[:60]!r}")
    channels = _ints(fields, "block_out_channels")
    count = len(channels)
    down = _types(fields, "down_block_types", count)
    up = _types(fields, "up_block_types", count)
    middle = fields.get("mid_block_type", "UNetMidBlock2DCrossAttn")
    depths = fields.get("transformer_layers_per_block", 1)
    depth = _ints(fields, "transformer_layers_per_block") if isinstance(depths, list) else (_int(depths),) * count
    if len(depth) != count:
        raise ValueError(f"transformer_layers_per_block has {len(depth)} entries, block_out_channels {count}")
    backwards = fields.get("reverse_transformer_layers_per_block")
    up_depth = _depths(backwards, count) if backwards is not None else depth[::-1]
    return UnetConfig(
        layers_per_block=_int(fields.get("layers_per_block", 2)),
        channels=channels,
        down=tuple(n if _attends(kind) else 0 for kind, n in zip(down, depth, strict=True)),
        up=tuple(n if _attends(kind) else 0 for kind, n in zip(up, up_depth, strict=True)),
        middle=depth[-1] if _attends(str(middle)) else 0,
        cross=_int(fields.get("cross_attention_dim", 1280)),
    )


def _attends(kind: str) -> bool:
    return "CrossAttn" in kind


def _int(value: Any) -> int:
    if type(value) is not int or not 0 < value < 1 << 20:
        raise ValueError(f"a layout of {str(value)[:60]!r}, expected a positive integer")
    return int(value)


def _depths(value: Any, count: int) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) != count:
        raise ValueError(f"reverse_transformer_layers_per_block is no list of {count}")
    return tuple(_int(entry) for entry in value)


def _ints(fields: Mapping[str, Any], key: str) -> tuple[int, ...]:
    value = fields.get(key)
    if not isinstance(value, list) or not 0 < len(value) <= _MAX_BLOCKS:
        raise ValueError(f"{key} is no list of integers")
    return tuple(_int(entry) for entry in value)


def _types(fields: Mapping[str, Any], key: str, count: int) -> Sequence[str]:
    value = fields.get(key)
    if not isinstance(value, list) or len(value) != count or not all(isinstance(entry, str) for entry in value):
        raise ValueError(f"{key} is no list of {count} names")
    return value

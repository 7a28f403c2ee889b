"""cloneofsimo/lora's files: numbered pairs `unet:{i}:up`, `unet:{i}:down`, `text_encoder:{i}:…`.

Its loader (`lora_diffusion/lora.py`: `parse_safeloras`, `monkeypatch_or_replace_lora`) gives pair i to the i-th
linear layer that `_find_modules` meets: modules of the target classes in the order of `model.modules()`, then the
linear layers inside each. The metadata holds the target classes and each pair's rank; the scale is 1. A `.pt` file is
the same as a nameless list up, down, up, down, … and is presented here as `list:{i}:up|down`.

That order is the order of registration in the classes of that time:

- UNet2DConditionModel: `down_blocks`, `up_blocks`, then `mid_block` (first None, so registered last); attention in
  down blocks 0–2 (two each), up blocks 1–3 (three each) and the middle.
- BasicTransformerBlock: `attn1`, `ff`, `attn2` (diffusers before 0.12 or so), later `attn1`, `attn2`, `ff`.
- CrossAttention: `to_q`, `to_k`, `to_v`, `to_out.0`; GEGLU: `proj`.
- CLIPAttention (transformers, ever since): `k_proj`, `v_proj`, `q_proj`, `out_proj`.

The shape of every pair is held against the layer it gets, in Stable Diffusion 1.x (width 768) and 2.x (1024). Number,
kinds, widths of blocks, cross attention and the place of the GEGLU differ between all layouts, so exactly one fits or
the file is refused; so does the order of attn1, attn2 and ff, of which any other is refused. What shapes cannot tell
apart, the projections of one attention, is fixed by the order of the source; cloneofsimo's own files confirm it: one
was trained by a release that left every `to_out` untouched, and its B is zero at every fourth pair of an attention
exactly; in one extracted from a fine-tuned text encoder, updates 0 and 2 of an attention (k, q) are of one size, 1
and 3 (v, out) of another.

Names are therefore those of diffusers' dialect, so that such adapters stack with others. Other models, other target
classes (`ResnetBlock2D`, with convolutions between) and partial lists are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from ingest.errors import Refusal
from ingest.formats import foreign
from ingest.formats.adapter import LoraAdapter
from ingest.formats.opened import Opened
from ingest.formats.pairing import Factor
from ingest.formats.sorting import refuse_config, scaled
from ingest.formats.unet import attention_widths
from ingest.reasons import Reason
from ingest.safetensors_file import TensorRef

NAME = "cloneofsimo"

_KEY = re.compile(r"(?P<part>unet|text_encoder|list):(?P<index>0|[1-9][0-9]{0,5}):(?P<way>up|down)")
_EMBEDDING = "<embed>"
_ATTENTION = ("CrossAttention", "Attention")
_GEGLU = "GEGLU"
_CLIP = "CLIPAttention"
_MAX_TARGETS = 1 << 12

# Blocks of Stable Diffusion's UNet that attend: how many attentions, and how wide.
_BLOCKS = (
    *(("down_blocks.0", 2, 320), ("down_blocks.1", 2, 640), ("down_blocks.2", 2, 1280)),
    *(("up_blocks.1", 3, 1280), ("up_blocks.2", 3, 640), ("up_blocks.3", 3, 320), ("mid_block", 1, 1280)),
)
_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
_SELF = tuple(f"attn1.{name}" for name in _PROJECTIONS)
_CROSS = tuple(f"attn2.{name}" for name in _PROJECTIONS)
_FF = ("ff.net.0.proj",)
_UNET_CROSS = (768, 1024)
# Layers and width of the text encoders of Stable Diffusion 1.x and 2.x (whose last layer diffusers leaves out).
_CLIPS = ((12, 768), (23, 1024))

Layer = tuple[str, int, int]
"""Canonical name, in, out."""


@lru_cache(maxsize=16)
def _layouts(part: str, attention: bool, geglu: bool) -> tuple[tuple[Layer, ...], ...]:
    """Every order that one part's pairs may have been numbered in."""
    if part == "text_encoder":
        return tuple(
            tuple(
                (f"text_encoder.text_model.encoder.layers.{i}.self_attn.{name}", width, width)
                for i in range(layers)
                for name in ("k_proj", "v_proj", "q_proj", "out_proj")
            )
            for layers, width in _CLIPS
        )
    orders = ((*_SELF, *_FF, *_CROSS), (*_SELF, *_CROSS, *_FF))
    chosen = {tuple(name for name in order if (geglu if name in _FF else attention)) for order in orders}
    # Without attentions the width of the cross attention tells nothing, and the layouts coincide.
    return tuple(dict.fromkeys(_unet(order, cross) for order in sorted(chosen) for cross in _UNET_CROSS))


def _unet(order: tuple[str, ...], cross: int) -> tuple[Layer, ...]:
    layers: list[Layer] = []
    for block, count, channels in _BLOCKS:
        widths = attention_widths(channels, cross)
        for i in range(count):
            for name in order:
                width, out = widths[name]
                layers.append((f"unet.{block}.attentions.{i}.transformer_blocks.0.{name}", width or 0, out or 0))
    return tuple(layers)


def claims(keys: Iterable[str], has_config: bool) -> bool:
    """Whether any key is a numbered factor."""
    del has_config
    return any(_KEY.fullmatch(key) is not None for key in keys)


def parse(opened: Opened) -> LoraAdapter:
    """Read one such file; see `ingest.formats.parse` for what it raises."""
    refuse_config(opened, "cloneofsimo's")
    parts, extras = _sort(opened)
    factors: list[Factor] = []
    for part, pairs in parts.items():
        names = _names(part, pairs, opened)
        for name, (up, down) in zip(names, pairs, strict=True):
            factors += (Factor(name, "A", False, down), Factor(name, "B", False, up))
    return opened.adapter(NAME, scaled(tuple(factors), (), opened.options.renames), extras)


Pairs = list[tuple[TensorRef, TensorRef]]
"""(up, down) by number."""


def _sort(opened: Opened) -> tuple[dict[str, Pairs], list[TensorRef]]:
    found: dict[str, dict[tuple[int, str], TensorRef]] = {}
    extras: list[TensorRef] = []
    for key, tensor in opened.header.tensors.items():
        match = _KEY.fullmatch(key)
        if match is not None:
            found.setdefault(match["part"], {})[int(match["index"]), match["way"]] = tensor
        elif opened.header.metadata.get(key) == _EMBEDDING:
            extras.append(tensor)
        else:
            raise foreign.stranger(key, opened.where)
    if "list" in found and len(found) > 1:
        raise Refusal(Reason.UNKNOWN_KEYS, f"{opened.where} holds a list beside named parts")
    return {part: _paired(part, tensors) for part, tensors in found.items()}, extras


def _paired(part: str, tensors: Mapping[tuple[int, str], TensorRef]) -> Pairs:
    for index, way in tensors:
        other = "down" if way == "up" else "up"
        if (index, other) not in tensors:
            raise Refusal(Reason.UNPAIRED, f"'{part}:{index}:{way}' has no {other}")
    count = len(tensors) // 2
    missing = next((index for index in range(count) if (index, "up") not in tensors), None)
    if missing is not None:
        raise Refusal(Reason.UNKNOWN_KEYS, f"'{part}:{missing}:up' is missing, so the later numbers name no layer")
    return [(tensors[index, "up"], tensors[index, "down"]) for index in range(count)]


def _names(part: str, pairs: Pairs, opened: Opened) -> list[str]:
    """The layer of every pair, by the one layout that all shapes fit."""
    if part == "list":
        choices = (("unet", True, True), ("unet", True, False), ("text_encoder", True, False))
        layouts = tuple(layout for choice in choices for layout in _layouts(*choice))
    else:
        layouts = _layouts(part, *_targets(part, opened))
        _check_ranks(part, pairs, opened)
    fitting = [layout for layout in layouts if _fit(layout, pairs)]
    if len(fitting) == 1:
        return [name for name, _, _ in fitting[0]]
    counts = " or ".join(str(count) for count in sorted({len(layout) for layout in layouts}))
    shapes = "" if len(pairs) not in {len(layout) for layout in layouts} else " and other shapes"
    raise Refusal(
        Reason.UNKNOWN_KEYS,
        f"{opened.where} numbers {len(pairs)} modules of {'its list' if part == 'list' else part}, Stable Diffusion "
        f"1.x and 2.x have {counts}{shapes}: which layers they are is unknown",
    )


def _fit(layout: tuple[Layer, ...], pairs: Pairs) -> bool:
    return len(layout) == len(pairs) and all(
        len(down.shape) == len(up.shape) == 2 and down.shape[1] == width and up.shape[0] == out
        for (_, width, out), (up, down) in zip(layout, pairs, strict=True)
    )


def _targets(part: str, opened: Opened) -> tuple[bool, bool]:
    """Whether the attentions' and the GEGLUs' linear layers are numbered."""
    where = f"{opened.where}, metadata {part!r}"
    text = opened.header.metadata.get(part)
    if text is not None and len(text) > _MAX_TARGETS:
        raise Refusal(Reason.BAD_CONFIG, f"{where} has {len(text)} characters, at most {_MAX_TARGETS}")
    if text is None:
        raise Refusal(Reason.BAD_CONFIG, f"{where}: missing, it lists the target classes that the numbers count")
    try:
        targets = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refusal(Reason.BAD_CONFIG, f"{where}: no valid JSON ({error})") from error
    if not isinstance(targets, list) or not targets or not all(isinstance(name, str) for name in targets):
        raise Refusal(Reason.BAD_CONFIG, f"{where} is {text[:60]!r}, expected a list of classes")
    known = (_CLIP,) if part == "text_encoder" else (*_ATTENTION, _GEGLU)
    other = next((name for name in targets if name not in known), None)
    if other is not None:
        raise Refusal(
            Reason.UNKNOWN_KEYS,
            f"{where} counts the layers of {other[:60]!r}; those of {', '.join(known)} alone have a known order",
        )
    return any(name in targets for name in (*_ATTENTION, _CLIP)), _GEGLU in targets


def _check_ranks(part: str, pairs: Pairs, opened: Opened) -> None:
    for index, (_, down) in enumerate(pairs):
        stated = opened.header.metadata.get(f"{part}:{index}:rank")
        if stated is None:
            raise Refusal(Reason.BAD_CONFIG, f"{opened.where} states no rank for '{part}:{index}'")
        if down.shape[:1] != () and stated != str(down.shape[0]):
            raise Refusal(
                Reason.BAD_SHAPE,
                f"'{part}:{index}:down' has rank {down.shape[0]}, but the metadata says {stated[:20]!r}",
            )

"""ComfyUI's files: `diffusion_model.<module>.lora_A.weight` (or `lora_down`, `lora.down`), with `.alpha` tensors.

Modules are named as in the model's original implementation (`diffusion_model.double_blocks.0.img_attn.qkv`), not
as in diffusers, and keep that name, `diffusion_model.` in front: a fused projection is one layer there. The scale is
alpha / rank, and 1 without an alpha, as in ComfyUI's `comfy/weight_adapter/lora.py`. Differences of whole weights
(`.diff`, `.diff_b`) are kept as extras.

A UNet's SGM blocks (`diffusion_model.input_blocks.…`) are refused: those layers have names of diffusers' already.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from ingest.errors import Refusal
from ingest.formats import foreign
from ingest.formats.adapter import LoraAdapter
from ingest.formats.alphas import read_alphas
from ingest.formats.opened import Opened
from ingest.formats.sorting import Split, refuse_config, scaled, sort
from ingest.reasons import Reason

NAME = "comfy"

_FACTOR = re.compile(
    r"(?P<module>diffusion_model\..+)\.(?:lora_(?P<side>[AB])(?:\.default)?|lora[_.](?P<way>down|up))\.weight"
)
_ALPHA = re.compile(r"(?P<module>diffusion_model\..+)\.alpha")
_SGM = re.compile(r"diffusion_model\.(?:input_blocks|output_blocks|middle_block)\.")


@lru_cache(maxsize=1 << 14)
def _split(key: str) -> Split | None:
    if _SGM.match(key):
        return None
    match = _FACTOR.fullmatch(key)
    if match is not None:
        return Split(match["module"], match["side"] or {"down": "A", "up": "B"}[match["way"]])
    match = _ALPHA.fullmatch(key)
    return None if match is None else Split(match["module"], "alpha")


def _is_extra(key: str) -> bool:
    return not foreign.looks_like_lora(key)


def claims(keys: Iterable[str], has_config: bool) -> bool:
    """Whether any key is a factor as ComfyUI names it."""
    del has_config
    return any(_FACTOR.fullmatch(key) is not None for key in keys)


def parse(opened: Opened) -> LoraAdapter:
    """Read one such file; see `ingest.formats.parse` for what it raises."""
    refuse_config(opened, "ComfyUI's")
    found = sort(opened, _split, _is_extra, _stranger)
    alphas = read_alphas(opened, found.alphas)
    return opened.adapter(NAME, scaled(found.factors, alphas, opened.options.renames), found.extras)


def _stranger(key: str, where: str) -> Refusal:
    if _SGM.match(key):
        return Refusal(
            Reason.UNKNOWN_KEYS,
            f"{where} has {key!r}, a UNet's block as the original implementation counts it; convert it with diffusers",
        )
    return foreign.stranger(key, where)

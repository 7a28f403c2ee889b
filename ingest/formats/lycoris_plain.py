"""Plain LoRA as LyCORIS saves it for any model: `lycoris_<module>.lora_down.weight`, `.lora_up.weight`, `.alpha`.

The name of the wrapped model is not in the file, and its dots are underscores. It is read only if the vocabulary of
diffusers' UNets or transformers spells it whole (`ingest.formats.underscored`). Their first words are those of other
models of diffusers', too: a ControlNet's `mid_block_…` or a VAE decoder's `up_blocks_…` is taken for a UNet's, a
prior's `transformer_blocks_…` for a transformer's, and only the base model's name, or widths, tell these apart.
The scale is alpha / rank; LyCORIS folds a scalar into up and rsLoRA into alpha before it saves
(`lycoris/modules/locon.py`).
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
from ingest.formats.sorting import Split, refuse_config, refuse_zero, scaled, sort
from ingest.formats.underscored import transformer_module, unet_module
from ingest.names import diffusers_module
from ingest.reasons import Reason

NAME = "lycoris"

_KEY = re.compile(r"lycoris_(?P<module>[^.]+)\.(?:lora_(?P<way>down|up)\.weight|alpha)")


@lru_cache(maxsize=1 << 14)
def _split(key: str) -> Split | None:
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    module = unet_module(match["module"])
    spelled = diffusers_module(module) if module is not None else None
    if spelled is None:
        module = transformer_module(match["module"])
        spelled = None if module is None else f"transformer.{module}"
    return None if spelled is None else Split(spelled, {"down": "A", "up": "B", None: "alpha"}[match["way"]])


def _is_extra(key: str) -> bool:
    return not foreign.looks_like_lora(key)


def claims(keys: Iterable[str], has_config: bool) -> bool:
    """Whether any key is a factor of LyCORIS' plain LoRA."""
    del has_config
    return any(_KEY.fullmatch(key) is not None and not key.endswith(".alpha") for key in keys)


def parse(opened: Opened) -> LoraAdapter:
    """Read one such file; see `ingest.formats.parse` for what it raises."""
    refuse_config(opened, "LyCORIS'")
    found = sort(opened, _split, _is_extra, _stranger)
    alphas = read_alphas(opened, found.alphas)
    refuse_zero(found, alphas, "LyCORIS")
    return opened.adapter(NAME, scaled(found.factors, alphas, opened.options.renames), found.extras)


def _stranger(key: str, where: str) -> Refusal:
    if _KEY.fullmatch(key) is not None:
        return Refusal(
            Reason.UNKNOWN_KEYS,
            f"{where} has {key!r}, which is no module of diffusers' UNets or transformers; in other models the "
            "underscores cannot be told from dots",
        )
    return foreign.stranger(key, where)

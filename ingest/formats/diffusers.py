"""diffusers' pipeline files (`pytorch_lora_weights.safetensors`), in the dialects of its releases and users.

1. `….attn1.processor.to_q_lora.down.weight`: before 0.17, UNet only, no component in front.
2. `unet.….processor.to_q_lora.down.weight`; text encoders `text_encoder.….to_q_lora.down.weight`.
3. `unet.….to_q.lora.down.weight`; text encoders `….q_proj.lora_linear_layer.down.weight`; and peft's own
   `unet.….to_q.lora_A.weight`.
4. Hand-made: `lora_unet_unet_…_to_q_lora_down.weight`, which diffusers itself does not load.

down is A, up is B. The scale is as peft resolves it where the file's metadata holds `lora_adapter_metadata`
(diffusers ≥ 0.34); else 1, since alpha is then the rank by convention. diffusers itself never saves `.alpha` tensors
under these names and passes them over when it loads (0.42), while ComfyUI scales by alpha / rank; so a file with such
an alpha is taken only where it is the rank.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from ingest.errors import Refusal
from ingest.formats import foreign
from ingest.formats.adapter import LoraAdapter, LoraModule
from ingest.formats.alphas import read_alphas
from ingest.formats.lora_config import settings
from ingest.formats.lora_settings import LoraSettings
from ingest.formats.opened import Opened
from ingest.formats.pairing import Factor, pair
from ingest.formats.sorting import SHARED_TENSORS, Sorted, Split, refuse_config, sort
from ingest.formats.underscored import unet_module
from ingest.names import Rename, diffusers_module
from ingest.prefixes import COMPONENTS
from ingest.reasons import Reason

NAME = "diffusers"
METADATA_KEY = "lora_adapter_metadata"
_MAX_METADATA = 1 << 20

_FACTOR = re.compile(
    r"(?P<module>.+)(?:"
    r"\.lora_(?P<side>[AB])(?:\.[^.]+)?"
    r"|(?:\.lora|\.lora_linear_layer|(?P<fused>_lora))\.(?P<way>down|up)"
    r")\.weight"
)
_UNDERSCORED = re.compile(r"lora_unet_unet_(?P<module>.+)[._]lora[._](?P<way>down|up)\.weight")
_UNDERSCORED_ALPHA = re.compile(r"lora_unet_unet_(?P<module>.+?)(?:[._]lora(?:[._]down)?)?\.alpha")
_FACTOR_BIAS = re.compile(r".+\.(?:lora_B(?:\.[^.]+)?|lora\.up|lora_linear_layer\.up)\.bias")


@lru_cache(maxsize=1 << 14)
def _split(key: str) -> Split | None:
    """The module as `ingest.names.diffusers_module` spells it, component in front."""
    if not key.endswith((".weight", ".alpha")):
        return None
    if key.startswith("lora_unet_unet_"):
        match = _UNDERSCORED.fullmatch(key) or _UNDERSCORED_ALPHA.fullmatch(key)
        module = unet_module(match["module"]) if match else None
        role = _role(match.groupdict()) if match else ""
    elif key.endswith(".alpha"):
        module, role = key.removesuffix(".alpha").removesuffix(".lora").removesuffix(".lora_linear_layer"), "alpha"
    else:
        match = _FACTOR.fullmatch(key)
        # `to_q_lora` is one word in the old dialects, so the name keeps the suffix that `diffusers_module`
        # undoes.
        module = match["module"] + (match["fused"] or "") if match else None
        role = _role(match.groupdict()) if match else ""
    spelled = diffusers_module(module) if module else None
    return Split(spelled, role) if spelled else None


def _role(groups: Mapping[str, str | None]) -> str:
    if groups.get("side"):
        return str(groups["side"])
    return {"down": "A", "up": "B", None: "alpha"}[groups.get("way")]


@lru_cache(maxsize=1 << 14)
def _is_extra(key: str) -> bool:
    return _FACTOR_BIAS.fullmatch(key) is not None or not foreign.looks_like_lora(key)


def claims(keys: Iterable[str], has_config: bool) -> bool:
    """Whether any key is a factor in one of the dialects."""
    del has_config
    return any(split is not None and split.role != "alpha" for split in map(_split, keys))


def parse(opened: Opened) -> LoraAdapter:
    """Read one pipeline file; see `ingest.formats.parse` for what it raises."""
    refuse_config(opened, "diffusers'")
    found = sort(opened, _split, _is_extra)
    stated = _stated(opened)
    if found.alphas and stated:
        raise Refusal(
            Reason.BAD_CONFIG,
            f"{opened.where} has both alpha tensors and {METADATA_KEY}: which holds is unknown",
        )
    alphas = read_alphas(opened, found.alphas)
    _check_alphas(found, alphas)
    function = _modules if len(found.factors) <= SHARED_TENSORS else _modules.__wrapped__
    return opened.adapter(NAME, function(found.factors, stated, alphas, opened.options.renames), found.extras)


def _check_alphas(found: Sorted, alphas: tuple[tuple[str, float], ...]) -> None:
    """Refuse an alpha that is not the rank; one that is not at hand (NaN) is left for later."""
    ranks = {f.module: f.tensor.shape[0] for f in found.factors if f.side == "A" and f.tensor.shape}
    for (_, ref), (module, alpha) in zip(found.alphas, alphas, strict=True):
        if alpha != ranks.get(module, alpha) and not math.isnan(alpha):
            raise Refusal(
                Reason.BAD_CONFIG,
                f"{ref.key!r} is {alpha:g} at rank {ranks[module]}: under these names diffusers passes it over and "
                "ComfyUI scales by it; scale up (lora_B) by alpha / rank and drop it",
            )


@lru_cache(maxsize=64)
def _modules(
    factors: tuple[Factor, ...],
    stated: tuple[tuple[str, LoraSettings], ...],
    alphas: tuple[tuple[str, float], ...],
    renames: tuple[Rename, ...],
) -> tuple[LoraModule, ...]:
    """The modules; files with equal headers and alphas share them, so that large zoos stay small."""
    by_component, by_module = dict(stated), dict(alphas)
    for component, fields in stated:
        mine = {f.module.partition(".")[2] for f in factors if f.module.startswith(f"{component}.")}
        fields.check_work(mine, METADATA_KEY)

    def scale(module: str, rank: int) -> float:
        component, _, inner = module.partition(".")
        if component in by_component:
            return _stated_scale(by_component[component], module, inner, rank)
        return by_module[module] / rank if module in by_module else 1.0

    return pair(factors, scale, "diffusers", renames)


def _stated_scale(fields: LoraSettings, module: str, inner: str, rank: int) -> float:
    if fields.rank(inner) != rank:
        raise Refusal(Reason.BAD_SHAPE, f"{module!r} has rank {rank}, but {METADATA_KEY} says {fields.rank(inner)}")
    return fields.scale(inner)


def _stated(opened: Opened) -> tuple[tuple[str, LoraSettings], ...]:
    """LoraConfig's fields per component; the metadata holds them flattened as "unet.r", "unet.lora_alpha",
    …"""
    text = opened.header.metadata.get(METADATA_KEY)
    if not text:
        return ()
    where = f"{opened.where}, {METADATA_KEY}"
    if len(text) > _MAX_METADATA:
        raise Refusal(Reason.BAD_CONFIG, f"{where} has {len(text)} characters, at most {_MAX_METADATA}")
    try:
        flat = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refusal(Reason.BAD_CONFIG, f"{where} is no valid JSON ({error})") from error
    if not isinstance(flat, dict):
        raise Refusal(Reason.BAD_CONFIG, f"{where} is no JSON object")
    fields: dict[str, dict[str, Any]] = {}
    for key, value in flat.items():
        component, _, name = key.partition(".")
        if component not in COMPONENTS or not name:
            raise Refusal(Reason.BAD_CONFIG, f"{where}: {key!r} names no component of a pipeline")
        fields.setdefault(component, {})[name] = value
    return tuple((component, settings(entry, f"{where}, {component}")) for component, entry in fields.items())

"""LoRA kept inside a full checkpoint: peft's factors among the weights of the whole model.

A trainer that saves the model as it stands in memory (Lightning, accelerate, torch.save) writes
`….q_proj.base_layer.weight` (peft before 0.6: `….q_proj.weight`) beside `….q_proj.lora_A.default.weight`. The factors
are taken as from peft's own file, ranks and alpha from the `adapter_config.json` beside. The base's weights are
not the adapter's and are left out; what is kept as extras is what peft itself would have saved: modules_to_save,
trained tokens, biases of B, and the base's biases if the configuration says that they were trained.

peft's own files hold base weights too: those of the input and output embeddings (two modules at most, when their
vocabulary grew), and biases. A file with anything else of a base layer is a checkpoint; one of before 0.6, whose base
layers have no name of their own, is one if most of its modules have their base weight (or what a quantisation made of
it) beside their factors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from ingest.errors import Refusal
from ingest.formats import foreign, peft
from ingest.formats.adapter import LoraAdapter
from ingest.formats.lora_config import AdapterConfig
from ingest.formats.opened import Opened
from ingest.reasons import Reason

NAME = "checkpoint"

_MOST_EMBEDDINGS = 2
# What transformers calls the embeddings that peft saves along.
_EMBEDDING = re.compile(r"embed|(?:^|\.)(?:wte|shared|lm_head|head|score|output|output_layer|decoder)$")
_BASE_LAYER = ".base_layer."
# GPTQ's and bitsandbytes' spellings of a weight among them: `qweight`, `weight.absmax`.
_WEIGHT = re.compile(r"(?P<module>.+?)\.(?:q?weight|weight_packed)(?:\.[^.]+)?")
_OWN = (".modules_to_save.", ".trainable_tokens_")


def claims(keys: Iterable[str], has_config: bool) -> bool:
    """Whether modules that have factors have their base's tensors beside them."""
    del has_config
    modules: set[str] = set()
    embeddings: set[str] = set()
    others: list[str] = []
    for key in keys:
        said = peft.split(key)
        if said is None:
            others.append(key)
        else:
            modules.add(said.module)
            if said.embedding:
                embeddings.add(said.module)
    if not modules:
        return False
    named = {module for key in others if (module := _base_layer_of(key)) is not None}
    saved_along = {module for module in named if module in embeddings or _EMBEDDING.search(module)}
    if named - saved_along or len(saved_along) > _MOST_EMBEDDINGS:
        return True
    beside = {match["module"] for key in others if (match := _WEIGHT.fullmatch(key))} & modules
    linear = {module for module in modules - embeddings if not _EMBEDDING.search(module)}
    return 2 * len(beside & linear) > len(linear) > 0


def _base_layer_of(key: str) -> str | None:
    """The module whose base layer a tensor belongs to; None for trained biases, which peft saves, and for others."""
    module, infix, rest = key.partition(_BASE_LAYER)
    return module if infix and not rest.endswith("bias") and not foreign.looks_like_lora(rest) else None


def parse(opened: Opened) -> LoraAdapter:
    """Read one checkpoint's adapter; see `ingest.formats.parse` for what it raises."""
    if opened.config is None:
        raise Refusal(
            Reason.BAD_CONFIG,
            f"{opened.where} is a whole model with LoRA factors in it, and no adapter_config.json beside it states "
            "their alpha",
        )
    bias = _trained_bias(opened.config)
    modules = {said.module for said in map(peft.split, opened.header.tensors) if said is not None}
    chosen = tuple(
        tensor
        for key, tensor in opened.header.tensors.items()
        if foreign.looks_like_lora(key) or any(mark in key for mark in _OWN) or _is_trained_bias(key, bias, modules)
    )
    found, extras = peft.assigned(opened, chosen, opened.config.settings)
    return opened.adapter(NAME, found, extras)


def _trained_bias(config: AdapterConfig) -> str:
    """peft's `bias`: "none", "all" or "lora_only"."""
    bias = json.loads(config.text).get("bias") or "none"
    if bias not in ("none", "all", "lora_only"):
        raise Refusal(
            Reason.BAD_CONFIG, f"adapter_config.json: bias is {str(bias)[:60]!r}, expected none, all or lora_only"
        )
    return str(bias)


def _is_trained_bias(key: str, bias: str, modules: set[str]) -> bool:
    if bias == "none" or not key.endswith(".bias"):
        return False
    return bias == "all" or key.removesuffix(".bias").removesuffix(".base_layer") in modules

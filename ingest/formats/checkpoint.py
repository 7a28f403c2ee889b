"""LoRA kept inside a full checkpoint: peft's factors among the weights of the whole model.

A trainer that saves the model as it stands in memory (Lightning, accelerate, torch.save) writes
`….q_proj.base_layer.weight` (peft before 0.6: `….q_proj.weight`) beside `….q_proj.lora_A.default.weight`. The factors
are taken as from peft's own file, ranks and alpha from the `adapter_config.json` beside. The base's weights are
not the adapter's and are left out; what is kept as extras is what peft itself would have saved: modules_to_save,
trained tokens, biases of B, and the base's biases if the configuration says that they were trained.

peft's own files hold base weights too, of the input and output embeddings (two modules at most, when their
vocabulary grew); a file is a checkpoint if more than two modules have factors and every one has its base weight.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from ingest.errors import Refusal
from ingest.formats import foreign, peft
from ingest.formats.adapter import LoraAdapter
from ingest.formats.lora_config import AdapterConfig
from ingest.formats.opened import Opened
from ingest.reasons import Reason

NAME = "checkpoint"

_MOST_EMBEDDINGS = 2
_OWN = (".modules_to_save.", ".trainable_tokens_")


def claims(keys: Iterable[str], has_config: bool) -> bool:
    """Whether every module that has factors has its base weight beside them."""
    del has_config
    names = frozenset(keys)
    modules = {said.module for said in map(peft.split, names) if said is not None and not said.embedding}
    return len(modules) > _MOST_EMBEDDINGS and all(
        f"{module}.base_layer.weight" in names or f"{module}.weight" in names for module in modules
    )


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

"""peft's own files: `adapter_config.json` beside `adapter_model.safetensors`.

Keys are `base_model.model.<module>.lora_A.weight`; older and multi-adapter files put an adapter's name in
between (`lora_A.default.weight`); embeddings have `lora_embedding_A` (r × vocabulary) and `_B` (width × r)
with no `.weight`; a convolution's A is r × in × kernel and its B out × r × 1. `fan_in_fan_out` (gpt2's
Conv1D) transposes the base weight, never A or B, so it plays no part here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from ingest.errors import Refusal
from ingest.formats import foreign
from ingest.formats.adapter import LoraAdapter, LoraModule
from ingest.formats.lora_config import LoraSettings
from ingest.formats.opened import Opened
from ingest.formats.pairing import Factor, pair
from ingest.names import Rename
from ingest.reasons import Reason
from ingest.safetensors_file import TensorRef

NAME = "peft"

_BASE = "base_model.model."
_FACTOR = re.compile(
    r"(?P<module>.+)\.(?:"
    r"lora_(?P<side>[AB])(?:\.(?P<adapter>[^.]+))?\.weight"
    r"|lora_embedding_(?P<embedding_side>[AB])(?:\.(?P<embedding_adapter>[^.]+))?)"
)
# With lora_bias, B has a bias of its own: no factor, but of the adapter.
_FACTOR_BIAS = re.compile(r".+\.lora_B(?:\.[^.]+)?\.bias")


class _Key(NamedTuple):
    module: str
    side: str
    embedding: bool
    adapter: str


@lru_cache(maxsize=1 << 16)
def _split(key: str) -> _Key | None:
    match = _FACTOR.fullmatch(key)
    if match is None:
        return None
    module, side, adapter, embedding_side, embedding_adapter = match.groups()
    if side:
        return _Key(module, side, False, adapter or "")
    # Some tools write `lora_embedding_A.weight`.
    return _Key(module, embedding_side, True, "" if embedding_adapter in (None, "weight") else embedding_adapter)


@lru_cache(maxsize=1 << 16)
def _is_extra(key: str) -> bool:
    return _FACTOR_BIAS.fullmatch(key) is not None or not foreign.looks_like_lora(key)


def claims(keys: Iterable[str], has_config: bool) -> bool:
    """Whether a file is peft's: it has a factor as peft names it, and a configuration or peft's prefix."""
    return any(_split(key) is not None and (has_config or key.startswith(_BASE)) for key in keys)


def parse(opened: Opened) -> LoraAdapter:
    """Read one peft adapter; see `ingest.formats.parse` for what it raises."""
    if opened.config is None:
        raise Refusal(
            Reason.BAD_CONFIG,
            f"{opened.where} is peft's, but no adapter_config.json beside it states its alpha",
        )
    tensors = tuple(opened.header.tensors.values())
    modules, extras = _modules(tensors, opened.config.settings, opened.options.renames, opened.where)
    return opened.adapter(NAME, modules, extras)


@lru_cache(maxsize=256)
def _modules(
    tensors: tuple[TensorRef, ...], settings: LoraSettings, renames: tuple[Rename, ...], where: str
) -> tuple[tuple[LoraModule, ...], tuple[TensorRef, ...]]:
    """Modules and extras; adapters with equal headers and ranks share them, so that large zoos stay small."""
    factors: list[Factor] = []
    extras: list[TensorRef] = []
    adapters: set[str] = set()
    for tensor in tensors:
        split = _split(tensor.key)
        if split is not None:
            factors.append(Factor(split.module, split.side, split.embedding, tensor))
            adapters.add(split.adapter)
        elif _is_extra(tensor.key):
            extras.append(tensor)
        else:
            raise foreign.stranger(tensor.key, where)
    named = sorted(adapters - {""})
    if len(named) > 1:
        raise Refusal(
            Reason.UNKNOWN_KEYS,
            f"{where} holds {len(named)} adapters ({', '.join(named[:4])}); save each in a folder of its own",
        )

    def scale(module: str, rank: int) -> float:
        # Patterns are matched against the name in the base model, which peft's prefix is no part of.
        base_name = module.removeprefix(_BASE)
        stated = settings.rank(base_name)
        if stated != rank:
            raise Refusal(
                Reason.BAD_SHAPE,
                f"{module!r} has rank {rank}, but adapter_config.json (r, rank_pattern) says {stated}",
            )
        return settings.scale(base_name)

    return pair(factors, scale, "transformers", renames), tuple(extras)

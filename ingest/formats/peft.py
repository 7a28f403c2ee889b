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
from ingest.formats.lora_settings import LoraSettings
from ingest.formats.opened import Opened
from ingest.formats.pairing import Factor, pair
from ingest.formats.sorting import SHARED_TENSORS
from ingest.names import Rename
from ingest.reasons import Reason
from ingest.safetensors_file import TensorRef

NAME = "peft"

_BASE = "base_model.model."
# What a trainer or a saved checkpoint puts before peft's prefix, or before the base's names; "model" is both a
# trainer's and a base's.
_WRAPPERS = frozenset(("", "state_dict", "module", "_forward_module", "_orig_mod"))
_OUTSIDE = _WRAPPERS | {"model"}
_FACTOR = re.compile(
    r"(?P<module>.+)\.(?:"
    r"lora_(?P<side>[AB])(?:\.(?P<adapter>[^.]+))?\.weight"
    r"|lora_embedding_(?P<embedding_side>[AB])(?:\.(?P<embedding_adapter>[^.]+))?)"
)
# With lora_bias, B has a bias of its own: no factor, but of the adapter.
_FACTOR_BIAS = re.compile(r".+\.lora_B(?:\.[^.]+)?\.bias")


class Key(NamedTuple):
    """What a factor's key says."""

    module: str
    side: str
    embedding: bool
    adapter: str


@lru_cache(maxsize=1 << 14)
def split(key: str) -> Key | None:
    """A factor's key taken apart, None if it is none."""
    match = _FACTOR.fullmatch(key) if ".lora_" in key else None
    if match is None:
        return None
    module, side, adapter, embedding_side, embedding_adapter = match.groups()
    if side:
        return Key(module, side, False, adapter or "")
    # Some tools write `lora_embedding_A.weight`.
    return Key(module, embedding_side, True, "" if embedding_adapter in (None, "weight") else embedding_adapter)


@lru_cache(maxsize=1 << 14)
def _is_extra(key: str) -> bool:
    return _FACTOR_BIAS.fullmatch(key) is not None or not foreign.looks_like_lora(key)


def claims(keys: Iterable[str], has_config: bool) -> bool:
    """Whether a file is peft's: it has a factor as peft names it, and a configuration or peft's prefix."""
    return any(split(key) is not None and (has_config or key.startswith(_BASE)) for key in keys)


def parse(opened: Opened) -> LoraAdapter:
    """Read one peft adapter; see `ingest.formats.parse` for what it raises."""
    if opened.config is None:
        raise Refusal(
            Reason.BAD_CONFIG,
            f"{opened.where} is peft's, but no adapter_config.json beside it states its alpha",
        )
    modules, extras = assigned(opened, tuple(opened.header.tensors.values()), opened.config.settings)
    return opened.adapter(NAME, modules, extras)


def assigned(
    opened: Opened, tensors: tuple[TensorRef, ...], settings: LoraSettings
) -> tuple[tuple[LoraModule, ...], tuple[TensorRef, ...]]:
    """Modules and extras of these tensors; adapters with equal headers and ranks share them.

    Raises
    ------
    Refusal
        As `ingest.formats.parse`.
    """
    function = _assigned if len(tensors) <= SHARED_TENSORS else _assigned.__wrapped__
    return function(tensors, settings, opened.options.renames, opened.options.ignore_magnitude, opened.where)


@lru_cache(maxsize=64)
def _assigned(
    tensors: tuple[TensorRef, ...],
    settings: LoraSettings,
    renames: tuple[Rename, ...],
    ignore_magnitude: bool,
    where: str,
) -> tuple[tuple[LoraModule, ...], tuple[TensorRef, ...]]:
    factors: list[Factor] = []
    extras: list[TensorRef] = []
    adapters: set[str] = set()
    for tensor in tensors:
        said = split(tensor.key)
        if said is not None:
            factors.append(Factor(said.module, said.side, said.embedding, tensor))
            adapters.add(said.adapter)
        elif (ignore_magnitude and foreign.is_magnitude(tensor.key)) or _is_extra(tensor.key):
            extras.append(tensor)
        else:
            raise foreign.stranger(tensor.key, where)
    named = sorted(adapters - {""})
    if len(named) > 1:
        raise Refusal(
            Reason.UNKNOWN_KEYS,
            f"{where} holds {len(named)} adapters ({', '.join(named[:4])}); save each in a folder of its own",
        )

    readings = {factor.module: _in_base(factor.module) for factor in factors}
    settings.check_work([name for names in readings.values() for name in names], where)

    def scale(module: str, rank: int) -> float:
        # Patterns are matched against the name in the base model, which peft's prefix is no part of.
        names = readings[module]
        stated, chosen = settings.rank(names[0]), settings.scale(names[0])
        other = next((name for name in names if (settings.rank(name), settings.scale(name)) != (stated, chosen)), None)
        if other is not None:
            raise Refusal(
                Reason.BAD_CONFIG,
                f"{where}: whether {module!r} is {names[0]!r} or {other!r} in the base is unknown, and rank_pattern or "
                "alpha_pattern tells these apart; save it with peft's save_pretrained",
            )
        if stated != rank:
            raise Refusal(
                Reason.BAD_SHAPE,
                f"{module!r} has rank {rank}, but adapter_config.json (r, rank_pattern) says {stated}",
            )
        return chosen

    return pair(factors, scale, "transformers", renames), tuple(extras)


def _in_base(module: str) -> tuple[str, ...]:
    """What a module may be called in the base: several names where "model." may be the base's or a wrapper's.

    The projections inside a wrapped nn.MultiheadAttention (`attn.base_layer.out_proj`) have the rank and the alpha of
    the attention itself.
    """
    module = module.partition(".base_layer.")[0]
    head, prefix, rest = module.partition(_BASE)
    if prefix and all(part in _OUTSIDE for part in head.split(".")):
        return (rest,)
    names = [_unwrapped(module)]
    while names[-1].startswith("model."):
        names.append(_unwrapped(names[-1].removeprefix("model.")))
    return tuple(names)


def _unwrapped(name: str) -> str:
    first, _, rest = name.partition(".")
    while first in _WRAPPERS and rest:
        name = rest
        first, _, rest = name.partition(".")
    return name

"""A LoRA configuration: what it refuses outright, and the rank and scale it gives each module.

peft's semantics (0.21): defaults of `LoraConfig`, `get_pattern_key` for rank_pattern and alpha_pattern,
scaling as in `LoraLayer.update_layer`. diffusers stores the same fields in a safetensors file's metadata.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ingest.errors import Refusal
from ingest.reasons import Reason

_MAX_CONFIG_BYTES = 16 << 20
_DEFAULT_RANK = 8
_DEFAULT_ALPHA = 8

# Truthy → ΔW is no scale · B · A on the layers as named.
_VARIANTS: dict[str, str] = {
    "use_qalora": "QA-LoRA pools the input before A",
    "alora_invocation_tokens": "activated LoRA applies to some tokens only",
    "use_bdlora": "BD-LoRA stores block-diagonal factors",
    "arrow_config": "Arrow routes between adapters",
    "kasa_config": "KaSA puts a diagonal between B and A and truncates the base",
    "monteclora_config": "MonteCLoRA samples its factors",
    "layer_replication": "the layers are those of a model with repeated layers",
    "target_parameters": "factors of expert parameters, several experts in one tensor",
    "enable_lora": "merged projections (peft before 0.3) store grouped factors",
    "use_hira": "HiRA multiplies the base weight elementwise",
    "use_mora": "MoRA has a square matrix between compression and decompression",
}

# Initialisations that leave the base as it is: ΔW = scale · B · A then holds on the plain base. EVA,
# orthogonal and MiCA choose A or B from data or from the base but subtract nothing.
_PLAIN_INITS = frozenset(("", "true", "false", "gaussian", "eva", "orthogonal", "mica"))
# Initialisations that replace W by W − scale · B₀ · A₀ (peft's documentation and `*_init` methods).
_BASE_CHANGING_INITS = ("pissa", "olora", "corda", "loftq", "lora_ga", "lora-ga", "loraga")


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Rank and alpha of each module, as peft resolves them.

    Attributes
    ----------
    r, alpha
        The defaults for modules that no pattern matches.
    use_rslora
        Scale by alpha / √r instead of alpha / r.
    rank_pattern, alpha_pattern
        Pairs (regular expression, value) in the configuration's order.
    """

    r: int
    alpha: float
    use_rslora: bool
    rank_pattern: tuple[tuple[str, int], ...]
    alpha_pattern: tuple[tuple[str, float], ...]

    def rank(self, module: str) -> int:
        """The rank peft gives a module, named as in the base model it was trained on."""
        at = _pattern_at(tuple(key for key, _ in self.rank_pattern), module)
        return self.r if at is None else self.rank_pattern[at][1]

    def scale(self, module: str) -> float:
        """The float by which peft multiplies B · A."""
        at = _pattern_at(tuple(key for key, _ in self.alpha_pattern), module)
        alpha = self.alpha if at is None else self.alpha_pattern[at][1]
        rank = self.rank(module)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """An `adapter_config.json` that describes a plain LoRA.

    Attributes
    ----------
    text
        The file word for word.
    settings
        Ranks and scales.
    base_model
        `base_model_name_or_path`, None if null.
    """

    text: str
    settings: LoraSettings
    base_model: str | None


def read_config(path: str) -> AdapterConfig:
    """Read an `adapter_config.json`; every refusal that needs no weights comes from here.

    Raises
    ------
    Refusal
        `unreadable`, `bad-config`, `not-lora` (another peft_type), `dora`, `variant` or `altered-base`.
    """
    where = os.path.basename(path)
    try:
        with open(path, "rb") as file:
            # Read by its size: asking for the limit would allocate the limit.
            size = os.fstat(file.fileno()).st_size
            raw = file.read(size) if size <= _MAX_CONFIG_BYTES else b""
    except OSError as error:
        raise Refusal(Reason.UNREADABLE, f"{where} cannot be read ({error.strerror or error})") from error
    if size > _MAX_CONFIG_BYTES:
        raise Refusal(Reason.BAD_CONFIG, f"{where} is larger than {_MAX_CONFIG_BYTES} bytes")
    try:
        text = raw.decode("utf-8-sig")
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refusal(Reason.BAD_CONFIG, f"{where} is no valid JSON ({error})") from error
    if not isinstance(fields, dict):
        raise Refusal(Reason.BAD_CONFIG, f"{where} is no JSON object")
    _check_type(fields, where)
    base_model = fields.get("base_model_name_or_path")
    if base_model is not None and not (isinstance(base_model, str) and base_model.isprintable()):
        raise _wrong(where, "base_model_name_or_path", base_model, "a printable string or null")
    return AdapterConfig(text, settings(fields, where), base_model or None)


def _check_type(fields: Mapping[str, Any], where: str) -> None:
    peft_type = fields.get("peft_type")
    if not isinstance(peft_type, str):
        raise Refusal(
            Reason.BAD_CONFIG,
            f"{where} names no peft_type (got {peft_type!r}); peft writes it in every configuration",
        )
    if peft_type.upper() == "HIRA":
        raise Refusal(Reason.VARIANT, f"{where} says peft_type HIRA: {_VARIANTS['use_hira']}")
    if peft_type.upper() != "LORA":
        raise Refusal(Reason.NOT_LORA, f"{where} says peft_type {peft_type!r}; only LORA has the factors A and B")


def settings(fields: Mapping[str, Any], where: str) -> LoraSettings:
    """Check a LoRA's configuration and read ranks and scales from it; absent fields take peft's defaults.

    Raises
    ------
    Refusal
        `dora`, `variant`, `altered-base` or `bad-config`.
    """
    if fields.get("use_dora"):
        raise Refusal(Reason.DORA, f"{where} sets use_dora: its magnitudes rescale the whole weight")
    for key, why in _VARIANTS.items():
        if fields.get(key):
            raise Refusal(Reason.VARIANT, f"{where} sets {key}: {why}")
    _check_init(fields.get("init_lora_weights", True), where)
    use_rslora = fields.get("use_rslora", False)
    if use_rslora is not None and not isinstance(use_rslora, bool):
        raise _wrong(where, "use_rslora", use_rslora, "true or false")
    return LoraSettings(
        r=_rank(fields.get("r", _DEFAULT_RANK), "r", where),
        alpha=_alpha(fields.get("lora_alpha", _DEFAULT_ALPHA), "lora_alpha", where),
        use_rslora=bool(use_rslora),
        rank_pattern=tuple(
            (key, _rank(value, f"rank_pattern[{key!r}]", where))
            for key, value in _pattern(fields.get("rank_pattern"), "rank_pattern", where)
        ),
        alpha_pattern=tuple(
            (key, _alpha(value, f"alpha_pattern[{key!r}]", where))
            for key, value in _pattern(fields.get("alpha_pattern"), "alpha_pattern", where)
        ),
    )


def _check_init(init: Any, where: str) -> None:
    name = str(init).lower() if init is not None else ""
    if name in _PLAIN_INITS:
        return
    if name.startswith(_BASE_CHANGING_INITS) or "_niter_" in name:
        raise Refusal(
            Reason.ALTERED_BASE,
            f"{where} says init_lora_weights {str(init)[:60]!r}, which subtracts the start from the base; "
            "convert it with peft's save_pretrained(path_initial_model_for_weight_conversion=…)",
        )
    raise Refusal(
        Reason.BAD_CONFIG,
        f"{where} says init_lora_weights {str(init)[:60]!r}, unknown here: it may have changed the base",
    )


def _pattern(value: Any, key: str, where: str) -> list[tuple[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, dict):
        raise _wrong(where, key, value, "an object")
    for pattern in value:
        if not _tame(pattern):
            raise Refusal(
                Reason.BAD_CONFIG,
                f"{where}: {key} has {pattern[:60]!r}, a regular expression that could take for ever; simplify it",
            )
        try:
            _compiled(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise Refusal(
                Reason.BAD_CONFIG, f"{where}: {key} has the invalid regular expression {pattern!r} ({error})"
            ) from error
    return list(value.items())


def _rank(value: Any, key: str, where: str) -> int:
    if type(value) is not int or not 0 < value < 1 << 31:
        raise _wrong(where, key, value, "a positive integer")
    return int(value)


def _alpha(value: Any, key: str, where: str) -> float:
    # Kept as the int or float it is, so that the division is peft's. Beyond 2⁵³ it is no alpha, and an int
    # might overflow.
    if type(value) not in (int, float) or not abs(value) <= 1 << 53:
        raise _wrong(where, key, value, "a finite number")
    return value  # type: ignore[no-any-return]


def _wrong(where: str, key: str, value: Any, wanted: str) -> Refusal:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:60]}…"
    return Refusal(Reason.BAD_CONFIG, f"{where}: {key} is {shown}, expected {wanted}")


def _tame(pattern: str) -> bool:
    """Whether a pattern from a stranger is matched in reasonable time: no repeated group, few repeats, not long.

    Python's matcher backtracks, so "(a+)+" takes time exponential in a name's length, and n repeats its n-th power.
    """
    return len(pattern) <= 1000 and not re.search(r"\)[*+{]", pattern) and len(re.findall(r"[*+{]", pattern)) <= 3


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    # peft's get_pattern_key, character for character.
    return re.compile(rf"(.*\.)?({pattern})$")


@lru_cache(maxsize=1 << 16)
def _pattern_at(patterns: tuple[str, ...], module: str) -> int | None:
    """The first pattern that matches, as in peft's `get_pattern_key`; None if none does."""
    for at, pattern in enumerate(patterns):
        if _compiled(pattern).match(module):
            return at
    # get_pattern_key then returns the module's own name, which may be a key that, as a regular expression, is
    # another.
    return patterns.index(module) if module in patterns else None

"""A LoRA configuration: what it refuses outright, and the settings that it gives.

peft's semantics (0.21) and defaults of `LoraConfig`. diffusers stores the same fields in a safetensors file's metadata.
"""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ingest.errors import Refusal
from ingest.formats.lora_settings import LoraSettings, Patterns
from ingest.formats.options import DEFAULT, Conversion, Options
from ingest.formats.patterns import patterns
from ingest.reasons import Reason

_MAX_CONFIG_BYTES = 4 << 20
_MAX_RANK = 1 << 16
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

_CONVERSIONS: dict[str, Conversion] = {"LOHA": "loha", "LOKR": "lokr"}

# Initialisations that leave the base as it is: ΔW = scale · B · A then holds on the plain base. EVA,
# orthogonal and MiCA choose A or B from data or from the base but subtract nothing.
_PLAIN_INITS = frozenset(("", "true", "false", "gaussian", "eva", "orthogonal", "mica"))
# Initialisations that replace W by W − scale · B₀ · A₀ (peft's documentation and `*_init` methods).
_BASE_CHANGING_INITS = ("pissa", "olora", "corda", "loftq", "lora_ga", "lora-ga", "loraga")


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
    peft_type
        "LORA", or "LOHA" or "LOKR" where the user has these converted.
    use_dora
        Whether it says so; only where the user ignores the magnitudes.
    """

    text: str
    settings: LoraSettings
    base_model: str | None
    peft_type: str = "LORA"
    use_dora: bool = False


def read_config(path: str, options: Options = DEFAULT) -> AdapterConfig:
    """Read an `adapter_config.json`; every refusal that needs no weights comes from here.

    peft's own HiRA says so; HiRA of other implementations that says LORA, with LoRA's keys, is told by nothing in the
    files.

    Parameters
    ----------
    path
        The file.
    options
        What the user allows: `ignore_magnitude`, `convert`.

    Raises
    ------
    Refusal
        `unreadable`, `bad-config`, `not-lora` (another peft_type), `dora`, `variant` or `altered-base`.
    """
    where = os.path.basename(path)
    text = read_text(path)
    try:
        fields = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise Refusal(Reason.BAD_CONFIG, f"{where} is no valid JSON ({error})") from error
    if not isinstance(fields, dict):
        raise Refusal(Reason.BAD_CONFIG, f"{where} is no JSON object")
    peft_type = _check_type(fields, where, options)
    if peft_type != "LORA":
        fields = _lycoris_fields(fields)
    base_model = fields.get("base_model_name_or_path")
    if base_model is not None and not (isinstance(base_model, str) and base_model.isprintable()):
        raise _wrong(where, "base_model_name_or_path", base_model, "a printable string or null")
    read = settings(fields, where, options.ignore_magnitude)
    return AdapterConfig(text, read, base_model or None, peft_type, bool(fields.get("use_dora")))


def read_text(path: str) -> str:
    """A configuration word for word; it may be any text.

    Raises
    ------
    Refusal
        `unreadable`, or `bad-config` if it is too long or no UTF-8.
    """
    where = os.path.basename(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for a writer
            raise Refusal(Reason.UNREADABLE, f"{where} is no regular file")
        with open(path, "rb") as file:
            # Read by its size: asking for the limit would allocate the limit.
            size = os.fstat(file.fileno()).st_size
            raw = file.read(size) if size <= _MAX_CONFIG_BYTES else b""
    except OSError as error:
        raise Refusal(Reason.UNREADABLE, f"{where} cannot be read ({error.strerror or error})") from error
    if size > _MAX_CONFIG_BYTES:
        raise Refusal(Reason.BAD_CONFIG, f"{where} is larger than {_MAX_CONFIG_BYTES} bytes")
    try:
        return raw.decode("utf-8-sig")
    except ValueError as error:
        raise Refusal(Reason.BAD_CONFIG, f"{where} is no UTF-8 ({error})") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice[:60]!r} occurs twice")
    return result


def _lycoris_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What `LoHaConfig` and `LoKrConfig` share with `LoraConfig`, under its names; of the rest nothing scales."""
    kept = {key: fields[key] for key in ("r", "rank_pattern", "alpha_pattern") if key in fields}
    base = fields.get("base_model_name_or_path")
    return {**kept, "lora_alpha": fields.get("alpha", _DEFAULT_ALPHA), "base_model_name_or_path": base}


def _check_type(fields: Mapping[str, Any], where: str, options: Options) -> str:
    peft_type = fields.get("peft_type")
    if not isinstance(peft_type, str):
        raise Refusal(
            Reason.BAD_CONFIG,
            f"{where} names no peft_type (got {_shown(peft_type)}); peft writes it in every configuration",
        )
    if peft_type.upper() == "HIRA":
        raise Refusal(Reason.VARIANT, f"{where} says peft_type HIRA: {_VARIANTS['use_hira']}")
    conversion = _CONVERSIONS.get(peft_type.upper())
    if conversion is not None and conversion not in options.convert:
        raise Refusal(
            Reason.NOT_LORA,
            f"{where} says peft_type {peft_type!r}; --convert {conversion} rewrites it as LoRA where that is exact",
        )
    if peft_type.upper() != "LORA" and conversion is None:
        raise Refusal(Reason.NOT_LORA, f"{where} says peft_type {peft_type[:60]!r}; only LORA has the factors A and B")
    return peft_type.upper()


def settings(fields: Mapping[str, Any], where: str, ignore_magnitude: bool = False) -> LoraSettings:
    """Check a LoRA's configuration and read ranks and scales from it; absent fields take peft's defaults.

    Parameters
    ----------
    fields
        As in `LoraConfig`.
    where
        What they were read from, for messages.
    ignore_magnitude
        Whether DoRA is taken as the LoRA that it has beside its magnitudes.

    Raises
    ------
    Refusal
        `dora`, `variant`, `altered-base` or `bad-config`.
    """
    if fields.get("use_dora") and not ignore_magnitude:
        raise Refusal(
            Reason.DORA,
            f"{where} sets use_dora: its magnitudes rescale the whole weight; --ignore-magnitude takes A and B alone",
        )
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
        rank_pattern=_patterns(fields, "rank_pattern", where, _rank),
        alpha_pattern=_patterns(fields, "alpha_pattern", where, _alpha),
    )


def _patterns(fields: Mapping[str, Any], key: str, where: str, check: Callable[[Any, str, str], float]) -> Patterns:
    found = patterns(fields.get(key), key, where)
    return Patterns.of([(pattern, check(value, f"{key}[{pattern!r}]", where)) for pattern, value in found])


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


def _rank(value: Any, key: str, where: str) -> int:
    if type(value) is not int or not 0 < value <= _MAX_RANK:
        raise _wrong(where, key, value, f"an integer from 1 to {_MAX_RANK}")
    return int(value)


def _alpha(value: Any, key: str, where: str) -> float:
    # Kept as the int or float it is, so that the division is peft's. Beyond 2⁵³ it is no alpha, and an int
    # might overflow.
    if type(value) not in (int, float) or not abs(value) <= 1 << 53:
        raise _wrong(where, key, value, "a finite number")
    return value  # type: ignore[no-any-return]


def _wrong(where: str, key: str, value: Any, wanted: str) -> Refusal:
    return Refusal(Reason.BAD_CONFIG, f"{where}: {key} is {_shown(value)}, expected {wanted}")


def _shown(value: Any) -> str:
    shown = repr(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
    return shown if len(shown) <= 60 else f"{shown[:60]}…"

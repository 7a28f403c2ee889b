"""What a file is that no format here reads, told from its keys alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from ingest.errors import Refusal
from ingest.reasons import Reason


class _Mark(NamedTuple):
    """What betrays a method: a pattern, and literal parts of which every match has one, looked for first (faster)."""

    parts: tuple[str, ...]
    pattern: re.Pattern[str]
    reason: Reason
    what: str


# Searched for in every key, in this order: the first line that fits any key names the file.
_MARKS: tuple[_Mark, ...] = tuple(
    _Mark(tuple(parts.split()), re.compile(pattern), reason, what)
    for parts, pattern, reason, what in (
        (
            "lora_magnitude_vector dora_scale",
            r"\.lora_magnitude_vector|[._]dora_scale$",
            Reason.DORA,
            "DoRA magnitudes",
        ),
        (".hira_", r"\.hira_[AB]\b", Reason.VARIANT, "HiRA factors, which multiply the base weight elementwise"),
        (".lora_diag", r"\.lora_diag\b", Reason.VARIANT, "a diagonal between B and A (KaSA)"),
        (".lora_mid", r"\.lora_mid\.weight$", Reason.VARIANT, "a core tensor between B and A (LoCon's Tucker form)"),
        (".lora_E .ranknum", r"\.lora_E\b|\.ranknum\b", Reason.NOT_LORA, "AdaLoRA factors"),
        (".lora_", r"\.lora_[AB]$", Reason.UNKNOWN_KEYS, "loralib's factors, whose alpha is in no file"),
        ("hada_", r"[._]hada_w[12]|[._]hada_t[12]", Reason.NOT_LORA, "LoHa factors"),
        ("lokr_", r"[._]lokr_(w[12]|t2)", Reason.NOT_LORA, "LoKr factors"),
        ("glora_", r"[._]glora_", Reason.NOT_LORA, "GLoRA factors"),
        (".ia3_l", r"\.ia3_l\b", Reason.NOT_LORA, "IA3 vectors"),
        ("vera_", r"\bvera_(lambda|A|B)", Reason.NOT_LORA, "VeRA vectors"),
        ("unilora_", r"\bunilora_", Reason.NOT_LORA, "UniLoRA vectors"),
        ("vblora_", r"\bvblora_", Reason.NOT_LORA, "VB-LoRA vector banks"),
        ("randlora_", r"\brandlora_", Reason.NOT_LORA, "RandLoRA factors"),
        ("lora_", r"\bdelora_|\bgralora_|\btinylora_", Reason.NOT_LORA, "factors of another low-rank method"),
        ("finegates_", r"\bfinegates_", Reason.NOT_LORA, "FineGates vectors"),
        ("oft_", r"\b(b?oft)_(R|s|blocks|diag)\b|[._]oft_blocks", Reason.NOT_LORA, "OFT rotations"),
        (
            "fourierft_ waveft_ c3a_ shira_",
            r"\b(fourierft_spectrum|waveft_spectrum|c3a_kernel|shira_weight)",
            Reason.NOT_LORA,
            "spectra or kernels",
        ),
        (
            "hra_u bone_ miss_block road_",
            r"\b(hra_u|bone_|miss_block|road_theta|road_alpha)",
            Reason.NOT_LORA,
            "factors of another peft method",
        ),
        ("prompt", r"\b(prompt_embeddings|prompt_encoder|adaption_prompt)\b", Reason.NOT_LORA, "a trained prompt"),
        ("lycoris_", r"^lycoris_", Reason.UNKNOWN_KEYS, "a tensor of LyCORIS that no plain LoRA has"),
        (
            "lora_",
            r"^lora_(unet|te\d?|transformer|prior_unet)_",
            Reason.UNKNOWN_KEYS,
            "kohya's prefix before a tensor that no plain LoRA has",
        ),
        (
            "diffusion_model.",
            r"^diffusion_model\..*\.lora_",
            Reason.UNKNOWN_KEYS,
            "ComfyUI's prefix before a tensor that no plain LoRA has",
        ),
        (
            ".processor.",
            r"\.processor\.(proj|qkv)_lora\d?\.",
            Reason.UNKNOWN_KEYS,
            "the XLabs dialect, not read by this version; convert it with diffusers' scripts",
        ),
        ("_custom_diffusion.", r"_custom_diffusion\.", Reason.NOT_LORA, "Custom Diffusion weights"),
        (
            "emb_params clip_ < string_to_param",
            r"^(emb_params|clip_[lg]|<[^>]+>)$|string_to_param",
            Reason.NOT_LORA,
            "a textual inversion",
        ),
    )
)
_MAGNITUDE = re.compile(r"\.lora_magnitude_vector(\.|$)|[._]dora_scale$")


def mark(key: str) -> tuple[Reason, str] | None:
    """The method or dialect one key betrays, None if it betrays none."""
    for entry in _MARKS:
        for part in entry.parts:
            if part in key:
                if entry.pattern.search(key):
                    return entry.reason, entry.what
                break
    return None


def is_magnitude(key: str) -> bool:
    """Whether a tensor holds the magnitudes of DoRA, in any dialect."""
    return _MAGNITUDE.search(key) is not None


def looks_like_lora(key: str) -> bool:
    """Whether a tensor that no dialect knows must not be taken for a head or a bias."""
    return "lora" in key.lower() or mark(key) is not None


def stranger(key: str, where: str) -> Refusal:
    """The refusal for one key among factors that no dialect knows."""
    reason, what = mark(key) or (Reason.UNKNOWN_KEYS, "which no dialect here knows")
    return Refusal(reason, f"{where} has the tensor {key!r}: {what}")


def explain(keys: Iterable[str], where: str) -> Refusal:
    """The refusal for a file that no format claims.

    Parameters
    ----------
    keys
        All its tensors' names.
    where
        The file, for the message.
    """
    names = list(keys)
    text = "\n".join(names)
    for entry in _MARKS:
        if not any(part in text for part in entry.parts):
            continue
        example = next((key for key in names if entry.pattern.search(key)), None)
        if example is not None:
            return Refusal(entry.reason, f"{where} holds {entry.what} (such as {example!r})")
    example = next((key for key in names if "lora" in key.lower()), None)
    if example is not None:
        return Refusal(Reason.UNKNOWN_KEYS, f"{where} has {example!r} and the like, which no dialect here knows")
    return Refusal(
        Reason.NOT_LORA,
        f"{where} has {len(names)} tensors and no LoRA factor (such as {names[0]!r}): a full checkpoint or a head",
    )

"""What a file is that no format here reads, told from its keys alone."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ingest.errors import Refusal
from ingest.reasons import Reason

_LATER = "not read by this version; convert it with diffusers' or kohya's scripts"

# Searched for in every key, in this order: the first line that fits any key names the file.
_MARKS: tuple[tuple[re.Pattern[str], Reason, str], ...] = tuple(
    (re.compile(pattern), reason, what)
    for pattern, reason, what in (
        (r"\.lora_magnitude_vector|[._]dora_scale$", Reason.DORA, "DoRA magnitudes"),
        (r"\.hira_[AB]\b", Reason.VARIANT, "HiRA factors, which multiply the base weight elementwise"),
        (r"\.lora_diag\b", Reason.VARIANT, "a diagonal between B and A (KaSA)"),
        (r"\.lora_mid\.weight$", Reason.VARIANT, "a core tensor between B and A (LoCon's Tucker form)"),
        (r"\.lora_E\b|\.ranknum\b", Reason.NOT_LORA, "AdaLoRA factors"),
        (r"\.lora_[AB]$", Reason.UNKNOWN_KEYS, "loralib's factors, whose alpha is in no file"),
        (r"[._]hada_w[12]|[._]hada_t[12]", Reason.NOT_LORA, "LoHa factors"),
        (r"[._]lokr_(w[12]|t2)", Reason.NOT_LORA, "LoKr factors"),
        (r"[._]glora_", Reason.NOT_LORA, "GLoRA factors"),
        (r"\.ia3_l\b", Reason.NOT_LORA, "IA3 vectors"),
        (r"\bvera_(lambda|A|B)", Reason.NOT_LORA, "VeRA vectors"),
        (r"\bunilora_", Reason.NOT_LORA, "UniLoRA vectors"),
        (r"\bvblora_", Reason.NOT_LORA, "VB-LoRA vector banks"),
        (r"\brandlora_", Reason.NOT_LORA, "RandLoRA factors"),
        (r"\bdelora_|\bgralora_|\btinylora_", Reason.NOT_LORA, "factors of another low-rank method"),
        (r"\bfinegates_", Reason.NOT_LORA, "FineGates vectors"),
        (r"\b(b?oft)_(R|s|blocks|diag)\b|[._]oft_blocks", Reason.NOT_LORA, "OFT rotations"),
        (
            r"\b(fourierft_spectrum|waveft_spectrum|c3a_kernel|shira_weight)",
            Reason.NOT_LORA,
            "spectra or kernels",
        ),
        (
            r"\b(hra_u|bone_|miss_block|road_theta|road_alpha)",
            Reason.NOT_LORA,
            "factors of another peft method",
        ),
        (r"\b(prompt_embeddings|prompt_encoder|adaption_prompt)\b", Reason.NOT_LORA, "a trained prompt"),
        (r"^(unet|text_encoder):\d+:(up|down)$", Reason.UNKNOWN_KEYS, f"the cloneofsimo dialect, {_LATER}"),
        (r"^lycoris_", Reason.UNKNOWN_KEYS, f"the lycoris dialect, {_LATER}"),
        (r"^lora_(unet|te\d?|transformer|prior_unet)_", Reason.UNKNOWN_KEYS, f"the kohya dialect, {_LATER}"),
        (r"^diffusion_model\..*\.lora_", Reason.UNKNOWN_KEYS, f"the ComfyUI dialect, {_LATER}"),
        (r"\.processor\.(proj|qkv)_lora\d?\.", Reason.UNKNOWN_KEYS, f"the XLabs dialect, {_LATER}"),
        (r"_custom_diffusion\.", Reason.NOT_LORA, "Custom Diffusion weights"),
        (r"^(emb_params|clip_[lg]|<[^>]+>)$|string_to_param", Reason.NOT_LORA, "a textual inversion"),
    )
)
_LORA_LIKE = re.compile(r"lora", re.IGNORECASE)


def mark(key: str) -> tuple[Reason, str] | None:
    """The method or dialect one key betrays, None if it betrays none."""
    for pattern, reason, what in _MARKS:
        if pattern.search(key):
            return reason, what
    return None


def looks_like_lora(key: str) -> bool:
    """Whether a tensor that no dialect knows must not be taken for a head or a bias."""
    return mark(key) is not None or _LORA_LIKE.search(key) is not None


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
    for pattern, reason, what in _MARKS:
        example = next((key for key in names if pattern.search(key)), None)
        if example is not None:
            return Refusal(reason, f"{where} holds {what} (such as {example!r})")
    example = next((key for key in names if looks_like_lora(key)), None)
    if example is not None:
        return Refusal(Reason.UNKNOWN_KEYS, f"{where} has {example!r} and the like, which no dialect here knows")
    return Refusal(
        Reason.NOT_LORA,
        f"{where} has {len(names)} tensors and no LoRA factor (such as {names[0]!r}): a full checkpoint or a head",
    )

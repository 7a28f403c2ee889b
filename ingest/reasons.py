"""The reasons for which an adapter is refused: short codes for the ledger, one sentence each for a person."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why an adapter is not in the zoo; the value is the code written to the ledger."""

    UNREADABLE = "unreadable"
    TRUNCATED = "truncated"
    HEADER_MISMATCH = "header-mismatch"
    NO_WEIGHTS = "no-weights"
    PICKLE = "pickle"
    NOT_LORA = "not-lora"
    DORA = "dora"
    VARIANT = "variant"
    ALTERED_BASE = "altered-base"
    UNPAIRED = "unpaired"
    BAD_SHAPE = "bad-shape"
    BAD_CONFIG = "bad-config"
    UNKNOWN_KEYS = "unknown-keys"
    UNSUPPORTED_DTYPE = "unsupported-dtype"
    NON_FINITE = "non-finite"
    UNTRAINED = "untrained"
    OTHER_BASE = "other-base"
    NO_COMMON_LAYER = "no-common-layer"
    SHAPE_DISAGREES = "shape-disagrees"
    DUPLICATE = "duplicate"
    CHANGED = "changed"
    NOT_FOUND = "not-found"
    GATED = "gated"
    UNAVAILABLE = "unavailable"
    WRONG_BYTES = "wrong-bytes"
    REMOVED = "removed"

    @property
    def explanation(self) -> str:
        """One sentence saying what the code means."""
        return _EXPLANATIONS[self]


_EXPLANATIONS: dict[Reason, str] = {
    Reason.UNREADABLE: "The file cannot be opened, or is no safetensors file at all.",
    Reason.TRUNCATED: "The file ends before the tensors its header announces.",
    Reason.HEADER_MISMATCH: "The safetensors header contradicts itself or the bytes that follow it.",
    Reason.NO_WEIGHTS: "There is no weights file, or it holds no tensors.",
    Reason.PICKLE: "The weights are a pickle (.bin, .pt), which can run code when loaded; convert them.",
    Reason.NOT_LORA: "The adapter is of another kind, or holds no LoRA factors.",
    Reason.DORA: "DoRA rescales the whole weight by a trained magnitude: its update is not scale · B · A.",
    Reason.VARIANT: "A LoRA variant whose update is not scale · B · A on the layers as named.",
    Reason.ALTERED_BASE: "Its initialisation changed the base, so its factors are wrong on the plain base.",
    Reason.UNPAIRED: "A module has one of its two factors only.",
    Reason.BAD_SHAPE: "The factors' shapes contradict each other or the rank its configuration states.",
    Reason.BAD_CONFIG: "The adapter's configuration is missing, unparsable or has values of the wrong type.",
    Reason.UNKNOWN_KEYS: "Tensors look like LoRA but are named in no dialect known here.",
    Reason.UNSUPPORTED_DTYPE: "A factor is not float16, bfloat16, float32 or float64.",
    Reason.NON_FINITE: "A factor holds NaN or infinity.",
    Reason.UNTRAINED: "A or B is exactly zero in every module: the adapter was never trained.",
    Reason.OTHER_BASE: "The adapter was trained on another base model than the zoo's.",
    Reason.NO_COMMON_LAYER: "The adapter and the zoo have no layer in common.",
    Reason.SHAPE_DISAGREES: "A layer's width differs from the zoo's layer of the same name.",
    Reason.DUPLICATE: "The same factors are in the zoo already.",
    Reason.CHANGED: "The files changed while they were read.",
    Reason.NOT_FOUND: "The Hub has no such repository, revision or file, or does not show it without a token.",
    Reason.GATED: "The repository's owner grants access on request; ask there, and log in.",
    Reason.UNAVAILABLE: "The Hub kept failing; the same command tries again.",
    Reason.WRONG_BYTES: "What was downloaded does not have the hash that the Hub states; --retry fetches it again.",
    Reason.REMOVED: "It was removed from the zoo; --readmit takes it back.",
}

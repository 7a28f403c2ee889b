"""What a user allows beyond the default when adapters are parsed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ingest.names import Rename

Conversion = Literal["loha", "lokr"]


@dataclass(frozen=True, slots=True)
class Options:
    """How adapters are parsed; hashable, so that parsed layouts can be shared.

    Attributes
    ----------
    renames
        The user's renames of layers.
    allow_pickle
        Whether .bin and .pt files are opened (by a weights-only load) instead of refused.
    ignore_magnitude
        Whether a DoRA adapter's factors are taken without its magnitudes, which then are kept as extras.
    convert
        Methods whose weights are rewritten exactly as LoRA factors instead of refused.
    unet_config
        A UNet's config.json, by which SGM-named keys of SDXL find their blocks; None refuses such keys.
    """

    renames: tuple[Rename, ...] = ()
    allow_pickle: bool = False
    ignore_magnitude: bool = False
    convert: frozenset[Conversion] = frozenset()
    unet_config: str | None = None


DEFAULT = Options()

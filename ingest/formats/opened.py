"""An adapter whose configuration and header are read: what detection and parsing work on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingest.formats import foreign
from ingest.formats.adapter import AdapterFiles, LoraAdapter, LoraModule
from ingest.formats.card import Card
from ingest.formats.lora_config import AdapterConfig
from ingest.formats.options import Options
from ingest.safetensors_file import SafetensorsHeader, TensorRef

if TYPE_CHECKING:
    from numpy.typing import NDArray


MAGNITUDE_IGNORED = " (magnitude ignored)"
"""Behind the name of the format of a DoRA adapter that was taken as a LoRA."""


@dataclass(frozen=True, slots=True)
class Opened:
    """One adapter's files with what was read of them, wherever they are.

    Attributes
    ----------
    files
        Their names; paths that exist here only if the adapter is not remote.
    config, header, card
        What was read of them.
    options
        What the user allows.
    fingerprint
        Changes when the files do.
    tensor
        Reads one tensor of the header; None where the values are not at hand (planning a remote adapter), and
        whatever depends on them (a scale from an alpha tensor) is NaN until the file is here and parsed again.
    recipe
        See `LoraAdapter.recipe`.
    """

    files: AdapterFiles
    config: AdapterConfig | None
    header: SafetensorsHeader
    card: Card
    options: Options
    fingerprint: str
    tensor: Callable[[TensorRef], NDArray[Any]] | None
    recipe: str = ""

    @property
    def where(self) -> str:
        """The weights file's name, for messages."""
        return os.path.basename(self.files.weights)

    def adapter(self, name: str, modules: tuple[LoraModule, ...], extras: Iterable[TensorRef]) -> LoraAdapter:
        """Put a format's findings together with everything all formats read alike.

        The record of an adapter that was taken without its DoRA magnitudes shows that in the format's name.
        """
        stated = self.config.base_model if self.config else None
        extras = tuple(sorted(extras, key=lambda ref: ref.key))
        dora = (self.config is not None and self.config.use_dora) or any(
            foreign.is_magnitude(ref.key) for ref in extras
        )
        return LoraAdapter(
            format=f"{name}{MAGNITUDE_IGNORED}" if dora else name,
            files=self.files,
            base_model=stated or self.card.base_model,
            modules=modules,
            factors=self.files.weights,
            data_start=self.header.data_start,
            extras=extras,
            config_text=self.config.text if self.config else None,
            metadata=self.header.metadata,
            licence=self.card.licence,
            fingerprint=self.fingerprint,
            recipe=self.recipe,
            size=self.header.size,
        )

"""An adapter whose configuration and header are read: what detection and parsing work on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from ingest.formats.adapter import AdapterFiles, LoraAdapter, LoraModule, fingerprint
from ingest.formats.card import read_card
from ingest.formats.lora_config import AdapterConfig
from ingest.names import Rename
from ingest.safetensors_file import SafetensorsHeader, TensorRef


@dataclass(frozen=True, slots=True)
class Opened:
    """One adapter's files with what was read of them, and the user's renames."""

    files: AdapterFiles
    config: AdapterConfig | None
    header: SafetensorsHeader
    renames: tuple[Rename, ...]

    @property
    def where(self) -> str:
        """The weights file's name, for messages."""
        return os.path.basename(self.files.weights)

    def adapter(self, name: str, modules: tuple[LoraModule, ...], extras: Iterable[TensorRef]) -> LoraAdapter:
        """Put a format's findings together with everything all formats read alike."""
        card = read_card(self.files.folder)
        stated = self.config.base_model if self.config else None
        return LoraAdapter(
            format=name,
            files=self.files,
            base_model=stated or card.base_model,
            modules=modules,
            data_start=self.header.data_start,
            extras=tuple(sorted(extras, key=lambda ref: ref.key)),
            config_text=self.config.text if self.config else None,
            metadata=self.header.metadata,
            licence=card.licence,
            fingerprint=fingerprint(self.files),
        )

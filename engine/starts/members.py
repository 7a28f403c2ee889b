"""Who has rows in a layer of a zoo."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ingest.store.reader import Zoo


def ordinals_of(zoo: Zoo, layer: str) -> list[int]:
    """Ordinals of the live adapters that have rows in a layer, in the order of their rows."""
    stored = zoo.stored
    return [i for i in zoo.entries(zoo.layer(layer))["adapter"].tolist() if stored[i].live]

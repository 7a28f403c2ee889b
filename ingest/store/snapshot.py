"""A snapshot of a zoo's catalogue: the events of its commits, and where rows lie."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ingest.errors import EigenzooError
from ingest.storage import Storage, open_storage
from ingest.store.behind import side_by_side
from ingest.store.catalog import AdapterRecord, Commit, LayerRecord, Segment, entry_dtype
from ingest.store.ledger import Ledger, Stored, replay
from ingest.store.root import lost
from ingest.store.segments import Events, read_entries, read_events, read_layer

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Snapshot:
    """One commit of a zoo, and its catalogue as far as it was asked for; `ingest.store.reader.Zoo` without rows.

    Parameters
    ----------
    path : str or Storage
        Where the zoo is.
    commit : Commit
    events : sequence of Events, optional
        Those of the commit's segments, where they are known already.
    """

    def __init__(self, path: str | Storage, commit: Commit, events: Sequence[Events] | None = None) -> None:
        self.storage = open_storage(path) if isinstance(path, str) else path
        self.path = self.storage.url
        self.commit = commit
        self._events = events
        self._table: tuple[int, NDArray[Any]] | None = None
        self._layer: tuple[int, NDArray[Any]] | None = None

    @property
    def events(self) -> Sequence[Events]:
        """Each commit's events."""
        if self._events is None:
            self._events = side_by_side(self.path, self._read_events, range(len(self.commit.segments)))
        return self._events

    @functools.cached_property
    def ledger(self) -> Ledger:
        """What the events of all commits come to."""
        return replay(events.records for events in self.events)

    @property
    def adapters(self) -> list[AdapterRecord]:
        """The ledger: every adapter in the zoo, refused, or removed."""
        return list(self.ledger.adapters)

    @property
    def stored(self) -> tuple[Stored, ...]:
        """Every adapter whose rows are stored, live or not, by ordinal."""
        return self.ledger.stored

    @functools.cached_property
    def accepted(self) -> list[AdapterRecord]:
        """The adapters in the zoo, by ordinal."""
        return [s.record for s in self.stored if s.live]

    @property
    def removed(self) -> list[AdapterRecord]:
        """The adapters that were removed and not accepted again."""
        return [r for r in self.ledger.adapters if r.status == "removed"]

    def ordinal(self, name: str) -> int:
        """The ordinal of a live adapter.

        Raises
        ------
        EigenzooError
            If no accepted adapter has that name.
        """
        at = self._ordinals.get(name)
        if at is None:
            raise EigenzooError(f"{self.path}: no accepted adapter {name!r}; `eigenzoo info` lists them")
        return at

    @functools.cached_property
    def _ordinals(self) -> dict[str, int]:
        return self.ledger.live()

    def entries(self, layer: LayerRecord) -> NDArray[Any]:
        """Row ranges, ranks, scales and digests of one layer: a record per stored adapter (`catalog.entry_dtype`)."""
        import numpy as np

        index = self.commit.layers.index(layer)
        held = self._layer  # both sides of a layer are asked for, one after the other
        if held is None or held[0] != index:
            events = self.events

            def read(at: int) -> NDArray[Any]:
                segment = self.commit.segments[at]
                try:
                    return read_layer(self.storage, segment, events[at], index)
                except (OSError, ValueError) as error:
                    raise self._lost(segment, "entries.npy", error) from error

            parts = side_by_side(self.path, read, [at for at, s in enumerate(self.commit.segments) if s.entries])
            held = self._layer = index, np.concatenate([np.empty(0, entry_dtype()), *parts])
            held[1].flags.writeable = False
        return held[1]

    def entry_tables(self) -> Iterator[NDArray[Any]]:
        """Each commit's entries, sorted by layer and adapter."""
        for index, segment in enumerate(self.commit.segments):
            if segment.entries:
                yield self._entries(index)

    def entries_of(self, ordinal: int) -> NDArray[Any]:
        """The entries of one stored adapter, layer by layer."""
        index, first = 0, ordinal
        while first >= self.commit.segments[index].ok:
            first -= self.commit.segments[index].ok
            index += 1
        held = self._table
        if held is None or held[0] != index:
            held = self._table = index, self._entries(index)
        found: NDArray[Any] = held[1][held[1]["adapter"] == ordinal]
        return found

    def _entries(self, index: int) -> NDArray[Any]:
        segment = self.commit.segments[index]
        try:
            return read_entries(self.storage, segment, self.events[index])
        except (OSError, ValueError) as error:
            raise self._lost(segment, "entries.npy", error) from error

    def _read_events(self, index: int) -> Events:
        segment = self.commit.segments[index]
        try:
            return read_events(self.storage, segment)
        except (OSError, ValueError) as error:
            raise self._lost(segment, "json", error) from error

    def _lost(self, segment: Segment, ending: str, error: Exception) -> EigenzooError:
        return lost(self.storage, segment.name, f"{segment.name}.{ending} is lost; restore it from a copy", error)

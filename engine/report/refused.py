"""The adapters that the run's zoo refused, as far as the zoo can still be asked."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest.errors import EigenzooError
from ingest.html import printable

if TYPE_CHECKING:
    from engine.run import Run


@dataclass(frozen=True, slots=True)
class Refused:
    """Refused adapters as (name, reason, detail), printable; `note` says why they are not known, "" where they are."""

    adapters: tuple[tuple[str, str, str], ...] = ()
    note: str = ""


def refused(run: Run) -> Refused:
    """Ask the run's zoo; one that is gone, or another one in its place, is said and is no error.

    Paths of sources stay out: the page is sent to people whom they do not concern.
    """
    from ingest.store.reader import open_zoo

    try:
        zoo = open_zoo(run.record.zoo)
        if run.record.zoo_uuid and zoo.commit.uuid != run.record.zoo_uuid:
            return Refused(note="Not known: another zoo lies where the run’s zoo lay.")
        records = [r for r in zoo.adapters if r.status == "refused"]
    except (EigenzooError, OSError):
        return Refused(note="Not known: the run’s zoo cannot be opened from here.")
    return Refused(tuple((printable(r.name), r.reason, printable(_local(r.detail, r.source))) for r in records))


def _local(detail: str, source: str) -> str:
    folder = os.path.dirname(source.rstrip("/"))
    return detail.replace(f"{folder}/", "") if folder else detail

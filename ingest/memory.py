"""How an ingest's memory is dealt out, in plain integers."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ingest.errors import EigenzooError
from ingest.planned import Plan
from ingest.spans import SPAN_BYTES

# Below this size of a tensor the interpreter's lock costs more than a second thread gains (measured: at 32 KiB two
# threads took 1.6 times as long as one).
THREADED_BYTES = 128 << 10


@dataclass(frozen=True, slots=True)
class Room:
    """How the memory is dealt out: threads, bytes of open chunks that each may hold, chunks waiting for the disk."""

    threads: int
    group: int
    behind: int


def deal_out(made: Plan, memory: int) -> Room:
    """Deal out the memory.

    Each thread holds what it reads, as much again to look at it, and a group of open chunks.  Arrays of one width fill
    up together, so as many chunks again may be waiting to be written.
    """
    chunks = [m.chunk_bytes for m in made.matrices] or [0]
    layouts = {id(p.adapter.modules): p.adapter.modules for p in made.adapters}.values()
    tensors = [ref.nbytes for modules in layouts for m in modules for ref in (m.a, m.b)] or [0]
    read = 2 * max(SPAN_BYTES, *tensors)
    least = read + 3 * max(chunks)
    if memory < least:
        raise EigenzooError(
            f"ingest needs {-(-least // (1 << 20))} MiB for these adapters, allowed {memory / (1 << 20):.1f} MiB; "
            "raise --memory"
        )
    threads = 1
    if sum(tensors) / len(tensors) >= THREADED_BYTES:
        threads = max(1, min(memory // (read + 3 * max(chunks)), os.cpu_count() or 1))
    room = memory // threads - read
    # With several threads, half as large a group as could be, so that none idles while another ends.
    group = max(max(chunks), min(room // 2, -(-sum(chunks) // (2 * threads if threads > 1 else 1))))
    return Room(threads, group, max(1, int(threads * (room - group) // max(max(chunks), 1))))

"""Reads, one block ahead of whoever reduces them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.rows import RowSource

# Fewer reads than this are not worth a thread: at most one of them could overlap with anything.
MIN_READS = 3


def read_ahead(rows: RowSource, start: int, stop: int, step: int) -> Iterator[NDArray[Any]]:
    """Rows start … stop − 1 in their order, `step` at once, the next ones read while the last are worked on.

    Notes
    -----
    One read at a time, in a thread of its own; two blocks exist at once. What a read raises is raised where its block
    would have come. A caller that gives up waits for the one read under way.
    """
    reads = [(first, min(first + step, stop)) for first in range(start, stop, step)]
    if len(reads) < MIN_READS:
        for read in reads:
            yield rows.read(*read)
        return
    with ThreadPoolExecutor(1, "read-ahead") as reader:
        ahead = reader.submit(rows.read, *reads[0])
        for read in reads[1:]:
            block = ahead.result()
            ahead = reader.submit(rows.read, *read)
            yield block
            del block
        yield ahead.result()

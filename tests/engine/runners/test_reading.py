"""Reads ahead of the fold: in order, one at a time, two blocks at once, errors where their block would have come."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import numpy as np
import pytest

from engine.runners.reading import read_ahead


class Block(np.ndarray):
    """An array that a weak reference can follow."""


class Counted:
    """Rows that know how many of their blocks are alive, and who reads."""

    def __init__(self, n: int, broken: int = -1) -> None:
        self.shape, self.broken = (n, 2), broken
        self.blocks: list[weakref.ref[Block]] = []
        self.most = 0
        self.reads: list[tuple[int, int]] = []
        self.threads: set[threading.Thread] = set()

    def read(self, start: int, stop: int) -> Any:
        if start == self.broken:
            raise OSError("gone")
        self.threads.add(threading.current_thread())
        self.reads.append((start, stop))
        block = np.full((stop - start, 2), start).view(Block)
        self.blocks.append(weakref.ref(block))
        self.most = max(self.most, sum(ref() is not None for ref in self.blocks))
        return block


def fold(rows: Any, stop: int, step: int = 10) -> list[int]:
    seen = []
    for block in read_ahead(rows, 0, stop, step):
        seen.append(int(block[0, 0]))
        del block
    return seen


def test_blocks_come_in_order_and_two_exist_at_once() -> None:
    rows = Counted(95)
    assert fold(rows, 95) == list(range(0, 95, 10))
    assert rows.reads == [(i, min(i + 10, 95)) for i in range(0, 95, 10)]
    assert rows.most <= 2
    assert threading.current_thread() not in rows.threads and len(rows.threads) == 1
    gc.collect()
    assert not any(thread.is_alive() for thread in rows.threads)


@pytest.mark.parametrize("stop", [1, 10, 20])
def test_few_reads_need_no_thread(stop: int) -> None:
    rows = Counted(stop)
    assert fold(rows, stop) == list(range(0, stop, 10))
    assert rows.threads == {threading.current_thread()}
    assert fold(rows, 0) == []


@pytest.mark.parametrize("broken", [0, 40, 90])
def test_a_failing_read_is_raised_after_the_blocks_before_it(broken: int) -> None:
    rows, seen = Counted(100, broken), []
    with pytest.raises(OSError, match="gone"):
        for block in read_ahead(rows, 0, 100, 10):  # type: ignore[arg-type]
            seen.append(int(block[0, 0]))
    assert seen == list(range(0, broken, 10))


def test_a_fold_that_fails_reads_no_further() -> None:
    rows = Counted(1000)
    with pytest.raises(ZeroDivisionError):
        for _ in read_ahead(rows, 0, 1000, 10):  # type: ignore[arg-type]
            raise ZeroDivisionError
    gc.collect()
    assert len(rows.reads) <= 2

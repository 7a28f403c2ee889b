"""Matrices first, row ranges second: how work is dealt to slots, each of which does one task at a time.

While many matrices wait, each is one task. The last ones, fewer than there are slots, are cut into parts, so that no
slot is idle while another still has a whole matrix to do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

W = TypeVar("W")

PER_SLOT = 2  # matrices in flight for each slot: one computed, one waiting


class Dealer(Generic[W]):
    """Work, taken from its source only one matrix per slot ahead of what is handed out."""

    def __init__(self, work: Iterable[W]) -> None:
        self._source: Iterator[W] = iter(work)
        self._waiting: deque[W] = deque()
        self._exhausted = False

    def hand_out(self, slots: int, in_flight: int) -> Iterator[tuple[W, int]]:
        """Matrices for which there is capacity, each with the number of parts that it should be cut into."""
        for _ in range(PER_SLOT * slots - in_flight):
            self._look_ahead(slots)
            if not self._waiting:
                return
            parts = self.parts(slots)
            yield self._waiting.popleft(), parts

    def parts(self, slots: int, beside: int = 0) -> int:
        """Into how many parts a matrix should be cut: one while there is a matrix for every slot.

        Parameters
        ----------
        slots : tasks that are done at a time.
        beside : matrices already handed out that still need their share of the slots.
        """
        return -(-slots // max(1, len(self._waiting) + beside)) if self._exhausted else 1

    def _look_ahead(self, slots: int) -> None:
        while not self._exhausted and len(self._waiting) < slots:
            try:
                self._waiting.append(next(self._source))
            except StopIteration:
                self._exhausted = True

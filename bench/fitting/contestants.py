"""The one table of contestants."""

from __future__ import annotations

from bench.fitting.answer import Contestant
from bench.fitting.ours import OURS
from bench.fitting.peers_in_blocks import IN_BLOCKS
from bench.fitting.peers_in_memory import IN_MEMORY

CONTESTANTS: tuple[Contestant, ...] = (*OURS, *IN_MEMORY, *IN_BLOCKS)
BY_NAME = {contestant.name: contestant for contestant in CONTESTANTS}

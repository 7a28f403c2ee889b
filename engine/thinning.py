"""Which of many singular values are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEAD = 100
MAX_POINTS = 250


def thin(n: int) -> NDArray[np.int64]:
    """Which i of 1 … n are drawn: all up to `MAX_POINTS`; else the first `HEAD`, then log-spaced to n."""
    if n <= MAX_POINTS:
        return np.arange(1, n + 1)
    tail = np.geomspace(HEAD + 1, n, MAX_POINTS - HEAD).round().astype(np.int64)
    return np.concatenate([np.arange(1, HEAD + 1), np.unique(tail)])

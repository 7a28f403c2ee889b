"""Matrices of several adapters, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class AdapterArray:
    """A `RowSource` over an array, with adapters of the given sizes."""

    def __init__(self, x: NDArray[Any], sizes: Sequence[int], block_rows: int = 7) -> None:
        assert sum(sizes) == len(x)
        self.x = x
        self.shape = x.shape
        self.dtype = x.dtype
        self.offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.block_rows = block_rows
        self.identity = ""
        self.reads = 0

    def read(self, start: int, stop: int) -> NDArray[Any]:
        self.reads += stop - start
        return self.x[start:stop].copy()

    def of(self, adapter: int) -> slice:
        """Where an adapter's rows are."""
        return slice(int(self.offsets[adapter]), int(self.offsets[adapter + 1]))

    def without(self, adapters: Sequence[int]) -> NDArray[Any]:
        """All rows but theirs."""
        keep = np.ones(len(self.x), bool)
        for adapter in adapters:
            keep[self.of(adapter)] = False
        return self.x[keep]


def shared(
    sizes: Sequence[int], width: int, strengths: Sequence[float], *, mean: float = 0.0, seed: int = 0
) -> AdapterArray:
    """Adapters with planted directions in common, white noise, and a common mean."""
    rng = np.random.default_rng(seed)
    n, k = sum(sizes), len(strengths)
    directions = np.linalg.qr(rng.standard_normal((width, max(k, 1))))[0][:, :k].T
    x = (rng.standard_normal((n, k)) * strengths) @ directions + rng.standard_normal((n, width))
    return AdapterArray(x + mean * rng.standard_normal(width), sizes)

"""A byte budget for a run in ΔW space: from its spectra to K per layer and side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.rank.budget import (
    Allocation,
    Curve,
    allocate,
    allocate_error,
    greedy,
    greedy_error,
    uniform,
    uniform_error,
)
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from engine.run import Run
    from ingest.store.reader import Zoo

DTYPES = {"f32": 4, "f16": 2, "bf16": 2}


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """The spectra of a run as an allocation needs them.

    Attributes
    ----------
    matrices : (layer, side), in the order of `curves`.
    curves : tuple of Curve
    energy : Σ‖ΔW‖² over adapters and layers.
    dtype : name in `DTYPES`, of the numbers that would be stored.
    """

    matrices: tuple[tuple[str, str], ...]
    curves: tuple[Curve, ...]
    energy: float
    dtype: str

    def table(self, allocation: Allocation) -> dict[str, dict[str, int]]:
        """``{layer: {side: K}}``, as ``eigenzoo fit --k`` takes it."""
        return self._table(allocation.k)

    @property
    def all(self) -> dict[str, dict[str, int]]:
        """The table that keeps every component that carries anything."""
        return self._table([c.useful for c in self.curves])

    def bound(self, allocation: Allocation) -> float:
        """What the relative error √(Σ‖ΔW − ΔŴ‖² / Σ‖ΔW‖²) is at most; at most 1, since nothing kept loses ΔW itself."""
        return min(1.0, math.sqrt(allocation.tail / self.energy)) if self.energy > 0 else 0.0

    def _table(self, numbers: Sequence[int]) -> dict[str, dict[str, int]]:
        out: dict[str, dict[str, int]] = {}
        for (layer, side), k in zip(self.matrices, numbers, strict=True):
            out.setdefault(layer, {})[side] = k
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Budget:
    """Three allocations for one budget: the best one, and what simpler rules would have done.

    Attributes
    ----------
    curves : Curves
    exact, greedy, uniform : Allocation
        Of least tail within the bytes (or of fewest bytes within the error); by energy per byte; one K for all.
    """

    curves: Curves
    exact: Allocation
    greedy: Allocation
    uniform: Allocation

    @property
    def table(self) -> dict[str, dict[str, int]]:
        """``{layer: {side: K}}`` of the exact allocation."""
        return self.curves.table(self.exact)


def budget(run: Run, *, nbytes: int | None = None, max_error: float | None = None, dtype: str = "f16") -> Budget:
    """K per layer and side, for so many bytes or for so small an error.

    Parameters
    ----------
    run : Run
        In ΔW space, with both sides of every layer.
    nbytes : int, optional
        Of all components and coefficients: ``itemsize · K · (width + Σ ranks)`` per matrix.
    max_error : float, optional
        Bound on the relative error of ΔW, over all adapters and layers together. One of both is given.
    dtype : name in `DTYPES`.

    Raises
    ------
    EigenzooError
        For a run of the factors, one that lacks a side, or an error that its truncated spectra cannot promise.

    Notes
    -----
    The bound counts both sides of a module apart, so it is at most √2 times too large where both lose alike.
    """
    if (nbytes is None) == (max_error is None):
        raise EigenzooError("budget: give either bytes or the largest error")
    curves = curves_of(run, dtype)
    given = curves.curves
    if nbytes is not None:
        return Budget(curves, allocate(given, nbytes), greedy(given, nbytes), uniform(given, nbytes))
    assert max_error is not None
    if not 0 < max_error < 1:
        raise EigenzooError(f"budget: a relative error of {max_error}; give one between 0 and 1")
    tail = max_error**2 * curves.energy
    return Budget(curves, allocate_error(given, tail), greedy_error(given, tail), uniform_error(given, tail))


def curves_of(run: Run, dtype: str = "f16") -> Curves:
    """The ΔW spectra of a run, and what a component of each costs; errors as for `budget`."""
    if dtype not in DTYPES:
        raise EigenzooError(f"dtype: got {dtype!r}; choose {', '.join(DTYPES)}")
    if run.record.settings.space != "delta":
        raise EigenzooError(
            f"{run.path}: a run of the factors, whose norms say nothing of ΔW; make one with "
            f"`eigenzoo fit {run.record.zoo} --space delta --out RUN`"
        )
    keys = [m.key for m in run.matrices]
    lacking = [key for key in _both(keys) if key not in keys]
    if lacking or not keys:
        layer, side = lacking[0] if lacking else ("any layer", "A or B")
        raise EigenzooError(
            f"{run.path}: no result for {layer} {side}, and a budget needs both sides of every layer; run "
            f"`eigenzoo fit {run.record.zoo} --space delta --out {run.path}` for the rest"
        )
    curves, energy = [], 0.0
    for layer, side in keys:
        sub = run.subspace(layer, side=side)
        squares = sub.singular_values**2
        whole = sub.total_variance * max(sub.n_rows - 1, 1)
        listed = float(squares[::-1].sum())
        beyond = max(whole - listed, 0.0) if sub.spectrum == "top" else 0.0
        curves.append(Curve(np.minimum.accumulate(squares), DTYPES[dtype] * (sub.width + sub.n_rows), beyond))
        energy += (listed + beyond) / 2  # ‖ΔW‖² is the trace on either side
    return Curves(tuple(keys), tuple(curves), energy, dtype)


def stored_bytes(run: Run, zoo: Zoo) -> int:
    """Bytes of the factors that a run was fitted to, as they are stored."""
    of_rows: dict[tuple[str, str], tuple[int, int]] = {}
    for array in zoo.commit.arrays:
        if array.live:
            rows, nbytes = of_rows.get((array.layer, array.side), (0, 0))
            of_rows[array.layer, array.side] = rows + array.live, nbytes + array.live * array.row_bytes
    total = 0
    for m in run.matrices:
        if m.key not in of_rows:
            raise EigenzooError(f"{run.path}: {m.layer} {m.side} is no longer in its zoo; run `eigenzoo fit` again")
        rows, nbytes = of_rows[m.key]
        total += nbytes * m.rows // rows
    return total


def _both(keys: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(layer, side) for layer in dict.fromkeys(layer for layer, _ in keys) for side in ("A", "B")]

"""What a contestant gives back, how it travels between processes, and how far it is from the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.fitting.data import K, Store

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Answer:
    """One solution.

    Attributes
    ----------
    sigma : singular values of the centred matrix, descending; all of them, or the top only.
    components : (at least K, width), rows; None for a part of the work that has none.
    passes : times the rows were read; None where nobody says.
    k_gd : K by Gavish and Donoho as the contestant itself says; None where it says nothing.
    """

    sigma: NDArray[Any]
    components: NDArray[Any] | None = None
    passes: int | None = None
    k_gd: int | None = None


# Called before the clock starts: imports, and whatever the contestant may hold already; then called for the answer.
Prepare = Callable[[Store], Callable[[], Answer]]


@dataclass(frozen=True, slots=True)
class Contestant:
    """A row of the table.

    Attributes
    ----------
    name : as printed and as `--only` finds it.
    kind : "ours", "exact" (a peer's whole eigenproblem or SVD), "top" (a peer's leading part), "approximate".
    requires : the distribution it needs, and the module that is imported to see whether it is there.
    prepare : see `Prepare`.
    sizes : those it takes part in; empty for all but XL.
    dtypes : those it takes part in; empty for the half-precision ones.
    one_thread : whether its documentation asks for one BLAS thread, because it runs threads of its own.
    """

    name: str
    kind: str
    requires: tuple[str, str]
    prepare: Prepare
    sizes: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    one_thread: bool = False

    def takes(self, store: Store) -> bool:
        in_size = store.size in self.sizes if self.sizes else store.size != "XL"
        in_dtype = store.dtype in self.dtypes if self.dtypes else store.dtype in ("float16", "bfloat16")
        return in_size and in_dtype


def save(path: Path, answer: Answer) -> None:
    """For the process that judges."""
    arrays: dict[str, Any] = {"sigma": np.asarray(answer.sigma, np.float64)}
    if answer.components is not None:
        arrays["components"] = np.asarray(answer.components[:K], np.float64)
    for name in ("passes", "k_gd"):
        value = getattr(answer, name)
        arrays[name] = -1 if value is None else value
    np.savez(path, **arrays)


@dataclass(frozen=True, slots=True)
class Errors:
    """Distances from the reference. None: the answer does not hold what it takes.

    Attributes
    ----------
    top : largest |Δσ| of the first K, in units of σ₁.
    angle : largest principal angle between the K-dimensional subspaces, radians.
    whole : largest |Δσ| of all, in units of σ₁.
    median : relative error of the median σ.
    k_right : whether K by Gavish and Donoho is the reference's.
    """

    top: float | None = None
    angle: float | None = None
    whole: float | None = None
    median: float | None = None
    k_right: bool | None = None

    @property
    def same(self) -> bool:
        """Every σ within 1e-6·σ₁, and K right."""
        return self.whole is not None and self.whole <= 1e-6 and bool(self.k_right)


@dataclass(frozen=True, slots=True)
class Truth:
    """The float64 reference: all singular values, the first K components, and the K of its spectrum."""

    sigma: NDArray[np.float64]
    components: NDArray[np.float64]
    k_gd: int | None
    shape: tuple[int, int] = field(default=(0, 0))

    def judge(self, path: Path) -> Errors:
        """The errors of a saved answer."""
        from engine import gavish_donoho

        with np.load(path) as saved:
            sigma, k_gd = saved["sigma"], int(saved["k_gd"])
            components = saved.get("components")
        if not len(sigma):
            return Errors()
        off = np.abs(sigma - self.sigma[: len(sigma)]) / self.sigma[0]
        whole = len(sigma) == len(self.sigma)
        if k_gd < 0 and whole:
            rows, width = self.shape
            k_gd = gavish_donoho(np.maximum(sigma, 0.0), (rows - 1, width)).k or 0
        middle = float(np.median(self.sigma))
        return Errors(
            top=float(off[:K].max()) if len(sigma) >= K else None,
            angle=None if components is None else largest_angle(components, self.components),
            whole=float(off.max()) if whole else None,
            median=abs(float(np.median(sigma)) - middle) / middle if whole else None,
            k_right=k_gd == self.k_gd if k_gd >= 0 else None,
        )


def largest_angle(found: NDArray[Any], true: NDArray[np.float64]) -> float:
    """Largest principal angle between row spaces, from its sine: a cosine near 1 would lose half the digits."""
    if not np.isfinite(found).all():
        return float(np.pi / 2)
    q = np.linalg.qr(found.T)[0]
    rest = true.T - q @ (q.T @ true.T)
    return float(np.arcsin(min(1.0, float(np.linalg.norm(rest, 2)))))

r"""What the subspaces kept lose of every adapter: the relative error of A, of B, and of the weights ΔW they make.

In factor space :math:`\hat A = \mu + (A - \mu) V^\top V` on either side and :math:`\Delta\hat W = s \hat B \hat A`
(Kaushik et al. 2025, figure 10); in ΔW space :math:`\Delta\hat W = P_{out} \Delta W P_{in}`. With
:math:`E = X - \hat X` the error is

.. math::
    \Delta W - \Delta\hat W = s (E_B A + \hat B E_A),

whose norm comes from r × r Grams: no ΔW is made, and unlike in ‖ΔW‖² − 2⟨ΔW, ΔŴ⟩ + ‖ΔŴ‖² small errors keep their
digits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.analysis.run_rows import places_of, zoo_of
from engine.delta import paired_rows
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.delta import PairedRows
    from engine.run import Run
    from engine.selection import KByMatrix
    from ingest.store.reader import Zoo


@dataclass(frozen=True, slots=True, eq=False)
class Errors:
    """Errors of one kind of matrix, adapter by adapter.

    Attributes
    ----------
    adapters : names, in the order of the arrays.
    residual : (n,) float64, ‖X − X̂‖².
    energy : (n,) float64, ‖X‖².
    """

    adapters: tuple[str, ...]
    residual: NDArray[np.float64]
    energy: NDArray[np.float64]

    @property
    def relative(self) -> NDArray[np.float64]:
        """(n,), ‖X − X̂‖ / ‖X‖; 0 where both are 0, infinite where only ‖X‖ is."""
        return _ratio(self.residual, self.energy)

    @property
    def mean(self) -> float:
        """Of the relative errors."""
        return float(self.relative.mean())

    @property
    def median(self) -> float:
        """Of the relative errors."""
        return float(np.median(self.relative))

    @property
    def worst(self) -> float:
        """The largest relative error."""
        return float(self.relative.max())

    @property
    def worst_adapter(self) -> str:
        """Whose that is."""
        return self.adapters[int(np.argmax(self.relative))]

    @property
    def total(self) -> float:
        """√(Σ‖X − X̂‖² / Σ‖X‖²)."""
        return float(_ratio(self.residual.sum(), self.energy.sum()))


@dataclass(frozen=True, slots=True, eq=False)
class LayerError:
    """The errors of one layer.

    Attributes
    ----------
    layer : str
    k : components used, by side; a side that the run does not have is kept whole, and is not in here.
    A, B : Errors or None
        Of the factors; None in ΔW space, where they mean nothing by themselves, and of a side kept whole.
    delta : Errors
        Of ΔW.
    """

    layer: str
    k: Mapping[str, int]
    A: Errors | None
    B: Errors | None
    delta: Errors


@dataclass(frozen=True, slots=True, eq=False)
class Reconstruction:
    """The errors of all layers of a run."""

    space: str
    layers: tuple[LayerError, ...]

    @property
    def total(self) -> float:
        """√(Σ‖ΔW − ΔŴ‖² / Σ‖ΔW‖²) over adapters and layers."""
        residual = sum(float(e.delta.residual.sum()) for e in self.layers)
        return float(_ratio(residual, sum(float(e.delta.energy.sum()) for e in self.layers)))


class Projection(NamedTuple):
    """An affine subspace: (width,) offset, (K, width) orthonormal rows."""

    offset: NDArray[np.float64]
    components: NDArray[np.float64]

    def error(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """X − X̂, (n, width)."""
        out = x - self.offset
        out -= (out @ self.components.T) @ self.components
        return out


def reconstruction(
    run: Run, *, zoo: Zoo | None = None, layers: str | Collection[str] = "*", k: KByMatrix | None = None
) -> Reconstruction:
    """The error with which a run's subspaces give back every adapter that it fits, as its zoo has it now.

    Parameters
    ----------
    run : Run
        Of either space.
    zoo : Zoo, optional
        By default the one that the run was made from.
    layers : str or collection of str
        A glob over layer names, several may be given with commas; or the names themselves.
    k : mapping, optional
        ``{layer: {side: K}}``: use only the first K components; by default all that are kept.

    Returns
    -------
    Reconstruction

    Raises
    ------
    EigenzooError
        If the zoo is gone, no layer matches, fewer than K components are kept, or the run is of rows less their
        starts, which are not kept.

    Notes
    -----
    One read of both sides; O(Σ ranks · width · K) time; memory of one batch of adapters (`PairedRows.read_bytes`) and
    its products, and the components of one layer.
    """
    if run.record.settings.seeds == "subtract":
        raise EigenzooError(
            f"{run.path}: a run of rows less their random starts, which it does not keep; give one of another --seeds"
        )
    zoo = zoo or zoo_of(run)
    return Reconstruction(run.record.settings.space, tuple(_layers(run, zoo, layers, k)))


def _layers(run: Run, zoo: Zoo, layers: str | Collection[str], k: KByMatrix | None) -> Iterator[LayerError]:
    for layer, sides in chosen(run, layers).items():
        wanted = None if k is None else k.get(layer, {})
        projections = {side: _projection(run, layer, side, wanted) for side in sides}
        places = places_of(run, zoo, layer)
        if not places:
            raise EigenzooError(f"{zoo.path}: no adapter of the run has {layer} any more; run `eigenzoo fit` again")
        pair = paired_rows(zoo, layer, list(places))
        names = tuple(zoo.stored[i].record.name for i in pair.members.tolist())
        found = pair_errors(pair, projections.get("A"), projections.get("B"))
        used = {side: len(p.components) for side, p in projections.items()}
        if run.record.settings.space == "delta":
            yield LayerError(layer, used, None, None, Errors(names, *found.delta))
        else:
            a = Errors(names, *found.A) if "A" in used else None
            b = Errors(names, *found.B) if "B" in used else None
            yield LayerError(layer, used, a, b, Errors(names, *found.delta))


def chosen(run: Run, layers: str | Collection[str] = "*") -> dict[str, list[str]]:
    """The finished layers of a run that match a glob, or are among the names, each with its sides.

    Raises
    ------
    EigenzooError
        Where there is none.
    """
    import fnmatch

    globs = [g.strip() for g in layers.split(",") if g.strip()] if isinstance(layers, str) else []
    found: dict[str, list[str]] = {}
    for m in run.matrices:
        named = not isinstance(layers, str) and m.layer in layers
        if named or any(fnmatch.fnmatchcase(m.layer, glob) for glob in globs):
            found.setdefault(m.layer, []).append(m.side)
    if not found:
        raise EigenzooError(f"{run.path}: no finished layer matches {layers!r}; `eigenzoo rank` lists what there is")
    return found


class PairErrors(NamedTuple):
    """(residual, energy) of A, B and ΔW, each (n_adapters,)."""

    A: tuple[NDArray[np.float64], NDArray[np.float64]]
    B: tuple[NDArray[np.float64], NDArray[np.float64]]
    delta: tuple[NDArray[np.float64], NDArray[np.float64]]


def pair_errors(pair: PairedRows, a: Projection | None, b: Projection | None) -> PairErrors:
    """Squared errors and norms of every adapter's factors and ΔW; a side without a projection is kept whole."""
    n = len(pair.offsets) - 1
    out = np.zeros((6, n))
    for first, stop in pair.batches(0, n):
        rows_a, rows_b = pair.read(first, stop)
        error_a, error_b = _error(a, rows_a), _error(b, rows_b)
        start = int(pair.offsets[first])
        for i in range(first, stop):
            at = slice(int(pair.offsets[i]) - start, int(pair.offsets[i + 1]) - start)
            out[:, i] = _squares(rows_a[at], error_a[at], rows_b[at], error_b[at])
            out[4:, i] *= pair.scales[i] ** 2
        del rows_a, rows_b, error_a, error_b
    return PairErrors((out[0], out[1]), (out[2], out[3]), (out[4], out[5]))


def _error(projection: Projection | None, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.zeros_like(rows) if projection is None else projection.error(rows)


def _squares(
    a: NDArray[np.float64], error_a: NDArray[np.float64], b: NDArray[np.float64], error_b: NDArray[np.float64]
) -> tuple[float, float, float, float, float, float]:
    """‖E‖² and ‖X‖² of A and of B, ‖E_B A + B̂ E_A‖² and ‖BA‖²; everything given as (rank, width) rows."""
    kept_b = b - error_b
    gram_a, gram_b = a @ a.T, b @ b.T
    lost_a, lost_b = error_a @ error_a.T, error_b @ error_b.T
    lost = np.sum(lost_b * gram_a) + 2 * np.sum((error_b @ kept_b.T) * (a @ error_a.T))
    lost += np.sum((kept_b @ kept_b.T) * lost_a)
    whole = np.sum(gram_b * gram_a)
    return (
        float(np.trace(lost_a)),
        float(np.trace(gram_a)),
        float(np.trace(lost_b)),
        float(np.trace(gram_b)),
        max(float(lost), 0.0),
        max(float(whole), 0.0),
    )


def _projection(run: Run, layer: str, side: str, k: Mapping[str, int] | None) -> Projection:
    sub = run.subspace(layer, side=side)
    wanted = sub.n_components if k is None else k.get(side)
    if wanted is None or not 0 <= wanted <= sub.n_components:
        raise EigenzooError(
            f"k: {wanted} components of {layer} {side}, of which {sub.n_components} are kept; ask for no more, "
            "or fit with more"
        )
    return Projection(sub.offset, sub.components[:wanted])


def _ratio(residual: NDArray[np.float64] | float, energy: NDArray[np.float64] | float) -> NDArray[np.float64]:
    lost, whole = np.asarray(residual, float), np.asarray(energy, float)
    safe = np.where(whole > 0, whole, 1.0)
    return np.asarray(np.where(whole > 0, np.sqrt(lost / safe), np.where(lost > 0, np.inf, 0.0)))

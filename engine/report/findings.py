"""What an analysis found of a run, as plain JSON values for the page, and in groups that people can read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ingest.html import printable

if TYPE_CHECKING:
    from engine.analysis.file import Analysis, MatrixAnalysis
    from engine.run import MatrixResult

DIGITS = 6  # significant, of what is drawn; a pixel is coarser
# Series of held-out errors, in the order of the legend: field, what it is called.
HELDOUT = (
    ("error", "held out"),
    ("in_sample", "in the fit"),
    ("one_per_seed", "held out, one per seed"),
    ("null", "null of the same strength"),
    ("random_basis", "random basis"),
    ("mean_only", "mean only"),
)


@dataclass(frozen=True, slots=True)
class Partition:
    """Seed groups that several layers have alike; names as in the zoo, largest group first."""

    groups: tuple[tuple[str, ...], ...]
    layers: tuple[str, ...]
    weakest: float | None

    @property
    def adapters(self) -> int:
        """How many adapters share their start with another one."""
        return sum(map(len, self.groups))


def matrix_findings(found: MatrixAnalysis | None) -> dict[str, Any]:
    """``heldout``, ``overlap``, ``error`` and ``leverage`` of one matrix; None, or none, where unknown."""
    if found is None:
        return {"heldout": None, "overlap": None, "error": None, "leverage": []}
    heldout = found.heldout and _plain(asdict(found.heldout))
    if heldout:
        heldout["curve"] = [[k, rounded(error)] for k, error in heldout["curve"]]
    error = found.reconstruction
    return {
        "heldout": heldout,
        "overlap": found.overlap and _plain(asdict(found.overlap)),
        "error": error
        and {"mean": rounded(error.mean), "worst": rounded(error.worst), "who": printable(error.worst_adapter)},
        "leverage": [[printable(v.adapter), v.component, rounded(v.share)] for v in found.leverage],
    }


def layer_findings(analysis: Analysis | None, results: Sequence[MatrixResult]) -> list[dict[str, Any]]:
    """The errors of ΔW of the run's layers, in its order; without those that are stale."""
    order, still = list(dict.fromkeys(r.layer for r in results)), set(current(analysis, results))
    known = {each.layer: each.delta for each in analysis.layers if each.layer in still} if analysis else {}
    return [
        {
            "layer": printable(layer),
            "at": at,
            "mean": rounded(delta.mean),
            "worst": rounded(delta.worst),
            "who": printable(delta.worst_adapter),
        }
        for at, layer in enumerate(order, 1)
        if (delta := known.get(layer)) is not None
    ]


def curve_words(found: MatrixAnalysis | None) -> str:
    """What stands under the curve of held-out errors."""
    if found is None or found.heldout is None:
        return ""
    h = found.heldout
    how = "each adapter by the subspace of all others" if h.method == "leave-one-out" else printable(h.method)
    return f"Relative squared error of adapters not in the fit ({how}); its controls at K = {h.k}."


def partitions(analysis: Analysis | None, layers: Iterable[str]) -> list[Partition] | None:
    """Seed groups, layers with the same ones together, those in most layers first; None where nobody looked."""
    wanted = dict.fromkeys(layers)
    looked = [each for each in (analysis.layers if analysis else ()) if each.seeds and each.layer in wanted]
    if not looked:
        return None
    together: dict[frozenset[frozenset[str]], list[Any]] = {}
    for each in looked:
        if each.seeds and each.seeds.groups:
            together.setdefault(frozenset(map(frozenset, each.seeds.groups)), []).append(each)
    out = []
    for alike in together.values():
        weakest = [e.seeds.weakest for e in alike if e.seeds.weakest is not None]
        groups = tuple(sorted(alike[0].seeds.groups, key=lambda g: (-len(g), g)))
        out.append(Partition(groups, tuple(e.layer for e in alike), min(weakest, default=None)))
    return sorted(out, key=lambda p: (-len(p.layers), p.layers))


def current(analysis: Analysis | None, results: Sequence[MatrixResult]) -> list[str]:
    """The layers, in the order of the run, all of whose finished matrices the analysis speaks of as they are now."""
    spoken: dict[str, bool] = {}
    for r in results:
        spoken[r.layer] = spoken.get(r.layer, True) and analysis is not None and analysis.of(r) is not None
    return [layer for layer, is_current in spoken.items() if is_current]


def stale(analysis: Analysis | None, results: Sequence[MatrixResult]) -> int:
    """Of how many finished matrices the analysis speaks, but of other rows than theirs."""
    if analysis is None:
        return 0
    spoken = {(m.layer, m.side) for m in analysis.matrices}
    return sum(1 for r in results if r.key in spoken and analysis.of(r) is None)


def missing(data: Mapping[str, Any], looked_for_seeds: bool) -> list[str]:
    """What the page has no figures of, for people."""
    matrices = data["matrices"]
    known = {
        "seed groups": looked_for_seeds,
        "held-out errors": any(m["heldout"] for m in matrices),
        "overlap against chance": any(m["overlap"] for m in matrices),
        "reconstruction errors": any(m["error"] for m in matrices) or bool(data["delta"]),
    }
    return [what for what, is_known in known.items() if not is_known]


def rounded(value: float | None) -> float | None:
    """To `DIGITS` significant digits; None for what is not finite, which JSON has not."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")


def _plain(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: rounded(v) if isinstance(v, float) else v for name, v in figures.items()}

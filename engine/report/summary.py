"""What was found, in a few plain sentences: only what is known, and no more than it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from engine.report.findings import Partition
from engine.report.rules import GAVISH_DONOHO, is_number, label
from ingest.html import printable

SHOWN = 3  # names of adapters, before the rest is counted


def summary(
    data: Mapping[str, Any], partitions: Sequence[Partition] | None, rule: str | None, planted: bool = False
) -> list[str]:
    """Sentences as plain text.

    Parameters
    ----------
    data : as `engine.report.data.page_data` gives it.
    partitions : seed groups, as `engine.report.findings.partitions` gives them.
    rule : the rule that set the K kept; None where K was given for each matrix.
    planted : whether the zoo was made with a known K.
    """
    matrices = data["matrices"]
    sentences = [_size(matrices), _kept(matrices, rule), _whiteness(data)]
    if planted:
        sentences.append(_planted(data))
    sentences += [_seeds(partitions, matrices), _heldout(matrices), _overlap(matrices)]
    return [s for s in sentences if s]


def names(adapters: Sequence[str], shown: int = SHOWN) -> str:
    """The first few names, and how many more there are."""
    listed = ", ".join(printable(name) for name in adapters[:shown])
    more = len(adapters) - shown
    return f"{listed} and {more} more" if more > 0 else listed


def counted(n: int, one: str, many: str) -> str:
    """ "1 matrix", "2 matrices"."""
    return f"{n:,} {one if n == 1 else many}"


def _size(matrices: Sequence[Mapping[str, Any]]) -> str:
    layers = len({m["layer"] for m in matrices})
    adapters = max(m["adapters"] for m in matrices)
    what = f"{counted(len(matrices), 'matrix', 'matrices')} of {counted(layers, 'layer', 'layers')}"
    return f"{what}, from {counted(adapters, 'adapter', 'adapters')}."


def _kept(matrices: Sequence[Mapping[str, Any]], rule: str | None) -> str:
    parts = []
    for side, of_side in _by_side(matrices):
        ks, widths = [m["kept"] for m in of_side], [m["width"] for m in of_side]
        span = f" ({min(ks)} to {max(ks)})" if min(ks) < max(ks) else ""
        share = f"{100 * median(m['kept_share'] or 0.0 for m in of_side):.0f}\u00a0% of the variance"
        of = f"{median(widths):.0f} dimensions" if len({*widths}) == 1 else f"{min(widths)} to {max(widths)} dimensions"
        parts.append(f"{median(ks):.4g}{span} of {of} on side {side}, with {share}")
    by = f"by {label(rule)}" if rule and not is_number(rule) else "as given"
    return f"Kept {by}, typically: {'; '.join(parts)}."


def _whiteness(data: Mapping[str, Any]) -> str:
    matrices = data["matrices"]
    judged = [m for m in matrices if m["white"] is not None]
    coloured = [m for m in judged if not m["white"]]
    if not judged:
        return ""
    if not coloured:
        return f"The noise looks white, as Gavish–Donoho assumes, in all {len(judged)} matrices that can be judged."
    at = {r["name"]: i for i, r in enumerate(data["rules"])}
    few, many = (_median_k(coloured, at.get(name)) for name in ("screenot", GAVISH_DONOHO))
    beside = f" (there it says {many}, typically; ScreeNOT, which needs no white noise, {few})" if few and many else ""
    where = "in every matrix" if len(coloured) == len(matrices) else f"in {len(coloured)} of {len(matrices)} matrices"
    return f"Gavish–Donoho should not be believed {where}, for the noise is not white{beside}."


def _median_k(matrices: Sequence[Mapping[str, Any]], at: int | None) -> str:
    ks = [m["k"][at] for m in matrices if at is not None and m["k"][at] is not None]
    return f"K = {median(ks):.4g}" if ks else ""


def _planted(data: Mapping[str, Any]) -> str:
    at = next(i for i, r in enumerate(data["rules"]) if r["name"] == GAVISH_DONOHO)
    known = [m for m in data["matrices"] if m["planted"] is not None]
    right = sum(m["k"][at] == m["planted"] for m in known)
    return f"Gavish–Donoho finds the planted K in {right} of {len(known)} matrices."


def _seeds(partitions: Sequence[Partition] | None, matrices: Sequence[Mapping[str, Any]]) -> str:
    if partitions is None:
        return ""
    if not partitions:
        return "No two adapters share a random start."
    layers = len({m["layer"] for m in matrices})
    where = sum(len(p.layers) for p in partitions)
    most = max(partitions, key=lambda p: p.adapters)
    everywhere = "every layer" if where == layers else f"{where} of {layers} layers"
    who = names(most.groups[0])
    return (
        f"In {everywhere} adapters share their random start, up to {most.adapters} of them "
        f"(such as {who}): what they have in common there may be the seed’s."
    )


def _heldout(matrices: Sequence[Mapping[str, Any]]) -> str:
    known = [m["heldout"] for m in matrices if m["heldout"] and m["heldout"]["error"] is not None]
    if not known:
        return ""
    controls, below = [], known
    for field, what in (("null", "a null of the same strength"), ("random_basis", "a random basis")):
        values = [h[field] for h in known if h[field] is not None]
        if values:
            controls.append(f"{median(values):.2g} for {what}")
            below = [h for h in below if h[field] is None or h["error"] < h[field]]
    error = f"{median(h['error'] for h in known):.2g}"
    against = f", against {' and '.join(controls)}" if controls else ""
    return (
        f"An adapter that was not in the fit is rebuilt with a relative squared error of {error}, typically{against}; "
        f"it is below its controls in {len(below)} of {len(known)} matrices."
    )


def _overlap(matrices: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for side, of_side in _by_side([m for m in matrices if m["overlap"]]):
        apart = [m["overlap"]["one_per_seed"] for m in of_side]
        known = [ratio for ratio in apart if ratio is not None]
        of_seeds = f" ({median(known):.3g} with one adapter per seed)" if known else ""
        ratio = median(m["overlap"]["ratio"] or 0.0 for m in of_side)
        parts.append(f"{ratio:.3g} times chance on side {side}{of_seeds}")
    return f"Two adapters overlap {' and '.join(parts)}." if parts else ""


def _by_side(matrices: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    sides = {side: [m for m in matrices if m["side"] == side] for side in ("A", "B")}
    return [(side, of_side) for side, of_side in sides.items() if of_side]

"""What the page draws, as plain JSON values: one entry per matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.report.captions import scree_words, share_words
from engine.report.findings import HELDOUT, curve_words, layer_findings, matrix_findings, rounded
from engine.report.names import Layout, lay_out
from engine.report.rules import (
    GAVISH_DONOHO,
    Answers,
    answers,
    assumes_white_noise,
    in_singular_values,
    label,
)
from engine.thinning import thin
from ingest.errors import EigenzooError
from ingest.html import printable

if TYPE_CHECKING:
    from engine.analysis.file import Analysis, MatrixAnalysis
    from engine.run import MatrixResult, Run
    from engine.subspace import Subspace


def page_data(run: Run, planted: Mapping[tuple[str, str], int], analysis: Analysis | None = None) -> dict[str, Any]:
    """All matrices of a run, in its order.

    Returns
    -------
    dict
        ``matrices``: see `entry`; ``rules``: name, label and whether it assumes white noise, in the order of a matrix's
        ``k``; ``grids``: by number of singular values, the indices i that are drawn; ``axis``: what the map of K has
        along its x; ``first``: the rule that the map begins with, -1 for the K kept; ``heldout``: fields of held-out
        errors that are known and what they are called; ``delta``: errors of ΔW by layer.

    Raises
    ------
    EigenzooError
        If no matrix of the run is finished.

    Notes
    -----
    Reads each subspace once, one at a time, and asks every rule of its spectrum.  At most 8 KiB of JSON per matrix,
    besides its name, notes and what an analysis adds.
    """
    results = run.matrices
    if not results:
        raise EigenzooError(f"{run.path}: the run has no finished matrix; continue it with `eigenzoo fit`")
    layout = lay_out(r.layer for r in results)
    found = {r.key: analysis.of(r) if analysis else None for r in results}
    matrices: list[dict[str, Any]] = []
    said: list[Answers] = []
    for result in results:
        subspace = run.subspace(result.layer, side=result.side)
        more = found[result.key]
        said.append(answers(subspace, more.rules if more else ()))
        matrices.append(entry(result, subspace, layout, planted.get(result.key), said[-1], more))
    rules = list(dict.fromkeys(name for each in said for name in each.choices))
    for matrix, each, result in zip(matrices, said, results, strict=True):
        matrix |= columns(rules, each)
        matrix["on"] = rules.index(result.chosen) if result.chosen in each.choices else -1
    followed = {m["on"] for m in matrices}
    return {
        "matrices": matrices,
        "rules": [{"name": r, "label": label(r), "white": assumes_white_noise(r)} for r in rules],
        "first": followed.pop() if len(followed) == 1 else -1,
        "grids": {str(m["n"]): thin(m["n"]).tolist() for m in matrices},
        "axis": layout.axis,
        "heldout": [[f, title] for f, title in HELDOUT if any(_known(m, f) for m in matrices)],
        "delta": layer_findings(analysis, results),
    }


def entry(
    result: MatrixResult,
    subspace: Subspace,
    layout: Layout,
    planted: int | None,
    said: Answers,
    found: MatrixAnalysis | None = None,
) -> dict[str, Any]:
    """One matrix.

    Returns
    -------
    dict
        What the table shows; the map's ``panel`` and ``x``; ``n``, the number of singular values; ``sigma`` and
        ``share`` (cumulative share of the total variance) at the indices `thin` (n); ``white``, whether the noise is;
        what an analysis found; and ``words``.
    """
    sigma = subspace.singular_values
    share = np.cumsum(subspace.explained_variance_ratio)
    drawn = thin(len(sigma)) - 1
    place = layout.places[result.layer]
    kept = result.n_components
    return {
        "layer": printable(result.layer),
        "side": result.side,
        "rows": result.rows,
        "width": result.width,
        "adapters": result.n_adapters,
        "planted": planted,
        "kept": kept,
        "kept_share": said.share_at(kept),
        "total_variance": result.total_variance if math.isfinite(result.total_variance) else None,
        "method": result.method if result.exact else f"{result.method}, approximate",
        "note": _note(result),
        "center": result.center,
        "panel": place.panel,
        "x": place.x,
        "n": len(sigma),
        "sigma": [rounded(v) for v in sigma[drawn]],
        "share": [rounded(v) for v in share[drawn]],
        "white": said.whiteness.white,
        "white_words": _whiteness_words(said),
        "words": {
            "scree": scree_words(subspace, said.choices[GAVISH_DONOHO]),
            "share": share_words(subspace, share),
            "curve": curve_words(found),
        },
        **matrix_findings(found),
    }


def columns(rules: Sequence[str], said: Answers) -> dict[str, Any]:
    """By rule: ``k``, ``shares`` of the variance, ``at`` (a threshold that is a singular value) and ``notes``."""
    choices = [said.choices.get(name) for name in rules]
    return {
        "k": [None if c is None else c.k for c in choices],
        "shares": [None if c is None else said.share_at(c.k) for c in choices],
        "at": [
            rounded(c.threshold) if c is not None and c.threshold is not None and in_singular_values(c.rule) else None
            for c in choices
        ],
        "notes": ["" if c is None else printable(c.note) for c in choices],
    }


def _known(matrix: Mapping[str, Any], field: str) -> bool:
    return bool(matrix["heldout"]) and matrix["heldout"][field] is not None


def _whiteness_words(said: Answers) -> str:
    """Of the bulk below Gavish–Donoho's K."""
    found = said.whiteness
    if found.white is None:
        return printable(found.note) or "not judged"
    distance, critical = (format(v, ".2g") if v is not None else "?" for v in (found.distance, found.critical))
    verb = "within" if found.white else "beyond"
    return f"distance from Marchenko–Pastur {distance}, {verb} the critical {critical}"


def _note(result: MatrixResult) -> str:
    # A rule that left columns out says so itself.
    zero = result.n_zero_variance_columns
    columns = f"{zero} column{'s' if zero > 1 else ''} without variance" if zero else ""
    return printable(result.note or columns)

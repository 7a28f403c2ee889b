"""What the page draws, as plain JSON values: one entry per matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.report.names import Layout, lay_out, printable
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.rank.choice import RankChoice
    from engine.run import MatrixResult, Run
    from engine.subspace import Subspace

HEAD = 100
MAX_POINTS = 250
DIGITS = 6  # significant, of what is drawn; a pixel is coarser
GAVISH_DONOHO, SHARE = "gavish-donoho", "ev:0.8"  # as in `Subspace.choices`


def page_data(run: Run, planted: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    """All matrices of a run, in its order.

    Returns
    -------
    dict
        ``matrices``: see `entry`; ``grids``: by number of singular values, the indices i that are drawn;
        ``axis``: what the picture of K has along its x.

    Raises
    ------
    EigenzooError
        If no matrix of the run is finished.

    Notes
    -----
    Reads each subspace once, one at a time.  At most 6 KiB of JSON per matrix, besides its name and notes.
    """
    results = run.matrices
    if not results:
        raise EigenzooError(f"{run.path}: the run has no finished matrix; continue it with `eigenzoo fit`")
    layout = lay_out(r.layer for r in results)
    matrices = []
    for result in results:
        subspace = run.subspace(result.layer, side=result.side)
        matrices.append(entry(result, subspace, layout, planted.get(result.key)))
    grids = {str(m["n"]): thin(m["n"]).tolist() for m in matrices}
    return {"matrices": matrices, "grids": grids, "axis": layout.axis}


def thin(n: int) -> NDArray[np.int64]:
    """Which i of 1 … n are drawn: all up to `MAX_POINTS`; else the first `HEAD`, then log-spaced to n."""
    if n <= MAX_POINTS:
        return np.arange(1, n + 1)
    tail = np.geomspace(HEAD + 1, n, MAX_POINTS - HEAD).round().astype(np.int64)
    return np.concatenate([np.arange(1, HEAD + 1), np.unique(tail)])


def entry(result: MatrixResult, subspace: Subspace, layout: Layout, planted: int | None) -> dict[str, Any]:
    """One matrix.

    Returns
    -------
    dict
        What the table shows; the picture's ``panel`` and ``x``; ``n``, the number of singular values;
        ``sigma`` and ``share`` (cumulative share of the total variance) at the indices `thin` (n);
        ``thresholds`` to draw on the scree plot; ``marks``, values of K to draw on the curve; and ``words``.
    """
    sigma = subspace.singular_values
    share = np.cumsum(subspace.explained_variance_ratio)
    drawn = thin(len(sigma)) - 1
    place = layout.places[result.layer]
    gavish_donoho, ev = subspace.choices[GAVISH_DONOHO], subspace.choices[SHARE]
    return {
        "layer": printable(result.layer),
        "side": result.side,
        "rows": result.rows,
        "width": result.width,
        "adapters": result.n_adapters,
        "planted": planted,
        "gd": gavish_donoho.k,
        "ev": ev.k,
        "kept": result.n_components,
        "declined": {"gd": printable(gavish_donoho.note), "ev": printable(ev.note)},
        "total_variance": _finite(result.total_variance),
        "method": result.method if result.exact else f"{result.method}, approximate",
        "note": _note(result),
        "center": result.center,
        "panel": place.panel,
        "x": place.x,
        "n": len(sigma),
        "sigma": [_rounded(v) for v in sigma[drawn]],
        "share": [_rounded(v) for v in share[drawn]],
        "thresholds": _thresholds(subspace),
        "marks": _marks(gavish_donoho, ev, result, share),
        "words": {"scree": _scree_words(subspace, gavish_donoho), "share": _share_words(subspace, share)},
    }


def percent(share: float) -> str:
    """A share for people: "63.1 %", with a space that does not break."""
    return f"{100 * share:.1f}\u00a0%"


def _thresholds(subspace: Subspace) -> list[dict[str, Any]]:
    """Of the Gavish–Donoho rules: with the noise judged from the median, and with the noise the run gives."""
    out = []
    for name, choice in subspace.choices.items():
        if name.split(":")[0] == GAVISH_DONOHO and choice.threshold is not None:
            noise = f" for noise {name.partition(':')[2]}" if ":" in name else ""
            label = f"Gavish–Donoho threshold{noise} {choice.threshold:.4g}"
            out.append({"value": _finite(choice.threshold), "label": label})
    return out


def _marks(
    gavish_donoho: RankChoice, ev: RankChoice, result: MatrixResult, share: NDArray[np.float64]
) -> list[dict[str, Any]]:
    candidates = [("gd", "Gavish–Donoho", gavish_donoho.k), ("ev", "80\u00a0% of the variance", ev.k)]
    if result.n_components not in (gavish_donoho.k, ev.k):
        candidates.append(("kept", "kept", result.n_components))
    return [
        {
            "rule": rule,
            "k": k,
            "share": _rounded(share[k - 1]),
            "label": f"{name}: K = {k}, {percent(share[k - 1])}",
        }
        for rule, name, k in candidates
        if k
    ]


def _scree_words(subspace: Subspace, choice: RankChoice) -> str:
    n = len(subspace.singular_values)
    if choice.k is None:
        first = f"Gavish–Donoho declines: {printable(choice.note)}."
    elif choice.k == 0:
        first = f"No singular value lies above the Gavish–Donoho threshold {choice.threshold:.4g}: K = 0."
    else:
        what = f"{choice.k} of {n} singular values"
        first = f"Coloured: {what}, above the Gavish–Donoho threshold {choice.threshold:.4g}."
    if choice.note and choice.k is not None:
        first += f" Its note: {printable(choice.note)}."
    if subspace.spectrum == "top":
        whole = min(subspace.n_rows, subspace.width)
        return f"{first} The largest {n} of {whole} singular values are known, and drawn."
    zeros = int(np.count_nonzero(subspace.singular_values <= 0))
    if zeros == n:
        return f"{first} Every singular value is numerically zero."
    are = "is numerically zero and has" if zeros == 1 else "are numerically zero and have"
    last = f" {zeros} {are} no place on a logarithmic axis." if zeros else ""
    drawn = int(np.count_nonzero(subspace.singular_values[thin(n) - 1] > 0))
    return f"{first} {_thinning_words(drawn, n, zeros)}{last}"


def _share_words(subspace: Subspace, share: NDArray[np.float64]) -> str:
    if not subspace.total_variance > 0:
        return "There is no variance: the total is 0."
    k = subspace.n_components
    if k == 0:
        kept = "No component is kept"
    elif k == 1:
        kept = f"The one component kept carries {percent(share[0])} of the total variance"
    else:
        kept = f"The {k} components kept carry {percent(share[k - 1])} of the total variance"
    about = "" if subspace.center == "feature" else ", about zero"
    sum_of = f"σᵢ²/(n\u00a0−\u00a01){about}"
    total = f"Total variance: {subspace.total_variance:.4g}, the sum of {sum_of}; n = {subspace.n_rows} rows"
    if subspace.spectrum == "top":
        return f"{kept}. {total}. The first {len(share)} are known, and drawn."
    return f"{kept}. {total}. {_thinning_words(len(thin(len(share))), len(share))}"


def _thinning_words(drawn: int, n: int, zeros: int = 0) -> str:
    if n > MAX_POINTS:
        return f"{drawn} of {n} are drawn: every one of the first {HEAD}, log-spaced after."
    return f"{drawn} of {n} are drawn." if zeros else f"All {n} are drawn." if n > 1 else "It is the only one."


def _note(result: MatrixResult) -> str:
    # A rule that left columns out says so itself.
    zero = result.n_zero_variance_columns
    columns = f"{zero} column{'s' if zero > 1 else ''} without variance" if zero else ""
    return printable(result.note or columns)


def _rounded(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def _finite(value: float) -> float | None:
    # JSON has no NaN or infinity.
    return float(value) if math.isfinite(value) else None

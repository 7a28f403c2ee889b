"""What stands under the curves of one matrix, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.thinning import HEAD, MAX_POINTS, thin
from ingest.html import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.rank.choice import RankChoice
    from engine.subspace import Subspace


def percent(share: float) -> str:
    """A share for people: "63.1 %", with a space that does not break."""
    return f"{100 * share:.1f}\u00a0%"


def scree_words(subspace: Subspace, choice: RankChoice) -> str:
    """Which values are coloured, and which are drawn; `choice` is Gavish–Donoho's."""
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


def share_words(subspace: Subspace, share: NDArray[np.float64]) -> str:
    """What the components kept carry, of how much."""
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

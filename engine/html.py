"""What a notebook shows of a Subspace, a Spectrum and a RankChoice: a small table, and the spectrum as a curve."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.thinning import thin
from ingest.html import card, facts, grid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.rank.choice import RankChoice
    from engine.spectrum import Spectrum
    from engine.subspace import Subspace

_WIDTH, _HEIGHT, _EDGE = 230.0, 110.0, 6.0


def subspace_html(subspace: Subspace) -> str:
    """K by every rule that was asked, how it was found, and the scree plot."""
    k, ratio = subspace.n_components, subspace.explained_variance_ratio
    carried = float(np.sum(ratio[:k]))
    entries: list[tuple[str, object]] = [
        ("rows × width", f"{subspace.n_rows} × {subspace.width}, of {subspace.n_adapters} adapters"),
        ("K kept", f"{k}, by {subspace.k_choice.rule}"),
        ("variance kept", f"{100 * carried:.1f} % of {subspace.total_variance:.4g}"),
        ("centring", "mean subtracted" if subspace.center == "feature" else "none"),
        ("method", f"{subspace.method}, {'exact' if subspace.exact else 'approximate'}"),
    ]
    entries += [("note", subspace.note)] if subspace.note else []
    rules = grid(("rule", "K", "threshold", "note"), [_row(c) for c in subspace.choices.values()])
    curve = sparkline(subspace.singular_values, k, subspace.k_choice)
    return card("Subspace", facts(entries), rules, curve)


def spectrum_html(spectrum: Spectrum) -> str:
    """Shape, rank and variance, and the scree plot."""
    sigma = spectrum.singular_values
    known = f"{len(sigma)} of {min(spectrum.n_rows, spectrum.width)} known" if spectrum.kind == "top" else "all known"
    entries: list[tuple[str, object]] = [
        ("rows × width", f"{spectrum.n_rows} × {spectrum.width}"),
        ("singular values", f"{known}, {spectrum.rank} above the floor of {spectrum.floor:.3g}"),
        ("largest", ", ".join(f"{v:.4g}" for v in sigma[:5]) or "none"),
        ("total variance", f"{spectrum.total_variance:.4g}"),
        ("method", spectrum.method),
    ]
    if spectrum.n_zero_variance_columns:
        entries.append(("columns without variance", spectrum.n_zero_variance_columns))
    return card("Spectrum", facts(entries), sparkline(sigma))


def choice_html(choice: RankChoice) -> str:
    """One line of a table."""
    return card("RankChoice", grid(("rule", "K", "threshold", "note"), [_row(choice)]))


def sparkline(sigma: NDArray[np.float64], k: int = 0, choice: RankChoice | None = None) -> str:
    """The scree plot on logarithmic axes, as SVG in the text's own colour; "" where no value is above zero.

    The first `k` points are filled; the threshold is drawn where it is a singular value.
    """
    drawn = [int(i) for i in thin(len(sigma)) if sigma[i - 1] > 0] if len(sigma) else []
    if not drawn:
        return ""
    values = np.array([sigma[i - 1] for i in drawn])
    threshold = choice.threshold if choice is not None and not choice.rule.startswith("ev") else None
    threshold = threshold if threshold is not None and threshold > 0 else None
    low, high = (float(f([*values, *([threshold] if threshold else [])])) for f in (min, max))
    x = _scaled(np.log(drawn), 0.0, float(np.log(max(drawn[-1], 2)))) * (_WIDTH - 2 * _EDGE) + _EDGE
    y = (1 - _scaled(np.log(values), np.log(low), np.log(high))) * (_HEIGHT - 2 * _EDGE) + _EDGE
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    shapes = [f'<polyline points="{path}" fill="none" stroke="currentColor" stroke-opacity=".45"/>']
    if threshold:
        at = float((1 - _scaled(np.log([threshold]), np.log(low), np.log(high)))[0]) * (_HEIGHT - 2 * _EDGE) + _EDGE
        shapes.append(
            f'<line x1="0" x2="{_WIDTH:.0f}" y1="{at:.1f}" y2="{at:.1f}" stroke="currentColor" stroke-opacity=".6" '
            'stroke-dasharray="4 3"/>'
        )
    shapes += [
        f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.2" fill="{"#3d85c6" if i <= k else "currentColor"}" '
        f'fill-opacity="{1 if i <= k else 0.35}"/>'
        for i, a, b in zip(drawn, x, y, strict=True)
    ]
    title = f"Scree plot: {len(sigma)} singular values from {values[0]:.4g} down to {values[-1]:.4g}"
    return (
        f'<svg role="img" aria-label="{title}" width="{_WIDTH:.0f}" height="{_HEIGHT:.0f}" '
        f'viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}">{"".join(shapes)}</svg>'
    )


def _row(c: RankChoice) -> tuple[object, ...]:
    return c.rule, c.k, None if c.threshold is None else float(c.threshold), c.note


def _scaled(values: NDArray[np.float64] | list[float], low: float, high: float) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    return (array - low) / (high - low) if high > low else np.full(len(array), 0.5)

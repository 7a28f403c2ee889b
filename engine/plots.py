"""Altair figures of spectra, shares and choices, in the report's look; what ``.plot()`` returns.

They are ordinary Altair charts: lay them over others, save them, change them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.thinning import thin
from ingest.html import printable
from ingest.look import altair, figure

if TYPE_CHECKING:
    from engine.rank.choice import RankChoice
    from engine.spectrum import Spectrum
    from engine.subspace import Subspace

WIDTH, HEIGHT = 360, 260
INK, MUTED, BLUE = "var(--ink)", "var(--muted)", "var(--a)"


def scree(of: Subspace | Spectrum, choices: Iterable[RankChoice] | None = None) -> Any:
    """Singular values on logarithmic axes, with the thresholds of rules.

    Parameters
    ----------
    of : Subspace or Spectrum
    choices : of which thresholds are drawn; by default the one that a subspace followed.

    Returns
    -------
    altair.LayerChart
        At most 250 points.

    Raises
    ------
    EigenzooError
        If altair is missing.
    """
    return figure(_scree(of, choices))


def cumulative(of: Subspace | Spectrum, choices: Iterable[RankChoice] | None = None) -> Any:
    """Cumulative share of the total variance, with the K of rules.

    Parameters, returns and raises as for `scree`; by default all of a subspace's choices are marked.
    """
    return figure(_cumulative(of, choices))


def both(of: Subspace | Spectrum) -> Any:
    """`scree` beside `cumulative`, as an altair.HConcatChart."""
    return figure(altair().hconcat(_scree(of), _cumulative(of)).resolve_legend(color="independent"))


def choice(chosen: RankChoice, of: Subspace | Spectrum | None = None) -> Any:
    """What a rule said, against the spectrum it was asked of where that is given; else in words.

    Returns
    -------
    altair.LayerChart
    """
    if of is not None:
        return scree(of, [chosen])
    alt = altair()
    k = "declines" if chosen.k is None else f"K = {chosen.k}"
    held = f", held against {chosen.threshold:.4g}" if chosen.threshold is not None else ""
    lines = [
        f"{_name(chosen)}: {k}{held}",
        printable(chosen.note) or "its spectrum is not known here: .plot(subspace) draws it",
    ]
    rows = [{"line": line, "y": i, "first": not i} for i, line in enumerate(lines)]
    text = alt.Chart(alt.Data(values=rows)).mark_text(align="left", limit=WIDTH)
    text = text.encode(
        x=alt.value(8),
        y=alt.Y("y:O", axis=None),
        text="line:N",
        color=alt.condition("datum.first", alt.value(INK), alt.value(MUTED)),
    )
    return figure(alt.layer(text).properties(width=WIDTH, height=48))


def _scree(of: Subspace | Spectrum, choices: Iterable[RankChoice] | None = None) -> Any:
    alt = altair()
    followed = getattr(of, "k_choice", None)
    choices = [c for c in (followed,) if c is not None] if choices is None else list(choices)
    sigma = of.singular_values
    k = next((c.k for c in choices if c.k is not None), 0)
    values = [
        {"i": int(i), "sigma": float(sigma[i - 1]), "kept": bool(i <= k)} for i in thin(len(sigma)) if sigma[i - 1] > 0
    ]
    x = alt.X("i:Q", title="index i", axis=alt.Axis(format="d", grid=False)).scale(type="log", nice=False)
    y = alt.Y("sigma:Q", title="singular value σᵢ").scale(type="log", nice=False, padding=8)
    if not values:  # a logarithmic axis of nothing still has to be somewhere
        x, y = x.scale(domain=[1, max(len(sigma), 2)]), y.scale(domain=[0.1, 1])
    base = alt.Chart(alt.Data(values=values)).encode(x=x, y=y)
    layers = [
        base.mark_line(color=MUTED, strokeWidth=1, opacity=0.5),
        base.mark_point(filled=True, size=22, opacity=1).encode(
            color=alt.condition("datum.kept", alt.value(BLUE), alt.value(MUTED)),
            tooltip=[alt.Tooltip("i:Q"), alt.Tooltip("sigma:Q", title="σᵢ", format=".5~g")],
        ),
    ]
    thresholds = [_threshold(c) for c in choices if _is_singular_value(c)]
    if thresholds:
        held = alt.Chart(alt.Data(values=thresholds))
        layers.append(held.mark_rule(color=INK, strokeDash=[4, 3], opacity=0.6).encode(y="value:Q"))
        text = held.mark_text(align="right", baseline="bottom", dx=-3, dy=-3, color=INK)
        layers.append(text.encode(x=alt.value("width"), y="value:Q", text="label:N"))
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)


def _cumulative(of: Subspace | Spectrum, choices: Iterable[RankChoice] | None = None) -> Any:
    alt = altair()
    choices = list(getattr(of, "choices", {}).values()) if choices is None else list(choices)
    share = _shares(of)
    values = [{"i": int(i), "share": float(share[i - 1])} for i in thin(len(share))]
    x = alt.X("i:Q", title="number of components i", axis=alt.Axis(format="d", grid=False)).scale(
        type="log", nice=False
    )
    y = alt.Y("share:Q", title="share of total variance", axis=alt.Axis(format=".0%")).scale(domain=[0, 1])
    base = alt.Chart(alt.Data(values=values)).encode(x=x, y=y)
    tooltip = [alt.Tooltip("i:Q"), alt.Tooltip("share:Q", title="share", format=".2%")]
    layers = [base.mark_line(color=BLUE, strokeWidth=2), base.mark_point(opacity=0, size=40).encode(tooltip=tooltip)]
    marks = [
        {"k": c.k, "share": float(share[c.k - 1]), "rule": f"{_name(c)}: K = {c.k}"}
        for c in choices
        if c.k and c.k <= len(share)
    ]
    if marks:
        held = alt.Chart(alt.Data(values=marks))
        # Names in a legend: two rules may say nearly the same K.
        names = list(dict.fromkeys(m["rule"] for m in marks))
        inks = [INK, "var(--b)", "var(--delta)", MUTED, BLUE]
        colour = alt.Color("rule:N", title=None, sort=names).scale(
            domain=names, range=[inks[i % len(inks)] for i in range(len(names))]
        )
        colour = colour.legend(orient="bottom", columns=2, columnPadding=24, labelLimit=300)
        layers.append(held.mark_rule(strokeDash=[4, 3]).encode(x="k:Q", color=colour))
        point = held.mark_point(filled=True, size=60, opacity=1)
        layers.append(point.encode(x="k:Q", y="share:Q", color=colour, tooltip=["rule:N"]))
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)


def _shares(of: Subspace | Spectrum) -> Any:
    variance = of.explained_variance
    return np.cumsum(variance) / of.total_variance if of.total_variance > 0 else np.zeros_like(variance)


def _is_singular_value(c: RankChoice) -> bool:
    return c.threshold is not None and c.threshold > 0 and not c.rule.startswith("ev")


def _threshold(c: RankChoice) -> dict[str, Any]:
    return {"value": c.threshold, "label": f"{_name(c)} threshold {c.threshold:.4g}"}


def _name(c: RankChoice) -> str:
    from engine.report.rules import label

    return label(c.rule)

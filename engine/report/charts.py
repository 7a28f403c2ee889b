"""Vega-Lite specifications of one matrix's curves, by Altair, without data.

The page's script adds the datasets they name, colours (see `ingest.look`), and what depends on the room there
is: scales' domains, and ``py``, where a label stands so that it covers no other.
"""

from __future__ import annotations

from typing import Any

INK, MUTED, SIDE, LINE = "var(--ink)", "var(--muted)", "var(--side)", "var(--line)"
EV_LINE = 0.8
HEIGHT = 300


def scree(centred: bool) -> dict[str, Any]:
    """Singular values, log scale.

    Datasets: spectrum (i, sigma, above), thresholds (value), labels (text, py, from: its threshold's height).
    """
    import altair as alt

    spectrum, thresholds = alt.NamedData("spectrum"), alt.NamedData("thresholds")
    title = f"singular value σᵢ of the {'centred' if centred else 'uncentred'} matrix"
    x = alt.X("i:Q", title="index i, by falling singular value", axis=index_axis())
    y = alt.Y("sigma:Q", title=title, axis=alt.Axis(format=".4~g", tickCount=6)).scale(type="log", nice=False)
    tooltip = [alt.Tooltip("i:Q"), alt.Tooltip("sigma:Q", title="σᵢ", format=".5~g")]
    line = alt.Chart(spectrum).mark_line(color=MUTED, strokeWidth=1, opacity=0.5).encode(x=x, y=y)
    point = (
        alt.Chart(spectrum)
        .mark_point(filled=True, size=24, opacity=1)
        .encode(x=x, y=y, color=alt.condition("datum.above", alt.value(SIDE), alt.value(MUTED)), tooltip=tooltip)
    )
    rule = alt.Chart(thresholds).mark_rule(color=INK, strokeDash=[4, 3], opacity=0.55).encode(y="value:Q")
    return without_look(alt.layer(line, rule, point, *_labels()).properties(width="container", height=HEIGHT))


def share(centred: bool) -> dict[str, Any]:
    """Cumulative share of the variance; above it a line for every rule, with a dot at its K.

    Datasets: spectrum (i, share), rules (label, text, py, on: whether it is the one that was followed), and of these
    that say a K above 0: marks (k, share, right: on which side of its dot the text stands).
    """
    import altair as alt

    spectrum, rules, marks = alt.NamedData("spectrum"), alt.NamedData("rules"), alt.NamedData("marks")
    title = f"share of total variance{'' if centred else ' about zero'}"
    x = alt.X("i:Q", title="number of components i", axis=index_axis())
    y = alt.Y("share:Q", title=title, axis=alt.Axis(format=".0%", values=[0, 0.2, 0.4, 0.6, 0.8, 1]))
    y = y.scale(domain=[0, 1], nice=False)
    tooltip = [alt.Tooltip("i:Q"), alt.Tooltip("share:Q", title="components 1 … i", format=".2%")]
    line = alt.Chart(spectrum).mark_line(color=SIDE, strokeWidth=2).encode(x=x, y=y)
    # Points where there is room between them; the others are there for their tooltips.
    few = alt.condition("datum.i <= 20", alt.value(1), alt.value(0))
    point = alt.Chart(spectrum).mark_point(filled=True, size=18, color=SIDE)
    point = point.encode(x=x, y=y, opacity=few, tooltip=tooltip)
    target = alt.Chart(spectrum).mark_rule(color=MUTED, strokeDash=[2, 3]).encode(y=alt.datum(EV_LINE))
    colour = alt.condition("datum.on", alt.value(SIDE), alt.value(INK))
    # Within the frame alone: further up it would cross other rules' figures.
    stem = alt.Chart(marks).mark_rule(strokeWidth=1, opacity=0.4).encode(x="k:Q", color=colour)
    on_curve = alt.Chart(marks).mark_point(filled=True, size=40, opacity=1).encode(x="k:Q", y="share:Q", color=colour)
    lane = {"y": alt.ExprRef("datum.py"), "baseline": "middle"}
    name = alt.Chart(rules).mark_text(align="right", dx=-10, **lane)
    name = name.encode(x=alt.value(0), text="label:N", color=colour)
    silent = alt.Chart(rules).transform_filter("!datum.known").mark_text(align="left", dx=4, color=MUTED, **lane)
    silent = silent.encode(x=alt.value(0), text="text:N")
    dot = alt.Chart(marks).mark_point(filled=True, size=56, opacity=1, y=alt.ExprRef("datum.py"))
    dot = dot.encode(
        x="k:Q",
        color=colour,
        tooltip=[
            alt.Tooltip("label:N", title="rule"),
            alt.Tooltip("k:Q", title="K"),
            alt.Tooltip("share:Q", title="share of total variance", format=".2%"),
        ],
    )
    said = alt.Chart(marks).mark_text(
        align=alt.ExprRef("datum.right ? 'right' : 'left'"), dx=alt.ExprRef("datum.right ? -8 : 8"), **lane
    )
    said = said.encode(x="k:Q", text="text:N", color=colour)
    layers = alt.layer(line, target, point, stem, on_curve, name, silent, dot, said)
    return without_look(layers.properties(width="container", height=HEIGHT))


def curve() -> dict[str, Any]:
    """Held-out error over K, and its controls at the K of the run.

    Datasets: curve (k, error), controls (value), at (k), labels (text, py, from).
    """
    import altair as alt

    held, controls = alt.NamedData("curve"), alt.NamedData("controls")
    x = alt.X("k:Q", title="number of components K", axis=index_axis()).scale(nice=False)
    y = alt.Y("error:Q", title="relative squared error", axis=alt.Axis(tickCount=5)).scale(nice=False)
    tooltip = [alt.Tooltip("k:Q", title="K"), alt.Tooltip("error:Q", title="held out", format=".4~g")]
    line = alt.Chart(held).mark_line(color=SIDE, strokeWidth=2).encode(x=x, y=y)
    point = alt.Chart(held).mark_point(filled=True, size=30, opacity=1, color=SIDE).encode(x=x, y=y, tooltip=tooltip)
    rule = alt.Chart(controls).mark_rule(color=INK, strokeDash=[4, 3], opacity=0.55).encode(y="value:Q")
    stem = alt.Chart(alt.NamedData("at")).mark_rule(color=SIDE, opacity=0.4).encode(x="k:Q")
    layers = alt.layer(rule, stem, line, point, *_labels())
    return without_look(layers.properties(width="container", height=HEIGHT))


def index_axis() -> Any:
    """An axis of whole numbers from 1."""
    import altair as alt

    # A logarithmic axis from 0.9 has a tick there, which would be labelled as another 1.
    label = "datum.value % 1 || datum.value < 1 ? '' : format(datum.value, ',d')"
    return alt.Axis(labelExpr=label, tickMinStep=1, grid=False)


def without_look(chart: Any) -> dict[str, Any]:
    """The specification of a chart; the look is the page's, and nothing in the page names an address."""
    spec: dict[str, Any] = chart.to_dict()
    return {key: value for key, value in spec.items() if key not in ("$schema", "config")}


def _labels() -> list[Any]:
    """Labels right of the frame, each tied to its line."""
    import altair as alt

    labels = alt.Chart(alt.NamedData("labels"))
    tie = labels.mark_rule(color=MUTED, opacity=0.6).encode(
        x=alt.XValue(alt.ExprRef("width")),
        x2=alt.X2Value(alt.ExprRef("width + 9")),
        y=alt.YValue(alt.ExprRef("datum.from")),
        y2=alt.Y2Value(alt.ExprRef("datum.py")),
    )
    text = labels.mark_text(align="left", baseline="middle", dx=13, y=alt.ExprRef("datum.py"), color=INK)
    return [tie, text.encode(x=alt.value("width"), text="text:N")]

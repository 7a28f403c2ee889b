"""Vega-Lite specifications, by Altair, without data: the page's script adds the datasets they name.

Colours are written ``var(--name)``; the script puts in those of the page, light or dark.
"""

from __future__ import annotations

from typing import Any

INK, MUTED, SIDE, A, B = "var(--ink)", "var(--muted)", "var(--side)", "var(--a)", "var(--b)"
EV_LINE = 0.8
# With two layers Vega still ticks at 0.5, which would be labelled as another 1.
WHOLE = "datum.value % 1 ? '' : format(datum.value, 'd')"


def picture(axis: str) -> dict[str, Any]:
    """K over the layers, a panel per module, a colour per side.  Dataset: matrices (panel, x, side, k, …)."""
    import altair as alt

    base = alt.Chart().encode(
        x=alt.X("x:Q", title=axis, axis=alt.Axis(tickMinStep=1, labelExpr=WHOLE, grid=False)).scale(
            zero=False, nice=False, padding=14
        ),
        color=alt.Color("side:N", title=None)
        .scale(domain=["A", "B"], range=[A, B])
        .legend(orient="top", labelExpr="'side ' + datum.label", symbolSize=80, symbolOpacity=1),
        tooltip=[
            alt.Tooltip("layer:N"),
            alt.Tooltip("side:N"),
            alt.Tooltip("gd:N", title="K Gavish–Donoho"),
            alt.Tooltip("ev:N", title="K for 80 %"),
            alt.Tooltip("kept:N", title="K kept"),
            alt.Tooltip("planted:N", title="K planted"),
        ],
    )
    y = alt.Y("k:Q", title="K", axis=alt.Axis(tickMinStep=1, format="d", tickCount=5)).scale(zero=True)
    shape = alt.Shape("side:N", title=None).scale(domain=["A", "B"], range=["circle", "square"])
    known = "isValid(datum.k)"
    planted = (
        base.transform_filter("isValid(datum.planted)")
        .mark_point(shape="stroke", size=420, strokeWidth=3, opacity=0.45)
        .encode(y="planted:Q")
    )
    line = base.transform_filter(known).mark_line(strokeWidth=1.25, opacity=0.6).encode(y=y)
    point = base.transform_filter(known).mark_point(size=30, strokeWidth=1.75).encode(y=y, shape=shape)
    declined = (
        base.transform_filter(f"!{known}").mark_text(text="–", fontSize=20, fontWeight="bold").encode(y=alt.datum(0))
    )
    layers = alt.layer(planted, line, point, declined, data=alt.NamedData("matrices")).properties(height=150)
    header = alt.Header(title=None, labelAnchor="start", labelFontWeight="bold", labelColor=INK)
    panels = layers.facet(facet=alt.Facet("panel:N", sort=None, header=header), columns=3)
    return _spec(panels.resolve_axis(x="independent"))


def scree(centred: bool) -> dict[str, Any]:
    """Singular values, log scale.  Datasets: spectrum (i, sigma, above), thresholds (value, label)."""
    import altair as alt

    spectrum, thresholds = alt.NamedData("spectrum"), alt.NamedData("thresholds")
    title = f"singular value σᵢ of the {'centred' if centred else 'uncentred'} matrix"
    x = alt.X("i:Q", title="index i, by falling singular value", axis=_index_axis())
    y = alt.Y("sigma:Q", title=title, axis=alt.Axis(format=".3~g", tickCount=6)).scale(type="log", nice=False)
    tooltip = [alt.Tooltip("i:Q"), alt.Tooltip("sigma:Q", title="σᵢ", format=".5~g")]
    line = alt.Chart(spectrum).mark_line(color=MUTED, strokeWidth=1, opacity=0.6).encode(x=x, y=y)
    point = (
        alt.Chart(spectrum)
        .mark_point(filled=True, size=26, opacity=1)
        .encode(x=x, y=y, color=alt.condition("datum.above", alt.value(SIDE), alt.value(MUTED)), tooltip=tooltip)
    )
    rule = alt.Chart(thresholds).mark_rule(color=INK, strokeDash=[5, 3]).encode(y="value:Q")
    label = (
        alt.Chart(thresholds)
        .mark_text(align="right", baseline="bottom", dx=-2, dy=-4, color=INK)
        .encode(x=alt.value("width"), y="value:Q", text="label:N")
    )
    return _spec(alt.layer(line, rule, point, label).properties(width="container", height=320))


def share(centred: bool) -> dict[str, Any]:
    """Cumulative share of the variance.

    Datasets: spectrum (i, share), marks (rule, k, share, label, lane, right).
    """
    import altair as alt

    spectrum, marks = alt.NamedData("spectrum"), alt.NamedData("marks")
    title = f"share of total variance{'' if centred else ' about zero'}, components 1 … i"
    x = alt.X("i:Q", title="number of components i", axis=_index_axis())
    y = alt.Y("share:Q", title=title, axis=alt.Axis(format=".0%", values=[0, 0.2, 0.4, 0.6, 0.8, 1]))
    y = y.scale(domain=[0, 1], nice=False)
    tooltip = [alt.Tooltip("i:Q"), alt.Tooltip("share:Q", title="share of total variance", format=".2%")]
    line = alt.Chart(spectrum).mark_line(color=SIDE, strokeWidth=2).encode(x=x, y=y)
    # Points where there is room between them; the others are there for their tooltips.
    few = alt.condition("datum.i <= 20", alt.value(1), alt.value(0))
    point = alt.Chart(spectrum).mark_point(filled=True, size=18, color=SIDE)
    point = point.encode(x=x, y=y, opacity=few, tooltip=tooltip)
    target = alt.Chart(spectrum).mark_rule(color=MUTED, strokeDash=[2, 3]).encode(y=alt.datum(EV_LINE))
    colour = alt.Color("rule:N", legend=None).scale(domain=["gd", "ev", "kept"], range=[INK, MUTED, SIDE])
    stem = alt.Chart(marks).mark_rule(strokeDash=[5, 3]).encode(x="k:Q", color=colour)
    dot = alt.Chart(marks).mark_point(filled=True, size=70, opacity=1).encode(x="k:Q", y="share:Q", color=colour)
    # In lanes above the frame, where labels cover neither data nor each other.
    label = (
        alt.Chart(marks)
        .mark_text(
            baseline="middle",
            align=alt.ExprRef("datum.right ? 'right' : 'left'"),
            y=alt.ExprRef("-8 - 16 * datum.lane"),
        )
        .encode(x="k:Q", text="label:N", color=colour)
    )
    layers = alt.layer(line, target, point, stem, dot, label)
    return _spec(layers.properties(width="container", height=320))


def _index_axis() -> Any:
    import altair as alt

    # A logarithmic axis from 0.9 has a tick there, which would be labelled as another 1.
    return alt.Axis(labelExpr="datum.value % 1 ? '' : format(datum.value, ',d')", tickMinStep=1, grid=False)


def _spec(chart: Any) -> dict[str, Any]:
    spec: dict[str, Any] = chart.to_dict()
    # The look is the page's, and nothing in the page names an address.
    return {key: value for key, value in spec.items() if key not in ("$schema", "config")}

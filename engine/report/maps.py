"""Vega-Lite specifications of pictures of the whole run, by Altair, without data; as in `engine.report.charts`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.report.charts import INK, MUTED, index_axis, without_look
from engine.report.findings import HELDOUT
from ingest.look import RAMP

A, B, DELTA = "var(--a)", "var(--b)", "var(--delta)"
_CROSS = "M-.7,-.7L.7,.7M.7,-.7L-.7,.7"
# field: fill, stroke, shape
_MARKS = {
    "error": (A, A, "circle"),
    "in_sample": ("transparent", A, "circle"),
    "one_per_seed": ("transparent", DELTA, "diamond"),
    "null": (B, B, "stroke"),
    "random_basis": (MUTED, MUTED, "stroke"),
    "mean_only": (MUTED, MUTED, _CROSS),
}
ORDER = "layer, in the table’s order"


def heat_map() -> dict[str, Any]:
    """K over depth and module, a panel per side; a corner where the rule should not be believed.

    Dataset: matrices (index, panel, x, side, k, label, high, flag, …).  The script sets sizes, the colours' domain, and
    ``chosen``, the index of the matrix that is outlined.
    """
    import altair as alt

    x_axis = alt.Axis(
        labelExpr="datum.value < 0 ? '–' : datum.label", labelAngle=0, grid=False, ticks=False, domain=False
    )
    y_axis = alt.Axis(ticks=False, domain=False, labelPadding=6)
    base = alt.Chart().encode(
        x=alt.X("x:O", title=None, axis=x_axis).scale(paddingInner=0, paddingOuter=0),
        y=alt.Y("panel:N", title=None, sort=None, axis=y_axis).scale(paddingInner=0, paddingOuter=0),
        tooltip=[
            alt.Tooltip("layer:N"),
            alt.Tooltip("side:N"),
            alt.Tooltip("said:N", title="K by this rule"),
            alt.Tooltip("kept:N", title="K kept"),
            alt.Tooltip("planted:N", title="K planted"),
            alt.Tooltip("noise:N", title="noise"),
        ],
    )
    rect = {"cornerRadius": 2, "cursor": "pointer", "stroke": "var(--page)", "strokeWidth": 1.5}
    cell = base.transform_filter("isValid(datum.k)").mark_rect(**rect)
    cell = cell.encode(
        color=alt.Color("k:Q", title=None)
        .scale(type="sqrt", range=RAMP, interpolate="lab")
        .legend(orient="top", direction="horizontal", gradientLength=160, gradientThickness=8),
    )
    declined = base.transform_filter("!isValid(datum.k)").mark_rect(fill="var(--raised)", **rect)
    text = base.mark_text(fontSize=10.5, cursor="pointer").encode(
        text="label:N", color=alt.condition("datum.high", alt.value("var(--onhigh)"), alt.value("var(--onlow)"))
    )
    flag = base.transform_filter("datum.flag").mark_point(
        shape="M-1,-1L1,-1L1,1Z", filled=True, size=36, opacity=1, color=B, cursor="pointer"
    )
    here = base.transform_filter("datum.index === chosen")
    here = here.mark_rect(fill="transparent", stroke=INK, strokeWidth=2, cornerRadius=2, cursor="pointer")
    layers = alt.layer(cell, declined, text, flag, here, data=alt.NamedData("matrices"))
    header = alt.Header(
        title=None, labelExpr="'side ' + datum.value", labelAnchor="start", labelFontWeight="bold", labelPadding=4
    )
    panels = layers.facet(facet=alt.Facet("side:N", header=header), columns=1).resolve_axis(x="independent")
    return {**without_look(panels), "params": [{"name": "chosen", "value": -1}]}


def heldout(known: Sequence[str]) -> dict[str, Any]:
    """Held-out errors of all matrices beside those of their controls, a panel per side.

    Dataset: heldout (index, at, side, layer, series, value).  `known` are the fields there are figures of.
    """
    import altair as alt

    series = [(title, *_MARKS[field]) for field, title in HELDOUT if field in known]
    domain = [title for title, *_ in series]
    fill, stroke, shape = ([mark[i] for mark in series] for i in (1, 2, 3))
    legend = alt.Legend(orient="top", symbolSize=60, symbolStrokeWidth=1.75)
    points = (
        alt.Chart()
        .mark_point(strokeWidth=1.75, opacity=1, cursor="pointer")
        .encode(
            x=_order(),
            y=alt.Y("value:Q", title="relative squared error", axis=alt.Axis(tickCount=4)).scale(zero=True),
            fill=alt.Fill("series:N", title=None, sort=domain, legend=legend).scale(domain=domain, range=fill),
            stroke=alt.Stroke("series:N", title=None, sort=domain, legend=legend).scale(domain=domain, range=stroke),
            shape=alt.Shape("series:N", title=None, sort=domain, legend=legend).scale(domain=domain, range=shape),
            tooltip=[
                alt.Tooltip("layer:N"),
                alt.Tooltip("side:N"),
                alt.Tooltip("series:N", title="which"),
                alt.Tooltip("value:Q", title="error", format=".3~g"),
            ],
        )
    )
    return _rows(
        alt.layer(points, data=alt.NamedData("heldout")).properties(height=130), "side", "'side ' + datum.value"
    )


def errors() -> dict[str, Any]:
    """Reconstruction error per layer, mean and worst adapter: of A, of B and of ΔW, a panel each.

    Dataset: errors (at, layer, series, mean, worst, who, and index where it is a matrix).
    """
    import altair as alt

    domain = ["A", "B", "ΔW"]
    base = alt.Chart().encode(
        x=_order(),
        color=alt.Color("series:N", legend=None).scale(domain=domain, range=[A, B, DELTA]),
        tooltip=[
            alt.Tooltip("layer:N"),
            alt.Tooltip("series:N", title="of"),
            alt.Tooltip("mean:Q", format=".3~g"),
            alt.Tooltip("worst:Q", format=".3~g"),
            alt.Tooltip("who:N", title="worst adapter"),
        ],
    )
    title = "relative error"
    y = alt.Y("mean:Q", title=title, axis=alt.Axis(tickCount=4)).scale(zero=True)
    span = base.mark_rule(opacity=0.25, strokeWidth=1.5).encode(y=y, y2="worst:Q")
    point = base.mark_point(filled=True, size=32, opacity=1, cursor="pointer").encode(y=y)
    return _rows(alt.layer(span, point, data=alt.NamedData("errors")).properties(height=110), "series", "datum.value")


def _order() -> Any:
    import altair as alt

    return alt.X("at:Q", title=ORDER, axis=index_axis()).scale(zero=False, nice=False, padding=10)


def _rows(layers: Any, field: str, label: str) -> dict[str, Any]:
    import altair as alt

    header = alt.Header(title=None, labelExpr=label, labelAnchor="start", labelFontWeight="bold", labelPadding=4)
    return without_look(layers.facet(facet=alt.Facet(f"{field}:N", header=header), columns=1))

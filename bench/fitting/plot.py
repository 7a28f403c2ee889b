"""The rows as a picture: time and memory of every contestant, coloured by what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.fitting.table import MIB, Row

_COLOURS = {
    "ours": "#1b6ca8",
    "peer, as accurate": "#3a9b63",
    "peer, exact method": "#c9a227",
    "peer, top only or approximate": "#b5b5b5",
}


def draw(rows: list[Row], path: Path) -> str:
    """Write a PNG; one line that says where it is, or why there is none."""
    try:
        import altair as alt
        import vl_convert
    except ImportError as problem:
        return f"no picture: {problem}"
    shown = [each for each in rows if each["status"] == "ok" and each["contestant"] != "ours gram pass"]
    if not shown:
        return "no picture: nothing to show"
    stores = list(dict.fromkeys(each["store"] for each in shown))
    chart = alt.vconcat(*(_panel(alt, [r for r in shown if r["store"] == store], store) for store in stores))
    png = vl_convert.vegalite_to_png(chart.configure_view(stroke=None).to_json(), scale=2)
    path.write_bytes(png)
    return f"picture: {path}"


def _panel(alt: Any, rows: list[Row], store: str) -> Any:
    values = [
        {
            "contestant": each["contestant"],
            "what": _what(each),
            "wall": each["wall_s"],
            "peak": each["peak"] / MIB,
        }
        for each in rows
    ]
    order = [each["contestant"] for each in sorted(rows, key=lambda each: each["wall_s"])]
    base = alt.Chart(alt.Data(values=values)).mark_circle(size=90, opacity=1).properties(width=300)
    y = alt.Y("contestant:N", sort=order, title=None, axis=alt.Axis(labelLimit=200, grid=True))
    colour = alt.Color("what:N", title=None, scale=alt.Scale(domain=list(_COLOURS), range=list(_COLOURS.values())))
    wall = base.encode(y=y, x=alt.X("wall:Q", title=f"{store}: seconds", scale=alt.Scale(type="log")), color=colour)
    peak = base.encode(
        y=alt.Y("contestant:N", sort=order, title=None, axis=alt.Axis(labels=False, grid=True)),
        x=alt.X("peak:Q", title="peak MiB, all processes", scale=alt.Scale(type="log")),
        color=colour,
    )
    return alt.hconcat(wall, peak)


def _what(each: Row) -> str:
    if each["kind"] == "ours":
        return "ours"
    if each["same"]:
        return "peer, as accurate"
    return "peer, exact method" if each["kind"] == "exact" else "peer, top only or approximate"

"""The look that every picture shares: colours for light and dark, and a Vega-Lite configuration without numbers in it.

The configuration and the charts name colours as ``var(--name)``: the report's script puts in those of its page, light
or dark, and `figure` does it for one that stands alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ingest.errors import EigenzooError

FONT = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"
# name: light, dark
PALETTE = {
    "page": ("#fdfdfc", "#15171b"),
    "raised": ("#f5f5f2", "#1e2126"),
    "ink": ("#1d1f23", "#e8e9eb"),
    "muted": ("#666d78", "#9aa1ac"),
    "line": ("#dcdee2", "#343942"),
    "pick": ("#e4eef8", "#22364b"),
    "a": ("#0b62ad", "#63b0f4"),
    "b": ("#b8470b", "#f2995c"),
    "delta": ("#5b3f9e", "#b39df0"),
    # K, from little to much; then what is written on the first and on the last of these.
    "ramp1": ("#edf3f8", "#1f2933"),
    "ramp2": ("#bcd5ea", "#234664"),
    "ramp3": ("#79abd6", "#2c6a9d"),
    "ramp4": ("#3379b7", "#4c9ddb"),
    "ramp5": ("#0b4679", "#a6d4fb"),
    "onlow": ("#1d1f23", "#e8e9eb"),
    "onhigh": ("#ffffff", "#0e1116"),
}
DATA = frozenset({"data", "datasets"})  # where a specification has its rows
RAMP = [f"var(--ramp{i})" for i in range(1, 6)]

CONFIG: dict[str, Any] = {
    "background": "var(--page)",
    "font": FONT,
    "padding": {"left": 0, "right": 4, "top": 4, "bottom": 6},
    "view": {"stroke": "var(--line)"},
    "text": {"fontSize": 11.5, "color": "var(--ink)"},
    "title": {"color": "var(--ink)", "subtitleColor": "var(--muted)", "fontWeight": 600, "anchor": "start"},
    "legend": {
        "labelColor": "var(--ink)",
        "titleColor": "var(--muted)",
        "titleFontWeight": "normal",
        "labelFontSize": 11.5,
        "titleFontSize": 11.5,
        "offset": 8,
    },
    "header": {"labelFontSize": 12, "labelColor": "var(--ink)", "titleColor": "var(--ink)"},
    "axis": {
        "labelColor": "var(--muted)",
        "titleColor": "var(--ink)",
        "titleFontWeight": "normal",
        "labelFontSize": 11.5,
        "titleFontSize": 12,
        "gridColor": "var(--line)",
        "gridOpacity": 0.6,
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "titlePadding": 8,
        "labelOverlap": "greedy",
        "labelSeparation": 6,
    },
}


def variables(dark: bool) -> str:
    """The palette as custom properties of a style sheet."""
    return " ".join(f"--{name}: {colours[dark]};" for name, colours in PALETTE.items())


def painted(spec: Any, *, dark: bool = False, side: str = "A") -> Any:
    """`spec` with the palette's colours in it, ``var(--side)`` being that of the side; data stay as they are.

    Data hold names from other people's files, which may look like colours.
    """
    own = {f"var(--{name})": colours[dark] for name, colours in PALETTE.items()}
    own["var(--side)"] = own["var(--b)" if side == "B" else "var(--a)"]
    return _painted(spec, own)


def _painted(spec: Any, own: Mapping[str, str]) -> Any:
    if isinstance(spec, Mapping):
        return {name: what if name in DATA else _painted(what, own) for name, what in spec.items()}
    if isinstance(spec, list | tuple):
        return [_painted(each, own) for each in spec]
    return own.get(spec, spec) if isinstance(spec, str) else spec


def altair() -> Any:
    """Altair, for figures.

    Raises
    ------
    EigenzooError
        Where it is not installed.
    """
    try:
        import altair as alt
    except ImportError as error:
        raise EigenzooError("plots need altair, which is missing; pip install 'eigenzoo[report]'") from error
    return alt


def figure(chart: Any) -> Any:
    """An Altair chart in this look, on a light page."""
    kind = type(chart)
    return kind.from_dict(painted({**chart.to_dict(), "config": CONFIG}))

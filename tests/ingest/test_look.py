"""The palette is put into charts, and not into what they show."""

from __future__ import annotations

import json

import pytest

from ingest.look import CONFIG, PALETTE, figure, painted


def test_colours_are_painted_by_their_names() -> None:
    spec = {
        "a": ["var(--ink)", {"b": "var(--side)"}],
        "c": 1.5,
        "d": None,
        "title": "in var(--ink)",
        "e": "var(--evil)",
    }
    light, dark = painted(spec), painted(spec, dark=True, side="B")
    assert light == {**spec, "a": [PALETTE["ink"][0], {"b": PALETTE["a"][0]}]}
    assert dark == {**spec, "a": [PALETTE["ink"][1], {"b": PALETTE["b"][1]}]}
    assert "var(--" not in json.dumps(painted(CONFIG))


def test_data_are_left_alone() -> None:
    alt = pytest.importorskip("altair")
    rows = [{"layer": "x.var(--evil)", "n": 1}, {"layer": "var(--ink)", "n": 2}]
    for data in (alt.Data(values=rows), alt.Data(values=rows, name="named")):
        chart = alt.Chart(data).mark_bar(color="var(--a)").encode(x="layer:N", y="n:Q")
        drawn = figure(alt.layer(chart, chart)).to_json()
        assert drawn.count('"x.var(--evil)"') >= 1 and drawn.count('"var(--ink)"') == drawn.count('"x.var(--evil)"')
        assert PALETTE["a"][0] in drawn and "var(--a)" not in drawn

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np

import engine
from engine.html import sparkline
from engine.rank.choice import RankChoice

HOSTILE = "<script>alert(1)</script>\u202e"


class Cells(HTMLParser):
    """The text of table cells; every tag must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: set[str] = set()
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._open.append(tag)
        self.tags.add(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("td", "th"):
            self.cells[-1] += data


def test_subspace_as_a_table_and_a_curve() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 3)) @ rng.standard_normal((3, 40)) + 0.1 * rng.standard_normal((200, 40))
    subspace = engine.fit(x)
    read = Cells(subspace._repr_html_())
    assert {"K kept", "3, by gavish-donoho", "200 × 40, of 1 adapters", "ev:0.8"} <= {*read.cells}
    assert f"{subspace.k_choice.threshold:.4g}" in read.cells
    assert "svg" in read.tags and "script" not in read.tags
    assert repr(subspace).startswith("Subspace(K=3 of 200 × 40")


def test_spectrum_and_choice() -> None:
    spectrum = engine.fit(np.diag([3.0, 2.0, 1.0]), center="none").as_spectrum()
    cells = Cells(spectrum._repr_html_()).cells
    assert "3, 2, 1" in cells and "3 × 3" in cells
    assert Cells(RankChoice(None, None, "elbow", "flat")._repr_html_()).cells[-4:] == ["elbow", "–", "–", "flat"]


def test_text_is_escaped() -> None:
    read = Cells(RankChoice(1, 0.25, HOSTILE, HOSTILE)._repr_html_())
    assert "script" not in read.tags
    assert read.cells.count("<script>alert(1)</script>\\u202e") == 2


def test_odd_spectra_have_a_curve_or_none() -> None:
    assert sparkline(np.zeros(4)) == "" and sparkline(np.zeros(0)) == ""
    for sigma in (np.array([2.0]), np.full(7, 3.0), np.array([1.0, 1e-300, 0.0])):
        curve = sparkline(sigma, 1, RankChoice(1, 1.5, "gavish-donoho"))
        assert "nan" not in curve and "inf" not in curve
        assert curve.count("<circle") == np.count_nonzero(sigma) and curve.count("<line") == 1
    assert "<line" not in sparkline(np.array([2.0, 1.0]), 1, RankChoice(1, 0.8, "ev:0.8"))

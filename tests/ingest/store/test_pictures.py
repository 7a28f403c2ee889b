from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ingest.errors import EigenzooError
from ingest.store.reader import Zoo
from tests.ingest.store.zoos import make


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    return make(str(tmp_path / "zoo.zarr"), [[("one", 1), ("two", 2)]])


def test_a_zoo_as_tables(zoo: Zoo) -> None:
    text = zoo._repr_html_()
    for matrix in zoo.matrices:
        assert f">{matrix.layer}<" in text and f">{matrix.width}<" in text
    assert ">2: 2 of rank 5<" in text
    assert "<script" not in text and repr(zoo).startswith("Zoo(")


def test_names_are_escaped(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(zoo), "base_model", "<img src=x>\u202e")
    assert "&lt;img src=x&gt;\\u202e" in zoo._repr_html_()


def test_a_zoo_as_a_figure(zoo: Zoo) -> None:
    alt = pytest.importorskip("altair")
    chart = zoo.plot()
    assert isinstance(chart, alt.HConcatChart)
    spec = chart.to_dict()
    rows, ranks = (part["data"]["values"] for part in spec["hconcat"])
    assert {(r["layer"], r["rows"]) for r in rows} == {(m.layer, m.rows) for m in zoo.matrices}
    assert sum(r["adapters"] for r in ranks) == len(zoo.accepted)


def test_without_altair(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(EigenzooError, match="plots need altair"):
        zoo.plot()

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import engine
from engine import plots
from engine.rank.choice import RankChoice
from engine.subspace import Subspace
from ingest.errors import EigenzooError

pytest.importorskip("altair")


@pytest.fixture(scope="module")
def subspace() -> Subspace:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 3)) @ rng.standard_normal((3, 300)) + 0.1 * rng.standard_normal((400, 300))
    return engine.fit(x)


def values(spec: dict[str, Any], layer: int) -> list[dict[str, Any]]:
    data = spec["layer"][layer].get("data", spec.get("data"))
    return list(spec["datasets"][data["name"]] if "name" in data else data["values"])


def test_scree_shows_the_spectrum_and_the_threshold(subspace: Subspace) -> None:
    import altair as alt

    chart = plots.scree(subspace)
    assert isinstance(chart, alt.LayerChart)
    spec = chart.to_dict()
    drawn = values(spec, 0)
    assert len(drawn) <= 250
    assert {p["i"]: p["sigma"] for p in drawn} == {p["i"]: subspace.singular_values[p["i"] - 1] for p in drawn}
    assert [p["i"] for p in drawn if p["kept"]] == [1, 2, 3]
    (held,) = values(spec, 2)
    assert held["value"] == subspace.k_choice.threshold and held["label"].startswith("Gavish–Donoho threshold")
    assert "var(--" not in chart.to_json()


def test_cumulative_marks_every_choice(subspace: Subspace) -> None:
    spec = plots.cumulative(subspace).to_dict()
    share = np.cumsum(subspace.explained_variance_ratio)
    marks = {m["k"]: m["share"] for m in values(spec, 2)}
    assert marks == {c.k: share[c.k - 1] for c in subspace.choices.values() if c.k}
    assert values(spec, 0)[-1]["share"] == pytest.approx(1)


@pytest.mark.parametrize(
    "figure",
    [
        lambda s: s.plot(),
        lambda s: s.as_spectrum().plot(),
        lambda s: s.k_choice.plot(s),
        lambda s: s.k_choice.plot(),
        lambda s: RankChoice(None, None, "elbow", "too few values").plot(),
        lambda s: RankChoice(0, 0.5, "ev:0.5").plot(s.as_spectrum()),
        lambda s: engine.fit(np.zeros((9, 4))).plot(),
    ],
)
def test_figures_are_altairs_and_draw(subspace: Subspace, figure: Callable[[Subspace], Any]) -> None:
    import altair as alt

    vl_convert = pytest.importorskip("vl_convert")
    chart = figure(subspace)
    assert isinstance(chart, alt.TopLevelMixin)
    svg = vl_convert.vegalite_to_svg(chart.to_json())
    assert "<svg" in svg and "NaN" not in svg


def test_a_choice_alone_says_that_it_is_alone(subspace: Subspace) -> None:
    alone, beside = subspace.k_choice.plot().to_json(), subspace.k_choice.plot(subspace).to_json()
    assert "K = 3" in alone and "its spectrum is not known here" in alone
    assert "its spectrum is not known here" not in beside


def test_without_altair(subspace: Subspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)
    for plot in (subspace.plot, subspace.as_spectrum().plot, subspace.k_choice.plot):
        with pytest.raises(EigenzooError, match=r"plots need altair.*pip install 'eigenzoo\[report\]'") as caught:
            plot()
        assert "\n" not in str(caught.value)

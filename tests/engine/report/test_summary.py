from __future__ import annotations

from typing import Any

from engine.analysis.file import Analysis, LayerAnalysis, SeedFigures
from engine.report.findings import Partition, partitions
from engine.report.summary import names, summary

RULES = [{"name": "gavish-donoho", "label": "Gavish–Donoho"}, {"name": "screenot", "label": "ScreeNOT"}]


def matrix(side: str = "A", **more: Any) -> dict[str, Any]:
    plain = {"layer": "q", "side": side, "adapters": 9, "kept": 4, "width": 64, "kept_share": 0.5, "white": True}
    plain |= {"k": [4, 3], "planted": None, "heldout": None, "overlap": None}
    return {**plain, **more}


def said(*matrices: dict[str, Any], groups: list[Partition] | None = None, planted: bool = False) -> str:
    return " ".join(summary({"matrices": matrices, "rules": RULES}, groups, "gavish-donoho", planted))


def test_only_what_is_known_is_said() -> None:
    text = said(matrix(), matrix("B", kept=2))
    assert text.startswith("2 matrices of 1 layer, from 9 adapters.")
    assert (
        "Kept by Gavish–Donoho, typically: 4 of 64 dimensions on side A, with 50\u00a0% of the variance; 2 of" in text
    )
    assert "noise looks white" in text and "all 2 matrices" in text
    for unknown in ("start", "not in the fit", "overlap", "planted"):
        assert unknown not in text


def test_coloured_noise_is_not_believed() -> None:
    text = said(matrix(white=False, k=[40, 1]), matrix(), matrix(white=None))
    assert "should not be believed in 1 of 3 matrices" in text and "says K = 40" in text and "K = 1)" in text
    assert "noise" not in said(matrix(white=None))


def test_seeds() -> None:
    assert "No two adapters share a random start." in said(matrix(), groups=[])
    text = said(matrix(), matrix(layer="v"), groups=[Partition((("a", "b", "c", "d"), ("e", "f")), ("q",), 0.9)])
    assert "In 1 of 2 layers" in text and "up to 6 of them (such as a, b, c and 1 more)" in text


def test_held_out_against_its_controls() -> None:
    good = {"error": 0.2, "null": 0.8, "random_basis": 0.9}
    bad = {"error": 0.85, "null": 0.8, "random_basis": 0.9}
    text = said(matrix(heldout=good), matrix(heldout=good), matrix(heldout=bad), matrix())
    assert "squared error of 0.2, typically" in text and "below its controls in 2 of 3 matrices" in text
    assert "0.8 for a null of the same strength and 0.9 for a random basis" in text


def test_planted_k_is_counted() -> None:
    text = said(matrix(planted=4), matrix(planted=5), matrix(), planted=True)
    assert "finds the planted K in 1 of 2 matrices" in text


def test_layers_with_the_same_groups_go_together() -> None:
    one, two = (("a", "b"), ("c", "d")), (("a", "b"),)
    layers = [
        LayerAnalysis("q", SeedFigures(one, 0.9)),
        LayerAnalysis("v", SeedFigures(tuple(reversed(one)), 0.8)),
        LayerAnalysis("k", SeedFigures(two, None)),
        LayerAnalysis("o", SeedFigures()),
        LayerAnalysis("elsewhere", SeedFigures(two, None)),
    ]
    found = partitions(Analysis(1, (), tuple(layers)), ["q", "v", "k", "o"])
    assert found == [Partition(one, ("q", "v"), 0.8), Partition(two, ("k",), None)]
    assert partitions(Analysis(1, (), tuple(layers[3:])), ["o"]) == []
    assert partitions(Analysis(1), ["q"]) is None and partitions(None, ["q"]) is None


def test_long_lists_are_counted() -> None:
    assert names(["a\u202e", "b"]) == "a\\u202e, b"
    assert names(list("abcde"), 2) == "a, b and 3 more"

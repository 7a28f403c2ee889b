from __future__ import annotations

import json

import numpy as np
import pytest

from engine.report.data import columns, entry
from engine.report.names import MAX_PANELS, NO_BLOCK, ROW, lay_out
from engine.report.rules import STANDARD, answers, label
from engine.run import summary
from engine.thinning import HEAD, MAX_POINTS, thin
from ingest.html import printable
from tests.engine.report.conftest import stored


@pytest.mark.parametrize("n", [1, 2, 100, 249, 250, 251, 252, 300, 1000, 4096, 14336, 10**6])
def test_thinning(n: int) -> None:
    drawn = thin(n)
    assert len(drawn) <= MAX_POINTS
    assert drawn[0] == 1 and drawn[-1] == n and (np.diff(drawn) > 0).all()
    assert drawn[: min(n, HEAD)].tolist() == list(range(1, min(n, HEAD) + 1))
    if n <= MAX_POINTS:
        assert len(drawn) == n
    else:
        steps = np.diff(drawn[HEAD:])
        assert steps[-1] >= steps[0] and (np.diff(np.log(drawn[HEAD:])) < 2 * np.log(n) / 100).all()


def test_size_per_matrix() -> None:
    sigma = np.sort(np.random.default_rng(0).lognormal(-12, 2, 4096))[::-1]
    subspace = stored(sigma, n_rows=100000, width=4096, source="")
    layer = "model.layers.31.self_attn.q_proj"
    said = answers(subspace)
    drawn = entry(summary(layer, "A", subspace), subspace, lay_out([layer]), None, said) | columns(STANDARD, said)
    assert len(drawn["sigma"]) == MAX_POINTS
    notes = sum(map(len, drawn["notes"])) + len(drawn["words"]["scree"])
    assert len(json.dumps(drawn, separators=(",", ":"))) - notes <= 8 * 1024


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("gavish-donoho", "Gavish–Donoho"),
        ("gavish-donoho:0.25", "Gavish–Donoho, noise 0.25"),
        ("gavish-donoho:init", "Gavish–Donoho, noise of the random start"),
        ("bulk-edge", "bulk edge"),
        ("shrinkage:nuclear", "shrinkage, nuclear"),
        ("ev:0.95", "95\u00a0% of variance"),
        ("12", "as given"),
        ("some<rule>\u202e", "some<rule>\\u202e"),
    ],
)
def test_labels(rule: str, says: str) -> None:
    assert label(rule) == says


def test_layers_are_laid_out_by_module_and_number() -> None:
    layout = lay_out(f"model.layers.{i}.{m}" for i in (0, 2, 10) for m in ("self_attn.q_proj", "mlp.up_proj"))
    assert {p.panel for p in layout.places.values()} == {"self_attn.q_proj", "mlp.up_proj"}
    assert layout.places["model.layers.10.mlp.up_proj"].x == 10
    assert "model.layers.#" in layout.axis


def test_numbers_inside_a_module_are_no_blocks() -> None:
    blocks = [f"{d}.{i}.attentions.0.transformer_blocks.0" for d in ("down_blocks", "up_blocks") for i in (0, 1)]
    modules = ["attn1.to_q", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2"]
    layout = lay_out([*(f"{b}.{m}" for b in blocks for m in modules), "conv_in"])
    assert {p.panel for p in layout.places.values()} == {*modules, "conv_in"}
    assert [layout.places[f"{b}.ff.net.0.proj"].x for b in blocks] == [1, 2, 3, 4]


def test_one_module_alone_keeps_the_deepest_block() -> None:
    names = [f"down_blocks.{i}.attentions.{j}.attn2.to_k" for i in (0, 1) for j in (0, 1)]
    places = lay_out(names).places
    assert [places[n].x for n in names] == [1, 2, 3, 4] and {p.panel for p in places.values()} == {"attn2.to_k"}


def test_names_without_order_stand_in_rows() -> None:
    names = [f"module{i:02}" for i in range(MAX_PANELS + 1)]
    places = lay_out(reversed(names)).places
    assert [places[n].x for n in names] == [i % ROW + 1 for i in range(len(names))]
    assert list(dict.fromkeys(places[n].panel for n in names)) == [f"1–{ROW}", f"{ROW + 1}–{len(names)}"]


def test_a_module_outside_the_blocks_has_its_own_place() -> None:
    places = lay_out(["layers.0.q", "layers.0.v", "layers.1.q", "layers.1.v", "lm_head"]).places
    assert places["lm_head"].x == NO_BLOCK and places["layers.0.q"].x == 0


def test_printable() -> None:
    assert printable("a.é.层\u202e\x00\ud800") == "a.é.层\\u202e\\u0000\\ud800"

from __future__ import annotations

import json

import numpy as np
import pytest

from engine.rank.choice import RankChoice
from engine.report.data import HEAD, MAX_POINTS, entry, thin
from engine.report.names import MAX_PANELS, lay_out, printable
from engine.run import summary
from engine.subspace import Subspace


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
    sigma = np.sort(np.random.default_rng(0).lognormal(-12, 2, 14336))[::-1]
    choices = {name: RankChoice(100, 1.234567890123e-5, name) for name in ("gavish-donoho", "ev:0.8")}
    total = float(np.sum(sigma**2)) / 99999
    subspace = Subspace(
        mean=np.zeros(14336),
        components=np.zeros((100, 14336)),
        singular_values=sigma,
        total_variance=total,
        n_rows=100000,
        n_adapters=500,
        center="feature",
        k_choice=choices["gavish-donoho"],
        choices=choices,
        method="moments",
        exact=True,
        floor=0.0,
        n_zero_variance_columns=0,
        passes=1,
    )
    layer = "model.layers.31.self_attn.q_proj"
    drawn = entry(summary(layer, "A", subspace), subspace, lay_out([layer]), None)
    assert len(drawn["sigma"]) == MAX_POINTS
    assert len(json.dumps(drawn, separators=(",", ":"))) <= 6 * 1024


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


def test_names_without_order_share_a_panel() -> None:
    names = [f"module{chr(97 + i)}" for i in range(MAX_PANELS + 1)]
    places = lay_out(reversed(names)).places
    assert [places[n].x for n in names] == list(range(1, len(names) + 1))
    assert {p.panel for p in places.values()} == {""}


def test_printable() -> None:
    assert printable("a.é.层\u202e\x00\ud800") == "a.é.层\\u202e\\u0000\\ud800"

"""A zoo has one base: who is in, who is out, and in which shapes."""

from __future__ import annotations

import pytest

from ingest.base import Base, choose, name_of
from ingest.formats.adapter import LoraModule
from ingest.reasons import Reason
from ingest.safetensors_file import TensorRef


def modules(*layers: str, width: int = 8, out: int = 8) -> tuple[LoraModule, ...]:
    return tuple(
        LoraModule(
            la,
            "linear",
            TensorRef("a", "float32", (2, width), 0, 0),
            TensorRef("b", "float32", (out, 2), 0, 0),
            1.0,
        )
        for la in layers
    )


Q, V, MLP = "h.0.q", "h.0.v", "h.0.mlp"


@pytest.mark.parametrize(
    ("stated", "name"),
    [
        ("gpt2", "gpt2"),
        ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-hf"),
        (None, None),
        ("", None),
        ("  ", None),
        ("/content/drive/model", None),
        ("./out", None),
        ("~/models/x", None),
        (r"C:\models\x", None),
        ("C:/models/x", None),
        ("models/x/y", None),
        ("org/name/", "org/name"),
    ],
)
def test_a_null_or_a_local_path_names_nothing(stated: str | None, name: str | None) -> None:
    assert name_of(stated) == name


def test_the_largest_group_by_name_wins() -> None:
    base = choose([("a", modules(Q)), ("b", modules(Q)), ("b", modules(Q, V))], None, frozenset(), None)
    assert base.name == "b" and set(base.layers) == {Q, V}
    assert base.objection("a", modules(Q)) is not None
    assert base.objection("B", modules(Q)) is None, "names differ in case only"


def test_on_a_tie_the_first_wins() -> None:
    assert choose([("a", modules(Q)), ("b", modules(Q))], None, frozenset(), None).name == "a"


def test_unnamed_ones_join_those_whose_layers_and_shapes_they_share() -> None:
    adapters = [
        ("a", modules(Q)),
        ("b", modules(Q, width=16)),
        (None, modules(Q, width=16)),
        ("/x", modules(Q, width=16)),
    ]
    base = choose(adapters, None, frozenset(), None)
    assert base.name == "b" and base.layers[Q].a_shape == (16,)
    assert base.objection(None, modules(Q, width=16)) is None


def test_a_zoo_whose_base_nobody_names() -> None:
    base = choose([(None, modules(Q)), (None, modules(Q, V)), (None, modules("x.0.y"))], None, frozenset(), None)
    assert base.name is None and set(base.layers) == {Q, V}
    reason, detail = base.objection("gpt2", modules(Q)) or (None, "")
    assert reason is Reason.OTHER_BASE and "--base-model gpt2" in detail


def test_no_layer_in_common() -> None:
    base = choose([("a", modules(Q))] * 2 + [("a", modules("vision.0.q"))], None, frozenset(), None)
    assert set(base.layers) == {Q}
    for stated, layer in (("a", "vision.0.q"), (None, "vision.0.q"), (None, MLP)):
        reason, detail = base.objection(stated, modules(layer)) or (None, "")
        assert reason is Reason.NO_COMMON_LAYER and layer in detail and "--rename" in detail


def test_other_target_modules_of_the_same_stack_are_in() -> None:
    base = choose([("a", modules(Q))] * 2 + [("a", modules(MLP))], None, frozenset(), None)
    assert set(base.layers) == {Q, MLP} and base.objection("a", modules(MLP)) is None


def test_the_shape_of_a_layer_is_voted_for() -> None:
    base = choose([("a", modules(Q)), ("a", modules(Q, width=9)), ("a", modules(Q, width=9))], None, frozenset(), None)
    assert base.layers[Q].a_shape == (9,)
    reason, detail = base.objection("a", modules(Q)) or (None, "")
    assert reason is Reason.SHAPE_DISAGREES and Q in detail and "8" in detail and "9" in detail


def test_the_users_word_and_aliases() -> None:
    adapters = [("b", modules(Q)), ("b", modules(Q)), ("a", modules(Q)), ("org/a", modules(Q, V))]
    base = choose(adapters, "a", frozenset({"org/a"}), None)
    assert base.name == "a" and base.objection("org/a", modules(V)) is None
    assert base.objection("b", modules(Q)) is not None


def test_a_zoo_that_exists_keeps_its_base_and_shapes() -> None:
    known = choose([("a", modules(Q))], None, frozenset(), None)
    base = choose(
        [("b", modules(Q))] * 5 + [("a", modules(Q, V))] + [("a", modules(Q, width=9))] * 3,
        None,
        frozenset(),
        known,
    )
    assert base.name == "a" and base.layers[Q].a_shape == (8,) and V in base.layers


def test_an_unnamed_zoo_can_be_named_later() -> None:
    known = Base(None, frozenset(), choose([(None, modules(Q))], None, frozenset(), None).layers)
    base = choose([("gpt2", modules(Q))], "gpt2", frozenset(), known)
    assert base.name == "gpt2" and base.objection("gpt2", modules(Q)) is None

"""LoRA inside whole models: the factors as peft has them, nothing of the base, no guess without a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ingest.errors import Refusal
from ingest.formats import AdapterFiles, parse
from ingest.reasons import Reason
from ingest.safetensors_file import read_all
from tests.ingest.builders import factors, write_peft_folder, write_weights

Tensors = dict[str, NDArray[Any]]
RNG = np.random.default_rng(7)
MODULES = {f"layers.{i}.{name}": factors(RNG, 4, 8, 6) for i in range(2) for name in ("q_proj", "v_proj")}


def whole(prefix: str, infix: str = ".default", base: str = ".base_layer") -> Tensors:
    tensors: Tensors = {f"{prefix}norm.weight": np.ones(8, np.float32)}
    for name, (a, b) in MODULES.items():
        tensors[f"{prefix}{name}.lora_A{infix}.weight"] = a
        tensors[f"{prefix}{name}.lora_B{infix}.weight"] = b
        tensors[f"{prefix}{name}{base}.weight"] = np.zeros((6, 8), np.float32)
        tensors[f"{prefix}{name}{base}.bias"] = np.zeros(6, np.float32)
    return tensors


def folder(path: Path, tensors: Tensors, **config: Any) -> AdapterFiles:
    write_peft_folder(path, {}, **{"r": 4, "lora_alpha": 6, **config})
    return write_weights(path, tensors, "model.safetensors", config="adapter_config.json")


def test_a_live_model_saved_whole(tmp_path: Path) -> None:
    """`model.state_dict()` of a peft model, heads and all, against what the live model has."""
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    from peft.tuners.lora import LoraLayer

    config = transformers.RobertaConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12, num_labels=3
    )
    settings = peft.LoraConfig(
        task_type="SEQ_CLS",
        r=4,
        lora_alpha=6,
        target_modules=["query", "value"],
        rank_pattern={"^roberta.encoder.layer.1.attention.self.query": 2},
        bias="lora_only",
    )
    model = peft.get_peft_model(transformers.RobertaForSequenceClassification(config), settings)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            torch.nn.init.normal_(module.lora_B["default"].weight)
    model.save_pretrained(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    state = {f"model.{key}": value.numpy() for key, value in model.state_dict().items()}
    files = write_weights(tmp_path, state, "model.safetensors", config="adapter_config.json")
    adapter = parse(files)
    values = read_all(files.weights)
    live = {
        name.removeprefix("roberta."): module
        for name, module in model.base_model.model.named_modules()
        if isinstance(module, LoraLayer)
    }
    assert adapter.format == "checkpoint" and [module.layer for module in adapter.modules] == sorted(live)
    for module in adapter.modules:
        want = live[module.layer]
        assert module.scale == want.scaling["default"]
        assert values[module.a.key].tobytes() == want.lora_A["default"].weight.detach().numpy().tobytes()
        assert values[module.b.key].tobytes() == want.lora_B["default"].weight.detach().numpy().tobytes()
    # As many as peft itself saves beside the factors: the head, and the biases of the layers with LoRA.
    saved = peft.get_peft_model_state_dict(model)
    others = {key for key in saved if "lora_" not in key}
    assert len(adapter.extras) == len(others) > 4
    assert all("modules_to_save" in ref.key or ref.key.endswith("base_layer.bias") for ref in adapter.extras)


@pytest.mark.parametrize(
    "prefix",
    [
        *("", "model.", "module.", "base_model.model.", "base_model.model.model.", "module.base_model.model.model."),
        *("state_dict.model.base_model.model.model.", "model.base_model.model.model.", "_forward_module.model."),
        "base_model.model.base_model.model.model.",
    ],
)
def test_prefixes(tmp_path: Path, prefix: str) -> None:
    adapter = parse(folder(tmp_path, whole(prefix)))
    assert {module.layer for module in adapter.modules} == set(MODULES)
    assert {module.scale for module in adapter.modules} == {6 / 4} and adapter.extras == ()


@pytest.mark.parametrize("infix, base", [("", ""), (".default", ""), ("", ".base_layer")])
def test_spellings_of_the_base(tmp_path: Path, infix: str, base: str) -> None:
    adapter = parse(folder(tmp_path, whole("model.", infix, base)))
    assert adapter.format == "checkpoint" and len(adapter.modules) == 4 and adapter.extras == ()


@pytest.mark.parametrize("prefix", ["base_model.model.model.", "state_dict.model.base_model.model.model."])
def test_patterns_match_names_in_the_base(tmp_path: Path, prefix: str) -> None:
    adapter = parse(folder(tmp_path, whole(prefix), alpha_pattern={"^model.layers.0.q_proj": 2}))
    assert {m.layer: m.scale for m in adapter.modules} == {
        name: (2 if name == "layers.0.q_proj" else 6) / 4 for name in MODULES
    }


@pytest.mark.parametrize("prefix", ["module.", "_forward_module.", "state_dict.module.", "_orig_mod."])
def test_anchored_patterns_begin_behind_a_wrapper(tmp_path: Path, prefix: str) -> None:
    adapter = parse(folder(tmp_path, whole(prefix), alpha_pattern={"^layers.0.q_proj": 2}))
    assert {m.layer: m.scale for m in adapter.modules} == {
        name: (2 if name == "layers.0.q_proj" else 6) / 4 for name in MODULES
    }


@pytest.mark.parametrize("pattern", ["^layers.0.q_proj", "^model.layers.0.q_proj"])
def test_whose_model_it_is_must_not_matter(tmp_path: Path, pattern: str) -> None:
    """`model.` may be the trainer's or the base's."""
    with pytest.raises(Refusal) as caught:
        parse(folder(tmp_path, whole("model."), alpha_pattern={pattern: 2}))
    assert caught.value.reason is Reason.BAD_CONFIG and "'layers.0.q_proj'" in caught.value.detail
    assert parse(folder(tmp_path, whole("model."), alpha_pattern={"layers.0.q_proj": 2})).format == "checkpoint"


@pytest.mark.parametrize("bias, count", [("none", 0), ("lora_only", 4), ("all", 5)])
def test_biases_that_were_trained(tmp_path: Path, bias: str, count: int) -> None:
    tensors = whole("") | {"norm.bias": np.ones(8, np.float32)}
    assert len(parse(folder(tmp_path, tensors, bias=bias)).extras) == count


def test_what_is_the_adapters_own(tmp_path: Path) -> None:
    own = {
        "score.modules_to_save.default.weight": np.ones((2, 8), np.float32),
        "embed.token_adapter.trainable_tokens_delta.default": np.ones((1, 8), np.float32),
        "layers.0.q_proj.lora_B.default.bias": np.ones(6, np.float32),
    }
    tensors = whole("") | own | {"score.original_module.weight": np.ones((2, 8), np.float32)}
    assert {ref.key for ref in parse(folder(tmp_path, tensors)).extras} == set(own)


def test_without_a_configuration_its_alpha_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(Refusal) as caught:
        parse(write_weights(tmp_path, whole("model."), "model.safetensors"))
    assert caught.value.reason is Reason.BAD_CONFIG and "adapter_config.json" in caught.value.detail


Q = "layers.0.q_proj"
TIED = factors(RNG, 4, 8, 11)
PARTIAL: dict[str, Tensors] = {
    "GPTQ": {
        **{key: value for key, value in whole("model.").items() if "base_layer" not in key},
        **{f"model.{name}.base_layer.qweight": np.zeros((6, 100), np.int32) for name in MODULES},
        **{f"model.{name}.base_layer.scales": np.zeros((6, 10), np.float16) for name in MODULES},
    },
    "GPTQ, older": {
        **{key: value for key, value in whole("model.").items() if "base_layer" not in key},
        **{f"model.{name}.qweight": np.zeros((6, 100), np.int32) for name in MODULES},
    },
    "a tied head": {
        **whole("model."),
        "model.lm_head.lora_A.default.weight": TIED[0],
        "model.lm_head.lora_B.default.weight": TIED[1],
    },
    "one module of many": {
        **{key: value for key, value in whole("model.").items() if "base_layer" not in key},
        f"model.{Q}.base_layer.weight": np.zeros((6, 8), np.float32),
    },
    "one module": {key: value for key, value in whole("model.").items() if Q in key or "norm" in key},
}


@pytest.mark.parametrize("tensors", PARTIAL.values(), ids=PARTIAL)
def test_a_base_that_is_not_all_there_is_no_extra(tmp_path: Path, tensors: Tensors) -> None:
    adapter = parse(folder(tmp_path, tensors))
    assert adapter.format == "checkpoint" and adapter.extras == ()


def test_pipelines_are_no_guess_either(tmp_path: Path) -> None:
    with pytest.raises(Refusal) as caught:
        parse(write_weights(tmp_path, whole("unet.down_blocks.0.")))
    assert caught.value.reason is Reason.BAD_CONFIG


REFUSED: dict[str, tuple[Tensors, dict[str, Any], Reason]] = {
    "two adapters": (whole("") | {"layers.0.q_proj.lora_A.other.weight": np.ones((4, 8))}, {}, Reason.UNKNOWN_KEYS),
    "dora": (whole("") | {"layers.0.q_proj.lora_magnitude_vector.default.weight": np.ones(6)}, {}, Reason.DORA),
    "hira": (whole("") | {"layers.0.q_proj.hira_A.default": np.ones((4, 8))}, {}, Reason.VARIANT),
    "another rank": (whole(""), {"r": 8}, Reason.BAD_SHAPE),
    "bias of no kind": (whole(""), {"bias": ["all"]}, Reason.BAD_CONFIG),
}


@pytest.mark.parametrize("tensors, config, reason", REFUSED.values(), ids=REFUSED)
def test_refused(tmp_path: Path, tensors: Tensors, config: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(Refusal) as caught:
        parse(folder(tmp_path, tensors, **config))
    assert caught.value.reason is reason


def test_embeddings_that_peft_saves_along_are_its_own(tmp_path: Path) -> None:
    """A grown vocabulary: peft keeps the base's embedding, so that file is no checkpoint."""
    a, b = factors(RNG, 4, 8, 11)
    head = {
        "base_model.model.lm_head.base_layer.weight": np.ones((11, 8), np.float32),
        "base_model.model.model.embed_tokens.base_layer.weight": np.ones((11, 8), np.float32),
        "base_model.model.model.embed_tokens.lora_embedding_A": np.ones((4, 11), np.float32),
        "base_model.model.model.embed_tokens.lora_embedding_B": np.ones((8, 4), np.float32),
    }
    files = write_peft_folder(tmp_path, {"lm_head": (a, b)}, extras=head)
    adapter = parse(files)
    assert adapter.format == "peft" and len(adapter.modules) == 2
    assert {ref.key for ref in adapter.extras} == {key for key in head if "base_layer" in key}

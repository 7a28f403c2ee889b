"""peft's folders: what peft itself saved is read back as the live model has it, bit for bit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import Refusal
from ingest.formats import AdapterFiles, LoraAdapter, fingerprint, parse
from ingest.formats.options import Options
from ingest.formats.patterns import matching
from ingest.names import Rename
from ingest.reasons import Reason
from ingest.safetensors_file import read_all, read_tensor
from tests.ingest.builders import factors, write_peft_folder, write_weights

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")


def toy() -> Any:
    """Two blocks with every kind of layer that peft can adapt."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    class Block(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.q_proj = nn.Linear(12, 10)
            self.v_proj = nn.Linear(12, 6, bias=False)
            self.c_attn = Conv1D(18, 12)
            self.conv = nn.Conv2d(3, 5, (3, 2))
            self.conv1 = nn.Conv1d(4, 6, 3)
            self.conv3 = nn.Conv3d(2, 4, (1, 2, 3))
            self.attn = nn.MultiheadAttention(8, 2)

    class Model(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.embed_tokens = nn.Embedding(20, 8)
            self.layers = nn.ModuleList([Block(), Block()])
            self.head = nn.Linear(6, 2)

    return Model()


@dataclass(frozen=True)
class Case:
    """A LoraConfig, the kinds of layer it reaches, and how many extras are saved with it."""

    config: dict[str, Any]
    kinds: set[str] = field(default_factory=lambda: {"linear"})
    extras: int = 0
    dtype: str = "float32"
    n_modules: int = 2


CASES = {
    "linear": Case({"target_modules": ["q_proj"], "r": 4, "lora_alpha": 12}),
    "bfloat16": Case({"target_modules": ["q_proj"], "r": 4}, dtype="bfloat16"),
    "float16": Case({"target_modules": ["q_proj"], "r": 4}, dtype="float16"),
    "default alpha": Case({"target_modules": ["q_proj"]}),
    "float alpha": Case({"target_modules": ["q_proj"], "r": 3, "lora_alpha": 0.7}),
    "rslora": Case({"target_modules": ["q_proj"], "r": 3, "lora_alpha": 16, "use_rslora": True}),
    "regex targets": Case({"target_modules": r".*\.(q|v)_proj", "r": 2}, n_modules=4),
    "patterns by suffix": Case(
        {
            "target_modules": ["q_proj", "v_proj"],
            "r": 4,
            "lora_alpha": 10,
            "rank_pattern": {"v_proj": 2, "1.q_proj": 3},
            "alpha_pattern": {"0.v_proj": 5, "q_proj": 7},
        },
        n_modules=4,
    ),
    "patterns by regex, first wins": Case(
        {
            "target_modules": ["q_proj", "v_proj"],
            "r": 4,
            "rank_pattern": {
                r"^layers\.0\..*": 2,
                "layers.0.q_proj": 6,
                r"layers\.1\.(q|k)_proj": 5,
                "proj": 1,
            },
            "alpha_pattern": {"^q_proj": 99, ".*": 3},
            "use_rslora": True,
        },
        n_modules=4,
    ),
    "fan_in_fan_out": Case({"target_modules": ["c_attn"], "r": 4, "lora_alpha": 8, "fan_in_fan_out": True}),
    "convolutions": Case(
        {"target_modules": ["conv", "conv1", "conv3"], "r": 3, "lora_alpha": 4}, {"conv"}, n_modules=6
    ),
    "embedding": Case({"target_modules": ["embed_tokens"], "r": 3, "lora_alpha": 5}, {"embedding"}, n_modules=1),
    "attention": Case({"target_modules": ["attn"], "r": 2}, n_modules=4),
    "attention with patterns": Case(
        {
            "target_modules": ["attn"],
            "r": 4,
            "lora_alpha": 8,
            "rank_pattern": {"1.attn": 3},
            "alpha_pattern": {"attn.out_proj": 2, "^layers.0.attn": 6},
        },
        n_modules=4,
    ),
    "lora_bias": Case({"target_modules": ["q_proj"], "r": 2, "lora_bias": True}, extras=2),
    "bias all": Case({"target_modules": ["q_proj"], "r": 2, "bias": "all"}, extras=13),
    "modules_to_save": Case({"target_modules": ["q_proj"], "r": 2, "modules_to_save": ["head"]}, extras=2),
    "trainable tokens": Case(
        {"target_modules": ["q_proj"], "r": 2, "trainable_token_indices": {"embed_tokens": [0, 3]}}, extras=1
    ),
    "orthogonal": Case({"target_modules": ["q_proj"], "r": 2, "init_lora_weights": "orthogonal"}),
    "gaussian": Case({"target_modules": ["q_proj"], "r": 2, "init_lora_weights": "gaussian"}),
    "mica": Case({"target_modules": ["q_proj"], "r": 2, "init_lora_weights": "mica"}),
}


def save(path: Path, case: Case) -> tuple[AdapterFiles, dict[str, tuple[Any, Any, float]]]:
    """Let peft save a model, and return what it has live: layer → (A, B, scale)."""
    torch.manual_seed(0)
    model = peft.get_peft_model(toy(), peft.LoraConfig(**case.config), autocast_adapter_dtype=False)
    if case.dtype != "float32":
        model = model.to(getattr(torch, case.dtype))
    live = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape))
    for name, module in model.base_model.model.named_modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            embedding = "default" in module.lora_embedding_A
            a = module.lora_embedding_A["default"] if embedding else module.lora_A["default"].weight
            b = module.lora_embedding_B["default"] if embedding else module.lora_B["default"].weight
            live[name.replace(".base_layer", "")] = (a.detach(), b.detach(), module.scaling["default"])
    model.save_pretrained(path)
    config = path / "adapter_config.json"
    return AdapterFiles(str(path), str(path / "adapter_model.safetensors"), str(config)), live


def as_bytes(tensor: Any) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_reads_what_peft_has(tmp_path: Path, case: Case) -> None:
    files, live = save(tmp_path, case)
    adapter = parse(files)
    assert adapter.format == "peft"
    assert [module.layer for module in adapter.modules] == sorted(live)
    assert len(live) == case.n_modules
    assert {module.kind for module in adapter.modules} == case.kinds
    with open(files.weights, "rb") as file:
        for module in adapter.modules:
            a, b, scale = live[module.layer]
            assert type(module.scale) is float and module.scale == scale
            for ref, tensor in ((module.a, a), (module.b, b)):
                assert (ref.dtype, ref.shape) == (case.dtype, tuple(tensor.shape))
                assert read_tensor(file, ref, adapter.data_start).tobytes() == as_bytes(tensor)
            assert (module.rank, module.out) == (a.shape[0], b.shape[0])
            assert (module.a_width, module.b_width) == (a[0].numel(), b.shape[0])
            assert module.a_shape == tuple(a.shape[1:])
    assert len(adapter.extras) == case.extras
    assert adapter.config_text == (tmp_path / "adapter_config.json").read_text()
    keys = {ref.key for module in adapter.modules for ref in (module.a, module.b)}
    assert keys | {ref.key for ref in adapter.extras} == read_all(files.weights).keys()


def test_the_scale_is_of_the_delta_that_peft_merges(tmp_path: Path) -> None:
    """scale · B · A is the change of the weight, transposed where the layer stores its weight so."""
    from peft import PeftModel

    targets = ["q_proj", "c_attn", "embed_tokens", "conv"]
    files, _ = save(tmp_path, Case({"target_modules": targets, "r": 3, "lora_alpha": 7}))
    base = toy()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    merged = PeftModel.from_pretrained(base, str(tmp_path)).merge_and_unload().state_dict()
    tensors = read_all(files.weights)
    modules = parse(files).modules
    assert len(modules) == 7
    for module in modules:
        key = f"{module.layer}.weight"
        a, b = (tensors[ref.key].reshape(ref.shape[0], -1) for ref in (module.a, module.b))
        delta = module.scale * (b.reshape(module.out, -1) @ a)
        change = (merged[key] - before[key]).numpy()
        if module.kind == "embedding" or "c_attn" in key:
            change = change.T
        np.testing.assert_allclose(delta.reshape(change.shape), change, atol=2e-5)


RNG = np.random.default_rng(1)
PAIRS = {"model.layers.0.q_proj": factors(RNG, 4, 12, 10), "model.layers.1.q_proj": factors(RNG, 4, 12, 10)}
LAYERS = ["layers.0.q_proj", "layers.1.q_proj"]


def layers(adapter: LoraAdapter) -> list[str]:
    return [module.layer for module in adapter.modules]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"infix": ".default"},
        {"infix": ".some-name"},
        {"prefix": "base_model.model.base_model.model."},
        {"prefix": "module.base_model.model."},
        {"prefix": "base_model.model._orig_mod."},
        {"prefix": ""},
        {"lora_alpha": 8.0, "rank_pattern": None, "alpha_pattern": None},
        {"init_lora_weights": "eva"},
        {"init_lora_weights": None},
        {"extras": {"base_model.model.score.weight": np.zeros((2, 3), np.int8)}},
        {"extras": {"base_model.model.model.layers.0.q_proj.base_layer.bias": np.zeros(3, np.float32)}},
        {"extras": {"base_model.model.model.layers.0.q_proj.lora_B.default.bias": np.zeros(3, np.float32)}},
        {"extras": {"base_model.model.x.token_adapter.trainable_tokens_delta": np.zeros(3, np.float32)}},
        {"extras": {"base_model.model.score.modules_to_save.weight": np.zeros(3, np.float32)}},
        {"extras": {"base_model.model.score.original_module.weight": np.zeros(3, np.float32)}},
    ],
    ids=str,
)
def test_spellings_of_keys(tmp_path: Path, options: dict[str, Any]) -> None:
    adapter = parse(write_peft_folder(tmp_path, PAIRS, **options))
    assert layers(adapter) == LAYERS
    assert [ref.key for ref in adapter.extras] == list(options.get("extras", ()))
    assert {module.scale for module in adapter.modules} == {options.get("lora_alpha", 4) / 4}


def test_renames_reach_the_layers(tmp_path: Path) -> None:
    adapter = parse(write_peft_folder(tmp_path, PAIRS), Options((Rename.parse("layers=blocks"),)))
    assert layers(adapter) == ["blocks.0.q_proj", "blocks.1.q_proj"]


def test_a_configuration_of_the_first_releases(tmp_path: Path) -> None:
    files = write_peft_folder(tmp_path, PAIRS)
    old = {
        "peft_type": "LORA",
        "base_model_name_or_path": "x/y",
        "r": 4,
        "enable_lora": None,
        "merge_weights": False,
    }
    (tmp_path / "adapter_config.json").write_text(json.dumps(old))
    assert {module.scale for module in parse(files).modules} == {8 / 4}


def test_metadata_is_kept(tmp_path: Path) -> None:
    assert parse(write_peft_folder(tmp_path, PAIRS, metadata={"made by": "me"})).metadata == {"made by": "me"}


def test_adapters_with_equal_headers_share_their_modules(tmp_path: Path) -> None:
    first, second, other = (
        parse(write_peft_folder(tmp_path / name, PAIRS, lora_alpha=alpha))
        for name, alpha in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first.modules is second.modules and first.files != second.files
    assert other.modules[0].scale == 2 * first.modules[0].scale


REFUSED: dict[str, tuple[dict[str, Any], Reason, str]] = {
    **{
        name: ({"peft_type": name}, Reason.NOT_LORA, name)
        for name in (
            "IA3",
            "ADALORA",
            "VERA",
            "UNILORA",
            "FINEGATES",
            "LOHA",
            "LOKR",
            "OFT",
            "XLORA",
            "P_TUNING",
        )
    },
    "hira": ({"peft_type": "HIRA"}, Reason.VARIANT, "HIRA"),
    "no type": ({"peft_type": None}, Reason.BAD_CONFIG, "peft_type"),
    "dora": ({"use_dora": True}, Reason.DORA, "use_dora"),
    "qalora": ({"use_qalora": True}, Reason.VARIANT, "use_qalora"),
    "alora": ({"alora_invocation_tokens": [1, 2]}, Reason.VARIANT, "alora"),
    "experts": ({"target_parameters": ["experts.gate"]}, Reason.VARIANT, "target_parameters"),
    "replication": ({"layer_replication": [[0, 4], [2, 5]]}, Reason.VARIANT, "layer_replication"),
    "bdlora": ({"use_bdlora": {"nblocks": 2}}, Reason.VARIANT, "use_bdlora"),
    "arrow": ({"arrow_config": {"top_k": 3}}, Reason.VARIANT, "arrow"),
    "kasa": ({"kasa_config": {"beta": 1.0}}, Reason.VARIANT, "kasa"),
    "montecarlo": ({"monteclora_config": {"num_samples": 2}}, Reason.VARIANT, "monteclora"),
    "merged": ({"enable_lora": [True, False, True]}, Reason.VARIANT, "enable_lora"),
    **{
        init: ({"init_lora_weights": init}, Reason.ALTERED_BASE, init)
        for init in (
            "pissa",
            "pissa_niter_16",
            "PiSSA",
            "olora",
            "OLoRA",
            "corda",
            "loftq",
            "lora_ga",
            "new_niter_4",
        )
    },
    "new init": ({"init_lora_weights": "brandnew"}, Reason.BAD_CONFIG, "brandnew"),
    "r text": ({"r": "4"}, Reason.BAD_CONFIG, "r is '4'"),
    "r float": ({"r": 4.0}, Reason.BAD_CONFIG, "r is 4.0"),
    "r true": ({"r": True}, Reason.BAD_CONFIG, "r is True"),
    "r zero": ({"r": 0}, Reason.BAD_CONFIG, "r is 0"),
    "alpha null": ({"lora_alpha": None}, Reason.BAD_CONFIG, "lora_alpha is None"),
    "alpha nan": ({"lora_alpha": float("nan")}, Reason.BAD_CONFIG, "nan"),
    "alpha huge": ({"lora_alpha": 10**400}, Reason.BAD_CONFIG, "lora_alpha"),
    "rslora text": ({"use_rslora": "yes"}, Reason.BAD_CONFIG, "use_rslora"),
    "pattern list": ({"rank_pattern": [4]}, Reason.BAD_CONFIG, "rank_pattern"),
    "pattern value": ({"alpha_pattern": {"q_proj": "x"}}, Reason.BAD_CONFIG, "alpha_pattern['q_proj']"),
    "pattern regex": ({"rank_pattern": {"(": 4}}, Reason.BAD_CONFIG, "regular expression"),
    "base two lines": ({"base_model_name_or_path": "a\nb"}, Reason.BAD_CONFIG, "base_model"),
    "base a number": ({"base_model_name_or_path": 3}, Reason.BAD_CONFIG, "base_model"),
    "r disagrees": ({"r": 8}, Reason.BAD_SHAPE, "says 8"),
    "pattern disagrees": ({"rank_pattern": {"1.q_proj": 2}}, Reason.BAD_SHAPE, "says 2"),
}


@pytest.mark.parametrize("config, reason, word", REFUSED.values(), ids=REFUSED)
def test_configurations_that_are_refused(tmp_path: Path, config: dict[str, Any], reason: Reason, word: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse(write_peft_folder(tmp_path, PAIRS, **config))
    assert caught.value.reason is reason and word in caught.value.detail and "\n" not in caught.value.detail


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "\x00", "[" * 100_000, '{"a": ' + "9" * 5000 + "}"], ids=lambda t: t[:9]
)
def test_configurations_that_are_no_configuration(tmp_path: Path, text: str) -> None:
    files = write_peft_folder(tmp_path, PAIRS)
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(Refusal) as caught:
        parse(files)
    assert caught.value.reason is Reason.BAD_CONFIG


def test_a_configuration_is_judged_before_the_weights_are_opened(tmp_path: Path) -> None:
    files = write_peft_folder(tmp_path, PAIRS, peft_type="IA3")
    for weights in ("adapter_model.bin", "absent.safetensors"):
        with pytest.raises(Refusal) as caught:
            parse(AdapterFiles(files.folder, str(tmp_path / weights), files.config))
        assert caught.value.reason is Reason.NOT_LORA


A, B = PAIRS["model.layers.0.q_proj"]
KEY = "base_model.model.model.layers.0.q_proj."
Change = Callable[[dict[str, Any]], object]
BROKEN: dict[str, tuple[Change, Reason, str]] = {
    "A only": (lambda t: t.pop(KEY + "lora_B.weight"), Reason.UNPAIRED, "has no B"),
    "B only": (lambda t: t.pop(KEY + "lora_A.weight"), Reason.UNPAIRED, "has no A"),
    "ranks": (lambda t: t.update({KEY + "lora_B.weight": B[:, :3]}), Reason.BAD_SHAPE, "ranks 4 and 3"),
    "vector": (lambda t: t.update({KEY + "lora_A.weight": A[0]}), Reason.BAD_SHAPE, "12"),
    "empty": (
        lambda t: t.update({KEY + "lora_A.weight": A[:0], KEY + "lora_B.weight": B[:, :0]}),
        Reason.BAD_SHAPE,
        "empty",
    ),
    "grouped": (
        lambda t: t.update(
            {
                KEY + "lora_A.weight": np.zeros((4, 2, 3, 3), np.float32),
                KEY + "lora_B.weight": np.zeros((6, 2, 1, 1), np.float32),
            }
        ),
        Reason.BAD_SHAPE,
        "grouped",
    ),
    "kernel of B": (
        lambda t: t.update(
            {
                KEY + "lora_A.weight": np.zeros((4, 2, 1, 1), np.float32),
                KEY + "lora_B.weight": np.zeros((6, 4, 3, 3), np.float32),
            }
        ),
        Reason.BAD_SHAPE,
        "1 × 1",
    ),
    "mixed": (lambda t: t.update({KEY + "lora_A.weight": A[:, :, None, None]}), Reason.BAD_SHAPE, "no pair"),
    "int8": (
        lambda t: t.update({KEY + "lora_A.weight": A.astype(np.int8)}),
        Reason.UNSUPPORTED_DTYPE,
        "int8",
    ),
    "magnitude": (
        lambda t: t.update({KEY + "lora_magnitude_vector": np.ones(10, np.float32)}),
        Reason.DORA,
        "lora_magnitude_vector",
    ),
    "unknown": (lambda t: t.update({KEY + "lora_C.weight": A}), Reason.UNKNOWN_KEYS, "lora_C"),
    "adalora": (lambda t: t.update({KEY + "lora_E": A}), Reason.NOT_LORA, "AdaLoRA"),
    "kasa": (lambda t: t.update({KEY + "lora_diag": A}), Reason.VARIANT, "lora_diag"),
    "two adapters": (
        lambda t: t.update({"x.lora_A.one.weight": A, "x.lora_B.two.weight": B}),
        Reason.UNKNOWN_KEYS,
        "one, two",
    ),
    "same module twice": (
        lambda t: t.update({KEY + "lora_A.default.weight": A}),
        Reason.UNKNOWN_KEYS,
        "of one module",
    ),
    "embedding and linear": (
        lambda t: t.update({KEY + "lora_embedding_B": t.pop(KEY + "lora_B.weight")}),
        Reason.UNPAIRED,
        "different kinds",
    ),
    "path": (
        lambda t: t.update({"../../etc.lora_A.weight": A, "../../etc.lora_B.weight": B}),
        Reason.UNKNOWN_KEYS,
        "no layer's name",
    ),
    "long": (
        lambda t: t.update({"x" * 300 + ".lora_A.weight": A, "x" * 300 + ".lora_B.weight": B}),
        Reason.UNKNOWN_KEYS,
        "255 bytes",
    ),
    "no factors": (
        lambda t: [t.pop(key) for key in list(t)] + [t.update({"score.weight": A})],
        Reason.NOT_LORA,
        "no LoRA factor",
    ),
    "nothing": (lambda t: t.clear(), Reason.NO_WEIGHTS, "no tensors"),
}


@pytest.mark.parametrize("change, reason, word", BROKEN.values(), ids=BROKEN)
def test_tensors_that_are_refused(tmp_path: Path, change: Change, reason: Reason, word: str) -> None:
    files = write_peft_folder(tmp_path, PAIRS)
    tensors = read_all(files.weights)
    change(tensors)
    write_weights(tmp_path, tensors, "adapter_model.safetensors")
    with pytest.raises(Refusal) as caught:
        parse(files)
    assert caught.value.reason is reason and word in caught.value.detail and "\n" not in caught.value.detail


def test_peft_weights_without_their_configuration(tmp_path: Path) -> None:
    files = write_peft_folder(tmp_path, PAIRS)
    with pytest.raises(Refusal) as caught:
        parse(AdapterFiles(files.folder, files.weights))
    assert caught.value.reason is Reason.BAD_CONFIG and "adapter_config.json" in caught.value.detail


def test_pickles_are_refused_unopened(tmp_path: Path) -> None:
    files = write_peft_folder(tmp_path, PAIRS)
    for name in ("adapter_model.bin", "lora.PT", "x.ckpt"):
        with pytest.raises(Refusal) as caught:
            parse(AdapterFiles(files.folder, str(tmp_path / name), files.config))
        assert caught.value.reason is Reason.PICKLE and "save_file" in caught.value.detail


def test_the_fingerprint_follows_the_files(tmp_path: Path) -> None:
    import os

    files = write_peft_folder(tmp_path, PAIRS)
    first = fingerprint(files)
    assert len(first) == 32 and first == fingerprint(files) == parse(files).fingerprint
    os.utime(files.weights, ns=(1, 1))
    second = fingerprint(files)
    os.utime(str(files.config), ns=(1, 1))
    third = fingerprint(files)
    assert len({first, second, third, fingerprint(AdapterFiles(files.folder, files.weights))}) == 4
    tmp_path.rename(tmp_path.with_name("moved"))
    moved = str(tmp_path.with_name("moved"))
    assert (
        fingerprint(AdapterFiles(moved, f"{moved}/adapter_model.safetensors", f"{moved}/adapter_config.json")) == third
    )
    with pytest.raises(Refusal) as caught:
        fingerprint(files)
    assert caught.value.reason is Reason.UNREADABLE


@pytest.mark.parametrize("pattern", ["([a-z0-9_.]+)+!", "(a*){9}", ".*.*.*x", "a" * 2000, "((q)|(q))" * 40, r"(q*)\1x"])
def test_a_pattern_that_could_take_for_ever_is_refused(tmp_path: Path, pattern: str) -> None:
    rng = np.random.default_rng(0)
    name = "model.layers.0." + "q" * 40
    files = write_peft_folder(tmp_path, {name: factors(rng, 4, 8, 8)}, rank_pattern={pattern: 4})
    with pytest.raises(Refusal) as caught:
        parse(files)
    assert caught.value.reason is Reason.BAD_CONFIG and "rank_pattern" in caught.value.detail


def test_patterns_that_together_could_take_for_ever_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for names, patterns in (
        (["a." * 200 + "q"], {f".*.*x{i}": 4 for i in range(20)}),
        ([f"l.{i}.q" for i in range(4000)], {f"m{i}": 4 for i in range(1000)}),
        (["q"], {f"m{i}" + "x" * 900: 4 for i in range(200)}),
    ):
        pair = factors(rng, 4, 1, 1)
        files = write_peft_folder(tmp_path, dict.fromkeys(names, pair), rank_pattern=patterns)
        with pytest.raises(Refusal) as caught:
            parse(files)
        assert caught.value.reason is Reason.BAD_CONFIG and "rank_pattern" in caught.value.detail


def test_a_pattern_for_every_module_of_a_large_model_is_read(tmp_path: Path) -> None:
    """As EVA writes them."""
    names = [f"model.layers.{i}.{name}_proj" for i in range(80) for name in ("q", "k", "v", "o", "up", "gate", "down")]
    pair = factors(np.random.default_rng(0), 2, 1, 1)
    patterns = {name: 1 + i for i, name in enumerate(names)}
    files = write_peft_folder(
        tmp_path, dict.fromkeys(names, pair), lora_alpha=1, rank_pattern={}, alpha_pattern=patterns
    )
    scales = {module.layer: module.scale for module in parse(files).modules}
    assert scales == {name.removeprefix("model."): (1 + i) / 2 for i, name in enumerate(names)}


NAMES = st.text("ab.-_0", max_size=8)
PLAIN = st.lists(st.sampled_from(["a", "b", ".", "\\.", "-", "_", "^"]), max_size=6).map("".join)


@given(PLAIN, NAMES)
def test_plain_patterns_match_as_pefts(pattern: str, name: str) -> None:
    from peft.utils.other import get_pattern_key

    try:
        want = get_pattern_key([pattern], name) == pattern
    except re.error:
        return
    assert (matching((pattern,), name) is not None) == want


@pytest.mark.parametrize(
    "prefix", ["base_model.model.", "", "base_model.model.base_model.model.", "module.base_model.model."]
)
@pytest.mark.parametrize("infix", ["", ".default"])
@pytest.mark.parametrize("ending", ["", ".default", ".weight"])
def test_older_keys(tmp_path: Path, prefix: str, infix: str, ending: str) -> None:
    """Adapter names inside, peft's prefix absent or doubled, an embedding's factors with and without an ending."""
    rng = np.random.default_rng(1)
    a, b = factors(rng, 4, 20, 8)
    embedding = {
        f"{prefix}model.embed_tokens.lora_embedding_A{ending}": a,
        f"{prefix}model.embed_tokens.lora_embedding_B{ending}": b,
    }
    linear = {"model.layers.0.q_proj": factors(rng, 4, 8, 6)}
    files = write_peft_folder(
        tmp_path, linear, prefix=prefix, infix=infix, extras=embedding, alpha_pattern={"embed_tokens": 2}
    )
    adapter = parse(files)
    found = {module.layer: (module.kind, module.a_shape, module.out, module.scale) for module in adapter.modules}
    assert adapter.format == "peft" and adapter.extras == ()
    assert found == {
        "model.embed_tokens": ("embedding", (20,), 8, 0.5),
        "layers.0.q_proj": ("linear", (8,), 6, 1.0),
    }

"""LoHa and LoKr rewritten as LoRA: the update equals the reference library's, and every factor's entry is exact."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from ingest.errors import Refusal
from ingest.formats import AdapterFiles, LoraAdapter, Options, parse, parse_opened
from ingest.formats.opening import open_files
from ingest.formats.recipes import materialize
from ingest.pipeline import ingest
from ingest.reasons import Reason
from ingest.safetensors_file import read_all, read_header
from ingest.screen import screen
from ingest.settings import Settings
from ingest.store.reader import open_zoo
from tests.ingest.builders import write_weights

Tensors = dict[str, NDArray[Any]]
BOTH = Options(convert=frozenset(("loha", "lokr")))
BLOCK = "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_"
RESNET = "lora_unet_down_blocks_0_resnets_0_"
RNG = np.random.default_rng(5)


def random(*shape: int, dtype: Any = np.float32) -> NDArray[Any]:
    return RNG.standard_normal(shape).astype(dtype)


def loha(module: str, out: int, width: int, rank: int, dtype: Any = np.float32, alpha: float | None = 1.5) -> Tensors:
    tensors = {
        f"{module}.hada_w1_a": random(out, rank, dtype=dtype),
        f"{module}.hada_w1_b": random(rank, width, dtype=dtype),
        f"{module}.hada_w2_a": random(out, rank, dtype=dtype),
        f"{module}.hada_w2_b": random(rank, width, dtype=dtype),
    }
    return tensors if alpha is None else {**tensors, f"{module}.alpha": np.array(alpha, np.float32)}


def wide(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(np.float64)


def update(path: str, adapter: LoraAdapter, layer: str) -> NDArray[Any]:
    """scale · B · A of one layer of a written file, out × in [× kernel], in double precision."""
    module = next(entry for entry in adapter.modules if entry.layer == layer)
    tensors = read_all(path)
    a, b = wide(tensors[module.a.key]), wide(tensors[module.b.key])
    delta = module.scale * b.reshape(module.out, -1) @ a.reshape(module.rank, -1)
    return delta.reshape(module.out, *module.a_shape)


def converted(path: Path, files: AdapterFiles, options: Options = BOTH) -> tuple[LoraAdapter, str]:
    target = str(path / "factors.safetensors")
    adapter = parse(files, options)
    done = materialize(adapter, options, target)
    assert done == dataclasses.replace(adapter, factors=target)
    header = read_header(target)
    assert header.data_start == done.data_start
    for ref in (*(ref for module in done.modules for ref in (module.a, module.b)), *done.extras):
        assert header.tensors[ref.key] == ref
    assert sorted(path.rglob("*.partial")) == []
    return done, target


def assert_close(got: NDArray[Any], want: NDArray[Any], bits: int) -> None:
    """Equal to the rounding of a type of so many bits, accumulated over a few dozen terms."""
    assert got.shape == want.shape and np.abs(want).max() > 0
    assert np.abs(got - want).max() <= 64 * 2.0**-bits * np.abs(want).max()


# LyCORIS


def trained(module: Any) -> Tensors:
    """A LyCORIS module with every weight random, as it saves itself."""
    import torch

    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return {key: value.detach().numpy().copy() for key, value in module.custom_state_dict().items()}


def linear(out: int, width: int) -> Any:
    import torch

    return torch.nn.Linear(width, out, bias=False)


def conv(out: int, width: int, kernel: int) -> Any:
    import torch

    return torch.nn.Conv2d(width, out, kernel, bias=False)


TO_Q = (BLOCK + "attn1_to_q", "unet.down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q")
CONV1 = (RESNET + "conv1", "unet.down_blocks.0.resnets.0.conv1")
SHORTCUT = (RESNET + "conv_shortcut", "unet.down_blocks.0.resnets.0.conv_shortcut")
FLUX = ("lycoris_transformer_blocks_0_attn_to_q", "transformer.transformer_blocks.0.attn.to_q")
DOTTED = (ATTENTION := "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_v", ATTENTION)
COMFY = ("diffusion_model.double_blocks.0.img_attn.qkv", "diffusion_model.double_blocks.0.img_attn.qkv")
LYCORIS: dict[str, tuple[str, tuple[str, str], Callable[[], Any], dict[str, Any]]] = {
    "loha, linear": ("loha", TO_Q, lambda: linear(40, 24), {"lora_dim": 3, "alpha": 1.7}),
    "loha, rslora": ("loha", TO_Q, lambda: linear(40, 24), {"lora_dim": 3, "alpha": 2, "rs_lora": True}),
    "loha, scalar": ("loha", FLUX, lambda: linear(40, 24), {"lora_dim": 3, "use_scalar": True}),
    "loha, dots": ("loha", DOTTED, lambda: linear(40, 24), {"lora_dim": 2}),
    "loha, comfy": ("loha", COMFY, lambda: linear(40, 24), {"lora_dim": 2, "alpha": 3}),
    "loha, 3 × 3": ("loha", CONV1, lambda: conv(20, 6, 3), {"lora_dim": 3}),
    "loha, 1 × 1": ("loha", SHORTCUT, lambda: conv(20, 18, 1), {"lora_dim": 3}),
    "lokr, whole W1": ("lokr", TO_Q, lambda: linear(64, 96), {"lora_dim": 2, "alpha": 1.7, "factor": 4}),
    "lokr, tall W1": ("lokr", FLUX, lambda: linear(96, 26), {"lora_dim": 2, "alpha": 3, "factor": 8}),
    "lokr, products": ("lokr", TO_Q, lambda: linear(64, 64), {"lora_dim": 2, "alpha": 3, "decompose_both": True}),
    "lokr, whole": (
        "lokr",
        TO_Q,
        lambda: linear(32, 32),
        {"lora_dim": 8, "factor": 8, "full_matrix": True, "unbalanced_factorization": True},
    ),
    "lokr, 3 × 3": ("lokr", CONV1, lambda: conv(64, 32, 3), {"lora_dim": 3, "alpha": 2, "factor": 4}),
    "lokr, whole 3 × 3": ("lokr", CONV1, lambda: conv(64, 16, 3), {"lora_dim": 8, "factor": 8, "full_matrix": True}),
    "lokr, 1 × 1": ("lokr", SHORTCUT, lambda: conv(64, 64, 1), {"lora_dim": 2, "factor": 4}),
}


@pytest.mark.parametrize("name", LYCORIS)
def test_equals_lycoris(tmp_path: Path, name: str) -> None:
    library = pytest.importorskip("lycoris.modules")
    method, (key, layer), base, settings = LYCORIS[name]
    module = {"loha": library.LohaModule, "lokr": library.LokrModule}[method](key, base(), **settings)
    tensors = {f"{key}.{part}": value for part, value in trained(module).items()}
    # get_weight is what forward adds; lycoris 4's get_diff_weight multiplies by the scale a second time.
    want = (module.get_weight(module.shape) * module.scalar).detach().numpy()
    done, path = converted(tmp_path, write_weights(tmp_path, tensors))
    assert done.format == done.recipe == method
    (found,) = done.modules
    assert found.layer == layer
    # With two whole matrices there is no rank, and lycoris' scale is 1 whatever alpha says.
    whole = method == "lokr" and module.use_w1 and module.use_w2
    assert found.scale == (1.0 if whole else module.alpha.item() / module.lora_dim)
    assert_close(update(path, done, layer), wide(want), 24)


# peft


def peft_model() -> Any:
    import torch

    class Attention(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q_proj, self.k_proj = linear(64, 96), linear(72, 60)
            self.mixer = conv(64, 32, 1)

    return torch.nn.ModuleDict({"layers": torch.nn.ModuleList([Attention(), Attention()])})


@pytest.mark.parametrize("kind", ["LoHaConfig", "LoKrConfig"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"decompose_both": True, "rank_pattern": {"k_proj": 2}, "alpha_pattern": {"^layers.1.q_proj": 5}},
        {"decompose_factor": 4, "alpha": 3.5},
    ],
)
def test_equals_peft(tmp_path: Path, kind: str, settings: dict[str, Any]) -> None:
    peft = pytest.importorskip("peft")
    import torch

    if kind == "LoHaConfig":
        settings = {key: value for key, value in settings.items() if not key.startswith("decompose")}
    config = getattr(peft, kind)(r=3, target_modules=["q_proj", "k_proj", "mixer"], **settings)
    model = peft.get_peft_model(peft_model(), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "hada" in name or "lokr" in name:
                parameter.copy_(torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    folder = str(tmp_path)
    files = AdapterFiles(folder, f"{folder}/adapter_model.safetensors", f"{folder}/adapter_config.json")
    done, path = converted(tmp_path, files)
    layers = {
        name: module for name, module in model.base_model.model.named_modules() if hasattr(module, "get_delta_weight")
    }
    assert [module.layer for module in done.modules] == sorted(layers)
    for module in done.modules:
        layer = layers[module.layer]
        assert module.scale == layer.scaling["default"]
        want = layer.get_delta_weight("default").detach().numpy()
        got = update(path, done, module.layer)
        # peft keeps the kernel of a 1 × 1 convolution nowhere in its files.
        assert_close(got.reshape(want.shape), wide(want), 24)


# Exactness


@pytest.mark.parametrize(
    ("dtype", "wanted"), [(np.float16, "float32"), (ml_dtypes.bfloat16, "float32"), (np.float32, "float64")]
)
@pytest.mark.parametrize("method", ["loha", "lokr"])
def test_every_entry_is_one_exact_product(tmp_path: Path, method: str, dtype: Any, wanted: str) -> None:
    key = TO_Q[0]
    if method == "loha":
        tensors = loha(key, 20, 12, 2, dtype)
        w1a, w1b, w2a, w2b = (wide(tensors[f"{key}.hada_{part}"]) for part in ("w1_a", "w1_b", "w2_a", "w2_b"))
        want_a = np.stack([w1b[p] * w2b[q] for p in range(2) for q in range(2)])
        want_b = np.stack([w1a[:, p] * w2a[:, q] for p in range(2) for q in range(2)], axis=1)
    else:
        shapes = {"lokr_w1_a": (4, 2), "lokr_w1_b": (2, 5), "lokr_w2_a": (6, 2), "lokr_w2_b": (2, 4)}
        tensors = {f"{key}.{part}": random(*shape, dtype=dtype) for part, shape in shapes.items()}
        b1, a1, b2, a2 = (wide(value) for value in tensors.values())
        want_a = np.array(
            [[a1[i, k] * a2[j, m] for k in range(5) for m in range(4)] for i in range(2) for j in range(2)]
        )
        want_b = np.array(
            [[b1[k, i] * b2[m, j] for i in range(2) for j in range(2)] for k in range(4) for m in range(6)]
        )
    done, path = converted(tmp_path, write_weights(tmp_path, tensors))
    (module,) = done.modules
    written = read_all(path)
    for ref, want in ((module.a, want_a), (module.b, want_b)):
        # The exact product of two numbers of 24 bits fits double precision, so `want` is exact.
        assert ref.dtype == wanted and written[ref.key].dtype == wanted
        np.testing.assert_array_equal(wide(written[ref.key]), want)


def test_identities_keep_the_type_of_the_other_factor(tmp_path: Path) -> None:
    key = TO_Q[0]
    tensors = {
        f"{key}.lokr_w1": random(2, 2, dtype=ml_dtypes.bfloat16),
        f"{key}.lokr_w2_a": random(20, 2, dtype=ml_dtypes.bfloat16),
        f"{key}.lokr_w2_b": random(2, 20, dtype=ml_dtypes.bfloat16),
    }
    done, path = converted(tmp_path, write_weights(tmp_path, tensors))
    (module,) = done.modules
    assert (module.a.dtype, module.b.dtype, module.rank) == ("float32", "bfloat16", 4)
    b = read_all(path)[module.b.key]
    np.testing.assert_array_equal(b, np.kron(np.eye(2), wide(tensors[f"{key}.lokr_w2_a"])).astype(b.dtype))


@pytest.mark.parametrize("tiny", [1e-30, 1e30])
def test_products_out_of_range_are_refused(tmp_path: Path, tiny: float) -> None:
    tensors = loha(TO_Q[0], 20, 12, 2, ml_dtypes.bfloat16)
    for part in ("w1_a", "w2_a"):
        tensors[f"{TO_Q[0]}.hada_{part}"][:] = tiny
    adapter = parse(write_weights(tmp_path, tensors), BOTH)
    with pytest.raises(Refusal) as caught:
        materialize(adapter, BOTH, str(tmp_path / "out"))
    assert caught.value.reason is Reason.UNSUPPORTED_DTYPE and "float32" in caught.value.detail
    assert os.listdir(tmp_path) == ["pytorch_lora_weights.safetensors"]


def test_infinite_values_are_left_to_the_screening(tmp_path: Path) -> None:
    tensors = loha(TO_Q[0], 20, 12, 2, np.float16)
    tensors[f"{TO_Q[0]}.hada_w1_a"][0, 0] = np.inf
    done, _ = converted(tmp_path, write_weights(tmp_path, tensors))
    with pytest.raises(Refusal) as caught:
        screen(done)
    assert caught.value.reason is Reason.NON_FINITE


# What belongs to the adapter besides


def test_plain_modules_and_other_tensors_come_along(tmp_path: Path) -> None:
    plain = BLOCK + "attn2_to_q"
    lora = {
        f"{plain}.lora_down.weight": random(2, 8),
        f"{plain}.lora_up.weight": random(8, 2),
        f"{plain}.alpha": np.array(3, np.float32),
        "bundle_emb.x.string_to_param": random(2, 2),
    }
    done, path = converted(tmp_path, write_weights(tmp_path, {**loha(TO_Q[0], 20, 12, 2, alpha=None), **lora}))
    scales = {module.layer.rpartition("attn")[2]: module.scale for module in done.modules}
    assert scales == {"1.to_q": 1.0, "2.to_q": 3 / 2}
    assert [ref.key for ref in done.extras] == ["bundle_emb.x.string_to_param"]
    written = read_all(path)
    for key in lora.keys() - {f"{plain}.alpha"}:
        assert written[key].tobytes() == lora[key].tobytes()


def test_a_remote_adapter_has_its_shapes(tmp_path: Path) -> None:
    files = write_weights(tmp_path, loha(TO_Q[0], 20, 12, 2))
    here = parse(files, BOTH)
    (there,) = parse_opened(dataclasses.replace(open_files(files, BOTH), tensor=None)).modules
    assert np.isnan(there.scale) and dataclasses.replace(there, scale=0.75) == here.modules[0]


@pytest.mark.parametrize("cross, shape", [(768, (1, 1)), (1024, ())])
def test_the_projections_of_stable_diffusion_1_are_convolutions(
    tmp_path: Path, cross: int, shape: tuple[int, ...]
) -> None:
    tensors = loha("lora_unet_mid_block_attentions_0_proj_in", 20, 12, 2)
    tensors |= loha("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k", 20, cross, 2)
    module = next(m for m in parse(write_weights(tmp_path, tensors), BOTH).modules if m.layer.endswith("proj_in"))
    assert module.a_shape == (12, *shape) and module.kind == ("conv" if shape else "linear")


@pytest.mark.parametrize("cross, shape", [(768, (1, 1)), (2048, ())])
def test_a_plain_cross_attention_tells_as_well(tmp_path: Path, cross: int, shape: tuple[int, ...]) -> None:
    to_k = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = loha("lora_unet_mid_block_attentions_0_proj_in", 20, 12, 2)
    tensors |= {f"{to_k}.lora_down.weight": random(2, cross), f"{to_k}.lora_up.weight": random(20, 2)}
    module = next(m for m in parse(write_weights(tmp_path, tensors), BOTH).modules if m.layer.endswith("proj_in"))
    assert module.a_shape == (12, *shape)


# What cannot be


LOKR = {"lokr_w1": (2, 2), "lokr_w2_a": (20, 2), "lokr_w2_b": (2, 20)}
LOHA = {"hada_w1_a": (20, 2), "hada_w1_b": (2, 12), "hada_w2_a": (20, 2), "hada_w2_b": (2, 12)}
BAD: dict[str, tuple[Mapping[str, Any], Reason, str]] = {
    "rank too high": (
        {part: (max(s), 4) if s[0] > 2 else (4, max(s)) for part, s in LOHA.items()},
        Reason.NOT_LORA,
        "rank 16",
    ),
    "whole matrices": ({"lokr_w1": (4, 4), "lokr_w2": (16, 16)}, Reason.NOT_LORA, "rank 64"),
    "Tucker": ({**LOHA, "hada_t1": (2, 2, 3, 3)}, Reason.NOT_LORA, "Tucker"),
    "Tucker, lokr": ({**LOKR, "lokr_t2": (2, 2, 3, 3)}, Reason.NOT_LORA, "Tucker"),
    "a part missing": ({k: v for k, v in LOHA.items() if k != "hada_w2_a"}, Reason.UNPAIRED, "only"),
    "half of W2": ({k: v for k, v in LOKR.items() if k != "lokr_w2_b"}, Reason.UNPAIRED, "lokr_w2"),
    "W2 twice": ({**LOKR, "lokr_w2": (20, 20)}, Reason.UNPAIRED, "lokr_w2"),
    "ranks": ({**LOHA, "hada_w2_b": (3, 12)}, Reason.BAD_SHAPE, "fit"),
    "inner ranks": ({**LOKR, "lokr_w2_b": (3, 20)}, Reason.BAD_SHAPE, "fit"),
    "two ranks": ({**LOKR, "lokr_w1": None, "lokr_w1_a": (9, 3), "lokr_w1_b": (3, 9)}, Reason.BAD_SHAPE, "rank"),
    "no matrix": ({**LOHA, "hada_w1_a": (20, 2, 1)}, Reason.BAD_SHAPE, "matrices"),
    "empty": ({**LOKR, "lokr_w1": (0, 2)}, Reason.BAD_SHAPE, "shape"),
    "scalar": ({**LOHA, "scalar": ()}, Reason.UNKNOWN_KEYS, "scalar"),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(tmp_path: Path, name: str) -> None:
    shapes, reason, word = BAD[name]
    tensors = {f"{TO_Q[0]}.{part}": random(*shape) for part, shape in shapes.items() if shape is not None}
    with pytest.raises(Refusal) as caught:
        parse(write_weights(tmp_path, tensors), BOTH)
    assert caught.value.reason is reason and word in caught.value.detail


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("lora_unet_down_blocks_0_downsamplers_0_conv", Reason.BAD_SHAPE),  # 20 columns, not 9 · in
        ("lora_unet_mid_block_attentions_0_proj_in", Reason.BAD_SHAPE),  # of Stable Diffusion 1, or of another?
        ("unet.mid_block.attentions.0.proj_out", Reason.BAD_SHAPE),
        ("lycoris_layers_0_conv1d", Reason.BAD_SHAPE),
        ("lycoris_layers_0_q_proj", Reason.UNKNOWN_KEYS),
        ("model.layers.0.q_proj", Reason.UNKNOWN_KEYS),
    ],
)
def test_modules_without_a_place(tmp_path: Path, key: str, reason: Reason) -> None:
    with pytest.raises(Refusal) as caught:
        parse(write_weights(tmp_path, loha(key, 30, 20, 2)), BOTH)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    "shapes, word",
    [
        ({"lokr_w1_a": (20_000, 1), "lokr_w1_b": (1, 20_000), "lokr_w2": (60, 60)}, "MiB"),
        ({f"lokr_w{n}_{s}": z for n in (1, 2) for s, z in (("a", (4000, 1)), ("b", (1, 4000)))}, "times"),
    ],
)
def test_a_small_file_is_not_unpacked_into_much(tmp_path: Path, shapes: Any, word: str) -> None:
    tensors = {f"{TO_Q[0]}.{part}": random(*shape) for part, shape in shapes.items()}
    with pytest.raises(Refusal) as caught:
        parse(write_weights(tmp_path, tensors), BOTH)
    assert caught.value.reason is Reason.BAD_SHAPE and word in caught.value.detail


@pytest.mark.parametrize(
    "shapes, dtype",
    [
        ({"hada_w1_a": (10240, 16), "hada_w1_b": (16, 1280), "hada_w2_a": (10240, 16), "hada_w2_b": (16, 1280)}, "f4"),
        ({"hada_w1_a": (3072, 16), "hada_w1_b": (16, 21504), "hada_w2_a": (3072, 16), "hada_w2_b": (16, 21504)}, "f4"),
        ({"lokr_w1": (32, 32), "lokr_w2_a": (40, 16), "lokr_w2_b": (16, 40)}, "f2"),
        ({"lokr_w1": (32, 32), "lokr_w2_a": (320, 4), "lokr_w2_b": (4, 40)}, "f2"),
    ],
)
def test_the_widest_real_layers_pass(tmp_path: Path, shapes: Any, dtype: str) -> None:
    tensors = {f"{TO_Q[0]}.{part}": np.ones(shape, dtype) for part, shape in shapes.items()}
    (module,) = parse(write_weights(tmp_path, tensors), BOTH).modules
    assert module.rank in (256, 512, 128)


def test_messages_name_what_is_in_the_file(tmp_path: Path) -> None:
    tensors = loha("lora_unet_x_y", 20, 12, 2) | loha("diffusion_model.input_blocks.1.x", 20, 12, 2)
    for chosen in ("lora_unet_", "diffusion_model."):
        kept = {key: value for key, value in tensors.items() if key.startswith(chosen)}
        with pytest.raises(Refusal) as caught:
            parse(write_weights(tmp_path, kept), BOTH)
        assert any(repr(key) in caught.value.detail for key in kept) and "lora_down" not in caught.value.detail


def test_double_precision_and_zero_alpha(tmp_path: Path) -> None:
    for tensors, reason in (
        (loha(TO_Q[0], 20, 12, 2, np.float64), Reason.UNSUPPORTED_DTYPE),
        (loha(TO_Q[0], 20, 12, 2, np.int8), Reason.UNSUPPORTED_DTYPE),
        (loha(TO_Q[0], 20, 12, 2, alpha=0), Reason.BAD_CONFIG),
        (loha(TO_Q[0], 20, 12, 2, alpha=np.nan), Reason.BAD_CONFIG),
    ):
        with pytest.raises(Refusal) as caught:
            parse(write_weights(tmp_path, tensors), BOTH)
        assert caught.value.reason is reason


@pytest.mark.parametrize("side", ["lokr_w2_a", "lokr_w2_b", "lokr_w1"])
def test_a_product_that_is_zero_on_either_side_was_never_trained(tmp_path: Path, side: str) -> None:
    tensors = {f"{TO_Q[0]}.{part}": random(*shape) for part, shape in LOKR.items()}
    tensors[f"{TO_Q[0]}.{side}"][:] = 0
    adapter = parse(write_weights(tmp_path, tensors), BOTH)
    with pytest.raises(Refusal) as caught:
        materialize(adapter, BOTH, str(tmp_path / "out"))
    assert caught.value.reason is Reason.UNTRAINED


@pytest.mark.parametrize("method", ["loha", "lokr"])
def test_only_on_request(tmp_path: Path, method: str) -> None:
    parts = LOHA if method == "loha" else LOKR
    tensors = {f"{TO_Q[0]}.{part}": random(*shape) for part, shape in parts.items()}
    files = write_weights(tmp_path, tensors)
    other: Options = Options(convert=frozenset(("lokr" if method == "loha" else "loha",)))  # type: ignore[arg-type]
    for options in (Options(), other):
        with pytest.raises(Refusal) as caught:
            parse(files, options)
        assert caught.value.reason is Reason.NOT_LORA and f"--convert {method}" in caught.value.detail
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({"peft_type": method.upper(), "r": 2, "alpha": 1}))
    with pytest.raises(Refusal) as caught:
        parse(dataclasses.replace(files, config=str(config)), other)
    assert caught.value.reason is Reason.NOT_LORA and f"--convert {method}" in caught.value.detail
    assert parse(dataclasses.replace(files, config=str(config)), BOTH).modules[0].scale == 1 / 2


@pytest.mark.parametrize(
    "fields", [{"peft_type": "LORA", "r": 2}, {"peft_type": "LOHA", "r": 3}, {"peft_type": "LOKR", "r": 2}]
)
def test_a_configuration_of_something_else(tmp_path: Path, fields: dict[str, Any]) -> None:
    files = write_weights(tmp_path, loha(TO_Q[0], 20, 12, 2, alpha=None))
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps(fields))
    with pytest.raises(Refusal) as caught:
        parse(dataclasses.replace(files, config=str(config)), BOTH)
    assert caught.value.reason in (Reason.BAD_CONFIG, Reason.BAD_SHAPE)


# Through the pipeline


def test_a_zoo_of_a_pickled_loha_folder(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    tensors = loha("base_model.model.layers.0.q_proj", 20, 12, 2, ml_dtypes.bfloat16, alpha=None)
    (tmp_path / "in").mkdir()
    torch.save(
        {key: torch.from_numpy(wide(value)).to(torch.bfloat16) for key, value in tensors.items()},
        tmp_path / "in" / "adapter_model.bin",
    )
    (tmp_path / "in" / "adapter_config.json").write_text(json.dumps({"peft_type": "LOHA", "r": 2, "alpha": 5}))
    for chosen, refused in (
        (Settings(allow_pickle=True), ["not-lora"]),
        (Settings(convert=BOTH.convert), ["pickle"]),
        (Settings(allow_pickle=True, convert=BOTH.convert), []),
    ):
        result = ingest(tmp_path / "in", tmp_path / "zoo", chosen)
        assert [record.reason for record in result.refused] == refused
    (module,) = open_zoo(tmp_path / "zoo").adapter("in")
    parts = [
        wide(tensors[f"base_model.model.layers.0.q_proj.hada_{part}"]) for part in ("w1_a", "w1_b", "w2_a", "w2_b")
    ]
    want = 5 / 2 * (parts[0] @ parts[1]) * (parts[2] @ parts[3])
    assert_close(module.scale * wide(module.B) @ wide(module.A), want, 50)


# Writing


def test_a_file_that_changed_is_not_rewritten(tmp_path: Path) -> None:
    files = write_weights(tmp_path, loha(TO_Q[0], 20, 12, 2))
    adapter = parse(files, BOTH)
    write_weights(tmp_path, loha(TO_Q[0], 20, 12, 3))
    with pytest.raises(Refusal) as caught:
        materialize(adapter, BOTH, str(tmp_path / "out"))
    assert caught.value.reason is Reason.CHANGED
    assert os.listdir(tmp_path) == ["pytorch_lora_weights.safetensors"]


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = parse(write_weights(tmp_path / "in", loha(TO_Q[0], 20, 12, 2)), BOTH)
    with pytest.raises(FileNotFoundError):
        materialize(adapter, BOTH, str(tmp_path / "missing" / "out"))

    def full(source: str, target: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        materialize(adapter, BOTH, str(tmp_path / "out"))
    assert os.listdir(tmp_path) == ["in"]


def test_without_a_recipe_nothing_is_written(tmp_path: Path) -> None:
    tensors = {f"{BLOCK}attn1_to_q.lora_{way}.weight": random(2, 2) for way in ("down", "up")}
    adapter = parse(write_weights(tmp_path, tensors))
    assert materialize(adapter, Options(), str(tmp_path / "out")) == adapter
    assert os.listdir(tmp_path) == ["pytorch_lora_weights.safetensors"]

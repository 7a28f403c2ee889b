"""Real adapters: what is read and what refused, and A, B and scale as the reference loaders end up with.

The base models are built from configurations with uninitialised weights: adapters do not depend on them.
"""

from __future__ import annotations

import functools
import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ingest.errors import Refusal
from ingest.formats import AdapterFiles, Options, parse
from ingest.formats.opening import open_files
from ingest.formats.recipes import materialize
from ingest.pipeline import ingest
from ingest.reasons import Reason
from ingest.safetensors_file import read_all, read_header
from ingest.settings import Settings
from ingest.store.reader import open_zoo
from ingest.verify import verify
from tests.ingest.formats import cloneofsimo_loader

ZOO = Path(os.environ.get("EIGENZOO_REAL_ZOO", ""))
pytestmark = pytest.mark.skipif("EIGENZOO_REAL_ZOO" not in os.environ, reason="EIGENZOO_REAL_ZOO is not set")
PICKLES = Options(allow_pickle=True)
Live = dict[str, tuple[Any, Any, float]]


@dataclass(frozen=True)
class Found:
    """What an adapter is read as."""

    format: str
    modules: int
    scale: float
    first: str
    extras: int = 0


QUERY = "encoder.layer.0.attention.self.query"
ROBERTA = Found("peft", 24, 2.0, QUERY, 4)
AGU = Found("peft", 36, 4.0, "encoder.layer.0.attention.self.key", 105)
GPT2 = Found("peft", 36, 2.0, "h.0.attn.c_attn")
BLOCK = "unet.down_blocks.0.attentions.0.transformer_blocks.0"
UNET = Found("diffusers", 128, 1.0, f"{BLOCK}.attn1.to_k")
CLIP = "text_encoder.encoder.layers.0.self_attn.k_proj"

# Folder → what it gives by default, and with pickles allowed.
TABLE: dict[str, tuple[Found | Reason, Found | Reason]] = {
    **{
        f"roberta-base__paulohenriquecrs__checkpoint-{step}": (ROBERTA, ROBERTA)
        for step in (500, *range(1500, 9000, 1500), 8610)
    },
    **{f"roberta-base__AguLeon__checkpoint-{step}": (AGU, AGU) for step in (500, 1200)},
    **{f"gpt2__parikshit-06__{domain}": (GPT2, GPT2) for domain in ("legal", "medical", "sports")},
    "sd1.x-unet-r4__catundchat__main": (UNET, UNET),
    "sd1.x-unet-r4__chiang7777777__main": (UNET, UNET),
    "sd1.x-unet-r4__huggingface__sd-pokemon-model-lora": (UNET, UNET),
    "sd1.x-unet-r4__catundchat__bin": (Reason.PICKLE, UNET),
    "cloneofsimo-st__cloneofsimo__analog-svd-rank4": (Found("cloneofsimo", 192, 1.0, CLIP),) * 2,
    "cloneofsimo-st__cloneofsimo__lora-disney": (Found("cloneofsimo", 192, 1.0, CLIP, 2),) * 2,
    "cloneofsimo-st__cloneofsimo__lora-disney-inpainting": (Found("cloneofsimo", 192, 1.0, CLIP, 2),) * 2,
    "cloneofsimo-pt__cloneofsimo__lora-disney.pt": (
        Reason.PICKLE,
        Found("cloneofsimo", 128, 1.0, f"{BLOCK}.attn1.to_k"),
    ),
    "cloneofsimo-pt__cloneofsimo__lora-kiriko2.text-encoder.pt": (Reason.PICKLE, Found("cloneofsimo", 48, 1.0, CLIP)),
    "opt-125m__huggingface__lora-opt-125m-bnb-4bit-0.5.0-bin": (
        Reason.PICKLE,
        Found("peft", 24, 1.0, "decoder.layers.0.self_attn.q_proj"),
    ),
    "peft-toy__huggingface__lora-conv2d-0.6.1-bin": (Reason.PICKLE, Found("peft", 1, 1.0, "conv2d")),
    "peft-toy__huggingface__lora-emb-conv1d-0.6.1-bin": (Reason.PICKLE, Found("peft", 2, 1.0, "conv1d")),
    "peft-toy__huggingface__lora-mlp-0.6.1-bin": (Reason.PICKLE, Found("peft", 1, 1.0, "lin0")),
    "peft-toy__huggingface__lora-mlp-modules-to-save-0.6.1-bin": (Reason.PICKLE, Found("peft", 1, 1.0, "lin0", 2)),
    "not-plain-lora__huggingface__ia3-conv2d-0.6.1-bin": (Reason.NOT_LORA, Reason.NOT_LORA),
    "not-plain-lora__huggingface__ia3-mlp-0.6.1-bin": (Reason.NOT_LORA, Reason.NOT_LORA),
    "not-plain-lora__huggingface__ia3-no-ff-mlp-0.6.1-bin": (Reason.NOT_LORA, Reason.NOT_LORA),
    "not-plain-lora__huggingface__adalora-mlp-0.6.1-bin": (Reason.NOT_LORA, Reason.NOT_LORA),
    "not-lora__huggingface__results-glue-adapter-ckpt": (Reason.NOT_LORA, Reason.NOT_LORA),
    "not-lora__huggingface__peft-mrpc-40-aligned": (Reason.NOT_LORA, Reason.NOT_LORA),
}


def folders(family: str) -> list[str]:
    return [name for name in TABLE if name.startswith(f"{family}__")]


def files(name: str) -> AdapterFiles:
    folder = ZOO / name
    weights = next(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".pt"))
    config = folder / "adapter_config.json"
    return AdapterFiles(str(folder), str(weights), str(config) if config.exists() else None)


def test_the_table_is_the_zoo() -> None:
    """Every folder is in the table, and it is refused for good exactly if the manifest says that it is no LoRA."""
    assert set(TABLE) == {path.name for path in ZOO.iterdir() if path.is_dir()}
    manifest = json.loads((ZOO / "MANIFEST.json").read_text())["adapters"]
    assert {entry["id"] for entry in manifest} == set(TABLE)
    for entry in manifest:
        plain = "not a plain LoRA: ingestion must refuse or skip with a reason" not in entry["notes"]
        outcome = TABLE[entry["id"]][1]
        assert isinstance(outcome, Found) == (plain and entry["peft_type"] in (None, "LORA"))
        if isinstance(outcome, Found) and outcome.modules != entry["n_AB_pairs"]:
            assert "emb" in entry["id"]  # the manifest counts no embeddings
        if isinstance(outcome, Found) and entry["n_non_lora_tensors"] is not None:
            assert outcome.extras == entry["n_non_lora_tensors"]
        if isinstance(outcome, Found):
            assert_stated(entry, outcome)


def assert_stated(entry: dict[str, Any], outcome: Found) -> None:
    """Rank, alpha, data types and untrained factors as the manifest counted them."""
    adapter = parse(files(entry["id"]), PICKLES)
    modules = [module for module in adapter.modules if module.kind != "embedding"]
    rank = entry["rank"]
    ranks = Counter({int(r): n for r, n in rank.items()} if isinstance(rank, dict) else {rank: len(modules)})
    assert Counter(module.rank for module in modules) == ranks
    assert {module.scale for module in modules} == {(entry["alpha"] or r) / r for r in ranks}
    tensors = open_files(adapter.files, PICKLES).header.tensors
    assert Counter(ref.dtype for ref in tensors.values()) == entry["dtype"]
    read = open_files(adapter.files, PICKLES).tensor
    assert read is not None
    assert sum(not read(module.a).any() for module in modules) == entry["n_zero_A"]
    assert sum(not read(module.b).any() for module in modules) == entry["n_zero_B"]


# One zoo per base, by beginnings of names; the first that is taken begins it. kiriko2's text encoder is as wide as
# Stable Diffusion 1's, whatever the manifest says.
ZOOS = {
    "roberta": ("roberta-base__",),
    "gpt2": ("gpt2__",),
    "opt": ("opt-125m__",),
    "stable diffusion 1": ("sd1.x-unet-r4__", "cloneofsimo-st__", "cloneofsimo-pt__cloneofsimo__lora-kiriko2"),
    "stable diffusion 2": ("cloneofsimo-pt__cloneofsimo__lora-disney",),
    **{name: (f"peft-toy__huggingface__lora-{name}",) for name in ("mlp", "conv2d", "emb")},
}
# Its factors are those of the other one to the bit.
TWIN = "peft-toy__huggingface__lora-mlp-modules-to-save-0.6.1-bin"
ELSEWHERE = ("other-base", "no-common-layer", "shape-disagrees")


@pytest.mark.parametrize("base", ZOOS)
@pytest.mark.parametrize("column", [0, 1], ids=["default", "pickles allowed"])
def test_one_ingest_of_everything_agrees_with_the_table(tmp_path: Path, base: str, column: int) -> None:
    mine = [name for start in ZOOS[base] for name in TABLE if name.startswith(start)]
    first = next((name for name in mine if isinstance(TABLE[name][column], Found)), None)
    chosen = Settings(allow_pickle=column == 1)
    added: set[str] = set()
    if first is not None:
        added |= set(ingest([ZOO / first], tmp_path / "zoo", chosen).added)
    result = ingest([ZOO / name for name in TABLE], tmp_path / "zoo", chosen)
    added |= set(result.added)
    reasons = {record.name: record.reason for record in result.refused}
    assert added | reasons.keys() == TABLE.keys() and not added & reasons.keys()
    for name, outcomes in TABLE.items():
        wanted = outcomes[column]
        if isinstance(wanted, Reason):
            assert reasons[name] == wanted
        elif first is not None and name in mine:
            assert name in added or (name == TWIN and reasons[name] == "duplicate")
        elif first is not None:
            assert reasons[name] in ELSEWHERE
    assert verify(open_zoo(tmp_path / "zoo")).problems == ()


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("column, options", list(enumerate((Options(), PICKLES))), ids=["default", "pickles allowed"])
def test_read_or_refused(name: str, column: int, options: Options) -> None:
    wanted = TABLE[name][column]
    if isinstance(wanted, Reason):
        with pytest.raises(Refusal) as caught:
            parse(files(name), options)
        assert caught.value.reason is wanted and caught.value.detail
        return
    adapter = parse(files(name), options)
    scales = {module.scale for module in adapter.modules}
    assert scales == {wanted.scale}
    found = Found(adapter.format, len(adapter.modules), wanted.scale, adapter.modules[0].layer, len(adapter.extras))
    assert found == wanted


def empty(build: Any) -> Any:
    """A model whose weights are memory never touched."""
    import torch

    with torch.device("meta"):
        model = build()
    return model.to_empty(device="cpu")


def live(model: Any, adapter_name: str, prefix: str = "") -> Live:
    from peft.tuners.lora import LoraLayer

    def factor(module: Any, side: str) -> Any:
        embedding = getattr(module, f"lora_embedding_{side}")
        weight = (
            embedding[adapter_name]
            if adapter_name in embedding
            else getattr(module, f"lora_{side}")[adapter_name].weight
        )
        return weight.detach().numpy()

    return {
        prefix + name: (factor(module, "A"), factor(module, "B"), module.scaling[adapter_name])
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }


def assert_equal(name: str, want: Live, tmp_path: Path) -> None:
    """The file as parsed, and the zoo that it is ingested into, hold what the reference loader ends up with."""
    adapter = materialize(parse(files(name), PICKLES), PICKLES, str(tmp_path / "factors.safetensors"))
    values = read_all(adapter.factors)
    assert [module.layer for module in adapter.modules] == sorted(want)
    for module in adapter.modules:
        a, b, scale = want[module.layer]
        assert module.scale == scale
        for ref, tensor in ((module.a, a), (module.b, b)):
            assert values[ref.key].dtype == tensor.dtype and values[ref.key].shape == tensor.shape
            assert values[ref.key].tobytes() == tensor.tobytes()
    result = ingest([ZOO / name], tmp_path / "zoo", Settings(allow_pickle=True))
    stored = {module.layer: module for module in open_zoo(tmp_path / "zoo").adapter(*result.added)}
    assert stored.keys() == want.keys()
    for layer, (a, b, scale) in want.items():
        assert stored[layer].scale == scale
        for value, tensor in ((stored[layer].A, a), (stored[layer].B, b)):
            # The zoo keeps B of a convolution without its kernel of 1 × 1.
            assert value.dtype == tensor.dtype and value.size == tensor.size
            assert value.shape == tensor.shape[: value.ndim] and value.tobytes() == tensor.tobytes()


@pytest.mark.parametrize("name", folders("roberta-base"))
def test_roberta(name: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    from transformers import RobertaForSequenceClassification

    tensors = read_header(files(name).weights).tensors
    labels = tensors["base_model.model.classifier.out_proj.weight"].shape[0]
    config = transformers.RobertaConfig(vocab_size=99, num_labels=labels)
    model = peft.PeftModel.from_pretrained(empty(lambda: RobertaForSequenceClassification(config)), str(ZOO / name))
    want = live(model.base_model.model, "default")
    assert len(want) in (24, 36)
    assert_equal(name, {key.removeprefix("roberta."): value for key, value in want.items()}, tmp_path)


@pytest.mark.parametrize("name", folders("gpt2"))
def test_gpt2(name: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=99)
    model = peft.PeftModel.from_pretrained(empty(lambda: transformers.GPT2LMHeadModel(config)), str(ZOO / name))
    want = live(model.base_model.model, "default")
    assert len(want) == 36
    assert_equal(name, {key.removeprefix("transformer."): value for key, value in want.items()}, tmp_path)


@pytest.mark.parametrize("name", folders("opt-125m"))
def test_opt(name: str, tmp_path: Path) -> None:
    """Quantised in training; its factors are float32 all the same."""
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    config = transformers.OPTConfig(vocab_size=99)
    model = peft.PeftModel.from_pretrained(empty(lambda: transformers.OPTForCausalLM(config)), str(ZOO / name))
    want = live(model.base_model.model, "default")
    assert len(want) == 24
    assert_equal(name, {key.removeprefix("model."): value for key, value in want.items()}, tmp_path)


@pytest.mark.parametrize("name", folders("peft-toy"))
def test_peft_toys(name: str, tmp_path: Path) -> None:
    """The models of peft's own regression tests: a convolution, an embedding with gpt2's Conv1D, two linear layers."""
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    model = torch.nn.Module()
    for layer, module in {
        "lin0": torch.nn.Linear(10, 20),
        "lin1": torch.nn.Linear(20, 2),
        "conv2d": torch.nn.Conv2d(5, 10, 3),
        "emb": torch.nn.Embedding(100, 5),
        "conv1d": conv1d(1, 5),
    }.items():
        model.add_module(layer, module)
    loaded = peft.PeftModel.from_pretrained(model, str(ZOO / name))
    assert_equal(name, live(loaded.base_model.model, "default"), tmp_path)


@functools.cache
def unet() -> Any:
    diffusers = pytest.importorskip("diffusers")
    return empty(lambda: diffusers.UNet2DConditionModel(cross_attention_dim=768))


@pytest.mark.parametrize("name", folders("sd1.x-unet-r4"))
def test_stable_diffusion(name: str, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    pytest.importorskip("diffusers")
    from diffusers.loaders import StableDiffusionLoraLoaderMixin

    state, alphas, metadata = StableDiffusionLoraLoaderMixin.lora_state_dict(
        str(ZOO / name), weight_name=Path(files(name).weights).name, return_lora_metadata=True
    )
    prefix = "unet" if any(key.startswith("unet.") for key in state) else None
    unet().load_lora_adapter(state, prefix=prefix, network_alphas=alphas, metadata=metadata, adapter_name="real")
    try:
        want = live(unet(), "real", "unet.")
    finally:
        unet().delete_adapters("real")
    assert len(want) == 128
    assert_equal(name, want, tmp_path)


@pytest.mark.parametrize("name", folders("cloneofsimo-st"))
def test_cloneofsimo(name: str, tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    weights = files(name).weights
    tensors, metadata = read_all(weights), read_header(weights).metadata
    models = {"unet": cloneofsimo_loader.unet(768), "text_encoder": cloneofsimo_loader.text_encoder()}
    want: Live = {}
    for part, model in models.items():
        pairs = cloneofsimo_loader.weights_in_order(part, tensors)
        found = cloneofsimo_loader.loaded(model, json.loads(metadata[part]), pairs)
        want |= {f"{part}.{layer.removeprefix('text_model.')}": value for layer, value in found.items()}
    assert len(want) == 192
    assert_equal(name, want, tmp_path)


@pytest.mark.parametrize("name", folders("cloneofsimo-pt"))
def test_cloneofsimo_lists(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    pairs = [
        tensor.detach().numpy() for tensor in torch.load(files(name).weights, map_location="cpu", weights_only=True)
    ]
    if "text" in name:
        part, model, targets = "text_encoder", cloneofsimo_loader.text_encoder(), ["CLIPAttention"]
    else:
        part, model, targets = "unet", cloneofsimo_loader.unet(1024), ["CrossAttention", "Attention"]
    found = cloneofsimo_loader.loaded(model, targets, pairs)
    want = {f"{part}.{layer.removeprefix('text_model.')}": value for layer, value in found.items()}
    assert_equal(name, want, tmp_path)


def test_what_was_left_untrained_confirms_the_order_of_the_list() -> None:
    """An early release never trained `to_out`, so that B is zero there and nowhere else, if the names are right."""
    torch = pytest.importorskip("torch")
    name = "cloneofsimo-pt__cloneofsimo__lora-disney.pt"
    ups = torch.load(files(name).weights, map_location="cpu", weights_only=True)[::2]
    adapter = parse(files(name), PICKLES)
    layers = {module.b.key: module.layer for module in adapter.modules}
    untrained = {layers[f"list:{i}:up"] for i, up in enumerate(ups) if not bool(up.any())}
    assert untrained == {layer for layer in layers.values() if layer.endswith(".to_out.0")} and len(untrained) == 32

"""Real adapters: A, B and scale as the reference loaders end up with, and what must be refused.

The base models are built from configurations with uninitialised weights: adapters do not depend on them.
"""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from ingest.errors import Refusal
from ingest.formats import AdapterFiles, parse
from ingest.pipeline import ingest
from ingest.reasons import Reason
from ingest.safetensors_file import read_header, read_tensor
from ingest.store.reader import open_zoo

ZOO = Path(os.environ.get("EIGENZOO_REAL_ZOO", ""))
pytestmark = pytest.mark.skipif("EIGENZOO_REAL_ZOO" not in os.environ, reason="EIGENZOO_REAL_ZOO is not set")

REFUSED = {
    "not-plain-lora__huggingface__ia3-conv2d-0.6.1-bin": Reason.NOT_LORA,
    "not-plain-lora__huggingface__ia3-mlp-0.6.1-bin": Reason.NOT_LORA,
    "not-plain-lora__huggingface__ia3-no-ff-mlp-0.6.1-bin": Reason.NOT_LORA,
    "not-plain-lora__huggingface__adalora-mlp-0.6.1-bin": Reason.NOT_LORA,
    "not-lora__huggingface__results-glue-adapter-ckpt": Reason.NOT_LORA,
    "not-lora__huggingface__peft-mrpc-40-aligned": Reason.NOT_LORA,
    "cloneofsimo-st__cloneofsimo__lora-disney": Reason.UNKNOWN_KEYS,
    "cloneofsimo-st__cloneofsimo__lora-disney-inpainting": Reason.UNKNOWN_KEYS,
    "cloneofsimo-st__cloneofsimo__analog-svd-rank4": Reason.UNKNOWN_KEYS,
    "cloneofsimo-pt__cloneofsimo__lora-disney.pt": Reason.PICKLE,
    "cloneofsimo-pt__cloneofsimo__lora-kiriko2.text-encoder.pt": Reason.PICKLE,
    "opt-125m__huggingface__lora-opt-125m-bnb-4bit-0.5.0-bin": Reason.PICKLE,
    "peft-toy__huggingface__lora-conv2d-0.6.1-bin": Reason.PICKLE,
    "peft-toy__huggingface__lora-emb-conv1d-0.6.1-bin": Reason.PICKLE,
    "peft-toy__huggingface__lora-mlp-0.6.1-bin": Reason.PICKLE,
    "peft-toy__huggingface__lora-mlp-modules-to-save-0.6.1-bin": Reason.PICKLE,
    "sd1.x-unet-r4__catundchat__bin": Reason.PICKLE,
}
Live = dict[str, tuple[Any, Any, float]]


def files(name: str) -> AdapterFiles:
    folder = ZOO / name
    weights = next(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".pt"))
    config = folder / "adapter_config.json"
    return AdapterFiles(str(folder), str(weights), str(config) if config.exists() else None)


def folders(family: str) -> list[str]:
    found = sorted(path.name for path in ZOO.glob(f"{family}__*")) if ZOO.name else []
    return [name for name in found if name not in REFUSED] or ["none"]


def empty(build: Any) -> Any:
    """A model whose weights are memory never touched."""
    import torch

    with torch.device("meta"):
        model = build()
    return model.to_empty(device="cpu")


def live(model: Any, adapter_name: str, prefix: str = "") -> Live:
    from peft.tuners.lora import LoraLayer

    return {
        prefix + name: (
            module.lora_A[adapter_name].weight.detach().numpy(),
            module.lora_B[adapter_name].weight.detach().numpy(),
            module.scaling[adapter_name],
        )
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }


def assert_equal(adapter_files: AdapterFiles, want: Live) -> None:
    """The file as parsed, and the zoo that it is ingested into, hold what the reference loader ends up with."""
    adapter = parse(adapter_files)
    modules = adapter.modules
    assert [module.layer for module in modules] == sorted(want)
    with open(adapter_files.weights, "rb") as file:
        for module in modules:
            a, b, scale = want[module.layer]
            assert module.scale == scale
            for ref, tensor in ((module.a, a), (module.b, b)):
                values = read_tensor(file, ref, adapter.data_start)
                assert values.dtype == tensor.dtype and values.shape == tensor.shape
                assert values.tobytes() == tensor.tobytes()
    with tempfile.TemporaryDirectory() as folder:
        result = ingest([adapter_files.folder], Path(folder) / "zoo")
        stored = {m.layer: m for m in open_zoo(Path(folder) / "zoo").adapter(*result.added)}
        assert stored.keys() == want.keys()
        for layer, (a, b, scale) in want.items():
            module = stored[layer]
            assert module.scale == scale
            for values, tensor in ((module.A, a), (module.B, b)):
                assert values.dtype == tensor.dtype and values.shape == tensor.shape
                assert values.tobytes() == tensor.tobytes()


@pytest.mark.parametrize("name", folders("roberta-base"))
def test_roberta(name: str) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    from transformers import RobertaForSequenceClassification

    tensors = read_header(files(name).weights).tensors
    labels = tensors["base_model.model.classifier.out_proj.weight"].shape[0]
    config = transformers.RobertaConfig(vocab_size=99, num_labels=labels)
    model = peft.PeftModel.from_pretrained(empty(lambda: RobertaForSequenceClassification(config)), str(ZOO / name))
    want = live(model.base_model.model, "default")
    assert len(want) in (24, 36)
    assert_equal(files(name), {key.removeprefix("roberta."): value for key, value in want.items()})


@pytest.mark.parametrize("name", folders("gpt2"))
def test_gpt2(name: str) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=99)
    model = peft.PeftModel.from_pretrained(empty(lambda: transformers.GPT2LMHeadModel(config)), str(ZOO / name))
    want = live(model.base_model.model, "default")
    assert len(want) == 36
    assert_equal(files(name), {key.removeprefix("transformer."): value for key, value in want.items()})


@functools.cache
def unet() -> Any:
    diffusers = pytest.importorskip("diffusers")
    return empty(lambda: diffusers.UNet2DConditionModel(cross_attention_dim=768))


@pytest.mark.parametrize("name", folders("sd1.x-unet-r4"))
def test_stable_diffusion(name: str) -> None:
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
    assert_equal(files(name), want)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse(files(name))
    assert caught.value.reason is REFUSED[name]


def test_every_folder_is_accounted_for() -> None:
    families = ("roberta-base", "gpt2", "sd1.x-unet-r4")
    accepted = {name for family in families for name in folders(family)}
    assert accepted | set(REFUSED) == {path.name for path in ZOO.iterdir() if path.is_dir()}

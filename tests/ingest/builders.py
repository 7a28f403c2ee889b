"""Adapters as files, from numpy arrays alone: no torch, no peft."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from ingest.formats import AdapterFiles

Pair = tuple[NDArray[Any], NDArray[Any]]


def factors(
    rng: np.random.Generator, rank: int, width: int | tuple[int, ...], out: int, dtype: Any = np.float32
) -> Pair:
    """A random A (rank × width) and B (out × rank); a tuple (in, kernel, …) makes those of a convolution."""
    shape = width if isinstance(width, tuple) else (width,)
    a = rng.standard_normal((rank, *shape)).astype(dtype)
    b = rng.standard_normal((out, rank, *(1 for _ in shape[1:]))).astype(dtype)
    return a, b


def write_peft_folder(
    path: str | os.PathLike[str],
    modules: Mapping[str, Pair],
    *,
    prefix: str = "base_model.model.",
    infix: str = "",
    extras: Mapping[str, NDArray[Any]] | None = None,
    metadata: Mapping[str, str] | None = None,
    weights_name: str = "adapter_model.safetensors",
    **config: Any,
) -> AdapterFiles:
    """Write `adapter_config.json` and `adapter_model.safetensors` as peft does.

    Parameters
    ----------
    path
        The folder; made if it is not there.
    modules
        Module name → (A, B).
    prefix, infix
        Before every key, and between `lora_A` and `weight` (".default").
    extras
        Further tensors under their own keys.
    metadata
        The weights file's.
    config
        Overrides of the configuration. By default r is the first module's rank, other ranks go to
        rank_pattern, and lora_alpha equals r.
    """
    tensors: dict[str, NDArray[Any]] = {}
    for name, (a, b) in modules.items():
        tensors[f"{prefix}{name}.lora_A{infix}.weight"] = a
        tensors[f"{prefix}{name}.lora_B{infix}.weight"] = b
    tensors.update(extras or {})
    ranks = {name: a.shape[0] for name, (a, _) in modules.items()}
    r = next(iter(ranks.values()), 8)
    fields: dict[str, Any] = {
        "base_model_name_or_path": "some/base",
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "lora_alpha": r,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": r,
        "rank_pattern": {f"^{name}": rank for name, rank in ranks.items() if rank != r},
        "alpha_pattern": {},
        "target_modules": sorted({name.rpartition(".")[2] for name in modules}),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
    fields.update(config)
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(fields, indent=2))
    return write_weights(folder, tensors, weights_name, metadata, config="adapter_config.json")


def write_weights(
    path: str | os.PathLike[str],
    tensors: Mapping[str, NDArray[Any]],
    name: str = "pytorch_lora_weights.safetensors",
    metadata: Mapping[str, str] | None = None,
    config: str | None = None,
) -> AdapterFiles:
    """Write one safetensors file with these keys; `config` may name a configuration in the folder."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    contiguous = {key: np.ascontiguousarray(value).reshape(value.shape) for key, value in tensors.items()}
    save_file(contiguous, folder / name, metadata=dict(metadata or {"format": "pt"}))
    return AdapterFiles(str(folder), str(folder / name), str(folder / config) if config else None)


def raw_safetensors(header: Mapping[str, Any] | bytes, data: bytes = b"") -> bytes:
    """The bytes of a safetensors file with any header, valid or not."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data

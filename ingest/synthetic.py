"""A zoo with a planted subspace, written as real PEFT folders, some of them broken on purpose.

Every matrix has a mean row, `k` planted directions well above the noise, and white noise; so Gavish–Donoho's answer
is known.  Ranks, alphas, rsLoRA and dtypes vary from adapter to adapter, as they do in public zoos.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingest.reasons import Reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BASE = "synthetic/tiny-llama"
NOISE = 0.05


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer to be adapted: its name, widths, and the planted number of directions on either side."""

    name: str
    a_width: int
    b_width: int
    k_a: int
    k_b: int


@dataclass(frozen=True, slots=True)
class Settings:
    """What to write: how many sound adapters, on which layers, their ranks and dtypes, and whether broken ones too."""

    layers: tuple[Layer, ...]
    adapters: int = 200
    ranks: tuple[int, ...] = (4, 8, 16, 8)
    dtypes: tuple[str, ...] = ("float32", "float32", "float32", "bfloat16")
    broken: bool = True
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Planted:
    """What was written: K per (layer, side), and the reason for which each broken adapter must be refused."""

    k: dict[tuple[str, str], int]
    refused: dict[str, str]
    sound: int


def demo_settings() -> Settings:
    """Twelve matrices of widths 192 to 512, 200 sound adapters and twelve broken ones."""
    layers = []
    for block in range(2):
        prefix = f"layers.{block}"
        layers += [
            Layer(f"{prefix}.self_attn.q_proj", 256, 256, 5 + block, 3 + block),
            Layer(f"{prefix}.self_attn.v_proj", 256, 192, 4 + block, 6 - block),
            Layer(f"{prefix}.mlp.down_proj", 512, 256, 8 - block, 2 + block),
        ]
    return Settings(tuple(layers))


def write(folder: str | os.PathLike[str], settings: Settings | None = None) -> Planted:
    """Write the adapters, a folder each.

    Parameters
    ----------
    folder : path-like
        Where; created where absent.
    settings : Settings, optional
        `demo_settings` unless given.

    Returns
    -------
    Planted
        The truth to hold results against.
    """
    import numpy as np

    settings = settings or demo_settings()
    folder = os.fspath(folder)
    rng = np.random.default_rng(settings.seed)
    planted = {(la.name, s): (la.k_a if s == "A" else la.k_b) for la in settings.layers for s in "AB"}
    sides = {
        (la.name, s): _Side.draw(rng, la.a_width if s == "A" else la.b_width, planted[la.name, s])
        for la in settings.layers
        for s in "AB"
    }
    for i in range(settings.adapters):
        rank = settings.ranks[i % len(settings.ranks)]
        dtype = settings.dtypes[i % len(settings.dtypes)]
        _write_adapter(
            os.path.join(folder, f"task-{i:04d}"),
            _draw(rng, settings, sides, rank),
            rank,
            dtype,
            _alpha(i, rank),
        )
    refused: dict[str, str] = {}
    if settings.broken:
        for name, (reason, spoil) in _BROKEN.items():
            where = os.path.join(folder, name)
            _write_adapter(where, _draw(rng, settings, sides, 8), 8, "float32", {"lora_alpha": 16})
            spoil(where)
            refused[name] = reason.value
        _twin(os.path.join(folder, "task-0001"), os.path.join(folder, "twin-of-task-0001"))
        refused["twin-of-task-0001"] = Reason.DUPLICATE.value
    return Planted(planted, refused, settings.adapters)


@dataclass(frozen=True, slots=True)
class _Side:
    """One matrix's truth: mean row, planted directions (k × width), and the strength of each."""

    mean: NDArray[np.float64]
    directions: NDArray[np.float64]

    @classmethod
    def draw(cls, rng: np.random.Generator, width: int, k: int) -> _Side:
        import numpy as np

        basis = np.linalg.qr(rng.standard_normal((width, k)))[0].T
        strength = NOISE * np.sqrt(width) * np.linspace(3.0, 1.5, k)
        return cls(0.02 * rng.standard_normal(width), strength[:, None] * basis)

    def rows(self, rng: np.random.Generator, n: int) -> NDArray[np.float64]:
        k, width = self.directions.shape
        return self.mean + rng.standard_normal((n, k)) @ self.directions + NOISE * rng.standard_normal((n, width))


def _draw(
    rng: np.random.Generator, settings: Settings, sides: dict[tuple[str, str], _Side], rank: int
) -> dict[str, NDArray[np.float64]]:
    tensors = {}
    for layer in settings.layers:
        module = f"base_model.model.model.{layer.name}"
        tensors[f"{module}.lora_A.weight"] = sides[layer.name, "A"].rows(rng, rank)
        tensors[f"{module}.lora_B.weight"] = sides[layer.name, "B"].rows(rng, rank).T
    return tensors


def _alpha(i: int, rank: int) -> dict[str, Any]:
    return ({"lora_alpha": rank}, {"lora_alpha": 16}, {"lora_alpha": 2 * rank, "use_rslora": True})[i % 3]


def _write_adapter(
    folder: str, tensors: dict[str, NDArray[np.float64]], rank: int, dtype: str, scaling: dict[str, Any]
) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    from ingest.store.schema import numpy_dtype

    os.makedirs(folder, exist_ok=True)
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": BASE,
        "task_type": "CAUSAL_LM",
        "r": rank,
        "target_modules": sorted({key.split(".")[-3] for key in tensors}),
        "bias": "none",
        "init_lora_weights": True,
        **scaling,
    }
    _edit_json(folder, config)
    cast = {key: np.ascontiguousarray(value.astype(numpy_dtype(dtype))) for key, value in tensors.items()}
    save_file(cast, os.path.join(folder, "adapter_model.safetensors"), metadata={"format": "pt"})


def _edit_json(folder: str, change: dict[str, Any]) -> None:
    path = os.path.join(folder, "adapter_config.json")
    config: dict[str, Any] = {}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
    with open(path, "w", encoding="utf-8") as file:
        json.dump({**config, **change}, file, indent=2)


def _edit_tensors(folder: str, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    from safetensors.numpy import load_file, save_file

    path = os.path.join(folder, "adapter_model.safetensors")
    save_file(edit(load_file(path)), path, metadata={"format": "pt"})


def _twin(original: str, twin: str) -> None:
    """The same adapter under another key style."""
    from safetensors.numpy import load_file, save_file

    os.makedirs(twin, exist_ok=True)
    with open(os.path.join(original, "adapter_config.json"), encoding="utf-8") as file:
        _edit_json(twin, json.load(file))
    tensors = load_file(os.path.join(original, "adapter_model.safetensors"))
    infixed = {key.replace(".weight", ".default.weight"): value for key, value in tensors.items()}
    save_file(infixed, os.path.join(twin, "adapter_model.safetensors"))


def _truncate(folder: str) -> None:
    path = os.path.join(folder, "adapter_model.safetensors")
    os.truncate(path, os.path.getsize(path) // 2)


def _as_link(folder: str) -> None:
    with open(os.path.join(folder, "adapter_model.safetensors"), "w") as file:
        file.write("https://example.org/adapter_model.safetensors\n")


def _as_pickle(folder: str) -> None:
    path = os.path.join(folder, "adapter_model.safetensors")
    os.rename(path, os.path.join(folder, "adapter_model.bin"))


def _with_nan(tensors: dict[str, Any]) -> dict[str, Any]:
    first = next(iter(tensors))
    tensors[first][0, 0] = float("nan")
    return tensors


def _without_b(tensors: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in tensors.items() if "lora_B" not in key or ".0." not in key}


def _with_zero_b(tensors: dict[str, Any]) -> dict[str, Any]:
    return {key: value * 0 if "lora_B" in key else value for key, value in tensors.items()}


def _narrower(tensors: dict[str, Any]) -> dict[str, Any]:
    return {key: value[:, :-8].copy() if "lora_A" in key else value for key, value in tensors.items()}


_BROKEN: dict[str, tuple[Reason, Callable[[str], None]]] = {
    "broken-dora": (Reason.DORA, lambda f: _edit_json(f, {"use_dora": True})),
    "broken-ia3": (Reason.NOT_LORA, lambda f: _edit_json(f, {"peft_type": "IA3"})),
    "broken-link": (Reason.UNREADABLE, _as_link),
    "broken-nan": (Reason.NON_FINITE, lambda f: _edit_tensors(f, _with_nan)),
    "broken-other-base": (
        Reason.OTHER_BASE,
        lambda f: _edit_json(f, {"base_model_name_or_path": "someone/else-7b"}),
    ),
    "broken-pickle": (Reason.PICKLE, _as_pickle),
    "broken-pissa": (Reason.ALTERED_BASE, lambda f: _edit_json(f, {"init_lora_weights": "pissa"})),
    "broken-truncated": (Reason.TRUNCATED, _truncate),
    "broken-unpaired": (Reason.UNPAIRED, lambda f: _edit_tensors(f, _without_b)),
    "broken-untrained": (Reason.UNTRAINED, lambda f: _edit_tensors(f, _with_zero_b)),
    "broken-width": (Reason.SHAPE_DISAGREES, lambda f: _edit_tensors(f, _narrower)),
}

"""A zoo whose adapters share random starts in some modules, written as real PEFT folders.

Each module's A is drawn as PEFT draws it, uniform within ±1/√in, and trained a little; an embedding's B is drawn from
N(0, 1). torch fills a matrix row by row: of one seed, a start of lower rank is the head of one of higher rank, where A
is drawn, and another one altogether where an embedding's B (out × rank) is.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingest.synthetic import BASE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TRAINED = 0.02  # spread of the factor that starts at zero

Groups = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Module:
    """A module to be adapted: its name, its widths, whether adapters share starts in it, and what it is."""

    name: str
    a_width: int
    b_width: int
    shared: bool
    embedding: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """What to write.

    Attributes
    ----------
    modules : tuple of Module
    adapters : int
    groups : tuple of int
        How many adapters have one start, for every start that is shared; the others have starts of their own.
    ranks : tuple of int
        In turn, adapter after adapter.
    drift : float
        What training adds to a start, relative to it.
    seed : int
    """

    modules: tuple[Module, ...]
    adapters: int = 24
    groups: tuple[int, ...] = (12,)
    ranks: tuple[int, ...] = (8,)
    drift: float = 0.1
    seed: int = 0


def half_settings(adapters: int = 24) -> Settings:
    """Half of the adapters share a start in half of eight modules."""
    modules = []
    for block in range(4):
        prefix = f"layers.{block}"
        modules += [
            Module(f"{prefix}.self_attn.q_proj", 96, 64, shared=block % 2 == 0),
            Module(f"{prefix}.mlp.down_proj", 128, 96, shared=block % 2 == 1),
        ]
    return Settings(tuple(modules), adapters, (adapters // 2,))


def write(folder: str | os.PathLike[str], settings: Settings | None = None) -> dict[str, Groups]:
    """Write the adapters, a folder each.

    Parameters
    ----------
    folder : path-like
        Where; created where absent.
    settings : Settings, optional
        `half_settings` unless given.

    Returns
    -------
    dict
        The groups of each module, by names of adapters: the largest group first, names in order.
    """
    import numpy as np

    settings = settings or half_settings()
    rng = np.random.default_rng(settings.seed)
    names = [f"task-{i:04d}" for i in range(settings.adapters)]
    ranks = [settings.ranks[i % len(settings.ranks)] for i in range(settings.adapters)]
    members = _members(rng, settings)
    for i, name in enumerate(names):
        tensors: dict[str, NDArray[np.float32]] = {}
        for number, module in enumerate(settings.modules):
            group = members[i] if module.shared else None
            # A start has a generator of its own, so that adapters need not be drawn in any order.
            start = (settings.seed, number, *((1, i) if group is None else (0, group)))
            tensors |= _factors(np.random.default_rng(start), rng, module, ranks[i], settings.drift)
        _write_adapter(os.path.join(os.fspath(folder), name), tensors, ranks[i], settings.modules)
    return {module.name: _groups(module, names, ranks, members) for module in settings.modules}


def _members(rng: np.random.Generator, settings: Settings) -> list[int | None]:
    """Each adapter's group; None for none."""
    order, out, at = rng.permutation(settings.adapters).tolist(), list[int | None]([None] * settings.adapters), 0
    for number, size in enumerate(settings.groups):
        for i in order[at : at + size]:
            out[i] = number
        at += size
    return out


def _groups(module: Module, names: list[str], ranks: list[int], members: list[int | None]) -> Groups:
    found: dict[tuple[int, int], list[str]] = {}
    for name, rank, group in zip(names, ranks, members, strict=True):
        if module.shared and group is not None:
            found.setdefault((group, rank if module.embedding else 0), []).append(name)
    return tuple(sorted((tuple(g) for g in found.values() if len(g) > 1), key=lambda g: (-len(g), g)))


def _factors(
    start: np.random.Generator, rng: np.random.Generator, module: Module, rank: int, drift: float
) -> dict[str, NDArray[np.float32]]:
    import numpy as np

    def trained(drawn: NDArray[np.float64]) -> NDArray[np.float32]:
        moved = drawn + drift * float(drawn.std()) * rng.standard_normal(drawn.shape)
        return np.asarray(moved, np.float32)

    if module.embedding:
        key = f"base_model.model.{module.name}"
        a = np.asarray(TRAINED * rng.standard_normal((rank, module.a_width)), np.float32)
        b = trained(start.standard_normal((module.b_width, rank)))
        return {f"{key}.lora_embedding_A": a, f"{key}.lora_embedding_B": b}
    key, bound = f"base_model.model.model.{module.name}", 1 / np.sqrt(module.a_width)
    a = trained(start.uniform(-bound, bound, (rank, module.a_width)))
    b = np.asarray(TRAINED * rng.standard_normal((module.b_width, rank)), np.float32)
    return {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}


def _write_adapter(folder: str, tensors: dict[str, NDArray[Any]], rank: int, modules: tuple[Module, ...]) -> None:
    from safetensors.numpy import save_file

    os.makedirs(folder, exist_ok=True)
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": BASE,
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": sorted({module.name.rpartition(".")[2] for module in modules}),
        "bias": "none",
        "init_lora_weights": True,
    }
    with open(os.path.join(folder, "adapter_config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2)
    save_file(tensors, os.path.join(folder, "adapter_model.safetensors"), metadata={"format": "pt"})

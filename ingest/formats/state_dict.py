"""The weights among what torch.save was given: a dict of tensors, or a checkpoint around one, or a list of pairs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ingest.errors import Refusal
from ingest.formats import foreign
from ingest.reasons import Reason

# Under which a checkpoint keeps the weights beside its optimizer's state; looked for in this order.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "params")
_MAX_DEPTH = 3
# Numbers under such keys change what the tensors mean.
_ESSENTIAL = re.compile(r"(^|[._])(alpha|scale|scaling|scalar|r|rank|dora_scale)$", re.IGNORECASE)


def state_dict(loaded: Any, where: str) -> dict[str, Any]:
    """The tensors of what a pickle holds, by key.

    Parameters
    ----------
    loaded
        What the weights-only load gave: tensors in a dict, in a checkpoint's dict of dicts, or in a list.
    where
        The file's name, for messages.

    Raises
    ------
    Refusal
        `no-weights`, or `pickle` for anything whose meaning is not plain.
    """
    import torch

    if isinstance(loaded, list | tuple):
        return _listed(list(loaded), where)
    for _ in range(_MAX_DEPTH):
        if not isinstance(loaded, dict):
            break
        items = dict(dict.items(loaded))
        if any(isinstance(value, torch.Tensor) for value in items.values()):
            return _named(items, where)
        loaded = next((items[key] for key in _WRAPPERS if isinstance(items.get(key), dict)), None)
        inner = [key for key, value in items.items() if isinstance(value, dict) and value]
        if loaded is None and inner:
            raise Refusal(
                Reason.PICKLE,
                f"{where} holds no tensors but the dicts {str(inner[:4])[:120]}: which are the weights is unknown; "
                "save one with safetensors.torch.save_file",
            )
    raise Refusal(Reason.NO_WEIGHTS, f"{where} holds no dict of tensors")


def _named(items: Mapping[Any, Any], where: str) -> dict[str, Any]:
    import torch

    tensors = {}
    for key, value in items.items():
        if isinstance(value, torch.Tensor):
            if type(key) is not str or key == "__metadata__" or not _encodable(key):
                raise Refusal(Reason.PICKLE, f"{where} has a tensor under the key {str(key)[:60]!r}")
            tensors[key] = value
        elif type(key) is str and (_ESSENTIAL.search(key) or foreign.looks_like_lora(key)):
            raise Refusal(
                Reason.PICKLE,
                f"{where} has {key[:60]!r} as a {type(value).__name__} beside its tensors: what it means is unknown",
            )
        elif isinstance(value, dict | list | tuple) and any(isinstance(item, torch.Tensor) for item in _items(value)):
            raise Refusal(Reason.PICKLE, f"{where} has more tensors in a {type(value).__name__} beside its tensors")
    return tensors


def _items(value: Any) -> Any:
    return dict.values(value) if isinstance(value, dict) else value


def _listed(values: list[Any], where: str) -> dict[str, Any]:
    import torch

    if not values or len(values) % 2 or not all(isinstance(value, torch.Tensor) for value in values):
        raise Refusal(
            Reason.PICKLE, f"{where} is a list, but not of pairs of tensors (up, down, …) as cloneofsimo's scripts save"
        )
    return {f"list:{i // 2}:{('up', 'down')[i % 2]}": value for i, value in enumerate(values)}


def _encodable(key: str) -> bool:
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True

"""Which files of one folder are adapters, told from their names alone: the same wherever the folder is.

With ``adapter_config.json`` a folder is one adapter, in peft's weights file or else in the only one there.  In any
other folder every ``*.safetensors`` file is a candidate, and so is a pickle that calls itself LoRA, so that its refusal
can be named.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from os.path import splitext

from ingest.formats.opening import PICKLES

CONFIG = "adapter_config.json"
PEFT_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
WEIGHTS = (".safetensors", *PICKLES)

_PLAIN_NAMES = frozenset(("pytorch_lora_weights", "adapter_model"))
_TRAINER = frozenset(
    ("optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "training_args.bin", "rng_state.pth")
)
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.")


@dataclass(frozen=True, slots=True)
class Chosen:
    """One adapter's files.

    Attributes
    ----------
    weights
        The weights file; beside a configuration without weights the one that is missing.
    config
        Its `adapter_config.json`, None if there is none.
    suffix
        What its name gains behind the folder's; empty if the folder's will do.
    """

    weights: str
    config: str | None
    suffix: str


def choose(names: Collection[str]) -> list[Chosen]:
    """The adapters among a folder's files, sorted by file."""
    if CONFIG in names:
        weights = next((w for w in PEFT_WEIGHTS if w in names), None) or _only_weights(names) or PEFT_WEIGHTS[0]
        return [Chosen(weights, CONFIG, "")]
    stems = {splitext(f)[0] for f in names if f.endswith(".safetensors")}
    files = sorted(
        f
        for f in names
        if f.endswith(".safetensors") or (f.endswith(PICKLES) and splitext(f)[0] not in stems and calls_itself_lora(f))
    )
    plain = _PLAIN_NAMES if len(files) > 1 else {splitext(f)[0] for f in files}
    return [Chosen(f, None, "" if (stem := splitext(f)[0]) in plain else stem) for f in files]


def calls_itself_lora(file: str) -> bool:
    """Whether a weights file's name says what it is."""
    return "lora" in file.lower() or splitext(file)[0] in _PLAIN_NAMES


def _only_weights(names: Collection[str]) -> str | None:
    """The one weights file of a folder whose adapter was saved within the whole model; None if it is not one."""
    found = [f for f in names if f.endswith(WEIGHTS) and f not in _TRAINER]
    return found[0] if len(found) == 1 and not _SHARD.search(found[0]) else None

"""The table of formats, and the way from an adapter's files to its description.

To add a format: write a module with `NAME`, `claims` and `parse`, and give it a line in `FORMATS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ingest.errors import Refusal
from ingest.formats import diffusers, foreign, peft
from ingest.formats.adapter import AdapterFiles, LoraAdapter
from ingest.formats.lora_config import read_config
from ingest.formats.opened import Opened
from ingest.names import Rename
from ingest.reasons import Reason
from ingest.safetensors_file import read_header

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, slots=True)
class Format:
    """One dialect of adapter files.

    Attributes
    ----------
    name
        Recorded with every adapter.
    claims
        (keys, whether there is an adapter_config.json) → whether the file is of this format.
    parse
        Opened files → `LoraAdapter`, or a `Refusal`.
    """

    name: str
    claims: Callable[[Iterable[str], bool], bool]
    parse: Callable[[Opened], LoraAdapter]


FORMATS: tuple[Format, ...] = (
    Format(peft.NAME, peft.claims, peft.parse),
    Format(diffusers.NAME, diffusers.claims, diffusers.parse),
)
"""In the order of detection: the first that claims a file gets it."""


def detect(keys: Iterable[str], has_config: bool) -> Format | None:
    """The format of a file with these keys, None if no format claims it."""
    names = tuple(keys)
    return next((entry for entry in FORMATS if entry.claims(names, has_config)), None)


def parse(files: AdapterFiles, renames: Iterable[Rename] = ()) -> LoraAdapter:
    """Describe one adapter from its configuration and its weights' header.

    What the configuration forbids is refused before the weights are opened, so a folder of another peft
    method is refused as such whatever its weights are. No tensor is read but scalar alphas.

    Parameters
    ----------
    files
        The adapter's files.
    renames
        The user's renames of layers.

    Returns
    -------
    LoraAdapter

    Raises
    ------
    Refusal
        With a reason other than those that need the factors' values or the zoo (`non-finite`, `untrained`,
        `other-base`, `no-common-layer`, `shape-disagrees`, `duplicate`, `changed`).
    EigenzooError
        If the renames give two modules one name.
    """
    config = read_config(files.config) if files.config is not None else None
    where = os.path.basename(files.weights)
    if where.lower().endswith(_PICKLES):
        raise Refusal(
            Reason.PICKLE,
            f"{where} is a pickle, which can run code when loaded; load it where you trust it "
            "(torch.load with weights_only=True) and save it again with safetensors.torch.save_file",
        )
    if not os.path.exists(files.weights):
        raise Refusal(Reason.NO_WEIGHTS, f"there is no {where} in the folder")
    header = read_header(files.weights)
    if not header.tensors:
        raise Refusal(Reason.NO_WEIGHTS, f"{where} holds no tensors")
    entry = detect(header.tensors, config is not None)
    if entry is None:
        raise foreign.explain(header.tensors, where)
    return entry.parse(Opened(files, config, header, tuple(renames)))

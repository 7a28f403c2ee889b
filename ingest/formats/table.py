"""The table of formats, and the way from an adapter's files to its description.

To add a format: write a module with `NAME`, `claims` and `parse`, and give it a line in `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ingest.errors import Refusal
from ingest.formats import checkpoint, cloneofsimo, comfy, diffusers, foreign, kohya, loha, lokr, lycoris_plain, peft
from ingest.formats.adapter import AdapterFiles, LoraAdapter
from ingest.formats.opened import Opened
from ingest.formats.opening import open_files
from ingest.formats.options import DEFAULT, Options
from ingest.reasons import Reason

_MAX_KEY = 512
"""Characters of a tensor's name; a layer's name is shorter by far, and every dialect reads every key."""


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
    Format(checkpoint.NAME, checkpoint.claims, checkpoint.parse),
    Format(peft.NAME, peft.claims, peft.parse),
    Format(loha.NAME, loha.claims, loha.parse),
    Format(lokr.NAME, lokr.claims, lokr.parse),
    Format(diffusers.NAME, diffusers.claims, diffusers.parse),
    Format(kohya.NAME, kohya.claims, kohya.parse),
    Format(cloneofsimo.NAME, cloneofsimo.claims, cloneofsimo.parse),
    Format(comfy.NAME, comfy.claims, comfy.parse),
    Format(lycoris_plain.NAME, lycoris_plain.claims, lycoris_plain.parse),
)
"""In the order of detection: the first that claims a file gets it."""


def detect(keys: Iterable[str], has_config: bool) -> Format | None:
    """The format of a file with these keys, None if no format claims it."""
    names = tuple(keys)
    return next((entry for entry in FORMATS if entry.claims(names, has_config)), None)


def parse(files: AdapterFiles, options: Options = DEFAULT) -> LoraAdapter:
    """Describe one local adapter from its configuration and its weights' header.

    What the configuration forbids is refused before the weights are opened, so a folder of another peft
    method is refused as such whatever its weights are. No tensor is read but scalar alphas.

    Parameters
    ----------
    files
        The adapter's files.
    options
        What the user allows.

    Returns
    -------
    LoraAdapter

    Raises
    ------
    Refusal
        With a reason other than those that need the factors' values or the zoo (`non-finite`, `untrained`,
        `other-base`, `no-common-layer`, `shape-disagrees`, `duplicate`, `changed`).
    """
    return parse_opened(open_files(files, options))


def parse_opened(opened: Opened) -> LoraAdapter:
    """Describe one adapter whose files are opened, here or elsewhere; see `parse`."""
    if not opened.header.tensors:
        raise Refusal(Reason.NO_WEIGHTS, f"{opened.where} holds no tensors")
    longest = max(opened.header.tensors, key=len)
    if len(longest) > _MAX_KEY:
        raise Refusal(
            Reason.UNKNOWN_KEYS,
            f"{opened.where} names a tensor with {len(longest)} characters ({longest[:60]!r}…), at most {_MAX_KEY}",
        )
    entry = detect(opened.header.tensors, opened.config is not None)
    if entry is None:
        raise foreign.explain(opened.header.tensors, opened.where)
    return entry.parse(opened)

"""What every format yields: an adapter's modules, each two factors and a scale, found from headers alone."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass
from typing import Literal

from ingest.errors import Refusal
from ingest.reasons import Reason
from ingest.safetensors_file import TensorRef

Kind = Literal["linear", "conv", "embedding"]


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """The files of one adapter.

    Attributes
    ----------
    folder
        Where it lies; README and LICENSE are looked for here.
    weights
        Path of the weights; a pickle (.bin, .pt) is refused.
    config
        Path of its `adapter_config.json`, None if there is none.
    """

    folder: str
    weights: str
    config: str | None = None


@dataclass(frozen=True, slots=True)
class LoraModule:
    """One layer's update ΔW = scale · B · A.

    Attributes
    ----------
    layer
        Canonical name, see `ingest.names`.
    kind
        "linear", "conv" or "embedding". An embedding's table is rows × width, so its in is the vocabulary,
        its out the width, and ΔW here is the transpose of the table's update.
    a, b
        The factors: r × in [× kernel] and out × r [× 1 …].
    scale
        Exactly the float by which the reference loader multiplies B · A (alpha / r, alpha / √r, …).
    """

    layer: str
    kind: Kind
    a: TensorRef
    b: TensorRef
    scale: float

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def a_shape(self) -> tuple[int, ...]:
        """The shape of one row of A: (in,) or (in, kernel height, kernel width)."""
        return self.a.shape[1:]

    @property
    def out(self) -> int:
        return self.b.shape[0]

    @property
    def a_width(self) -> int:
        """Entries of one row of A: the width of the layer's matrix on side A."""
        return math.prod(self.a_shape)

    @property
    def b_width(self) -> int:
        """Entries of one row of Bᵀ: the width of the layer's matrix on side B."""
        return self.out


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """One adapter as its headers and configuration describe it.

    Attributes
    ----------
    format
        The dialect's name in the table of formats.
    files
        Where it came from.
    base_model
        What it says it was trained on; None if it says nothing.
    modules
        Sorted by layer; layers are distinct.
    factors
        Path of the file that the tensors lie in: the weights, or what `recipe` makes of them.
    data_start
        Where the tensors begin in that file.
    extras
        Tensors that belong to it and are no factors (heads, biases, trained tokens), sorted by key.
    config_text
        `adapter_config.json` word for word, None without one.
    metadata
        The weights file's own metadata.
    licence
        As stated beside the weights, None if nowhere.
    fingerprint
        See `fingerprint`.
    recipe
        How the file `factors` is made where the weights cannot be read in place (see `ingest.formats.recipes`);
        empty where they can.
    size
        Bytes of the weights file, from which `recipe` starts.
    """

    format: str
    files: AdapterFiles
    base_model: str | None
    modules: tuple[LoraModule, ...]
    factors: str
    data_start: int
    extras: tuple[TensorRef, ...]
    config_text: str | None
    metadata: dict[str, str]
    licence: str | None
    fingerprint: str
    recipe: str = ""
    size: int = 0


def fingerprint(files: AdapterFiles) -> str:
    """32 hexadecimal digits that change when a file is replaced; costs one stat per file, reads nothing.

    It covers name, size and modification time (ns) of the weights and the configuration, not the folder, so
    a moved folder keeps its fingerprint.

    Raises
    ------
    Refusal
        `unreadable` if a file is not there.
    """
    digest = hashlib.sha256()
    for path in (files.weights, files.config):
        if path is None:
            continue
        name = os.path.basename(path)
        try:
            status = os.stat(path)
        except OSError as error:
            raise Refusal(Reason.UNREADABLE, f"{name} cannot be read ({error.strerror or error})") from error
        digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:32]

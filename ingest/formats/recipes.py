"""Adapters whose factors lie in no safetensors file: how that file is made, by the recipe that a format names."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ingest.errors import EigenzooError, Refusal
from ingest.formats import products
from ingest.formats.adapter import LoraAdapter, fingerprint
from ingest.formats.loha import METHOD as LOHA
from ingest.formats.lokr import METHOD as LOKR
from ingest.formats.opened import Opened
from ingest.formats.opening import open_files
from ingest.formats.options import Options
from ingest.reasons import Reason
from ingest.safetensors_file import SafetensorsHeader, TensorRef, numpy_dtype, pack_header

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PARTIAL = ".partial"


Tensors = Iterator[tuple[TensorRef, "NDArray[Any]"]]


def _verbatim(opened: Opened) -> tuple[SafetensorsHeader, Tensors]:
    read = opened.tensor
    if read is None:
        raise Refusal(Reason.UNREADABLE, f"{opened.where} is not at hand")
    return opened.header, ((ref, read(ref)) for ref in opened.header.tensors.values())


RECIPES: dict[str, Callable[[Opened], tuple[SafetensorsHeader, Tensors]]] = {
    "pickle": _verbatim,
    "loha": partial(products.rewritten, LOHA),
    "lokr": partial(products.rewritten, LOKR),
}
"""Recipe → opened files → the header of the file to be, and its tensors in that order."""


def materialize(adapter: LoraAdapter, options: Options, path: str) -> LoraAdapter:
    """Write the safetensors file that an adapter's tensors lie in.

    Parameters
    ----------
    adapter
        As parsed with these options.
    options
        What the user allows.
    path
        The file to be written, whole or not at all; its folder exists. `path` + ".partial" is used until then.

    Returns
    -------
    LoraAdapter
        With `factors` the path. An adapter without a recipe is returned as it is, and nothing is written.

    Raises
    ------
    Refusal
        `changed` if the files are not those that were parsed, `untrained` if every converted product is zero,
        `unsupported-dtype` if one leaves its type's range, or why a value cannot be read.
    OSError
        If the file cannot be written.

    Notes
    -----
    Memory: one tensor, or one converted module's factors and their terms. The file is as large as its tensors.
    """
    if not adapter.recipe:
        return adapter
    opened = open_files(adapter.files, options)
    header, tensors = RECIPES[adapter.recipe](opened)
    if opened.fingerprint != adapter.fingerprint or not _describes(header, adapter):
        raise _changed(opened)
    try:
        _write(path + _PARTIAL, header, tensors)
        if fingerprint(adapter.files) != adapter.fingerprint:
            raise _changed(opened)
        os.replace(path + _PARTIAL, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path + _PARTIAL)
    return dataclasses.replace(adapter, factors=path)


def _describes(header: SafetensorsHeader, adapter: LoraAdapter) -> bool:
    refs = [ref for module in adapter.modules for ref in (module.a, module.b)] + list(adapter.extras)
    return header.data_start == adapter.data_start and all(header.tensors.get(ref.key) == ref for ref in refs)


def _write(path: str, header: SafetensorsHeader, tensors: Tensors) -> None:
    import numpy as np

    with open(path, "wb") as file:
        file.write(pack_header(header.tensors.values()))
        for ref, values in tensors:
            if (
                values.shape != ref.shape
                or values.dtype != numpy_dtype(ref.dtype)
                or file.tell() != (header.data_start + ref.offset)
            ):
                raise EigenzooError(f"{path}: {ref.key!r} came out as {values.dtype} {values.shape}, not as planned")
            # As bytes, since the buffer protocol knows no bfloat16.
            file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)


def _changed(opened: Opened) -> Refusal:
    return Refusal(Reason.CHANGED, f"{opened.where} changed while it was read; run again when it is whole")

"""From an adapter's local files to `Opened`: the configuration, the weights' header, the card."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ingest.errors import Refusal
from ingest.formats.adapter import AdapterFiles, fingerprint
from ingest.formats.card import read_card
from ingest.formats.lora_config import read_config
from ingest.formats.opened import Opened
from ingest.formats.options import Options
from ingest.formats.pickled import SUFFIXES, open_pickle
from ingest.reasons import Reason
from ingest.safetensors_file import TensorRef, read_header, read_tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

PICKLES = SUFFIXES
"""Suffixes of files that are taken for pickles."""


def open_files(files: AdapterFiles, options: Options) -> Opened:
    """Read an adapter's configuration, header and card; see `ingest.formats.parse` for what it raises."""
    config = read_config(files.config, options) if files.config is not None else None
    where = os.path.basename(files.weights)
    pickle = where.lower().endswith(PICKLES)
    if pickle and not options.allow_pickle:
        raise Refusal(
            Reason.PICKLE,
            f"{where} is a pickle, which can run code when loaded; --allow-pickle loads its weights only, "
            "or save it again with safetensors.torch.save_file",
        )
    if not os.path.exists(files.weights):
        raise Refusal(Reason.NO_WEIGHTS, f"there is no {where} in the folder")
    if pickle:
        pickled = open_pickle(files.weights)
        card = read_card(files.folder)
        return Opened(files, config, pickled.header, card, options, fingerprint(files), pickled.tensor, "pickle")
    header = read_header(files.weights)

    def tensor(ref: TensorRef) -> NDArray[Any]:
        try:
            with open(files.weights, "rb", buffering=0) as file:
                return read_tensor(file, ref, header.data_start)
        except OSError as error:
            raise Refusal(Reason.UNREADABLE, f"{where} cannot be read ({error.strerror or error})") from error

    return Opened(files, config, header, read_card(files.folder), options, fingerprint(files), tensor)

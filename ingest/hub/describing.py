"""A remote adapter's description, from its configuration, its header and its card."""

from __future__ import annotations

import contextlib
import os
import posixpath

from ingest.errors import Refusal
from ingest.formats.adapter import AdapterFiles, LoraAdapter
from ingest.formats.card import CARD, Card, read_card
from ingest.formats.lora_config import AdapterConfig, read_config
from ingest.formats.opened import Opened
from ingest.formats.opening import PICKLES
from ingest.formats.options import Options
from ingest.formats.table import parse_opened
from ingest.hub.answers import Missing
from ingest.hub.peek import Peeker
from ingest.hub.remote import RemoteFiles
from ingest.reasons import Reason
from ingest.selection import CONFIG


def describe(remote: RemoteFiles, peeker: Peeker, options: Options, card: Card | None) -> LoraAdapter | None:
    """Describe an adapter without a download; what its configuration forbids is refused before the header is asked for.

    Parameters
    ----------
    remote
        Its files.
    peeker
        Reads the pieces.
    options
        How adapters are parsed.
    card
        What a listing said of its card, None if nothing was listed.

    Returns
    -------
    LoraAdapter or None
        None for a pickle that is allowed: it has to be fetched first.

    Raises
    ------
    Refusal, Missing
        As parsing and the calls say.
    """
    config = None
    if remote.config is not None:
        config = read_config(peeker.small(remote.repo, remote.revision, remote.config, CONFIG), options)
    name = posixpath.basename(remote.weights)
    if name.endswith(PICKLES):
        if options.allow_pickle:
            return None
        raise Refusal(
            Reason.PICKLE,
            f"{name} is a pickle, which can run code when loaded; --allow-pickle loads its weights only",
        )
    header = peeker.header(remote)
    files = AdapterFiles(remote.location, f"{remote.location}/{name}", remote.config)
    stated = card or _card(remote, peeker, config)
    return parse_opened(Opened(files, config, header, stated, options, remote.fingerprint, None))


def _card(remote: RemoteFiles, peeker: Peeker, config: AdapterConfig | None) -> Card:
    """What the card itself states, asked for only if nothing else can name the base."""
    if remote.card is not None and (config is None or config.base_model is None):
        with contextlib.suppress(Missing):
            path = peeker.small(remote.repo, remote.revision, remote.card, CARD)
            return read_card(os.path.dirname(path))
    return Card(None, None)

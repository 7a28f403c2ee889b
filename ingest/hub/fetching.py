"""An adapter's files from the Hub to the disk: where they lie, what belongs to them, and their removal.

Below the staging folder: hub/<fingerprint>/ with the weights, `adapter_config.json`, `README.md` and `LICENSE`.  No
name from the Hub becomes a path as it is, so none leads out of the folder or collides with another.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import shutil

from ingest.errors import EigenzooError, Refusal
from ingest.formats.adapter import AdapterFiles
from ingest.formats.card import CARD, LICENCES, read_card
from ingest.hub import local_cache
from ingest.hub.answers import Missing, digest
from ingest.hub.calls import Calls
from ingest.hub.download import PARTIAL, beside, download
from ingest.hub.peek import Peeker, file_url
from ingest.hub.remote import RemoteFiles
from ingest.private import private_folder
from ingest.reasons import Reason
from ingest.selection import CONFIG

FOLDER = "hub"
_PLAIN = re.compile(r"[A-Za-z0-9_][\w.-]{0,180}", re.ASCII)


class Fetcher:
    """Brings files; threads share it, one per adapter."""

    def __init__(self, calls: Calls, peeker: Peeker, staging: str | None, keep: bool) -> None:
        self._calls, self._peeker, self._keep = calls, peeker, keep
        self._staging = staging
        self._root = os.path.join(staging, FOLDER) if staging is not None else None

    def fetch(self, remote: RemoteFiles) -> AdapterFiles:
        """See `HubSession.fetch`."""
        folder = self._folder(remote)
        try:
            weights = self._weights(remote, folder)
            config = self._small(remote, remote.config, folder, CONFIG)
            if remote.config is not None and config is None:
                raise Missing(f"{remote.repo}/{remote.config}")
            card = self._small(remote, remote.card, folder, CARD)
            if read_card(folder).licence is None:
                self._small(remote, remote.licence, folder, LICENCES[0])
        except Missing as missing:
            raise Refusal(Reason.NOT_FOUND, f"{missing}: no such file there any more; run again") from missing
        if self._keep:
            config = config and self._kept(remote, remote.config, config)
            card = card and self._kept(remote, remote.card, card)
        return AdapterFiles(folder, weights, config)

    def local(self, remote: RemoteFiles, snapshot: str) -> AdapterFiles:
        """The same from a snapshot in the Hub's cache, where everything is that can be had offline."""
        weights = local_cache.cached(remote, remote.weights)
        if weights is None:
            raise Refusal(
                Reason.UNAVAILABLE, f"{remote.location} is not whole in the Hub's cache and HF_HUB_OFFLINE is set"
            )
        config = remote.config and local_cache.cached(remote, remote.config)
        folder = os.path.join(snapshot, *posixpath.dirname(remote.card or remote.weights).split("/"))
        return AdapterFiles(folder, weights, config)

    def discard(self, remote: RemoteFiles) -> None:
        """See `HubSession.discard`."""
        if self._root is not None:
            shutil.rmtree(os.path.join(self._root, remote.fingerprint), ignore_errors=True)

    def clean(self) -> None:
        """See `HubSession.clean`."""
        if self._root is None or not os.path.isdir(self._root):
            return
        for folder, _, files in os.walk(self._root, topdown=False):
            for file in files:
                if file.endswith(PARTIAL):
                    with contextlib.suppress(OSError):
                        os.unlink(os.path.join(folder, file))
            with contextlib.suppress(OSError):
                os.rmdir(folder)  # only if that has left it empty

    def _folder(self, remote: RemoteFiles) -> str:
        if self._staging is None or self._root is None:
            raise EigenzooError(f"{remote.location} would have to be downloaded, and this plan has no staging folder")
        folder = os.path.join(self._root, remote.fingerprint)
        for path in (self._staging, self._root, folder):
            private_folder(path)
        return folder

    def _weights(self, remote: RemoteFiles, folder: str) -> str:
        found = local_cache.cached(remote, remote.weights)
        if found is not None:
            return found
        path = os.path.join(folder, _plain(posixpath.basename(remote.weights)))
        url = file_url(remote.repo, remote.weights, remote.revision)
        stated = download(self._calls, url, path, f"{remote.repo}/{remote.weights}")
        return local_cache.adopt(remote, remote.weights, path, stated) if self._keep else path

    def _small(self, remote: RemoteFiles, path: str | None, folder: str, plain: str) -> str | None:
        """A copy of a small file in the folder; None if the repository has none."""
        if path is None:
            return None
        target = os.path.join(folder, plain)
        try:
            kept = self._peeker.small(remote.repo, remote.revision, path, plain)
        except Missing:
            return None
        except Refusal as refusal:
            if refusal.reason is Reason.BAD_CONFIG and plain != CONFIG:
                return None  # no card is as large as that
            raise
        partial = beside(target)
        try:
            shutil.copyfile(kept, partial)
            os.replace(partial, target)
        except OSError as error:
            raise EigenzooError(
                f"{target}: cannot be written ({error.strerror}); make room or give another --staging"
            ) from error
        return target

    def _kept(self, remote: RemoteFiles, path: str | None, local: str) -> str:
        """A small file's place in the Hub's cache."""
        if path is None:
            return local
        found = local_cache.cached(remote, path)
        if found is not None:
            return found
        with open(local, "rb") as file:
            stated = digest(file.read(), "0" * 40)
        copy = beside(local)
        shutil.copyfile(local, copy)
        return local_cache.adopt(remote, path, copy, stated)


def _plain(name: str) -> str:
    """A file's own name if it is one everywhere, else one of ours with its ending."""
    if _PLAIN.fullmatch(name):
        return name
    return f"weights{posixpath.splitext(name)[1]}"

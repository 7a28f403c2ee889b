"""Adapters' files at hand when they are needed, and gone when they are not: downloads, conversions.

Both lie in one folder, the staging.  A download that is whole stays there until its rows are committed, so an ingest
that is killed and started again fetches only what was cut off.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

from ingest import formats
from ingest.errors import EigenzooError, Refusal
from ingest.planned import PlannedAdapter
from ingest.private import private_folder
from ingest.reasons import Reason
from ingest.settings import Settings
from ingest.store import schema

if TYPE_CHECKING:
    from ingest.formats.adapter import AdapterFiles, LoraAdapter
    from ingest.formats.options import Options
    from ingest.hub.remote import Candidate
    from ingest.hub.session import HubSession

DOWNLOADS = 8  # at a time: the Hub serves one connection slower than a disk takes


def staging_folder(zoo: str, settings: Settings) -> str:
    """Where downloads and conversions for a zoo lie meanwhile: a folder that is this zoo's alone."""
    if settings.staging is None and "://" not in zoo:
        return os.path.join(zoo, schema.STAGING)
    import tempfile

    digest = hashlib.sha256(zoo.encode("utf-8", "surrogatepass")).hexdigest()
    return os.path.join(os.path.abspath(settings.staging or tempfile.gettempdir()), f"eigenzoo-{digest[:16]}")


class Supply:
    """The files of planned adapters.  A context manager; a clean exit removes the staging folder.

    Parameters
    ----------
    folder : str
        The staging (see `staging_folder`): made when something is to lie there, and removed with all that is in it.
    options : Options
        How adapters are parsed.
    keep : bool
        Whether downloads stay in the Hub's cache.
    """

    def __init__(self, folder: str, options: Options, *, keep: bool = False) -> None:
        self._folder = folder
        self._options = options
        self._keep = keep
        self._session: HubSession | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._fetches: dict[str, Future[AdapterFiles]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()  # first, so that no download under way waits out a rate limit
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        if kind is None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def close(self) -> None:
        """Stop what is under way; whoever waits for it gets an error."""
        if self._session is not None:
            self._session.close()

    def hub(self) -> HubSession:
        """The session with the Hub, begun when first asked for."""
        if self._session is None:
            from ingest.hub.session import HubSession

            self._session = HubSession(self._made(), options=self._options, keep=self._keep, threads=DOWNLOADS)
            self._session.clean()
        return self._session

    def want(self, batch: Sequence[PlannedAdapter]) -> None:
        """Begin to fetch what of these is on the Hub, behind the caller's back."""
        for planned in batch:
            if planned.candidate is not None and planned.source not in self._fetches:
                self._pool = self._pool or ThreadPoolExecutor(DOWNLOADS)
                self._fetches[planned.source] = self._pool.submit(self.hub().fetch, planned.candidate)

    def get(self, planned: PlannedAdapter) -> PlannedAdapter:
        """The adapter with its factors in a local file.

        Raises
        ------
        Refusal
            If it cannot be had, or is not what its header said.
        """
        adapter = planned.adapter
        if planned.candidate is not None:
            self.want([planned])
            adapter = formats.parse(self._fetches[planned.source].result(), self._options)
            if _layout(adapter) != _layout(planned.adapter):
                raise Refusal(Reason.CHANGED, "the file that came has other tensors than its header had; run again")
        if adapter.recipe:
            from ingest.formats.recipes import materialize

            self._made()
            path = self._path(planned)
            try:
                adapter = materialize(adapter, self._options, path)
            except OSError as error:
                raise EigenzooError(f"{path}: cannot be written ({error.strerror}); give another --staging") from error
        return dataclasses.replace(planned, adapter=dataclasses.replace(adapter, config_text=None, metadata={}))

    def release(self, batch: Sequence[PlannedAdapter]) -> None:
        """Remove what was staged for these: their rows are committed, or they are refused."""
        for planned in batch:
            if self._fetches.pop(planned.source, None) is not None and planned.candidate is not None:
                self.hub().discard(planned.candidate)
            if planned.adapter.recipe:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._path(planned))

    def drop(self, candidate: Candidate) -> None:
        """Remove what a killed run fetched of an adapter that is settled."""
        if os.path.isdir(self._folder):
            self.hub().discard(candidate)

    def _path(self, planned: PlannedAdapter) -> str:
        """Where what is made of an adapter's weights lies."""
        digest = hashlib.sha256(planned.source.encode("utf-8", "surrogatepass")).hexdigest()
        return os.path.join(self._folder, f"{digest[:32]}.safetensors")

    def _made(self) -> str:
        private_folder(self._folder)
        return self._folder


def _layout(adapter: LoraAdapter) -> list[tuple[object, ...]]:
    """All of an adapter that a plan builds on."""
    return [(m.layer, m.kind, m.a.shape, m.a.dtype, m.b.shape, m.b.dtype) for m in adapter.modules]

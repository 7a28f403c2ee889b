"""What an adapter has beside its factors: its texts, and tensors such as heads and biases, kept byte for byte."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from ingest import formats
from ingest.errors import Refusal
from ingest.fill import SourceChanged
from ingest.formats.lora_config import read_text
from ingest.formats.opening import PICKLES
from ingest.judge import Seen
from ingest.safetensors_file import pack_header, read_header
from ingest.spans import read_parts
from ingest.store.writer import ZooWriter


def keep_the_rest(writer: ZooWriter, accepted: Sequence[Seen], renewed: Sequence[Seen]) -> dict[str, dict[str, Any]]:
    """Store the accepted adapters' other tensors; return the texts of these and of the renewed ones.

    Raises
    ------
    SourceChanged
        Where files are not what they were when they were screened.
    """
    texts: dict[str, dict[str, Any]] = {}
    for planned, screened in accepted:
        adapter = planned.adapter
        if screened.extras:
            try:
                parts = _Digested(read_parts(adapter.factors, adapter.extras, adapter.data_start))
                writer.write_extras(planned.name, chain([pack_header(adapter.extras)], parts))
            except Refusal as error:
                raise SourceChanged(planned, f"its file changed while it was read ({error}); run again") from error
            if parts.hexdigest() != screened.extras:
                raise SourceChanged(planned, "its file changed while it was read; run again when it is whole")
    for planned, _ in (*accepted, *renewed):
        files = planned.adapter.files
        try:
            text = read_text(files.config) if files.config else None
            metadata = {} if files.weights.lower().endswith(PICKLES) else read_header(files.weights).metadata
            fingerprint = formats.fingerprint(files)
        except (OSError, Refusal) as error:
            raise SourceChanged(planned, f"its file changed while it was read ({error}); run again") from error
        if fingerprint != planned.adapter.fingerprint:
            raise SourceChanged(planned, "its files changed while they were read; run again when they are whole")
        texts[planned.name] = {"config": text, "metadata": metadata}
    return texts


class _Digested:
    """Parts as they pass, and `extras_digest` of them afterwards."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        import xxhash

        self._parts, self._digest = parts, xxhash.xxh3_128()

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            self._digest.update(part)
            yield part

    def hexdigest(self) -> str:
        return str(self._digest.hexdigest())

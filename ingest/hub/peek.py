"""A remote adapter's configuration and header, by at most a request each, without a download."""

from __future__ import annotations

import posixpath
import threading
from typing import Any

from ingest.errors import Refusal
from ingest.hub import pieces
from ingest.hub.answers import Answer, answer, body_size, digest, read_at_most
from ingest.hub.calls import Again, Calls
from ingest.hub.remote import RemoteFiles
from ingest.lookalikes import lookalike
from ingest.reasons import Reason
from ingest.safetensors_file import SafetensorsHeader, read_header_with

FIRST_BYTES = 100_001
"""What is asked of a weights file at first: nearly every adapter's header is shorter."""
MOST_SMALL = 16 << 20
"""Bytes of a configuration or a card, at most."""
_LARGE = 4 << 20


class Peeker:
    """Reads small files and headers, from the cache of pieces where they are there; threads share it."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._one_large = threading.Lock()

    def small(self, repo: str, commit: str, path: str, plain: str) -> str:
        """The local path of a small file, its hash checked.

        Parameters
        ----------
        repo, commit, path
            The file.
        plain
            Its name here.

        Raises
        ------
        Missing
            If the repository has no such file.
        Refusal
            `wrong-bytes`, or as `Calls.get` says.
        """
        kept = pieces.kept(repo, commit, path, plain)
        if kept is not None:
            return kept
        data, _ = self.small_at(repo, commit, path)
        return pieces.put(pieces.path_of(repo, commit, path, plain), data)

    def small_at(self, repo: str, revision: str, path: str) -> tuple[bytes, Answer]:
        """A small file of any revision, its hash checked, and what its answer says; errors as for `small`."""
        what = f"{repo}/{path}"

        def read(response: Any) -> tuple[bytes, Answer]:
            told = answer(response)
            data = read_at_most(self._calls.parts(response), MOST_SMALL + 1)
            if told.size is not None and len(data) < min(told.size, MOST_SMALL + 1):
                raise Again(f"it sent {len(data)} bytes of {told.size}")
            return data, told

        data, told = self._calls.get(file_url(repo, path, revision), read, what=what)
        if len(data) > MOST_SMALL:
            raise Refusal(Reason.BAD_CONFIG, f"{what} is larger than {MOST_SMALL} bytes")
        if told.hash is None:
            raise Refusal(Reason.WRONG_BYTES, f"{what} comes without a hash to check it by; is HF_ENDPOINT a Hub?")
        if digest(data, told.hash) != told.hash:
            raise Refusal(Reason.WRONG_BYTES, f"{what} does not have the hash that the Hub states; try again later")
        return data, told

    def header(self, remote: RemoteFiles) -> SafetensorsHeader:
        """The header of a remote safetensors file, checked against the file's size.

        Raises
        ------
        Missing
            If the repository has no such file.
        Refusal
            `wrong-bytes` for a Git LFS pointer or a web page, otherwise as `read_header` and `Calls.get` say.
        """
        name = posixpath.basename(remote.weights)
        kept = pieces.get_header(remote.repo, remote.revision, remote.weights)
        size, first = kept or self._span(remote, 0, FIRST_BYTES)
        seen = bytearray(first)
        _no_page(first[:512], name)

        def read(offset: int, count: int) -> bytes:
            if offset >= len(seen):
                # Header reads go on where they stopped.
                seen.extend(self._span(remote, len(seen), offset + count - len(seen))[1])
            return bytes(seen[offset : offset + count])

        announced = int.from_bytes(seen[:8], "little")
        if announced <= _LARGE:
            header = read_header_with(read, size, name)
        else:
            with self._one_large:  # eight parsed at once would take gigabytes
                header = read_header_with(read, size, name)
        if kept is None:
            pieces.put_header(remote.repo, remote.revision, remote.weights, size, bytes(seen[: header.data_start]))
        return header

    def _span(self, remote: RemoteFiles, offset: int, count: int) -> tuple[int, bytes]:
        """The file's size, and its bytes from `offset`: `count` of them, or as far as it goes."""
        what = f"{remote.repo}/{remote.weights}"

        def read(response: Any) -> tuple[int, bytes]:
            stated = answer(response).size
            coming = body_size(response)
            size = stated if coming is None else coming
            if size is None:
                raise Again("it does not state the file's size")
            if response.status_code == 416:
                return size, b""
            skip = offset if response.status_code == 200 else 0  # a server that knows no ranges sends it all
            wanted = max(0, min(count, size - offset))
            data = read_at_most(self._calls.parts(response), skip + wanted)[skip:]
            if len(data) < wanted:
                raise Again(f"it sent {len(data)} bytes of {wanted}")
            if size != stated is not None:
                _no_page(data[:512], posixpath.basename(remote.weights))
                raise Refusal(Reason.WRONG_BYTES, f"{what} has {size} bytes, but the Hub says that it has {stated}")
            return size, data

        url = file_url(remote.repo, remote.weights, remote.revision)
        return self._calls.get(url, read, what=what, span=lambda: f"bytes={offset}-{offset + count - 1}")


def _no_page(head: bytes, name: str) -> None:
    """Refuse what is something else than the file asked for."""
    other = lookalike(head, name)
    if other is not None and other.reason is Reason.UNREADABLE and not head.startswith((b"GGUF", b"http")):
        text = other.detail.partition(";")[0]
        raise Refusal(Reason.WRONG_BYTES, f"{text}; its owner has to upload the file itself")


def file_url(repo: str, path: str, revision: str) -> str:
    """The address of a file of any revision."""
    from huggingface_hub import hf_hub_url

    url: str = hf_hub_url(repo, path, revision=revision)
    return url

"""Safetensors files by plain reads: the header, checked against the whole file, and single tensors.

Why not the library: it maps the file, and a file truncated while it is mapped kills the process (SIGBUS); it
takes duplicate keys; and its numpy side has no float8.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Any

from ingest.errors import Refusal
from ingest.lookalikes import lookalike
from ingest.reasons import Reason
from ingest.safetensors_header import DTYPES, MAX_TENSORS, PACKED, TensorRef, parse_header

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "MAX_HEADER_BYTES",
    "MAX_TENSORS",
    "SafetensorsHeader",
    "TensorRef",
    "numpy_dtype",
    "pack_header",
    "read_all",
    "read_bytes",
    "read_header",
    "read_header_with",
    "read_into",
    "read_tensor",
]

MAX_HEADER_BYTES = 32 << 20
"""`MAX_TENSORS` of the longest names that occur take less; the library allows three times as much."""

_PREFIX_BYTES = 8
_SHARED_BYTES = 1 << 18
_CODES = {name: code for code, (name, _) in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    """What a safetensors file says it holds, checked against its size.

    Attributes
    ----------
    path, size
        The file and its bytes.
    data_start
        Where its tensors begin.
    tensors
        Key → `TensorRef`, in the order of the header. Files with equal headers share it: do not change it.
    metadata
        The header's `__metadata__`, empty if there is none.
    """

    path: str
    size: int
    data_start: int
    tensors: dict[str, TensorRef]
    metadata: dict[str, str]


def read_header(path: str | os.PathLike[str]) -> SafetensorsHeader:
    """Read and check a file's header; two reads, no tensor is touched.

    Parameters
    ----------
    path
        A safetensors file.

    Raises
    ------
    Refusal
        `unreadable` (no such file, or no safetensors), `pickle`, `truncated` (shorter than announced) or
        `header-mismatch` (any contradiction, duplicate or unknown data type, trailing bytes, over a limit).
    """
    name = os.fspath(path)
    where = os.path.basename(name)
    try:
        if not stat.S_ISREG(os.stat(name).st_mode):
            raise Refusal(Reason.UNREADABLE, f"{where} is no regular file")
        with open(name, "rb", buffering=0) as file:
            descriptor = file.fileno()
            size = os.fstat(descriptor).st_size
            return read_header_with(lambda offset, count: os.pread(descriptor, count, offset), size, name)
    except OSError as error:
        raise Refusal(Reason.UNREADABLE, f"{where} cannot be read ({error.strerror or error})") from error


def read_header_with(read: Callable[[int, int], bytes], size: int, path: str) -> SafetensorsHeader:
    """Read and check a header from wherever the bytes are; errors as for `read_header`.

    Parameters
    ----------
    read
        (offset, count) → the bytes there, fewer only where the file ends or where one call gives no more.
    size
        Bytes of the whole file.
    path
        Its name, for the result and (its last component) for messages.
    """
    where = os.path.basename(path)
    raw = _header_bytes(read, size, where)
    data_start = _PREFIX_BYTES + len(raw)
    parse = parse_header if len(raw) > _SHARED_BYTES else _parse_shared
    tensors, metadata = parse(raw, size - data_start, where)
    return SafetensorsHeader(path, size, data_start, tensors, metadata)


# The adapters of a zoo come from a few training scripts, whose files have the same header byte for byte.
_parse_shared = lru_cache(maxsize=64)(parse_header)


def read_tensor(file: int | IO[bytes], ref: TensorRef, data_start: int) -> NDArray[Any]:
    """Read one tensor in its own data type.

    Parameters
    ----------
    file
        The open weights file, or its descriptor. Reads are positioned (pread), so threads may share it.
    ref, data_start
        One of the header's tensors, and where the file's tensors begin.

    Returns
    -------
    ndarray
        Shape `ref.shape`, data type `ref.dtype` (bfloat16 and float8 through ml_dtypes), C-contiguous,
        writable.

    Raises
    ------
    Refusal
        `truncated` if the file ends too early, `unreadable` if reading fails, `unsupported-dtype` for the
        packed 4- and 6-bit types.
    """
    import numpy as np

    dtype = numpy_dtype(ref.dtype, ref.key)
    out = np.empty(ref.shape, dtype=dtype)
    read_into(file, ref, data_start, out)
    return out


def read_into(file: int | IO[bytes], ref: TensorRef, data_start: int, out: NDArray[Any]) -> None:
    """Read one tensor's bytes into a C-contiguous array of as many bytes; errors as for `read_tensor`."""
    import numpy as np

    if ref.nbytes:
        _read_into(
            _descriptor(file), out.reshape(-1).view(np.uint8).data, data_start + ref.offset, f"tensor {ref.key!r}"
        )


def read_bytes(file: int | IO[bytes], ref: TensorRef, data_start: int) -> bytes:
    """Read one tensor's bytes as they lie in the file, of any data type; errors as for `read_tensor`."""
    buffer = bytearray(ref.nbytes)
    if ref.nbytes:
        _read_into(_descriptor(file), memoryview(buffer), data_start + ref.offset, f"tensor {ref.key!r}")
    return bytes(buffer)


def numpy_dtype(name: str, key: str = "") -> np.dtype[Any]:
    """The numpy data type of a `TensorRef.dtype` (ml_dtypes' where numpy has none).

    Raises
    ------
    Refusal
        `unsupported-dtype` for the packed 4- and 6-bit types, or one that the installed ml_dtypes lacks.
    """
    import numpy as np

    if name not in PACKED:
        if not name.startswith(("bfloat16", "float8")):
            return np.dtype(name)
        import ml_dtypes

        scalar = getattr(ml_dtypes, name, None)
        if scalar is not None:
            dtype: np.dtype[Any] = np.dtype(scalar)
            return dtype
    raise Refusal(Reason.UNSUPPORTED_DTYPE, f"tensor {key!r} is {name}, which cannot be read as an array")


def read_all(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """All tensors of a file by key; errors as for `read_header` and `read_tensor`."""
    header = read_header(path)
    try:
        with open(header.path, "rb", buffering=0) as file:
            return {key: read_tensor(file, ref, header.data_start) for key, ref in header.tensors.items()}
    except OSError as error:
        where = os.path.basename(header.path)
        raise Refusal(Reason.UNREADABLE, f"{where} cannot be read ({error.strerror or error})") from error


def pack_header(tensors: Iterable[TensorRef]) -> bytes:
    """The beginning of a safetensors file of these tensors, whose bytes are to follow in the same order.

    Keys, types and shapes are as in the references, offsets anew.
    """
    header: dict[str, object] = {}
    at = 0
    for ref in tensors:
        end = at + ref.nbytes
        header[ref.key] = {"dtype": _CODES[ref.dtype], "shape": list(ref.shape), "data_offsets": [at, end]}
        at = end
    raw = json.dumps(header, ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)  # as the library does, so that the tensors begin aligned
    return len(raw).to_bytes(_PREFIX_BYTES, "little") + raw


def _descriptor(file: int | IO[bytes]) -> int:
    return file if isinstance(file, int) else file.fileno()


def _read_into(descriptor: int, buffer: memoryview, offset: int, what: str) -> None:
    done = 0
    # One call reads at most about 2 GiB, and any call may return fewer bytes than asked.
    while done < len(buffer):
        try:
            count = os.preadv(descriptor, [buffer[done:]], offset + done)
        except OSError as error:
            raise Refusal(Reason.UNREADABLE, f"{what} cannot be read ({error.strerror or error})") from error
        if count == 0:
            raise Refusal(Reason.TRUNCATED, f"{what}: the file ends after {done} of {len(buffer)} bytes")
        done += count


def _header_bytes(read: Callable[[int, int], bytes], size: int, where: str) -> bytes:
    head = read(0, 512)
    if len(head) < _PREFIX_BYTES:
        raise lookalike(head, where) or Refusal(
            Reason.TRUNCATED,
            f"{where} has {size} bytes, too few for a safetensors header; download it again",
        )
    length = int.from_bytes(head[:_PREFIX_BYTES], "little")
    if length > min(MAX_HEADER_BYTES, size - _PREFIX_BYTES) or head[_PREFIX_BYTES : _PREFIX_BYTES + 1] != b"{":
        # Text and pickles end here: their first eight bytes, read as a length, exceed any file.
        other = lookalike(head, where)
        if other is not None:
            raise other
        if length > MAX_HEADER_BYTES:
            raise Refusal(
                Reason.HEADER_MISMATCH,
                f"{where} announces a header of {length} bytes, at most {MAX_HEADER_BYTES}",
            )
        if length > size - _PREFIX_BYTES:
            raise Refusal(
                Reason.TRUNCATED,
                f"{where} has {size} bytes, its header alone {length + _PREFIX_BYTES}; download it again",
            )
        raise Refusal(Reason.HEADER_MISMATCH, f"{where}: the header does not begin with '{{'")
    raw = bytearray()
    while len(raw) < length:
        part = read(_PREFIX_BYTES + len(raw), length - len(raw))
        if not part:
            raise Refusal(Reason.TRUNCATED, f"{where}: the header ends after {len(raw)} of {length} bytes")
        raw += part
    return bytes(raw)

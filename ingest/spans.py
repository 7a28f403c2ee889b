"""Reading many small tensors of one file in few large reads."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ingest.errors import Refusal
from ingest.reasons import Reason
from ingest.safetensors_file import TensorRef, numpy_dtype, read_bytes, read_into

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ingest.formats.adapter import LoraAdapter

SPAN_BYTES = 4 << 20


def read_spans(adapter: LoraAdapter, refs: Iterable[TensorRef]) -> Iterator[list[tuple[TensorRef, NDArray[Any]]]]:
    """Read tensors of an adapter's file, those that lie side by side in one dtype together.

    Parameters
    ----------
    adapter : LoraAdapter
    refs : iterable of TensorRef
        In any order.

    Yields
    ------
    list of (TensorRef, ndarray)
        A run of neighbours, in the order of the file, as flat views of one array; `whole` gives that array back.

    Raises
    ------
    Refusal
        If the file cannot be read, or ends too early.

    Notes
    -----
    Memory: `SPAN_BYTES` or one tensor, whichever is more.
    """
    import numpy as np

    handle = _open(adapter.factors)
    try:
        for span in _neighbours(refs):
            first, last = span[0], span[-1]
            joined = dataclasses.replace(first, nbytes=last.offset + last.nbytes - first.offset)
            values = np.empty(sum(math.prod(ref.shape) for ref in span), numpy_dtype(first.dtype))
            read_into(handle, joined, adapter.data_start, values)
            out, at = [], 0
            for ref in span:
                size = math.prod(ref.shape)
                out.append((ref, values[at : at + size]))
                at += size
            yield out
    finally:
        os.close(handle)


def read_parts(path: str, refs: Iterable[TensorRef], data_start: int) -> Iterator[bytes]:
    """The bytes of tensors, one after the other, at most `SPAN_BYTES` at a time; errors as for `read_spans`."""
    handle = _open(path)
    try:
        for ref in refs:
            for at in range(0, ref.nbytes, SPAN_BYTES):
                size = min(SPAN_BYTES, ref.nbytes - at)
                yield read_bytes(handle, dataclasses.replace(ref, offset=ref.offset + at, nbytes=size), data_start)
    finally:
        os.close(handle)


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except OSError as error:
        raise Refusal(Reason.UNREADABLE, f"{os.path.basename(path)} cannot be read ({error.strerror})") from error


def whole(span: list[tuple[TensorRef, NDArray[Any]]]) -> NDArray[Any]:
    """The one array that the tensors of a span are views of."""
    base = span[0][1].base
    return span[0][1] if base is None else base


def _neighbours(refs: Iterable[TensorRef]) -> Iterator[list[TensorRef]]:
    span: list[TensorRef] = []
    nbytes = 0
    for ref in sorted(refs, key=lambda r: (r.offset, r.nbytes)):
        if span:
            last = span[-1]
            joined = ref.offset == last.offset + last.nbytes and ref.dtype == last.dtype
            if not joined or nbytes + ref.nbytes > SPAN_BYTES:
                yield span
                span, nbytes = [], 0
        span.append(ref)
        nbytes += ref.nbytes
    if span:
        yield span

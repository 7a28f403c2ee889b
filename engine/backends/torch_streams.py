"""Streams of a CUDA device, and host blocks on their way to it beside what it computes.

A block goes through two pinned buffers on the host, each with one on the device: while the second half of a block is
copied into pinned memory, the first is on the bus, and the kernels of the block before are running. Three rules make a
buffer's reuse right: the host waits until a pinned buffer has been sent; the bus waits until the device's buffer has
been read; and kernels wait until it has been filled. They also keep the host from running further ahead of the device
than two buffers.

Every thread has its own buffers and, within `own_stream`, its own stream.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

T = TypeVar("T")

SLOTS = 2
SLOT_BYTES = 8 * 2**20
SMALLEST = 2**16  # bytes; less is sent as it lies
# Whatever else rows may be is made float64 on the host: torch has few operations on other integers.
AS_STORED = ("float64", "float32", "float16", "bfloat16", "int32", "int16", "int8", "uint8", "bool")

_of_thread = threading.local()


@contextlib.contextmanager
def own_stream(device: str) -> Iterator[None]:
    """Have this thread's work on the device queue behind its own only, and be done when the context ends.

    Notes
    -----
    That it is done is what lets another thread take over an array, and lets go of memory that others gave: torch
    hands a freed block to whoever allocates next on the stream that it came from, whoever else still reads it.
    """
    import torch

    stream = _kept("stream", device, lambda: torch.cuda.Stream(device))
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        try:
            yield
        finally:
            stream.synchronize()


def send(block: NDArray[Any], dtype: str, device: str) -> Tensor:
    """A fresh array of `dtype` on the device, sent as stored (16 bits are a quarter of float64) and widened there."""
    import torch

    if block.dtype.name not in AS_STORED:
        block = block.astype(np.float64)
    out = torch.empty(block.shape, dtype=getattr(torch, dtype), device=device)
    if block.ndim != 2 or block.nbytes < SMALLEST or block.nbytes // len(block) > SLOT_BYTES:
        out.copy_(_tensor(_bits(block).copy(), block.dtype.name))
    else:
        _kept("staging", device, lambda: Staging(device)).send(block, out)
    return out


def _kept(what: str, device: str, make: Callable[[], T]) -> T:
    kept: dict[str, Any] = _of_thread.__dict__
    key = f"{what} {device}"
    if key not in kept:
        kept[key] = make()
    made: T = kept[key]
    return made


def _bits(block: NDArray[Any]) -> NDArray[Any]:
    # numpy's bfloat16 is not torch's; both know 16 bits.
    return block.view(np.int16) if block.dtype.name == "bfloat16" else block


def _tensor(bits: NDArray[Any], name: str) -> Tensor:
    import torch

    host = torch.from_numpy(bits)
    return host.view(torch.bfloat16) if name == "bfloat16" else host


@dataclass(slots=True)
class _Slot:
    """A pinned buffer and the device's; `sent` when the first has gone into the second, `read` when that is free."""

    pinned: Tensor
    arrived: Tensor
    sent: Any
    read: Any


class Staging:
    """The ring of buffers of one thread and device."""

    def __init__(self, device: str, slot_bytes: int = SLOT_BYTES) -> None:
        import torch

        self._device, self._slot_bytes = device, slot_bytes
        self._bus = torch.cuda.Stream(device)
        with torch.cuda.stream(self._bus):
            self._slots = [
                _Slot(
                    _pinned(slot_bytes),
                    torch.empty(slot_bytes, dtype=torch.uint8, device=device),
                    torch.cuda.Event(),
                    torch.cuda.Event(),
                )
                for _ in range(SLOTS)
            ]
        self._next = 0

    def send(self, block: NDArray[Any], out: Tensor) -> None:
        """Have `out`, of the block's shape, filled by the time that the current stream goes on."""
        import torch

        current = torch.cuda.current_stream(self._device)
        bits, dtype = _bits(block), getattr(torch, block.dtype.name)
        step = max(1, self._slot_bytes // (block.itemsize * block.shape[1]))
        for start in range(0, len(block), step):
            part = bits[start : start + step]
            slot = self._slots[self._next]
            self._next = (self._next + 1) % SLOTS
            slot.sent.synchronize()
            np.copyto(slot.pinned[: part.nbytes].numpy().view(part.dtype).reshape(part.shape), part)
            with torch.cuda.stream(self._bus):
                self._bus.wait_event(slot.read)
                slot.arrived[: part.nbytes].copy_(slot.pinned[: part.nbytes], non_blocking=True)
                slot.sent.record(self._bus)
            current.wait_event(slot.sent)
            out[start : start + step].copy_(slot.arrived[: part.nbytes].view(dtype).reshape(part.shape))
            # Should the ring go before the device has read it, its memory waits.
            slot.arrived.record_stream(current)
            slot.read.record(current)


def _pinned(nbytes: int) -> Tensor:
    import torch

    return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

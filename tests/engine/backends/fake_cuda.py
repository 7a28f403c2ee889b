"""torch's CUDA streams and events over the CPU, as late as they may be: nothing is copied before somebody waits for it.

So a copy that nobody waits for is not there when it is used, and a buffer that is filled again too early is seen to
be. With `eager`, all is done at once. The device is "cpu:0", which torch takes and the backend holds for a GPU.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Self

import pytest
import torch

DEVICE = "cpu:0"


class Stream:
    """Work in its order; `done` is how far it has got."""

    def __init__(self, device: Any = None) -> None:
        self.work: list[Callable[[], object]] = []
        self.done = 0

    def run(self, until: int) -> None:
        while self.done < until:
            self.done += 1
            self.work[self.done - 1]()

    def wait_event(self, event: Event) -> None:
        stream, until = event.stream, event.until  # as recorded now, not later
        if stream is not None:
            self.work.append(lambda: stream.run(until))

    def wait_stream(self, other: Stream) -> None:
        until = len(other.work)
        self.work.append(lambda: other.run(until))

    def synchronize(self) -> None:
        self.run(len(self.work))


class Event:
    stream: Stream | None = None
    until = 0

    def record(self, stream: Stream) -> None:
        self.stream, self.until = stream, len(stream.work)

    def synchronize(self) -> None:
        if self.stream is not None:
            self.stream.run(self.until)


class FakeCuda:
    """Installed, `torch.cuda`'s streams are these."""

    def __init__(self, patch: pytest.MonkeyPatch, *, eager: bool) -> None:
        self._default, self._of_thread = Stream(), threading.local()
        copy, mm = torch.Tensor.copy_, torch.mm

        def copy_(target: Any, source: Any, non_blocking: bool = False) -> Any:
            if eager:
                return copy(target, source)
            self.current().work.append(lambda: copy(target, source))
            return target

        def mm_(a: Any, b: Any, out_dtype: Any = None) -> Any:
            # Exact products of 16-bit operands with float32 sums, as tensor cores make them but for the cutting off.
            return mm(a.to(out_dtype or a.dtype), b.to(out_dtype or b.dtype))

        cuda = SimpleNamespace(
            Stream=Stream,
            Event=Event,
            stream=self.Current(self),
            current_stream=self.current,
            is_available=lambda: True,
            get_device_capability=lambda device: (9, 0),
        )
        for name, value in vars(cuda).items():
            patch.setattr(torch.cuda, name, value)
        patch.setattr(torch.Tensor, "copy_", copy_)
        patch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
        patch.setattr(torch, "mm", mm_)
        patch.setattr("engine.backends.torch_streams._pinned", lambda n: torch.zeros(n, dtype=torch.uint8))
        patch.setattr("engine.backends.torch_streams._of_thread", threading.local())

    def current(self, device: Any = None) -> Stream:
        return getattr(self._of_thread, "stream", self._default)

    class Current:
        """`torch.cuda.stream`."""

        def __init__(self, cuda: FakeCuda, stream: Stream | None = None) -> None:
            self._cuda, self._stream = cuda, stream

        def __call__(self, stream: Stream) -> Self:
            return type(self)(self._cuda, stream)

        def __enter__(self) -> None:
            self._before = self._cuda.current()
            self._cuda._of_thread.stream = self._stream

        def __exit__(self, *exc: object) -> None:
            self._cuda._of_thread.stream = self._before

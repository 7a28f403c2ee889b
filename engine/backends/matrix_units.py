"""torch's switches for what products may be made of and summed in, held only while one is made.

oneDNN multiplies float32 operands as bfloat16 with float32 sums when it is allowed to; operands that are bfloat16
values lose nothing by it, and a CPU with AMX does it several times as fast. No torch operation takes bfloat16 operands
and keeps the float32 result on a CPU, so this switch is the way. On CUDA tensor cores take 16-bit operands as they
are; what has to be switched off there are sums in 16 bits, and TF32, which cuts float32 operands to 11 bits.

A switch belongs to the whole process: the first of several threads turns it, the last one turns it back. Products that
other code makes meanwhile are made the same way. Before torch 2.9 one setting stands for both `bfloat16_products` and
`no_tf32`: a process that uses a CPU and a CUDA device at once should have a newer one.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

REDUCED_SUMS = ("allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction")


class Switch:
    """A setting of the process: its first holder turns it, its last one turns it back.

    Parameters
    ----------
    turn : sets it, and returns what it was.
    turn_back : sets it to what it was.
    """

    def __init__(self, turn: Callable[[], Any], turn_back: Callable[[Any], None]) -> None:
        self._turn, self._turn_back = turn, turn_back
        self._lock = threading.Lock()
        self._holders = 0
        self._before: Any = None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        with self._lock:
            if not self._holders:
                self._before = self._turn()
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if not self._holders:
                    self._turn_back(self._before)


class Either:
    """Two kinds of holders of which only one may hold at a time, each as many as it likes."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._kind, self._holders = "", 0

    @contextlib.contextmanager
    def held(self, kind: str) -> Iterator[None]:
        with self._free:
            self._free.wait_for(lambda: not self._holders or self._kind == kind)
            self._kind = kind
            self._holders += 1
        try:
            yield
        finally:
            with self._free:
                self._holders -= 1
                self._free.notify_all()


@functools.cache
def cpu_has_amx() -> bool:
    """Whether this machine multiplies bfloat16 in AMX tiles, as Linux tells."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return {"amx_bf16", "amx_tile"} <= set(flags.split())


@contextlib.contextmanager
def bfloat16_products() -> Iterator[None]:
    """Float32 products through oneDNN are made of bfloat16 operands within the context."""
    with _operands.held("bfloat16"), _bfloat16.held():
        yield


def whole_products() -> contextlib.AbstractContextManager[None]:
    """No other thread has float32 products made of bfloat16 operands within the context."""
    return _operands.held("float32")


def no_tf32() -> contextlib.AbstractContextManager[None]:
    """Products on CUDA are made of whole float32 operands within the context."""
    return _whole_float32.held()


def float32_sums() -> contextlib.AbstractContextManager[None]:
    """Products of 16-bit operands on CUDA are summed in float32 within the context, between parts of a sum too."""
    return _float32_sums.held()


def _turn_bfloat16() -> Any:
    import torch

    if hasattr(torch.backends.mkldnn, "matmul"):
        return _set_precision(torch.backends.mkldnn.matmul, "bf16")
    return _set_legacy("medium")


def _turn_bfloat16_back(before: Any) -> None:
    import torch

    if hasattr(torch.backends.mkldnn, "matmul"):
        _set_precision(torch.backends.mkldnn.matmul, before)
    else:
        _set_legacy(before)


def _turn_tf32_off() -> Any:
    import torch

    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        return _set_precision(torch.backends.cuda.matmul, "ieee")
    return _set_legacy("highest")


def _turn_tf32_back(before: Any) -> None:
    import torch

    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        _set_precision(torch.backends.cuda.matmul, before)
    else:
        _set_legacy(before)


def _set_precision(matmul: Any, value: str) -> Any:
    before = matmul.fp32_precision
    matmul.fp32_precision = value
    return before


def _set_legacy(value: str) -> Any:
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(value)
    return before


def _turn_16_bit_sums_off() -> dict[str, Any]:
    import torch

    matmul: Any = torch.backends.cuda.matmul
    before: dict[str, Any] = {}
    for name in REDUCED_SUMS:
        split = getattr(matmul, f"{name}_split_k", None)  # a second half of the setting, of newer versions
        before[name] = getattr(matmul, name) if split is None else (getattr(matmul, name), split)
        setattr(matmul, name, False)
    if hasattr(matmul, "allow_fp16_accumulation"):
        before["allow_fp16_accumulation"] = matmul.allow_fp16_accumulation
        matmul.allow_fp16_accumulation = False
    return before


def _turn_16_bit_sums_back(before: dict[str, Any]) -> None:
    import torch

    for name, value in before.items():
        setattr(torch.backends.cuda.matmul, name, value)


_operands = Either()
_bfloat16 = Switch(_turn_bfloat16, _turn_bfloat16_back)
_whole_float32 = Switch(_turn_tf32_off, _turn_tf32_back)
_float32_sums = Switch(_turn_16_bit_sums_off, _turn_16_bit_sums_back)

"""A `cupy` over numpy, with no more than `engine.backends.cupy_` uses, as strict about host arrays as the real one."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any, Self

import numpy as np
import pytest


class DeviceArray(np.ndarray):
    """What numpy functions refuse, and operators do not mix with host arrays."""

    def __array_function__(self, func: Any, *rest: Any) -> Any:
        raise TypeError(f"{func.__name__} of numpy given an array of the device")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = (), **more: Any) -> Any:
        if any(type(x) is np.ndarray and x.ndim for x in (*inputs, *out)):
            raise TypeError(f"{ufunc.__name__} mixes host and device")
        result = getattr(ufunc, method)(*map(host, inputs), out=tuple(map(host, out)) or None, **more)
        return out[0] if out else device(result)


def host(x: Any) -> Any:
    return x.view(np.ndarray) if isinstance(x, DeviceArray) else x


def device(x: Any) -> Any:
    return np.asarray(x).view(DeviceArray)


def of_device(function: Any) -> Any:
    """A numpy function for arrays of the device only."""

    def call(*arguments: Any, **more: Any) -> Any:
        arrays = [a for each in arguments for a in (each if isinstance(each, list) else [each])]
        if any(type(a) is np.ndarray for a in arrays):
            raise TypeError(f"{function.__name__} given a host array")
        plain = [[host(a) for a in each] if isinstance(each, list) else host(each) for each in arguments]
        result = function(*plain, **more)
        return tuple(map(device, result)) if isinstance(result, tuple) else device(result)

    return call


def syrk(trans: str, a: Any, out: Any = None, alpha: float = 1.0, beta: float = 0.0, lower: bool = False) -> Any:
    assert trans == "T" and alpha == 1.0 and beta == 1.0 and lower
    assert a.dtype == out.dtype and a.dtype.char in "fd" and out.shape == (a.shape[1],) * 2
    assert out.flags.c_contiguous or out.flags.f_contiguous
    x, c = host(a), host(out)
    c += np.tril(x.T @ x)
    return out


def ger(alpha: float, x: Any, y: Any, a: Any) -> None:
    assert a.dtype == x.dtype == y.dtype and a.shape == (len(x), len(y)) and x.flags.c_contiguous
    c = host(a)
    c += alpha * np.outer(host(x), host(y))


class Device:
    current = 0

    def __init__(self, number: int) -> None:
        self.number = number

    def use(self) -> Self:
        Device.current = self.number
        return self


class Stream:
    current: Stream

    def __init__(self, non_blocking: bool = False) -> None:
        self.log: list[str] = []

    def record(self) -> str:
        return "event"

    def wait_event(self, event: str) -> None:
        self.log.append("waits")

    def synchronize(self) -> None:
        self.log.append("done")

    def __enter__(self) -> Self:
        self._before, Stream.current = Stream.current, self
        return self

    def __exit__(self, *exc: object) -> None:
        Stream.current = self._before


Stream.current = Stream()


def install(patch: pytest.MonkeyPatch, devices: int = 2) -> ModuleType:
    """Have `import cupy` give this."""
    cupy, cublas, linalg = (ModuleType(name) for name in ("cupy", "cupy.cublas", "cupy.linalg"))
    cupy.__spec__ = ModuleSpec("cupy", None)
    for name in ("tril", "where", "concatenate", "ascontiguousarray"):
        setattr(cupy, name, of_device(getattr(np, name)))
    for name in ("eigh", "eigvalsh", "qr"):
        setattr(linalg, name, of_device(getattr(np.linalg, name)))

    def array(x: Any, order: str = "K") -> Any:
        if x.dtype.kind == "V" or x.dtype.name == "bfloat16":
            raise TypeError(f"Unsupported dtype {x.dtype}")
        return device(np.array(host(x), order=order, copy=True))

    more: dict[str, Any] = {
        "array": array,
        "asnumpy": lambda x: np.array(host(x)),
        "zeros": lambda shape, dtype: device(np.zeros(shape, dtype)),
        "empty": lambda shape, dtype: device(np.full(shape, np.nan, dtype)),
        "cuda": SimpleNamespace(
            Device=Device,
            Stream=Stream,
            get_current_stream=lambda: Stream.current,
            runtime=SimpleNamespace(getDeviceCount=lambda: devices, CUDARuntimeError=RuntimeError),
        ),
        "cublas": cublas,
        "linalg": linalg,
    }
    for name, value in more.items():
        setattr(cupy, name, value)
    cublas.syrk, cublas.ger = syrk, ger  # type: ignore[attr-defined]
    for module in (cupy, cublas, linalg):
        patch.setitem(sys.modules, module.__name__, module)
    patch.setattr("engine.backends._has_nvidia_device", lambda: True)
    return cupy

"""One table from device name to backend.

A name is a kind in `BACKENDS`, which for kinds with several devices may be followed by a number: "cuda:1".

What "auto" means, and why
--------------------------
CUDA when torch is installed and finds a CUDA device; that is what `choose` says. On a CPU it says numpy/scipy, and a
matrix that is solved by its moments may have torch instead: see `engine.plan.choice.device_for`, which decides matrix
by matrix. Processor seconds of one thread on a server processor with AMX, 4096 rows folded + the eigenproblem with a
few dozen vectors:

    width  rows        numpy/scipy     torch (MKL, oneDNN)
     1024  float64     0.06 + 0.08     0.07 + 0.17
     1024  bfloat16    0.03 + 0.08     0.02 + 0.13
     2048  float64     0.23 + 0.60     0.25 + 0.43
     2048  bfloat16    0.11 + 0.60     0.06 + 0.34
     4096  float64     0.85 + 4.4      0.96 + 2.3
     4096  bfloat16    0.38 + 4.4      0.20 + 1.7

torch finds eigenvalues without vectors in less than half the time of scipy's tridiagonal form from width 2048 on, and
multiplies bfloat16 rows through AMX where the processor has it. Against that, `import torch` costs every worker process
1–2 s and about 165 MiB. For other methods there is nothing to be won: their eigenproblems need all vectors, of which
torch makes no few, or are small.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from engine.backends.protocol import Backend


@dataclass(frozen=True, slots=True)
class Kind:
    """One entry of the table.

    Attributes
    ----------
    make : device name → backend.
    count : how many devices of this kind there are here; None for a kind that is always there, once.
    library : what counts them.
    """

    make: Callable[[str], Backend]
    count: Callable[[], int] | None = None
    library: str = ""


def _numpy(name: str) -> Backend:
    from engine.backends.numpy_ import NumpyBackend

    return NumpyBackend()


def _torch(name: str) -> Backend:
    _need("torch", "torch")
    from engine.backends.torch_ import TorchBackend

    return TorchBackend("cpu" if name == "torch" else name)


def _cupy(name: str) -> Backend:
    _need("cupy", "eigenzoo[cupy]")
    from engine.backends.cupy_ import CupyBackend

    return CupyBackend(name)


def _need(library: str, package: str) -> None:
    if find_spec(library) is None:
        raise EigenzooError(f"device: {library} is not installed; install {package}, or choose device 'cpu'")


def _torch_devices() -> int:
    # Importing torch is what costs, so look for a driver's device file first.
    if find_spec("torch") is None or not _has_nvidia_device():
        return 0
    import torch

    return int(torch.cuda.device_count()) if torch.cuda.is_available() else 0


def _cupy_devices() -> int:
    _need("cupy", "eigenzoo[cupy]")
    if not _has_nvidia_device():
        return 0
    import cupy

    try:
        return int(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError:  # no driver, or none that it can use
        return 0


BACKENDS: dict[str, Kind] = {
    "cpu": Kind(_numpy),
    "numpy": Kind(_numpy),
    "torch": Kind(_torch),
    "cuda": Kind(_torch, _torch_devices, "torch"),
    "cupy": Kind(_cupy, _cupy_devices, "cupy"),
}
# What may be asked for, as in help and refusals.
DEVICES = ("auto", *(form for kind in BACKENDS for form in ((kind, f"{kind}:N") if BACKENDS[kind].count else (kind,))))


def form_of(device: str) -> str:
    """`device` as it stands in `DEVICES`: "cuda:N" for "cuda:1"; whatever is not there is itself."""
    kind, colon, number = device.partition(":")
    return f"{kind}:N" if colon and number.isascii() and number.isdigit() else device


def choose(device: str = "auto") -> str:
    """The name that `device` stands for on this machine: a kind in `BACKENDS`, or a kind and a number.

    Raises
    ------
    EigenzooError
        For a name that is not in `DEVICES`, and for a device that is not here, with how many there are.
    """
    if device == "auto":
        return "cuda" if _torch_devices() else "cpu"
    numbered = form_of(device) != device and form_of(device) in DEVICES
    if device not in BACKENDS and not numbered:
        raise EigenzooError(f"device: got {device!r}; choose {', '.join(DEVICES[:-1])} or {DEVICES[-1]}")
    name, _, number = device.partition(":")
    kind = BACKENDS[name]
    if kind.count is not None:
        there = kind.count()
        if not there:
            raise EigenzooError(f"device: no CUDA device is available to {kind.library} here; choose device 'cpu'")
        if number and int(number) >= there:
            last = f"{there} devices, {name}:0 to {name}:{there - 1}" if there > 1 else f"1 device, {name}:0"
            raise EigenzooError(f"device: got {device!r}; {kind.library} sees {last}")
    return f"{name}:{int(number)}" if number else name


def get_backend(device: str = "auto") -> Backend:
    """The backend for `device`: "auto", or a name as `choose` takes it."""
    name = choose(device)
    return BACKENDS[name.partition(":")[0]].make(name)


def _has_nvidia_device() -> bool:
    import os
    import sys

    if not sys.platform.startswith("linux"):
        return True
    return any(os.path.exists(device) for device in ("/dev/nvidiactl", "/dev/dxg"))

"""One table from device name to backend.

What "auto" means, and why
--------------------------
CUDA when torch is installed and finds a CUDA device; otherwise numpy/scipy. Never torch on the CPU. Seconds
on one core of a two-core x86-64 machine, 4096 float64 rows folded + the eigenproblem with K = width/16:

    width    numpy/scipy      torch (MKL)
      768    0.04 + 0.07      0.06 + 0.09
     1024    0.07 + 0.13      0.08 + 0.20
     2048    0.26 + 0.85      0.30 + 1.31
     4096    1.00 + 6.3       1.07 + 12.4

torch reaches neither syrk nor the tridiagonal form, so it computes every vector; with K = width/2 the two are
level at 2048. And `import torch` costs every worker process 1–2 s and about 165 MiB. "torch" stays available
for whoever has measured otherwise on their own machine.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from engine.backends.protocol import Backend


def _numpy() -> Backend:
    from engine.backends.numpy_ import NumpyBackend

    return NumpyBackend()


def _torch_cpu() -> Backend:
    return _torch("cpu")


def _torch_cuda() -> Backend:
    return _torch("cuda")


def _torch(device: str) -> Backend:
    if find_spec("torch") is None:
        raise EigenzooError("device: torch is not installed; install it, or choose device 'cpu'")
    from engine.backends.torch_ import TorchBackend

    return TorchBackend(device)


BACKENDS: dict[str, Callable[[], Backend]] = {
    "cpu": _numpy,
    "numpy": _numpy,
    "torch": _torch_cpu,
    "cuda": _torch_cuda,
}


def choose(device: str = "auto") -> str:
    """The name in `BACKENDS` that `device` stands for on this machine.

    Raises
    ------
    EigenzooError
        For a name that is not in the table, and for "cuda" where there is none.
    """
    if device == "auto":
        return "cuda" if _cuda_available() else "cpu"
    if device not in BACKENDS:
        raise EigenzooError(f"device: got {device!r}; choose auto, {', '.join(BACKENDS)}")
    if device == "cuda" and not _cuda_available():
        raise EigenzooError("device: no CUDA device is available to torch here; choose device 'cpu'")
    return device


def get_backend(device: str = "auto") -> Backend:
    """The backend for `device`: "auto", or a name in `BACKENDS`."""
    return BACKENDS[choose(device)]()


def _cuda_available() -> bool:
    # Importing torch is what costs, so look for a driver's device file first.
    if find_spec("torch") is None or not _has_nvidia_device():
        return False
    import torch

    return bool(torch.cuda.is_available())


def _has_nvidia_device() -> bool:
    import os
    import sys

    if not sys.platform.startswith("linux"):
        return True
    return any(os.path.exists(device) for device in ("/dev/nvidiactl", "/dev/dxg"))

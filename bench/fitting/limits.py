"""What the machine itself can do, in processes of their own: `python -m bench.fitting.limits NAME STORE`.

Rates of products are rows · width² per second: one multiply-add for each entry of one triangle counts as two
operations, as a syrk does them, whatever else a routine computes.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.fitting.data import ROOT, Store

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROWS = 4096  # of the block that is multiplied
_PANEL = 512
Figures = dict[str, float]


def read(store: Store) -> Figures:
    """Bytes per second of `preadv` over the chunk files in the page cache."""
    buffer = bytearray(store.chunk * store.nbytes // store.rows)

    def once() -> None:
        for path in store.files():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.preadv(handle, [buffer], 0)
            finally:
                os.close(handle)

    once()
    seconds = best(once, 3)
    return {"seconds": seconds, "bytes_per_s": store.nbytes / seconds}


def syrk(store: Store) -> Figures:
    from scipy.linalg.blas import dsyrk, ssyrk

    figures = {}
    for name, routine, dtype in (("ssyrk", ssyrk, np.float32), ("dsyrk", dsyrk, np.float64)):
        x = _noise(store.width).astype(dtype)
        c = np.zeros((store.width, store.width), dtype, order="F")

        def once(routine: Any = routine, x: Any = x, c: Any = c) -> None:
            routine(1.0, x.T, beta=1.0, c=c, lower=1, overwrite_c=1)

        once()
        figures[name] = _rate(store.width, best(once, 5))
    return figures


def bfloat16(store: Store) -> Figures:
    """Through torch: float32 operands that hold bfloat16 values, which oneDNN may multiply in matrix units."""
    import torch

    torch.set_float32_matmul_precision("medium")
    x = torch.from_numpy(_noise(store.width)).bfloat16().float()
    out = torch.empty((store.width, store.width))

    def full() -> None:
        torch.mm(x.T, x, out=out)

    def panels() -> None:
        _panels(x, out)

    figures = {}
    for name, once in (("bf16 full", full), ("bf16 panels", panels)):
        once()
        figures[name] = _rate(store.width, best(once, 7))
    return figures


def product(store: Store) -> Figures:
    """Seconds of the products alone that a store's scatter takes: all its rows, by each routine that is exact enough.

    That is float64's for float32 values (see the numerics); for 16 bits float32's, and bfloat16's own.
    """
    import torch
    from scipy.linalg.blas import dsyrk, ssyrk

    blocks, figures = store.rows / max(_ROWS, store.width), {}
    wanted = {"float16": ("ssyrk",), "bfloat16": ("ssyrk", "bf16 panels")}.get(store.dtype, ("dsyrk",))
    torch.set_float32_matmul_precision("medium")
    for name in wanted:
        if name == "bf16 panels":
            t = torch.from_numpy(_noise(store.width)).bfloat16().float()
            out = torch.empty((store.width, store.width))

            def once(t: Any = t, out: Any = out) -> None:
                _panels(t, out)
        else:
            routine, dtype = (ssyrk, np.float32) if name == "ssyrk" else (dsyrk, np.float64)
            x = _noise(store.width).astype(dtype)
            c = np.zeros((store.width, store.width), dtype, order="F")

            def once(routine: Any = routine, x: Any = x, c: Any = c) -> None:
                routine(1.0, x.T, beta=1.0, c=c, lower=1, overwrite_c=1)

        once()
        begin = time.perf_counter()
        for _ in range(math.ceil(blocks)):
            once()
        figures[name] = (time.perf_counter() - begin) * blocks / math.ceil(blocks)
    return figures


def eigen(store: Store) -> Figures:
    """Seconds of one symmetric eigenproblem of that width, values alone and with all vectors."""
    import torch
    from scipy.linalg import eigh

    x = _noise(store.width).astype(np.float64)
    c64: NDArray[Any] = x.T @ x
    c32 = c64.astype(np.float32)
    t64, t32 = torch.from_numpy(c64), torch.from_numpy(c32)
    torch.linalg.eigvalsh(t64[:128, :128])
    eigh(c64[:128, :128])
    scipy64: dict[str, Any] = {"check_finite": False, "driver": "evd"}
    solvers: dict[str, Callable[[], Any]] = {
        "values torch float32": lambda: torch.linalg.eigvalsh(t32),
        "values torch float64": lambda: torch.linalg.eigvalsh(t64),
        "values scipy float32": lambda: eigh(c32, eigvals_only=True, **scipy64),
        "values scipy float64": lambda: eigh(c64, eigvals_only=True, **scipy64),
        "full torch float32": lambda: torch.linalg.eigh(t32),
        "full torch float64": lambda: torch.linalg.eigh(t64),
        "full scipy float64": lambda: eigh(c64, **scipy64),
        "full scipy float64 evr": lambda: eigh(c64, check_finite=False, driver="evr"),
    }
    return {name: best(solve, 3 if name.startswith("values") else 1) for name, solve in solvers.items()}


PER_STORE: dict[str, Callable[[Store], Figures]] = {"read": read, "product": product}
PER_WIDTH: dict[str, Callable[[Store], Figures]] = {"syrk": syrk, "bfloat16": bfloat16, "eigen": eigen}


def measured(name: str, store: Store, env: dict[str, str]) -> Figures:
    """The figures of one limit, from a process of its own; empty, with a word on stderr, where it cannot be had."""
    command = [sys.executable, "-m", "bench.fitting.limits", name, json.dumps(asdict(store))]
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1])) if done.returncode == 0 else {}


def best(call: Callable[[], Any], times: int) -> float:
    """Seconds of the fastest of some calls."""
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def _panels(x: Any, out: Any) -> None:
    """One triangle of xᵀx, a panel of columns at a time."""
    for left in range(0, x.shape[1], _PANEL):
        out[left:, left : left + _PANEL] = x[:, left:].T @ x[:, left : left + _PANEL]


def _noise(width: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((max(_ROWS, width), width), np.float32)


def _rate(width: int, seconds: float) -> float:
    return max(_ROWS, width) * width * width / seconds


if __name__ == "__main__":
    print(json.dumps((PER_STORE | PER_WIDTH)[sys.argv[1]](Store(**json.loads(sys.argv[2])))))

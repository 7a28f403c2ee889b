"""Rates of this machine, measured in less than a second a device: by the engine's own verbs on small matrices.

A fold is timed at two widths, which tells what a value costs apart from its product. An eigenproblem is timed at one
order; from there `engine.plan.rates` goes on along a documented curve. Where a task has one thread, what is measured is
the thread's own processor time, so that others at work on the machine disturb it little; they will disturb the fit.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.backends import get_backend
from engine.eigen import BLOCK
from engine.plan.rates import KINDS, REFERENCE, Rates, default_rates, relative
from engine.reductions.moments import Moments

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.backends.protocol import Backend
    from engine.rows import RowSource

# Rows × width of the blocks that are folded, each as large as a read: operands of 16 bits need a wide one to be slow.
_NARROW, _WIDE, _WIDE_16 = (4096, 512), (1365, 1536), (512, 4096)
_THIN = 2048  # order of the matrix that vectors are multiplied with
_SMALL = 512  # order at which all vectors are timed, where they take longest
_READ_BYTES = 32 * 2**20
_STORED_SHARE = 0.45  # of a plain read: rows in chunks


def calibrate(device: str, rows: RowSource | None = None, *, threads: int | None = 1) -> Rates:
    """Measure a device that is here.

    Parameters
    ----------
    device : name of a backend.
    rows : whose reading is timed; a plain file without.
    threads : of a task: 1 as workers have, None for as many as there are.

    Raises
    ------
    EigenzooError
        If the device is not here.
    """
    backend = get_backend(device)
    backend.load()
    begin = time.perf_counter()
    with _threads(backend, threads):
        clock = time.process_time if threads == 1 and device in ("cpu", "numpy", "torch") else time.perf_counter
        watch = _Watch(backend, clock)
        values, gram = watch.folds()
        thin, eigen = watch.thin(), watch.eigen()
        copy = watch.copy()
    read = _read_rows(rows) if rows is not None else _read_file()
    base = default_rates(device)
    seconds = time.perf_counter() - begin
    return Rates(
        device=device,
        source=f"measured here in {seconds:.1f} s, {'one thread' if threads == 1 else 'all threads'} a task",
        measured=True,
        values_per_s={**base.values_per_s, **values},
        gram_flops_per_s={**base.gram_flops_per_s, **gram},
        thin_flops_per_s=thin,
        eigen_us=eigen,
        read_bytes_per_s=read,
        copy_bytes_per_s=copy,
        network_bytes_per_s=base.network_bytes_per_s,
        start_us=base.start_us,
    )


class _Watch:
    """A backend, timed."""

    def __init__(self, backend: Backend, clock: Callable[[], float]) -> None:
        self.b, self.clock = backend, clock
        self.rng = np.random.default_rng(0)

    def seconds(self, act: Callable[[], Any], times: int = 2) -> float:
        """The least of several times. What a device has queued is done when a number is fetched from it."""
        least = float("inf")
        for _ in range(times):
            begin = self.clock()
            act()
            self._settle()
            least = min(least, self.clock() - begin)
        return max(least, 1e-7)

    def _settle(self) -> None:
        self.b.to_host(self.b.vector(1))

    def folds(self) -> tuple[dict[str, int], dict[str, int]]:
        """Values and operations per second, by products."""
        import ml_dtypes

        values, gram = {}, {}
        kinds: dict[str, Any] = {self.b.products("bfloat16"): ml_dtypes.bfloat16, "float64": np.float32}
        for products, dtype in kinds.items():
            shapes = _NARROW, _WIDE_16 if products in ("bfloat16", "float16") else _WIDE
            # seconds = values · (a + b · width), twice
            narrow, wide = (self._fold(products, self._rows(*shape, dtype)) / math.prod(shape) for shape in shapes)
            b = max((wide - narrow) / (shapes[1][1] - shapes[0][1]), wide / shapes[1][1] / 10)
            a = max(narrow - b * shapes[0][1], narrow / 10)
            values[products], gram[products] = int(1 / a), int(1 / b)
        return values, gram

    def _rows(self, n: int, d: int, dtype: Any) -> NDArray[Any]:
        return (self.rng.random((n, d), np.float32) - np.float32(0.5)).astype(dtype)

    def _fold(self, products: str, block: NDArray[Any]) -> float:
        reduction = Moments(block.shape[1], self.b, products)
        state = reduction.start()

        def fold() -> None:
            reduction.step(state, block)
            self.b.diagonal(state.scatter)

        fold()
        return self.seconds(fold)

    def thin(self) -> int:
        """Operations per second of a square matrix with a block of vectors."""
        c, v = self._symmetric(_THIN), self.b.matrix(self.rng.random((_THIN, BLOCK)))

        def multiply() -> None:
            self.b.to_host(self.b.matmul(c, v))

        multiply()
        return int(2 * _THIN * _THIN * BLOCK / self.seconds(multiply, 3))

    def eigen(self) -> dict[str, int]:
        """Microseconds of an eigenproblem of every kind, at the order of `REFERENCE`."""
        timed = ("float64", "float32") if self.b.values_alone else ("whole",)
        self.b.eigenvalues(self._symmetric(256), "float32")  # the first call of a library sets it up
        seconds = {kind: self._eigen(kind, REFERENCE[kind]) for kind in timed}
        # Where values alone are not cheap, they are the whole; where they are, the whole is all vectors.
        other = self._eigen("vectors", _SMALL) / relative("vectors", _SMALL) if self.b.values_alone else None
        at_1024 = seconds["whole"] if other is None else other
        for kind in KINDS:
            # Values alone cost scipy the whole, and all vectors about three times as much.
            times = 3.0 if kind == "vectors" else relative("whole", REFERENCE[kind])
            seconds.setdefault(kind, at_1024 * (times if other is None else 1.0))
        return {kind: int(s * 1e6) for kind, s in seconds.items()}

    def _eigen(self, kind: str, order: int) -> float:
        c = self._symmetric(order)
        if kind in ("whole", "vectors"):
            return self.seconds(lambda: self.b.eigen(c), 1)
        return self.seconds(lambda: self.b.eigenvalues(c, kind), 1)

    def _symmetric(self, order: int) -> Any:
        c = self.b.square(order)
        self.b.add(c, self.b.matrix(self.rng.random((order, order))))
        self.b.mirror(c)
        return c

    def copy(self) -> int:
        """Bytes per second of float64 values added to others."""
        a, b = self.b.square(_THIN), self.b.square(_THIN)
        self.b.add(a, b)
        return int(8 * _THIN**2 / self.seconds(lambda: self.b.add(a, b), 3))


@contextlib.contextmanager
def _threads(backend: Backend, threads: int | None) -> Iterator[None]:
    if threads is None:
        yield
        return
    from threadpoolctl import threadpool_limits

    with threadpool_limits(threads):
        yield


def _read_rows(rows: RowSource) -> int:
    """Bytes per second of reading rows for the second time: from the page cache, where they fit it."""
    stop = min(rows.shape[0], max(rows.block_rows, _READ_BYTES // (rows.shape[1] * rows.dtype.itemsize)))
    best = 0.0
    for _ in range(2):
        begin = time.perf_counter()
        nbytes = rows.read(0, stop).nbytes
        best = max(best, nbytes / max(time.perf_counter() - begin, 1e-7))
    return max(1, int(best))


def _read_file() -> int:
    """Bytes per second of what a store gives, from a plain file's."""
    with tempfile.TemporaryFile() as file:
        file.write(bytes(_READ_BYTES))
        best = 0.0
        for _ in range(2):
            file.seek(0)
            begin = time.perf_counter()
            file.readinto(bytearray(_READ_BYTES))
            best = max(best, _READ_BYTES / max(time.perf_counter() - begin, 1e-7))
    return int(best * _STORED_SHARE)

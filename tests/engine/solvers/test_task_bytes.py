"""The memory promise of the methods that need no scatter: measured ≤ stated."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine.solvers.task_bytes import incremental_task_bytes, randomized_task_bytes, tsqr_task_bytes

MIB = 2**20

CODE = """
import sys
import numpy as np, engine

class Drawn:  # rows that occupy nothing until they are read
    def __init__(self, n, width, block_rows):
        self.shape, self.dtype, self.block_rows = (n, width), np.dtype('float32'), block_rows
        self.offsets, self.identity = np.array([0, n]), ''
    def read(self, start, stop):
        return np.random.default_rng(start).random((stop - start, self.shape[1]), dtype=np.float32)

def status(name):
    return next(int(l.split()[1]) * 1024 for l in open('/proc/self/status') if l.startswith(name))

n, width, block_rows, device, method = *map(int, sys.argv[1:4]), *sys.argv[4:6]
k = int(sys.argv[6]) if sys.argv[6] != 'None' else 'gavish-donoho'
engine.fit(Drawn(300, 200, 64), min(k, 20) if k != 'gavish-donoho' else k, device=device, method=method)
open('/proc/self/clear_refs', 'w').write('5')
before = status('VmRSS')
engine.fit(Drawn(n, width, block_rows), k, device=device, method=method)
print(status('VmHWM') - before)
"""


def stated(method: str, n: int, width: int, block_rows: int, k: int | None) -> int:
    if method == "tsqr":
        return tsqr_task_bytes(n, width, block_rows, 4)
    count = {"randomized": randomized_task_bytes, "incremental": incremental_task_bytes}[method]
    return count(n, width, block_rows, 4, k)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("device", ["cpu", "torch"])
@pytest.mark.parametrize(
    ("method", "n", "width", "block_rows", "k"),
    [
        ("randomized", 3000, 6000, 500, 32),
        ("randomized", 2500, 3000, 500, None),
        ("randomized", 60000, 128, 500, 8),
        ("incremental", 3000, 6000, 500, 24),
        ("incremental", 2500, 3000, 500, None),
        ("incremental", 60000, 128, 500, 8),
        ("tsqr", 1500, 1024, 500, 8),
        ("tsqr", 40000, 128, 40000, 8),
    ],
)
def test_measured_is_within_stated(
    method: str, n: int, width: int, block_rows: int, k: int | None, device: str
) -> None:
    if device == "torch":
        pytest.importorskip("torch")
    arguments = [str(n), str(width), str(block_rows), device, method, str(k)]
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    measured, promised = int(done.stdout), stated(method, n, width, block_rows, k)
    print(f"measured {measured / MIB:.0f} MiB, stated {promised / MIB:.0f} MiB")
    assert measured <= promised, f"measured {measured / MIB:.0f} MiB, stated {promised / MIB:.0f} MiB"
    timid = f"measured {measured / MIB:.0f} MiB, stated {promised / MIB:.0f} MiB: too timid"
    assert promised <= 4 * measured or promised <= measured + 100 * MIB, timid


def test_a_sketch_is_for_widths_whose_scatter_does_not_fit() -> None:
    width = 60_000
    scatter = 8 * width * width
    assert 16 * randomized_task_bytes(10**6, width, 256, 2, 64) < scatter
    assert 16 * incremental_task_bytes(10**6, width, 256, 2, 64) < scatter

"""The memory promise: what a task takes above its warmed-up process stays within what was stated."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine.memory import MIB, check, dual_task_bytes, primal_task_bytes
from ingest.errors import EigenzooError

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

n, width, block_rows, device = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
for shape in ((300, 200), (200, 300)):
    engine.fit(Drawn(*shape, 64), 'ev:1', device=device)
open('/proc/self/clear_refs', 'w').write('5')
before = status('VmRSS')
engine.fit(Drawn(n, width, block_rows), 'ev:1', device=device)
print(status('VmHWM') - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("device", ["cpu", "torch"])
@pytest.mark.parametrize(
    ("n", "width", "block_rows"),
    [(2100, 2048, 500), (70000, 256, 70000), (1000, 6000, 200), (1500, 1600, 100)],
)
def test_measured_is_within_stated(n: int, width: int, block_rows: int, device: str) -> None:
    if device == "torch":
        pytest.importorskip("torch")
    arguments = [str(n), str(width), str(block_rows), device]
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    measured = int(done.stdout)
    stated = dual_task_bytes(n, width, 4) if n < width else primal_task_bytes(n, width, block_rows, 4)
    assert measured <= stated, f"measured {measured / MIB:.0f} MiB, stated {stated / MIB:.0f} MiB"
    assert stated <= 4 * measured, f"measured {measured / MIB:.0f} MiB, stated {stated / MIB:.0f} MiB: too timid"


def test_check() -> None:
    check(10, None, "x")
    check(10, 10, "x")
    with pytest.raises(EigenzooError, match="layer: needs 2 MiB per task, allowed 1 MiB"):
        check(MIB + 1, MIB, "layer")

"""The memory promise: what a task takes above its warmed-up process stays within what was stated."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine.memory import MIB, check, size_text, task_bytes
from ingest.errors import EigenzooError

CODE = """
import sys
import ml_dtypes, numpy as np, engine

class Drawn:  # rows that occupy nothing until they are read
    def __init__(self, n, width, block_rows, dtype):
        self.shape, self.block_rows = (n, width), block_rows
        self.dtype = np.dtype(ml_dtypes.bfloat16 if dtype == 'bfloat16' else dtype)
        self.offsets, self.identity = np.array([0, n]), ''
    def read(self, start, stop):
        x = np.random.default_rng(start).random((stop - start, self.shape[1]), dtype=np.float32)
        return x.astype(self.dtype, copy=False)

def status(name):
    return next(int(l.split()[1]) * 1024 for l in open('/proc/self/status') if l.startswith(name))

n, width, block_rows = map(int, sys.argv[1:4])
dtype, device, spectrum, refine, k = sys.argv[4:]
settings = dict(device=device, spectrum=spectrum, refine=refine == 'refine')
for shape in ((900, 800), (200, 300)):
    engine.fit(Drawn(*shape, 64, dtype), 'ev:0.5', **settings)
open('/proc/self/clear_refs', 'w').write('5')
before = status('VmRSS')
engine.fit(Drawn(n, width, block_rows, dtype), k, **settings)
print(status('VmHWM') - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("device", ["cpu", "torch"])
@pytest.mark.parametrize(
    ("n", "width", "block_rows", "dtype", "spectrum", "refine", "k"),
    [
        (2100, 2048, 500, "float32", "full", "", "ev:1"),  # every vector
        (2100, 2048, 500, "float32", "full", "", "8"),
        (1800, 1600, 500, "bfloat16", "full", "", "ev:1"),  # float32 products beside the float64 sums
        (1800, 1600, 500, "bfloat16", "full", "", "ev:0.1"),
        (1800, 1600, 500, "bfloat16", "top", "", "8"),
        (1800, 1600, 500, "float32", "top", "", "150"),
        (1700, 1536, 500, "bfloat16", "full", "refine", "8"),  # one more pass, on all components
        (70000, 256, 70000, "float32", "full", "", "ev:1"),
        (1000, 6000, 200, "float32", "full", "", "ev:1"),  # dual
        (1000, 6000, 200, "float32", "full", "", "8"),
    ],
)
def test_measured_is_within_stated(
    n: int, width: int, block_rows: int, dtype: str, spectrum: str, refine: str, k: str, device: str
) -> None:
    pytest.importorskip("ml_dtypes")
    if device == "torch":
        pytest.importorskip("torch")
    arguments = [*map(str, (n, width, block_rows)), dtype, device, spectrum, refine, k]
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    measured = int(done.stdout)
    stated = task_bytes(
        "dual" if n < width else "moments",
        n,
        width,
        block_rows,
        2 if dtype == "bfloat16" else 4,
        device=device,
        coarse=dtype == "bfloat16",
        components=int(k) if k.isdigit() else None,
        spectrum=spectrum,
        refine=bool(refine),
    )
    figures = f"measured {measured / MIB:.0f} MiB, stated {stated / MIB:.0f} MiB"
    print(figures)
    assert measured <= stated, figures
    assert stated <= 4 * measured, f"{figures}: too timid"


def test_what_is_asked_for_decides_what_is_stated() -> None:
    def stated(**settings: object) -> int:
        return task_bytes("moments", 160_000, 4096, 512, 2, **settings)  # type: ignore[arg-type]

    square = 8 * 4096**2
    assert stated(components=8) < stated(components=None)
    # Whether small singular values are refined may turn out on the way: then there must be room for it.
    assert stated(refine=None) == stated(refine=True) > 16 * square > stated(refine=False)
    assert stated() - stated(components=8) < 4 * square


def test_a_matrix_that_one_task_does_holds_one_state_however_many_rows() -> None:
    few, many = (task_bytes("moments", n, 8192, 256, 2, components=8) for n in (100_000, 10_000_000))
    assert few == many < 6 * 8 * 8192**2


def test_check() -> None:
    check(10, None, "x")
    check(10, 10, "x")
    with pytest.raises(EigenzooError, match="layer: needs 2 MiB per task, allowed 1 MiB"):
        check(MIB + 1, MIB, "layer")
    assert size_text(MIB) == "1 MiB" and size_text(3 * 2**29) == "1.5 GiB" and size_text(200 * 2**30) == "200 GiB"

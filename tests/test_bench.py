"""The memory promise at a real size; the ratio of times is the bench's own to print."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench" / "ingest_and_fit.py"


@pytest.mark.slow
def test_peaks_stay_bounded_at_four_times_the_adapters(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    subprocess.run([sys.executable, str(BENCH), "--repeats", "3", "--out", str(out)], check=True)
    small, large = json.loads(out.read_text())
    assert large["adapters"] == 4 * small["adapters"] == 4000 and large["fit"]["k"]
    for what in ("ingest", "fit"):
        assert small[what]["peak"] < 256 << 20
        assert large[what]["peak"] < 1.1 * small[what]["peak"]

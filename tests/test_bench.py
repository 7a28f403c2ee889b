"""What the benches promise of memory and accuracy; ratios of times are their own to print."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "bench" / "ingest_and_fit.py"
APPROXIMATE = ("ours randomized", "ours incremental")  # a small matrix says nothing of their errors


@pytest.mark.slow
def test_peaks_stay_bounded_at_four_times_the_adapters(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    subprocess.run([sys.executable, str(BENCH), "--repeats", "3", "--out", str(out)], check=True)
    small, large = json.loads(out.read_text())
    assert large["adapters"] == 4 * small["adapters"] == 4000 and large["fit"]["k"]
    for what in ("ingest", "fit"):
        assert small[what]["peak"] < 256 << 20
        assert large[what]["peak"] < 1.1 * small[what]["peak"]


@pytest.mark.slow
def test_fits_are_accurate_and_peers_may_be_missing(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    command = [sys.executable, "-m", "bench.fitting", "--quick", "--only", "ours|gram loop|fbpca", "--no-limits"]
    subprocess.run([*command, "--data", str(tmp_path / "data"), "--out", str(out)], check=True, cwd=ROOT)
    rows = json.loads(out.read_text())["rows"]
    assert {row["contestant"] for row in rows} >= {"ours", "ours top", "ours gram pass", "numpy gram loop", "fbpca"}
    for row in rows:
        assert row["status"] in ("ok", "absent"), row["reason"]
        if row["contestant"] in ("ours", "numpy gram loop"):
            assert row["same"]  # every singular value within 1e-6 of the largest, and K
        if row["kind"] == "ours" and row["error_top"] is not None and row["contestant"] not in APPROXIMATE:
            assert row["error_top"] <= 1e-6 and row["error_angle"] <= 1e-4


def test_gpu_bench_runs_at_a_tiny_size_on_the_cpu(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    out, script = tmp_path / "figures.json", ROOT / "bench" / "gpu.py"
    subprocess.run([sys.executable, str(script), "--cpu", "--out", str(out)], check=True, stdout=subprocess.DEVNULL)
    figures = json.loads(out.read_text())
    assert figures["machine"]["device"] == "CPU" and set(figures) >= {"copy", "gram", "eigen", "zoo"}
    assert figures["zoo"]["same"] and all(kind["error_spikes"] < 1e-5 for kind in figures["gram"])
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    refused = subprocess.run([sys.executable, str(script)], env=hidden, capture_output=True, text=True)
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1 and "no CUDA device" in refused.stderr


@pytest.mark.slow
def test_rules_for_k_keep_their_promises(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    command = [sys.executable, str(ROOT / "bench" / "rank_rules.py"), "--quick", "--draws", "5", "--out", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # fails where noise that misleads is not flagged
    rows = json.loads(out.read_text())["rows"]
    white = [row for row in rows if row["noise"] in ("white", "uniform")]
    assert len(rows) == 32 and len(white) == 8
    for row in white:
        assert row["white"] is True
        assert {row["k"][rule] for rule in ("gavish-donoho", "bulk-edge", "screenot")} == {row["true"]}

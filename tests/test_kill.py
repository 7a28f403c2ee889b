"""Killed at any moment, a second start does the rest, and every reader sees a whole commit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.run import Run, open_run
from engine.zoo_fit import fit_zoo
from ingest import synthetic
from ingest.pipeline import ingest
from ingest.store.reader import open_zoo
from ingest.store.root import read_commit
from ingest.verify import verify
from tests.ingest.builders import factors, write_peft_folder
from tests.ingest.test_pipeline import contents

LAYERS = tuple(synthetic.Layer(f"layers.{i}.q", 64 + 16 * (i % 3), 48, 3, 2) for i in range(4))
SETTINGS = synthetic.Settings(LAYERS, adapters=36, seed=7)

# Small batches and chunks, so that a kill finds many commits and partial chunks to fall between.
INGEST = """
import sys, ingest.pipeline as p, ingest.store.schema as s, ingest.store.writer, zarr
import ingest.memory, os
if os.environ.get("THREADS"):
    ingest.memory.THREADED_BYTES = 0
p.BATCH_BYTES = 60_000; s.MIN_CHUNK_BYTES = s.MAX_CHUNK_BYTES = 4096
print("ready", flush=True)
p.ingest(sys.argv[1], sys.argv[2])
"""
FIT = """
import sys, scipy.linalg, zarr
from engine.zoo_fit import fit_zoo
import engine.exact, engine.subspace, safetensors.numpy
print("ready", flush=True)
fit_zoo(sys.argv[1], sys.argv[2])
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kill") / "in"
    synthetic.write(folder, SETTINGS)
    rng = np.random.default_rng(0)
    for i in range(6):  # no name for the base, other tensors beside the factors, layers and shapes of their own
        layers = {f"layers.{la}.q": factors(rng, 4, 64 + 16 * (la % 3), 48) for la in (i % 4, (i + 1) % 4)}
        layers[f"layers.{4 + i % 3}.q"] = factors(rng, 4, 32 + 8 * (i // 3), 48)
        head = {"base_model.model.head.weight": rng.standard_normal((7, 48)).astype(np.float32)}
        write_peft_folder(folder / f"task-001{i}-unnamed", layers, extras=head, base_model_name_or_path=None)
    return folder


@pytest.fixture(scope="module")
def zoo(source: Path) -> Path:
    path = source.parent / "whole.zarr"
    ingest(source, path)
    return path


def start(code: str, *arguments: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def duration(code: str, *arguments: Path) -> float:
    process = start(code, *arguments)
    begin = time.monotonic()
    assert process.wait() == 0
    return time.monotonic() - begin


def kill_after(process: subprocess.Popen[str], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()


def ledger_and_values(path: Path) -> dict[str, Any]:
    """All that a zoo says, whichever commits it took and whatever places its batches gave the refused ones."""
    found = contents(open_zoo(path))
    found["adapters"] = sorted(found["adapters"])
    return found


def test_ingest_killed_at_twenty_random_moments(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = duration(INGEST, source, tmp_path / "undisturbed")
    wanted = ledger_and_values(tmp_path / "undisturbed")
    names = [r.name for r in open_zoo(tmp_path / "undisturbed").accepted]
    versions = set()
    rng = random.Random(0)
    for i in range(20):
        monkeypatch.setenv("THREADS", "1" if i % 2 else "")
        path = tmp_path / f"z{i}"
        kill_after(start(INGEST, source, path), rng.uniform(0, seconds))
        commit = read_commit(str(path))
        versions.add(commit.version if commit else 0)
        if commit is not None:
            left = open_zoo(path)
            assert [r.name for r in left.accepted] == names[: len(left.accepted)]
            assert verify(left).problems == ()
        again = start(INGEST, source, path)
        assert again.wait() == 0
        assert ledger_and_values(path) == wanted
        assert not list(path.rglob("*.partial*")) and not (path / "writing").exists()
    assert len(versions) > 3, "the kills fell on different commits"


def test_every_reader_sees_a_whole_commit_while_a_writer_writes_and_dies(tmp_path: Path, source: Path) -> None:
    path = tmp_path / "z"
    seen: list[int] = []
    stop = threading.Event()
    problems: list[object] = []

    def read() -> None:
        while not stop.is_set():
            if read_commit(str(path)) is None:
                continue
            snapshot = open_zoo(path)
            result = verify(snapshot)
            problems.extend(result.problems)
            seen.append(snapshot.commit.version)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for delay in (0.1, 0.2, 0.3):
            kill_after(start(INGEST, source, path), delay)
        assert start(INGEST, source, path).wait() == 0
    finally:
        stop.set()
        reader.join()
    assert problems == [] and seen == sorted(seen) and len(set(seen)) > 2


def results(run: Run) -> dict[tuple[str, str], tuple[bytes, ...]]:
    out = {}
    for m in run.matrices:
        s = run.subspace(m.layer, side=m.side)
        out[m.key] = (s.mean.tobytes(), s.components.tobytes(), s.singular_values.tobytes(), repr(m).encode())
    return out


def test_a_fit_killed_at_random_moments(tmp_path: Path, zoo: Path) -> None:
    seconds = duration(FIT, zoo, tmp_path / "undisturbed")
    wanted = results(open_run(tmp_path / "undisturbed"))
    assert len(wanted) == len(open_zoo(zoo).matrices) > 8
    rng = random.Random(1)
    done = set()
    for i in range(5):
        path = tmp_path / f"run{i}"
        kill_after(start(FIT, zoo, path), rng.uniform(0, seconds))
        if (path / "run.json").exists():
            before = results(open_run(path))
            assert all(wanted[key] == value for key, value in before.items())
            done.add(len(before))
        fit_zoo(zoo, path)
        assert results(open_run(path)) == wanted
        assert {p.name for p in path.rglob("*")} == {p.name for p in (tmp_path / "undisturbed").rglob("*")}
    assert len(done) > 1, "the kills fell on different matrices"


def test_dask_workers_killed_at_five_random_moments(tmp_path: Path, source: Path) -> None:
    from engine.runners.dask_ import DaskRunner

    layers = tuple(synthetic.Layer(f"layers.{i}.q", 512, 384, 3, 2) for i in range(16))
    synthetic.write(tmp_path / "in", synthetic.Settings(layers, adapters=80, broken=False))
    ingest(tmp_path / "in", tmp_path / "z")
    wanted = results(fit_zoo(tmp_path / "z", tmp_path / "serial"))
    rng = random.Random(2)
    killed = []
    with DaskRunner(workers=2) as runner:
        stop = threading.Event()

        def reap() -> None:
            while not stop.is_set() and len(killed) < 5:
                time.sleep(rng.uniform(0.02, 0.4))
                pids = list(runner._client.run(os.getpid).values()) if runner.n_workers else []
                if pids:
                    killed.append(rng.choice(sorted(pids)))
                    os.kill(killed[-1], signal.SIGKILL)

        thread = threading.Thread(target=reap)
        thread.start()
        rounds = 0
        try:
            while len(killed) < 5 or not rounds:
                run = fit_zoo(tmp_path / "z", tmp_path / f"dask{rounds}", runner=runner)
                found = results(run)
                assert found.keys() == wanted.keys()
                for key in wanted:
                    for mine, theirs in zip(found[key][:3], wanted[key][:3], strict=True):
                        assert np.allclose(np.frombuffer(mine), np.frombuffer(theirs), rtol=0, atol=1e-12)
                rounds += 1
        finally:
            stop.set()
            thread.join()
    assert len(killed) >= 5

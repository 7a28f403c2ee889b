"""A run that keeps states reads what came and went, and says the same as a fit of everything."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import engine
from engine.cli import main
from engine.exact import MomentsSolver
from engine.job import open_job
from engine.kept import state_file
from engine.kept.fit import kept_task_bytes
from engine.memory import MIB
from engine.methods import COARSE_WIDTH
from engine.reductions.protocol import Again
from engine.run import Run, open_run, read_record, state_path
from engine.runners.serial import SerialRunner
from engine.subspace import Subspace
from engine.zoo_fit import fit_zoo, run_job
from ingest import synthetic
from ingest.compact import compact
from ingest.errors import EigenzooError
from ingest.pipeline import ingest
from ingest.remove import remove
from ingest.settings import Settings
from ingest.store.reader import open_zoo
from ingest.store.rows import ZooRows
from tests.ingest.builders import factors, write_peft_folder

LAYERS = (synthetic.Layer("layers.0.q", 24, 16, 2, 2), synthetic.Layer("layers.1.q", 40, 32, 2, 2))
ADAPTERS = 30
UPDATE = """
import sys, scipy.linalg, zarr
from engine.zoo_fit import fit_zoo
import engine.exact, engine.subspace, engine.kept.fit, engine.kept.updates, safetensors.numpy
print("ready", flush=True)
fit_zoo(sys.argv[1], sys.argv[2])
"""


MEMORY = """
import sys, hashlib
import numpy as np
from engine.backends import get_backend
from engine.fitting import fit_reduction
from engine.kept.members import KEY_BYTES, Members
from engine.runners.serial import SerialRunner
from engine.kept.fit import KeptFit, Update

class Drawn:  # rows that occupy nothing until they are read
    def __init__(self, n, width, seed):
        self.shape, self.dtype, self.block_rows, self.seed = (n, width), np.dtype('float32'), 200, seed
        self.offsets, self.identity = np.array([0, n]), ''
    def read(self, start, stop):
        return np.random.default_rng(self.seed + start).random((stop - start, self.shape[1]), dtype=np.float32)

def status(name):
    return next(int(l.split()[1]) * 1024 for l in open('/proc/self/status') if l.startswith(name))

def keys(*names):
    return np.array([hashlib.sha256(n.encode()).digest()[:KEY_BYTES] for n in names], f'V{KEY_BYTES}')

def go(width, path):
    rows, added, removed = Drawn(width + 200, width, 0), Drawn(300, width, 10**6), Drawn(100, width, 0)
    make = lambda: fit_reduction(rows, 8, method='moments')
    facts = {'products': 'float64', 'wanted': 'auto', 'dtype': 'float32', 'n_adapters': 2, 'seen': None}
    held, wanted = Members.of(keys('a', 'b')), Members.of(keys('b', 'c'))
    SerialRunner().run(KeptFit(make(), path, facts, held, None), rows)
    update = Update(added, 1, removed, held.digest, wanted.digest, keys('c'), keys('a'))
    open('/proc/self/clear_refs', 'w').write('5')
    before = status('VmRSS')
    result = SerialRunner().run(KeptFit(make(), path, facts, None, update), added)
    assert result.n_rows == width + 400, result
    return status('VmHWM') - before

go(300, sys.argv[2])
print(go(int(sys.argv[1]), sys.argv[2]))
"""


class Reads:
    """Rows read of zoos, while it is in place."""

    def __init__(self) -> None:
        self.rows = 0

    def taken(self) -> int:
        rows, self.rows = self.rows, 0
        return rows


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reads]:
    counter, read = Reads(), ZooRows.read

    def counting(self: ZooRows, start: int, stop: int) -> Any:
        counter.rows += stop - start
        return read(self, start, stop)

    monkeypatch.setattr(ZooRows, "read", counting)
    yield counter


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("updates") / "in"
    synthetic.write(source, synthetic.Settings(LAYERS, adapters=ADAPTERS + 10, broken=False))
    return source


def names(first: int, last: int) -> list[str]:
    return [f"task-{i:04d}" for i in range(first, last)]


def put(folder: Path, zoo: Path, first: int, last: int) -> None:
    ingest([str(folder / name) for name in names(first, last)], zoo, Settings(readmit=True))


@pytest.fixture
def zoo(folder: Path, tmp_path: Path) -> Path:
    put(folder, tmp_path / "zoo", 0, ADAPTERS)
    return tmp_path / "zoo"


def same(found: Run, wanted: Run, tolerance: float = 1e-10) -> None:
    """All that a fresh fit says, up to rounding."""
    assert [m.key for m in found.matrices] == [m.key for m in wanted.matrices]
    for mine, theirs in zip(found.matrices, wanted.matrices, strict=True):
        left, right = found.subspace(*mine.key[:1], side=mine.side), wanted.subspace(theirs.layer, side=theirs.side)
        agree(left, right, tolerance)
        for name in ("rows", "n_adapters", "method", "k", "chosen", "note", "identity", "n_zero_variance_columns"):
            assert getattr(mine, name) == getattr(theirs, name), name


def agree(left: Subspace, right: Subspace, tolerance: float) -> None:
    scale = right.singular_values[0]
    assert np.abs(left.singular_values - right.singular_values).max() <= tolerance * scale
    assert np.abs(left.mean - right.mean).max() <= tolerance * max(1.0, np.abs(right.mean).max())
    assert left.components.shape == right.components.shape
    # The sines of the angles between the subspaces.
    apart = left.components - left.components @ right.components.T @ right.components
    assert np.linalg.norm(apart, 2) <= tolerance
    for name in ("n_rows", "n_adapters", "source", "passes", "exact", "settings", "center", "products"):
        assert getattr(left, name) == getattr(right, name), name


def rows_of(zoo: Path) -> int:
    return sum(m.rows for m in open_zoo(zoo).matrices)


def test_a_stream_of_adapters_is_read_once(folder: Path, zoo: Path, tmp_path: Path, reads: Reads) -> None:
    run = fit_zoo(zoo, tmp_path / "run", keep_state=True)
    assert reads.taken() == rows_of(zoo) == sum(m.rows_read or 0 for m in run.matrices)
    for at in range(ADAPTERS, ADAPTERS + 10, 2):
        before = rows_of(zoo)
        put(folder, zoo, at, at + 2)
        reads.taken()
        run = fit_zoo(zoo, tmp_path / "run")  # a run that keeps states goes on keeping them
        assert reads.taken() == rows_of(zoo) - before == sum(m.rows_read or 0 for m in run.matrices)
        assert fit_zoo(zoo, tmp_path / "run").matrices == run.matrices and reads.taken() == 0
    same(run, fit_zoo(zoo, tmp_path / "fresh"))


def test_one_in_a_hundred_comes_and_goes(tmp_path: Path, reads: Reads) -> None:
    layers = (synthetic.Layer("layers.0.q", 64, 48, 3, 2),)
    synthetic.write(tmp_path / "in", synthetic.Settings(layers, adapters=101, broken=False))
    put(tmp_path / "in", tmp_path / "zoo", 0, 100)
    zoo, out = tmp_path / "zoo", tmp_path / "run"
    fit_zoo(zoo, out, keep_state=True)
    fit_zoo(zoo, tmp_path / "without")
    before = rows_of(zoo)
    put(tmp_path / "in", zoo, 100, 101)
    new = rows_of(zoo) - before
    reads.taken()
    run = fit_zoo(zoo, out)
    assert reads.taken() <= 1.05 * new
    same(run, fit_zoo(zoo, tmp_path / "fresh"), 1e-10)
    remove(zoo, names(100, 101))
    reads.taken()
    run = fit_zoo(zoo, out)
    assert reads.taken() <= 1.05 * new
    same(run, open_run(tmp_path / "without"), 1e-9)


def test_adapters_come_go_and_are_replaced_at_once(folder: Path, tmp_path: Path, reads: Reads) -> None:
    folder, zoo = shutil.copytree(folder, tmp_path / "in"), tmp_path / "zoo"
    put(folder, zoo, 0, ADAPTERS)
    fit_zoo(zoo, tmp_path / "run", keep_state=True)
    remove(zoo, names(3, 6))
    put(folder, zoo, ADAPTERS, ADAPTERS + 1)
    shutil.rmtree(folder / "task-0002")
    shutil.move(folder / "task-0039", folder / "task-0002")
    put(folder, zoo, 2, 3)
    opened = open_zoo(zoo)
    assert [i for i, s in enumerate(opened.stored) if not s.live] == [2, 3, 4, 5]
    removed = sum(s.record.rows * 2 for s in opened.stored if not s.live)
    added = sum(s.record.rows * 2 for i, s in enumerate(opened.stored) if s.live and i >= ADAPTERS)
    reads.taken()
    run = fit_zoo(zoo, tmp_path / "run")
    assert reads.taken() == removed + added > 0
    same(run, fit_zoo(zoo, tmp_path / "fresh"), 1e-9)
    put(folder, zoo, 3, 6)  # they come back, after a compact that dropped their rows
    compact(zoo)
    assert fit_zoo(zoo, tmp_path / "run").matrices[0].n_adapters == ADAPTERS + 1
    same(open_run(tmp_path / "run"), fit_zoo(zoo, tmp_path / "fresh2"), 1e-9)


def test_a_compact_alone_changes_nothing(zoo: Path, tmp_path: Path, reads: Reads) -> None:
    remove(zoo, names(0, 2))
    run = fit_zoo(zoo, tmp_path / "run", keep_state=True)
    compact(zoo)
    reads.taken()
    assert fit_zoo(zoo, tmp_path / "run").matrices == run.matrices and reads.taken() == 0


def test_rows_that_a_compact_dropped_have_all_read(zoo: Path, tmp_path: Path, reads: Reads) -> None:
    fit_zoo(zoo, tmp_path / "run", keep_state=True)
    remove(zoo, names(0, 2))
    compact(zoo)
    told: list[str] = []
    reads.taken()
    run = fit_zoo(zoo, tmp_path / "run", notice=told.append)
    assert reads.taken() == rows_of(zoo)
    assert any("4 matrices (layers.0.q A first) read whole: rows that were removed" in line for line in told)
    same(run, fit_zoo(zoo, tmp_path / "fresh"))


def test_what_else_has_all_read(folder: Path, zoo: Path, tmp_path: Path, reads: Reads) -> None:
    out = tmp_path / "run"

    def start(message: str, **options: Any) -> None:
        told: list[str] = []
        reads.taken()
        run = fit_zoo(zoo, out, notice=told.append, **options)
        assert reads.taken() == rows_of(zoo) and any(message in line for line in told), told
        for m in run.matrices:
            assert Path(state_path(str(out), m.layer, m.side)).exists()

    fit_zoo(zoo, out)
    start("4 matrices (layers.0.q A first) read whole: no state of theirs was kept", keep_state=True)
    for m in open_run(out).matrices:
        Path(state_path(str(out), m.layer, m.side)).write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    put(folder, zoo, ADAPTERS, ADAPTERS + 1)
    start("their kept states cannot be read")
    for m in open_run(out).matrices:
        path = Path(state_path(str(out), m.layer, m.side))
        path.write_bytes(path.read_bytes()[:-8])
    put(folder, zoo, ADAPTERS + 1, ADAPTERS + 2)
    told: list[str] = []
    fit_zoo(zoo, out, notice=told.append)
    assert any("their kept states cannot be read" in line for line in told)
    same(open_run(out), fit_zoo(zoo, tmp_path / "fresh"))
    remove(zoo, names(0, 25))
    reads.taken()
    start("most of their rows changed")


def test_rows_that_outweigh_the_rest_have_all_read(zoo: Path, tmp_path: Path, reads: Reads) -> None:
    rng = np.random.default_rng(0)
    layers = {la.name: factors(rng, 4, la.a_width, la.b_width) for la in LAYERS}
    loud = {name: (a * 1e6, b * 1e6) for name, (a, b) in layers.items()}
    write_peft_folder(tmp_path / "loud", loud, base_model_name_or_path=synthetic.BASE)
    fit_zoo(zoo, tmp_path / "run", keep_state=True)
    ingest([str(tmp_path / "loud")], zoo)
    fit_zoo(zoo, tmp_path / "run")
    remove(zoo, ["loud"])
    told: list[str] = []
    reads.taken()
    run = fit_zoo(zoo, tmp_path / "run", notice=told.append)
    assert reads.taken() == rows_of(zoo) + 4 * 4 == sum(m.rows_read or 0 for m in run.matrices)
    assert any("4 matrices (layers.0.q A first) read whole: what was taken out" in line for line in told)
    same(run, fit_zoo(zoo, tmp_path / "fresh"), 1e-12)


def test_the_dual_keeps_no_state_until_rows_are_as_many_as_columns(folder: Path, tmp_path: Path, reads: Reads) -> None:
    zoo, out, told = tmp_path / "zoo", tmp_path / "run", list[str]()
    put(folder, zoo, 0, 2)  # 12 rows
    run = fit_zoo(zoo, out, keep_state=True)
    assert {m.method for m in run.matrices} == {"dual"} and not list(out.rglob("*.state.*"))
    assert fit_zoo(zoo, out).matrices == run.matrices
    put(folder, zoo, 2, 4)  # 36 rows
    reads.taken()
    run = fit_zoo(zoo, out, notice=told.append)
    moments = [m for m in run.matrices if m.method == "moments"]
    assert reads.taken() == rows_of(zoo) and any("solved by a method that keeps none" in line for line in told)
    assert len(list(out.rglob("*.state.*"))) == len(moments) >= 3
    remove(zoo, names(2, 4))
    run = fit_zoo(zoo, out)
    assert {m.method for m in run.matrices} == {"dual"} and not list(out.rglob("*.state.*"))


def test_adapters_that_share_a_factor_are_counted(tmp_path: Path, reads: Reads) -> None:
    rng = np.random.default_rng(0)
    shared = factors(rng, 4, 12, 10)[0]
    for name in ["a", "b", "c", "d", "e", "f", "g"]:
        own = factors(rng, 4, 12, 10)
        write_peft_folder(tmp_path / "in" / name, {"layers.0.q": (shared if name in "abc" else own[0], own[1])})
    zoo, out = tmp_path / "zoo", tmp_path / "run"
    ingest([str(tmp_path / "in" / n) for n in "adefg"], zoo)
    fit_zoo(zoo, out, keep_state=True)
    for step in (["b", "c"], "b", "a"):
        if step == ["b", "c"]:
            ingest([str(tmp_path / "in" / n) for n in step], zoo)
        else:
            remove(zoo, [step])
        reads.taken()
        run = fit_zoo(zoo, out)
        assert reads.taken() == 8 * (2 if step == ["b", "c"] else 1)
        same(run, fit_zoo(zoo, tmp_path / f"fresh-{step[0]}{len(step)}"), 1e-9)


def test_a_kept_state_is_moments_for_callers_too(zoo: Path, tmp_path: Path) -> None:
    run = fit_zoo(zoo, tmp_path / "run", keep_state=True)
    moments = engine.Moments.load(state_path(run.path, "layers.1.q", "B"))
    assert moments.n_adapters == ADAPTERS
    found, wanted = moments.subspace(), run.subspace("layers.1.q", side="B")
    assert np.abs(found.singular_values - wanted.singular_values).max() < 1e-12 * wanted.singular_values[0]
    rows = open_zoo(zoo).rows("layers.1.q", side="B", members=[0, 1])
    assert moments.subtract(rows).n_rows == wanted.n_rows - rows.shape[0]


def test_an_older_run_goes_on_without_states(zoo: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    fit_zoo(zoo, out)
    document = json.loads((out / "run.json").read_text())
    del document["keep_state"]
    (out / "run.json").write_text(json.dumps(document))
    for path in (out / "matrices").glob("*.json"):
        summary = json.loads(path.read_text())
        del summary["rows_read"]
        path.write_text(json.dumps(summary))
    run = fit_zoo(zoo, out)
    assert not run.record.keep_state and {m.rows_read for m in run.matrices} == {None}
    fit_zoo(zoo, out, keep_state=True)
    record = read_record(str(out))
    assert record is not None and record.keep_state
    assert not read_record(str(fit_zoo(zoo, out, restart=True).path)).keep_state  # type: ignore[union-attr]
    assert not list(out.rglob("*.state.*"))


def test_dask_reads_what_came_and_went(folder: Path, zoo: Path, tmp_path: Path, dask_runner: Any) -> None:
    out = tmp_path / "run"
    fit_zoo(zoo, out, keep_state=True, runner=dask_runner)
    put(folder, zoo, ADAPTERS, ADAPTERS + 2)
    remove(zoo, names(1, 2))
    run = fit_zoo(zoo, out, runner=dask_runner)
    assert sum(m.rows_read or 0 for m in run.matrices) < rows_of(zoo) / 2
    same(run, fit_zoo(zoo, tmp_path / "fresh"), 1e-9)
    remove(zoo, names(2, 4))  # nothing is added
    same(fit_zoo(zoo, out, runner=dask_runner), fit_zoo(zoo, tmp_path / "fresh2"), 1e-9)


def test_a_cluster_must_see_the_run(zoo: Path, tmp_path: Path) -> None:
    class Elsewhere(SerialRunner):
        is_local = False
        seen: list[Any] = []

        def check_visible(self, rows: Any) -> None:
            self.seen.append(rows)
            if hasattr(rows, "sign"):
                rows.read(0, 1)
                os.unlink(rows.sign)
                rows.read(0, 1)

    with pytest.raises(EigenzooError, match="not there"):
        fit_zoo(zoo, tmp_path / "run", keep_state=True, runner=Elsewhere())
    assert len(Elsewhere.seen) == 2 and "--keep-state" in Elsewhere.seen[1].location
    assert not list((tmp_path / "run").glob(".*.tmp"))
    fit_zoo(zoo, tmp_path / "other", runner=Elsewhere())
    assert len(Elsewhere.seen) == 2


def test_the_command_says_how_much_it_read(
    folder: Path, zoo: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, common = str(tmp_path / "run"), ["--workers", "1", "--json"]
    assert main(["fit", str(zoo), "--out", out, "--keep-state", *common]) == 0
    printed = capfd.readouterr()
    whole = rows_of(zoo)
    assert json.loads(printed.out)["rows_read"] == whole
    assert f"read {whole:,} of {whole:,} rows (0 matrices updated, 4 read whole)" in printed.err
    put(folder, zoo, ADAPTERS, ADAPTERS + 1)
    assert main(["fit", str(zoo), "--out", out, *common]) == 0
    printed = capfd.readouterr()
    new = rows_of(zoo) - whole
    assert json.loads(printed.out)["rows_read"] == new
    assert f"read {new} of {rows_of(zoo):,} rows (4 matrices updated, 0 read whole)" in printed.err
    assert main(["fit", str(zoo), "--out", out, *common]) == 0
    printed = capfd.readouterr()
    assert json.loads(printed.out)["rows_read"] == 0 and "(0 matrices updated, 0 read whole)" in printed.err


def test_a_result_lost_after_its_state_was_written(folder: Path, zoo: Path, tmp_path: Path, reads: Reads) -> None:
    out = tmp_path / "run"
    fit_zoo(zoo, out, keep_state=True)
    put(folder, zoo, ADAPTERS, ADAPTERS + 1)
    with open_job(zoo, out) as job, pytest.raises(ZeroDivisionError):

        def die(progress: Any) -> None:
            if progress.last is None:  # only the states are written: no task's result is taken
                for each in job.waiting:
                    assert job.states is not None and each.change is not None
                    fit = job_fit(job, each)
                    reduction = job.states.reduction(each.info, each.rows, fit, each.change)
                    for _ in range(2):  # a task whose worker died runs again
                        SerialRunner().run(reduction, each.change.rows)  # type: ignore[union-attr]
                raise ZeroDivisionError

        run_job(job, SerialRunner(), progress=die)
    reads.taken()
    run = fit_zoo(zoo, out)
    assert reads.taken() == 0
    same(run, fit_zoo(zoo, tmp_path / "fresh"))


def job_fit(job: Any, each: Any) -> Any:
    from engine.fitting import fit_reduction

    options = {"device": job.device, "method": "moments", "products": "float64"}
    return fit_reduction(each.rows, job.record.settings.k, center=job.record.settings.center, **options)


def test_a_state_that_another_start_changed_is_not_built_upon(folder: Path, zoo: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    fit_zoo(zoo, out, keep_state=True)
    put(folder, zoo, ADAPTERS, ADAPTERS + 2)
    fit_zoo(zoo, tmp_path / "other", keep_state=True)
    put(folder, zoo, ADAPTERS + 2, ADAPTERS + 3)
    told: list[str] = []
    with open_job(zoo, out, notice=told.append) as job:
        for path in (tmp_path / "other/matrices").glob("*.state.*"):
            shutil.copy(path, out / "matrices" / path.name)
        run = run_job(job, SerialRunner())
    assert any("changed by another start" in line for line in told)
    same(run, fit_zoo(zoo, tmp_path / "fresh"))


def test_killed_at_random_moments_nothing_counts_twice(tmp_path: Path) -> None:
    layers = tuple(synthetic.Layer(f"layers.{i}.q", 96 + 16 * (i % 3), 80, 3, 2) for i in range(6))
    synthetic.write(tmp_path / "in", synthetic.Settings(layers, adapters=40, broken=False))
    zoo = tmp_path / "zoo"
    put(tmp_path / "in", zoo, 0, 36)
    fit_zoo(zoo, tmp_path / "begun", keep_state=True)
    remove(zoo, names(4, 6))
    put(tmp_path / "in", zoo, 36, 40)
    fresh = fit_zoo(zoo, tmp_path / "fresh")
    members = {}
    seconds = None
    rng, states = random.Random(0), set()
    for i in range(6):
        out = tmp_path / f"run{i}"
        shutil.copytree(tmp_path / "begun", out)
        process = subprocess.Popen(
            [sys.executable, "-c", UPDATE, str(zoo), str(out)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        begin = time.monotonic()
        try:
            process.wait(None if seconds is None else rng.uniform(0, seconds))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        if seconds is None:
            assert process.returncode == 0
            seconds = time.monotonic() - begin
        process.stdout.close()
        found = digests(out)
        states.add(tuple(sorted(found.values())))
        run = fit_zoo(zoo, out)
        same(run, fresh, 1e-9)
        members[i] = digests(out)
        assert members[i] == members[0]
        assert {p.name for p in out.rglob("*")} == {p.name for p in (tmp_path / "run0").rglob("*")}
        assert all(m.rows_read is not None and m.rows_read < m.rows for m in run.matrices), "nothing was read whole"
    assert len(states) > 1, "the kills fell on different matrices"


def test_a_state_that_is_kept_is_not_coarse(tmp_path: Path, reads: Reads) -> None:
    layers = (synthetic.Layer("layers.0.q", COARSE_WIDTH, 64, 3, 2),)
    made = synthetic.Settings(layers, adapters=80, ranks=(8,), dtypes=("bfloat16",), broken=False)
    synthetic.write(tmp_path / "in", made)
    zoo, out = tmp_path / "zoo", tmp_path / "run"
    put(tmp_path / "in", zoo, 0, 78)
    options: dict[str, Any] = {"side": "A", "k": 300}  # far down the spectrum
    fit_zoo(zoo, out, keep_state=True, **options)
    put(tmp_path / "in", zoo, 78, 80)
    reads.taken()
    run = fit_zoo(zoo, out, **options)
    assert reads.taken() == 16
    found = run.subspace("layers.0.q", side="A")
    wanted = engine.fit(open_zoo(zoo).rows("layers.0.q", side="A"), 300, products="float64")
    agree(found, wanted, 1e-10)
    assert found.products == "float64"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_update_takes_what_was_stated(tmp_path: Path) -> None:
    width = 2048
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(width), str(tmp_path / "state")],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    rows: Any = SimpleNamespace(shape=(width + 200, width), block_rows=200, dtype=np.dtype("float32"))
    stated = kept_task_bytes(rows)
    measured = int(done.stdout)
    assert measured <= stated, f"measured {measured / MIB:.0f} MiB, stated {stated / MIB:.0f} MiB"


def test_a_solver_that_wants_another_pass_gets_all_rows(
    folder: Path, zoo: Path, tmp_path: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    solve, passes = MomentsSolver.solve, list[int]()

    def twice(self: MomentsSolver, state: Any, *, centred: bool) -> Any:
        passes.append(state.n)
        if len(passes) % 2:
            return Again(self)  # type: ignore[type-var]
        return dataclasses.replace(solve(self, state, centred=centred), passes=2)

    monkeypatch.setattr(MomentsSolver, "solve", twice)
    options: dict[str, Any] = {"layers": "layers.0.q", "side": "A"}
    fit_zoo(zoo, tmp_path / "run", keep_state=True, **options)
    before = open_zoo(zoo).matrices[0].rows
    assert reads.taken() == 2 * before
    put(folder, zoo, ADAPTERS, ADAPTERS + 1)
    after, told = open_zoo(zoo).matrices[0].rows, list[str]()
    reads.taken()
    run = fit_zoo(zoo, tmp_path / "run", notice=told.append, **options)
    assert reads.taken() == after - before + after == run.matrices[0].rows_read
    assert passes == [before, before, after, after]
    assert any("one more look at every row" in line for line in told)
    same(run, fit_zoo(zoo, tmp_path / "fresh", **options))


def digests(out: Path) -> dict[str, str]:
    found = {}
    for path in (out / "matrices").glob("*.state.safetensors"):
        facts = state_file.read_facts(path)
        assert facts is not None, "a state is there whole"
        found[path.name] = facts["digest"]
    return found

"""Which method a plan takes and why, on which device, and what it says a zoo takes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine.fitting import plan_fit, what_is_wanted
from engine.memory import MIB
from engine.methods import METHODS, Wanted
from engine.plan import choice as choosing
from engine.plan.choice import choose_method, device_for
from engine.plan.matrix import Matrix, matrix_of, matrix_stored
from engine.plan.rates import CURVES, DEFAULTS, KINDS, REFERENCE, Rates, default_rates, load_rates, relative, save_rates
from engine.plan.schedule import makespan
from engine.plan.work import Eigenproblem, work_of
from engine.plan.zoo import Group, grouped, plan_zoo, rates_for
from engine.rows import as_rows
from ingest.errors import EigenzooError

GIB = 2**30


def stored(n: int, width: int, dtype: str = "bfloat16") -> Matrix:
    return matrix_stored(n, width, dtype)


@pytest.mark.parametrize(
    ("n", "width", "dtype", "memory", "wanted", "expected", "why"),
    [
        (160_000, 4096, "bfloat16", None, Wanted(), "moments", "moments: exact, one pass, "),
        (160_000, 4096, "bfloat16", 4 * GIB, Wanted(), "moments", "of 4.0 GiB allowed, about "),
        (160_000, 4096, "bfloat16", GIB // 2, Wanted(8), "randomized", "moments needs "),
        (10, 9, "float32", None, Wanted(), "moments", "exact"),
        (9, 10, "float32", None, Wanted(), "dual", "dual: exact, one pass"),
        (300, 4096, "float32", None, Wanted(), "dual", "of one core"),
        (300, 128_256, "float32", 4 * GIB, Wanted(), "dual", "dual"),
        (20_000, 128_256, "bfloat16", 8 * GIB, Wanted(), "randomized", "for a scatter of width 128256 and dual needs "),
        (20_000, 128_256, "bfloat16", 8 * GIB, Wanted(), "randomized", "the largest values alone, 5 to 8 passes"),
        (200_000, 128_256, "bfloat16", None, Wanted(), "moments", "exact"),
        (160_000, 4096, "bfloat16", 200 * MIB, Wanted(16), "randomized", "allowed 200 MiB; approximate"),
        (160_000, 4096, "bfloat16", 40 * MIB, Wanted(), None, "MiB per task, allowed 40 MiB; raise --memory"),
    ],
)
def test_auto(
    n: int, width: int, dtype: str, memory: int | None, wanted: Wanted, expected: str | None, why: str
) -> None:
    choice = choose_method(stored(n, width, dtype), wanted, device="cpu", memory=memory)
    assert (choice.chosen.method if choice.chosen else None) == expected
    assert why in choice.why and "\n" not in choice.why
    assert [e.method for e in choice.estimates] == list(METHODS)
    for e in choice.estimates:
        assert e.seconds > 0 and e.task_bytes > 0 and e.work.bytes_read >= choice.matrix.nbytes
        assert memory is None or e.refusal or e.task_bytes <= memory
    if choice.chosen is None:
        with pytest.raises(EigenzooError, match="it: .* which takes least, needs"):
            choice.must("it")


def test_the_choice_is_the_same_whatever_this_machine_does_in_a_second() -> None:
    slow = replace(DEFAULTS["cpu"], gram_flops_per_s={"float64": 1, "float32": 1})
    matrix = stored(20_000, 1024)
    given = choose_method(matrix, Wanted(), device="cpu", rates={"cpu": slow})
    plain = choose_method(matrix, Wanted(), device="cpu")
    assert given.chosen is not None and plain.chosen is not None
    assert given.chosen.method == plain.chosen.method and given.chosen.seconds > 100 * plain.chosen.seconds


def test_a_method_that_is_asked_for_is_taken_or_refused() -> None:
    matrix = stored(20_000, 512, "float32")
    asked = choose_method(matrix, Wanted(), method="tsqr", device="cpu")
    assert asked.must("x").method == "tsqr" and asked.why.startswith("tsqr: asked for, exact, one pass")
    with pytest.raises(EigenzooError, match="x: dual: for fewer rows than columns only; there are 20000 and 512"):
        choose_method(matrix, Wanted(), method="dual", device="cpu").must("x")
    with pytest.raises(EigenzooError, match=r"x: moments: needs \d+ MiB per task, allowed 1 MiB; raise --memory"):
        choose_method(matrix, Wanted(), method="moments", device="cpu", memory=MIB).must("x")
    with pytest.raises(EigenzooError, match="choose auto, moments"):
        choose_method(matrix, Wanted(), method="pca")


def test_refining_is_left_out_where_there_is_no_room_but_not_where_it_is_asked_for() -> None:
    matrix = stored(160_000, 4096)
    need = {r: choose_method(matrix, Wanted(refine=r), device="cpu").must("").task_bytes for r in (False, True, None)}
    assert need[None] == need[True] > need[False]
    between = (need[True] + need[False]) // 2
    welcome = choose_method(matrix, Wanted(refine=None), device="cpu", memory=between).must("")
    assert welcome.method == "moments" and welcome.refine is False and welcome.task_bytes == need[False]
    assert choose_method(matrix, Wanted(refine=True), device="cpu", memory=between).must("").method == "randomized"


@pytest.mark.parametrize(
    ("n", "width", "dtype", "wanted", "amx", "expected"),
    [
        (160_000, 4096, "bfloat16", Wanted(), True, "torch"),
        (160_000, 4096, "bfloat16", Wanted(), False, "torch"),
        (160_000, 4096, "float32", Wanted(), False, "torch"),
        (160_000, 2047, "float32", Wanted(), True, "cpu"),
        (160_000, 4096, "float32", Wanted(spectrum="top"), True, "torch"),
        (160_000, 4096, "bfloat16", Wanted(spectrum="top"), True, "torch"),
        (160_000, 1024, "bfloat16", Wanted(), True, "torch"),
        (160_000, 1024, "bfloat16", Wanted(), False, "cpu"),
        (160_000, 1024, "bfloat16", Wanted(products="float64"), True, "cpu"),
        (10_000, 1024, "bfloat16", Wanted(), True, "cpu"),  # too few rows to pay for the import
        (160_000, 768, "bfloat16", Wanted(), True, "cpu"),
        (160_000, 1024, "float16", Wanted(), True, "cpu"),
    ],
)
def test_device(
    n: int, width: int, dtype: str, wanted: Wanted, amx: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "cpu_has_amx", lambda: amx)
    monkeypatch.setattr(choosing, "choose", lambda device: "cpu")
    monkeypatch.setattr(choosing, "find_spec", lambda name: object())
    matrix = stored(n, width, dtype)
    assert device_for("moments", matrix, wanted) == expected
    assert device_for("moments", matrix, wanted, "cuda:1") == "cuda:1"
    others = [method for method in METHODS if method not in ("moments", "krylov")]
    assert all(device_for(method, matrix, wanted) == "cpu" for method in others)
    assert device_for("krylov", matrix, wanted) == ("torch" if width >= 2048 else "cpu")
    monkeypatch.setattr(choosing, "find_spec", lambda name: None)
    assert device_for("moments", matrix, wanted) == "cpu"
    monkeypatch.setattr(choosing, "choose", lambda device: "cuda")
    assert device_for("dual", matrix, wanted) == "cuda"


def test_a_fit_follows_its_plan() -> None:
    x = np.random.default_rng(0).standard_normal((900, 700)).astype(np.float32)
    x[:, :3] *= 60
    plan = plan_fit(as_rows(x), device="cpu")
    assert plan.method == "moments" and plan.why.startswith("moments: exact, one pass")
    assert engine.fit(x, 3, device="cpu").method == "moments"
    moments = choose_method(matrix_of(as_rows(x)), what_is_wanted(3, refine=False), device="cpu")
    allowed = moments.named("randomized").task_bytes
    if allowed < moments.named("moments").task_bytes:
        small = engine.fit(x, 3, device="cpu", memory=allowed)
        assert small.method == "randomized" and not small.exact
        np.testing.assert_allclose(small.singular_values[:3], engine.fit(x, 3).singular_values[:3], rtol=1e-5)
    with pytest.raises(EigenzooError, match="raise --memory"):
        engine.fit(x, 3, method="moments", memory=MIB)


def test_memory_turns_a_wide_matrix_approximate() -> None:
    x = np.random.default_rng(1).standard_normal((2600, 2400)).astype(np.float32)
    x[:, :4] *= 80
    whole = plan_fit(as_rows(x), device="cpu", wanted=Wanted(4, refine=False))
    plan = plan_fit(as_rows(x), device="cpu", wanted=Wanted(4, refine=False), memory=whole.task_bytes - 1)
    assert (whole.method, plan.method) == ("moments", "randomized") and plan.task_bytes < whole.task_bytes
    assert "moments needs" in plan.why and "approximate" in plan.why
    sub = engine.fit(x, 4, device="cpu", refine=False, memory=whole.task_bytes - 1)
    assert sub.method == "randomized" and not sub.exact and sub.n_components == 4


def test_work_is_counted_as_it_is_done() -> None:
    m, wanted = stored(10_000, 1000, "float32"), Wanted(16)
    scatter = work_of("moments", m, wanted, products="float64", values_alone=False)
    assert scatter.fold_flops == 10_000 * 1000**2 and scatter.bytes_read == m.nbytes == 4 * 10**7
    assert scatter.passes == scatter.most_passes == 1 and scatter.solve_eigen == (Eigenproblem("whole", 1000),)
    coarse = work_of("moments", m, replace(wanted, refine=True), products="float32", values_alone=True)
    assert coarse.passes == 2 and coarse.bytes_read == 2 * m.nbytes and coarse.state_bytes == 12 * 1000**2
    assert coarse.solve_eigen[0].kind == "float32"
    top = work_of("moments", m, replace(wanted, spectrum="top"), products="float64", values_alone=True)
    assert not top.solve_eigen and top.solve_flops > 0
    sketch = work_of("randomized", m, wanted, products="float64", values_alone=False)
    assert (sketch.passes, sketch.most_passes) == (5, 8) and sketch.bytes_read == 8 * m.nbytes
    assert sketch.state_bytes < scatter.state_bytes / 30
    dual = work_of("dual", stored(100, 1000, "float32"), wanted, products="float64", values_alone=False)
    assert dual.solve_gram == 100 * 100 * 1000 and dual.fold_flops == 0
    assert scatter.moved_bytes(1) == 0
    wide = work_of("moments", stored(160_000, 4096), wanted, products="float32", values_alone=True)
    assert wide.moved_bytes(4) == 3 * wide.state_bytes


def test_curves_pass_through_what_was_measured_and_go_on_as_the_cube() -> None:
    for kind in KINDS:
        assert relative(kind, REFERENCE[kind]) == pytest.approx(1.0)
        orders = sorted(CURVES[kind])
        values = [relative(kind, order) for order in (64, *orders, 3000, 9000)]
        assert values[:-2] == sorted(values[:-2])
        assert relative(kind, 8192) == pytest.approx(8 * relative(kind, 4096))
        assert relative(kind, 3000) == pytest.approx(relative(kind, 3072) * (3000 / 3072) ** 2.6, rel=0.05)


def test_rates_are_kept_and_completed(tmp_path: Path) -> None:
    path = tmp_path / "rates.json"
    save_rates(path, {"cpu": DEFAULTS["cpu"]})
    (kept,) = load_rates(path).values()
    assert replace(kept, source=DEFAULTS["cpu"].source, measured=False) == DEFAULTS["cpu"]
    path.write_text('{"cuda": {"gram_flops_per_s": {"bfloat16": 6e14}, "source": "this one"}}')
    cuda = load_rates(path)["cuda"]
    assert cuda.gram_flops_per_s["bfloat16"] == 6 * 10**14 and cuda.source.startswith("from ") and cuda.measured
    assert cuda.gram_flops_per_s["float64"] == DEFAULTS["cuda"].gram_flops_per_s["float64"]
    for text, what in (
        ("[]", "must be"),
        ("{", "cannot be read as JSON"),
        ('{"cpu": {"flops": 1}}', "'flops' of 'cpu' is unknown"),
        ('{"cpu": {"thin_flops_per_s": 0}}', "above 0"),
        ('{"cpu": {"eigen_us": {"whole": "1"}}}', "above 0"),
        ('{"cpu": {"eigen_us": {"half": 1}}}', "'half' of eigen_us is unknown"),
        ('{"cpu": {"eigen_us": 3}}', "must be a table"),
    ):
        path.write_text(text)
        with pytest.raises(EigenzooError, match=what):
            load_rates(path)


def test_what_was_not_measured_says_so() -> None:
    assert not any(rates.measured for rates in DEFAULTS.values())
    assert all("assumed" in rates.source for rates in DEFAULTS.values()) and "not measured" in DEFAULTS["cuda"].source
    assert default_rates("cupy:1") == DEFAULTS["cuda"] and default_rates("numpy") == DEFAULTS["cpu"]
    measured = replace(DEFAULTS["cpu"], measured=True)
    assert measured.within < DEFAULTS["cpu"].within
    made = rates_for(["cpu", "cuda:7", "torch"], {"torch": measured}, lambda device: measured)
    assert made["cpu"] is measured and made["torch"] is measured and made["cuda:7"] == DEFAULTS["cuda"]


def estimates(n: int, width: int, count: int) -> tuple[Any, int]:
    return choose_method(stored(n, width), Wanted(16), device="cpu").must(""), count


def test_a_zoo_shares_matrices_first_and_rows_second() -> None:
    rates, one = DEFAULTS["cpu"], estimates(160_000, 4096, 1)
    e = one[0]
    alone = makespan([one], 1, rates)
    assert alone.seconds == pytest.approx(e.seconds) == pytest.approx(alone.bound_seconds) and alone.n_cut == 0
    assert alone.bytes_moved == 0 and alone.bytes_read == e.work.bytes_read
    shared = makespan([one], 8, rates)
    assert shared.n_cut == 1 and shared.bytes_moved == 7 * e.work.state_bytes
    assert e.solve_seconds + e.fold_seconds / 8 <= shared.seconds < alone.seconds
    many = makespan([(e, 96)], 8, rates)
    # The last seven are cut, all others are whole.
    assert many.n_cut == 7 and many.seconds == pytest.approx(96 * e.seconds / 8, rel=0.15)
    previous = float("inf")
    for workers in (1, 2, 3, 8, 64, 500):
        made = makespan([(e, 40), estimates(160_000, 1024, 64)], workers, rates)
        assert made.bound_seconds * 0.999 <= made.seconds <= previous * 1.001
        assert made.busy_seconds <= made.seconds * workers * 1.001
        previous = made.seconds
    assert makespan([], 2, rates).seconds == 0


def test_equal_shapes_are_planned_once() -> None:
    m, other = stored(1000, 64, "float32"), stored(500, 64, "float32")
    groups = grouped([(m, "a A", None), (other, "a B", None), (m, "b A", None), (m, "c A", 5)])
    assert [(g.matrix, g.count, g.first, g.components) for g in groups] == [
        (m, 2, "a A", None),
        (m, 1, "c A", 5),
        (other, 1, "a B", None),
    ]
    plan = plan_zoo(groups, Wanted(), 2, device="cpu", memory=GIB)
    assert plan.total.workers == 2 and plan.within == DEFAULTS["cpu"].within and len(plan.choices) == 3
    assert plan.memory_bytes == 2 * max(c.must("").task_bytes for c in plan.choices)
    none = plan_zoo([Group(m, 3)], Wanted(), 2, device="cpu", memory=MIB)
    assert none.choices[0].chosen is None and none.total.seconds == 0


def test_calibration_measures_what_a_plan_needs() -> None:
    from engine.plan.calibration import calibrate

    rates = calibrate("cpu", as_rows(np.zeros((1000, 64), np.float32)))
    assert rates.measured and rates.source.startswith("measured here in ") and rates.device == "cpu"
    assert set(rates.eigen_us) == set(KINDS) and all(v > 0 for v in rates.eigen_us.values())
    assert {"float64", "float32"} <= set(rates.values_per_s) and min(rates.gram_flops_per_s.values()) > 10**8
    assert isinstance(rates, Rates) and json.dumps(dict(rates.eigen_us))
    matrix = stored(20_000, 1024)
    choice = choose_method(matrix, Wanted(), device="cpu", rates={"cpu": rates})
    assert 0.001 < choice.must("").seconds < 600
    with pytest.raises(EigenzooError):
        calibrate("tpu")


def test_an_exact_method_on_scipy_comes_before_an_approximate_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "choose", lambda device: "cpu")
    monkeypatch.setattr(choosing, "find_spec", lambda name: object())
    matrix, wanted = stored(160_000, 4096), Wanted(8, refine=False)
    on_torch = choose_method(matrix, wanted, device="torch").must("").task_bytes
    chosen = choose_method(matrix, wanted, memory=on_torch - 1).must("")
    assert (chosen.method, chosen.device) == ("moments", "cpu")


@pytest.mark.parametrize(
    ("method", "wanted", "what"),
    [
        ("dual", Wanted(spectrum="top"), "spectrum: method 'dual'"),
        ("tsqr", Wanted(refine=True), "refine: method 'tsqr'"),
        ("randomized", Wanted(products="float64"), "products: method 'randomized'"),
    ],
)
def test_what_a_method_cannot_do_is_refused(method: str, wanted: Wanted, what: str) -> None:
    with pytest.raises(EigenzooError, match=what):
        choose_method(stored(100, 400), wanted, method=method)

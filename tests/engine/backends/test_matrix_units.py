"""The switches: turned while somebody holds them, and back as they were."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.backends import get_backend, matrix_units

torch = pytest.importorskip("torch")

Hold = Callable[[], AbstractContextManager[None]]


def _new_bf16() -> Any:
    return torch.backends.mkldnn.matmul.fp32_precision


def _new_tf32() -> Any:
    return torch.backends.cuda.matmul.fp32_precision


def _legacy() -> Any:
    return torch.get_float32_matmul_precision()


def _sums() -> Any:
    matmul = torch.backends.cuda.matmul
    return [getattr(matmul, name) for name in (*matrix_units.REDUCED_SUMS, "allow_fp16_accumulation")]


CASES: dict[str, tuple[Hold, Callable[[], Any], Any]] = {
    "bf16": (matrix_units.bfloat16_products, _new_bf16, "bf16"),
    "tf32": (matrix_units.no_tf32, _new_tf32, "ieee"),
    "legacy bf16": (matrix_units.bfloat16_products, _legacy, "medium"),
    "legacy tf32": (matrix_units.no_tf32, _legacy, "highest"),
    "sums": (matrix_units.float32_sums, _sums, [False, False, False]),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Hold, Callable[[], Any], Any]:
    if request.param.startswith("legacy"):
        # torch before 2.9: one setting, and no `fp32_precision` anywhere.
        setting = {"value": "high"}
        monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: setting["value"])
        monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda value: setting.update(value=value))
        monkeypatch.setattr(torch.backends, "mkldnn", SimpleNamespace())
        monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(allow_tf32=True))
    elif not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("an older torch")
    return CASES[request.param]


def test_back_as_it_was(case: tuple[Hold, Callable[[], Any], Any]) -> None:
    hold, look, turned = case
    before = look()
    assert before != turned
    with hold():
        assert look() == turned
        with hold():
            assert look() == turned
        assert look() == turned
    assert look() == before
    with pytest.raises(ZeroDivisionError), hold():
        raise ZeroDivisionError
    assert look() == before


def test_threads_that_overlap(case: tuple[Hold, Callable[[], Any], Any]) -> None:
    hold, look, turned = case
    before, seen = look(), []
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with hold():
            first_in.set()
            second_in.wait(10)
        first_out.set()

    def second() -> None:
        first_in.wait(10)
        with hold():
            second_in.set()
            first_out.wait(10)
            seen.append(look())  # the first has gone, and leaves it to the last

    threads = [threading.Thread(target=target) for target in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [turned] and look() == before


def test_many_threads(case: tuple[Hold, Callable[[], Any], Any]) -> None:
    hold, look, turned = case
    before, wrong = look(), []

    def often() -> None:
        for _ in range(300):
            with hold():
                if look() != turned:
                    wrong.append(look())

    threads = [threading.Thread(target=often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and look() == before


def test_a_failure_to_turn_leaves_nobody_holding() -> None:
    calls: list[str] = []

    def turn() -> str:
        calls.append("turn")
        if len(calls) == 1:
            raise RuntimeError("no such setting")
        return "was"

    switch = matrix_units.Switch(turn, calls.append)
    with pytest.raises(RuntimeError), switch.held():
        pass
    with switch.held():
        pass
    assert calls == ["turn", "turn", "was"]


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="an older torch")
def test_what_a_user_set_by_the_old_name_is_kept() -> None:
    torch.set_float32_matmul_precision("high")
    try:
        with matrix_units.no_tf32():
            assert _new_tf32() == "ieee"
        with matrix_units.bfloat16_products():
            assert _new_bf16() == "bf16"
        assert torch.get_float32_matmul_precision() == "high" and torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.set_float32_matmul_precision("highest")


def test_split_sums_are_kept_as_a_user_set_them() -> None:
    matmul, name = torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction"
    if not hasattr(matmul, f"{name}_split_k"):
        pytest.skip("an older torch")
    setattr(matmul, name, (False, False))
    try:
        with matrix_units.float32_sums():
            assert not getattr(matmul, name)
        assert not getattr(matmul, name) and not getattr(matmul, f"{name}_split_k")
    finally:
        setattr(matmul, name, True)


def test_other_products_keep_whole_float32() -> None:
    rng = np.random.default_rng(3)
    a = torch.from_numpy((1 + rng.random((256, 256)) * 2.0**-10).astype(np.float32))
    exact = a.double().T @ a.double()
    backend = get_backend("torch")
    c = backend.square(256, "float32")
    backend.add_gram(c, backend.matrix(a.numpy(), "bfloat16"), "bfloat16")
    np.testing.assert_allclose((a.T @ a).numpy(), exact.numpy(), rtol=256 * 2.0**-24)


@pytest.mark.skipif(not matrix_units.cpu_has_amx(), reason="no AMX: the products would be whole float32 anyway")
def test_the_switch_does_what_it_says() -> None:
    a = torch.full((256, 256), 1 + 2.0**-10)
    with matrix_units.bfloat16_products():
        assert (a.T @ a == 256).all()  # 1 + 2⁻¹⁰ is 1 in bfloat16
    assert (a.T @ a > 256).all()

"""Names of devices, and what is said where there is none."""

from __future__ import annotations

import pytest

from engine.backends import BACKENDS, DEVICES, choose, form_of, get_backend
from engine.backends.cupy_ import CupyBackend
from ingest.errors import EigenzooError
from tests.engine.backends import fake_cupy


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr("engine.backends._has_nvidia_device", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_forms() -> None:
    assert DEVICES == ("auto", "cpu", "numpy", "torch", "cuda", "cuda:N", "cupy", "cupy:N")
    assert [form_of(name) for name in ("cuda:1", "cupy:07", "cpu", "tpu", "cuda:", "cuda:x", "cuda:²", "cuda:-1")] == [
        "cuda:N",
        "cupy:N",
        "cpu",
        "tpu",
        "cuda:",
        "cuda:x",
        "cuda:²",
        "cuda:-1",
    ]


def test_choice_of_device() -> None:
    assert choose("auto") in BACKENDS
    assert choose("torch") == "torch" and choose("numpy") == "numpy"
    assert get_backend("cpu").name == "numpy"


@pytest.mark.parametrize("name", ["tpu", "cpu:0", "torch:1", "cuda:", "cuda:x", "cuda:N", "cuda:1:2", "auto:1", ""])
def test_no_such_name(name: str) -> None:
    with pytest.raises(EigenzooError, match=f"got {name!r}; choose auto, cpu, .* or cupy:N$"):
        choose(name)


def test_numbered_devices(two_gpus: None) -> None:
    assert choose("auto") == "cuda" and choose("cuda") == "cuda" and choose("cuda:01") == "cuda:1"
    assert get_backend("cuda:1").name == "cuda:1"
    with pytest.raises(EigenzooError, match="got 'cuda:2'; torch sees 2 devices, cuda:0 to cuda:1$"):
        choose("cuda:2")


def test_no_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.backends._has_nvidia_device", lambda: False)
    for name in ("cuda", "cuda:0"):
        with pytest.raises(EigenzooError, match="no CUDA device is available to torch here; choose device 'cpu'"):
            choose(name)
    assert choose("auto") == "cpu"
    fake_cupy.install(monkeypatch, devices=0)
    with pytest.raises(EigenzooError, match="no CUDA device is available to cupy here"):
        choose("cupy")


def test_cupy_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cupy.install(monkeypatch, devices=1)
    backend = get_backend("cupy:0")
    assert backend == CupyBackend("cupy:0") and backend.name == "cupy:0"
    with pytest.raises(EigenzooError, match="got 'cupy:1'; cupy sees 1 device, cupy:0$"):
        get_backend("cupy:1")


def test_cupy_makes_its_device_current(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cupy.install(monkeypatch)
    monkeypatch.setattr(fake_cupy.Device, "current", 0)
    get_backend("cupy:1").square(3)
    assert fake_cupy.Device.current == 1


def test_without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.backends.find_spec", lambda name: None)
    with pytest.raises(EigenzooError, match=r"cupy is not installed; install eigenzoo\[cupy\]"):
        choose("cupy")
    with pytest.raises(EigenzooError, match="torch is not installed"):
        get_backend("torch")

"""Buffers that are used again, on streams that do nothing until somebody waits for them."""

from __future__ import annotations

import threading
from typing import Any

import ml_dtypes
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engine.backends import torch_streams  # noqa: E402
from engine.backends.torch_ import TorchBackend  # noqa: E402
from tests.engine.backends.fake_cuda import DEVICE, FakeCuda  # noqa: E402

RNG = np.random.default_rng(1)


@pytest.fixture(params=["late", "at once"])
def cuda(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return FakeCuda(monkeypatch, eager=request.param == "at once")


def _block(rows: int, width: int, dtype: Any) -> np.ndarray[Any, Any]:
    return RNG.standard_normal((rows, width)).astype(dtype)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("rows", [1, 7, 8, 40, 41])
def test_parts_arrive_whole(cuda: FakeCuda, dtype: Any, rows: int) -> None:
    width = 16
    staging = torch_streams.Staging(DEVICE, slot_bytes=8 * width * np.dtype(dtype).itemsize)
    blocks = [_block(rows, width, dtype) for _ in range(5)]
    outs = [torch.zeros(rows, width, dtype=torch.float64) for _ in blocks]
    for block, out in zip(blocks, outs, strict=True):
        given = block.copy()
        staging.send(given, out)
        given[...] = 0  # the caller may do with it what it likes
    cuda.current().synchronize()
    for block, out in zip(blocks, outs, strict=True):
        np.testing.assert_array_equal(out.numpy(), block.astype(np.float64))


def test_a_stream_may_change_between_blocks(cuda: FakeCuda) -> None:
    staging = torch_streams.Staging(DEVICE, slot_bytes=4 * 8 * 8)
    blocks = [_block(6, 8, np.float64) for _ in range(4)]
    outs = [torch.zeros(6, 8, dtype=torch.float64) for _ in blocks]
    for i, (block, out) in enumerate(zip(blocks, outs, strict=True)):
        if i % 2:
            with torch_streams.own_stream(DEVICE):
                staging.send(block, out)
        else:
            staging.send(block, out)
    cuda.current().synchronize()
    for block, out in zip(blocks, outs, strict=True):
        np.testing.assert_array_equal(out.numpy(), block)


def test_own_stream_follows_what_was_begun_and_ends_when_it_is_done(cuda: FakeCuda) -> None:
    first, second = torch.zeros(1), torch.zeros(1)
    first.copy_(torch.ones(1))
    with torch_streams.own_stream(DEVICE):
        mine = cuda.current()
        second.copy_(first)
        with torch_streams.own_stream(DEVICE):
            assert cuda.current() is mine
    assert second.item() == 1 and cuda.current() is not mine


def test_threads_have_streams_and_buffers_of_their_own(cuda: FakeCuda) -> None:
    seen: list[Any] = []
    backend = TorchBackend(DEVICE)
    blocks = [_block(3000, 64, np.float32) for _ in range(2)]
    results: dict[int, Any] = {}

    def work(i: int) -> None:
        with backend.stream():
            seen.append(cuda.current())
            results[i] = [backend.matrix(blocks[i]) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
        thread.join()
    assert len({id(stream) for stream in seen}) == 2
    for i, block in enumerate(blocks):
        for x in results[i]:
            np.testing.assert_array_equal(x.numpy(), block.astype(np.float64))


def test_small_and_odd_blocks_are_sent_as_they_lie(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*given: Any) -> Any:
        raise AssertionError("a ring for so little")

    monkeypatch.setattr(torch_streams, "Staging", never)
    wide = _block(2, torch_streams.SLOT_BYTES // 8 + 1, np.float64)
    for block in (_block(3, 4, np.float64), np.ones(70000), wide, np.ones((0, 4))):
        out = torch_streams.send(block, "float64", DEVICE)
        cuda.current().synchronize()
        np.testing.assert_array_equal(out.numpy(), block)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_device_blocks_arrive_while_it_computes() -> None:
    backend = TorchBackend("cuda")
    blocks = [_block(4096, 1024, ml_dtypes.bfloat16) for _ in range(8)]
    with backend.stream():
        c = backend.square(1024)
        busy, kept = torch.zeros(4096, 4096, device="cuda"), []
        for block in blocks:
            busy = busy @ busy
            x = backend.matrix(block)
            backend.add_gram(c, x)
            kept.append(x)
    for block, x in zip(blocks, kept, strict=True):
        np.testing.assert_array_equal(backend.to_host(x), block.astype(np.float64))
    exact = sum(b.astype(np.float64).T @ b.astype(np.float64) for b in blocks)
    np.testing.assert_allclose(np.tril(backend.to_host(c)), np.tril(exact), atol=1e-9)

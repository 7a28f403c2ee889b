"""One suite for every backend; LAPACK and numpy in float64 are the reference.

"cuda code" and "cupy code" are what runs on a GPU, over fakes: they tell a slip of the pen, not what the device does.
"""

from __future__ import annotations

import pickle
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from engine.backends import BACKENDS, get_backend
from engine.backends.protocol import PRODUCTS, Backend
from tests.engine.backends import fake_cupy

RNG = np.random.default_rng(7)
HALVES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@pytest.fixture(
    params=[
        "cpu",
        "torch",
        "cuda code",
        "cupy code",
        pytest.param("cuda", marks=pytest.mark.cuda),
        pytest.param("cupy", marks=pytest.mark.cuda),
    ]
)
def b(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
    backend: Backend = pickle.loads(pickle.dumps(_backend(request.param, monkeypatch)))
    backend.load()
    return backend


def _backend(name: str, patch: pytest.MonkeyPatch) -> Backend:
    if name in ("torch", "cuda", "cuda code"):
        torch = pytest.importorskip("torch")
        if name == "cuda" and not torch.cuda.is_available():
            pytest.skip("no CUDA device")
    if name == "cuda code":
        from engine.backends.torch_ import TorchBackend
        from tests.engine.backends.fake_cuda import DEVICE, FakeCuda

        FakeCuda(patch, eager=True)
        return TorchBackend(DEVICE)
    if name == "cupy code":
        fake_cupy.install(patch)
        return get_backend("cupy")
    if name == "cupy" and not BACKENDS["cuda"].count():
        pytest.skip("no CUDA device")
    if name == "cupy":
        pytest.importorskip("cupy")
    return get_backend(name)


def low(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.tril(x)


@pytest.mark.parametrize("rows", [6, 1100])  # the larger is sent to a CUDA device in parts
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16", "int8", "bool", "uint16", "uint32"])
def test_matrix_is_an_exact_fresh_copy(b: Backend, dtype: str, rows: int) -> None:
    block = (RNG.standard_normal((rows, 5 if rows < 100 else 1000)) * 3).astype(np.float32)
    block = np.abs(block).astype(dtype) if dtype.startswith("uint") else block.astype(HALVES.get(dtype, dtype))
    for given in (block, block[:, 1:4], block.T, block[:0]):
        before = given.copy()
        x = b.matrix(given)
        np.testing.assert_array_equal(b.to_host(x), given.astype(np.float64))
        b.subtract_row(x, b.matrix(np.ones((1, given.shape[1])))[0])
        np.testing.assert_array_equal(given, before)
        assert b.to_host(x).dtype == np.float64


def test_means_and_sums(b: Backend) -> None:
    host = RNG.standard_normal((40, 7))
    x = b.matrix(host)
    np.testing.assert_allclose(b.to_host(b.column_mean(x)), host.mean(axis=0), atol=1e-15)
    assert b.square_sum(x) == pytest.approx((host**2).sum(), rel=1e-14)
    b.subtract_row(x, b.column_mean(x))
    np.testing.assert_allclose(b.to_host(x), host - host.mean(axis=0), atol=1e-15)


@pytest.mark.parametrize("width", [1, 5, 600])
def test_gram_updates_in_place(b: Backend, width: int) -> None:
    host, other, row = (
        RNG.standard_normal((30, width)),
        RNG.standard_normal((20, width)),
        RNG.standard_normal(width),
    )
    c, d = b.square(width), b.square(width)
    seen = c[:]  # a view of the same memory
    b.add_gram(c, b.matrix(host))
    b.add_gram(d, b.matrix(other.T.copy()).T)  # columns in memory, as the dual has them
    b.add(c, d)
    b.add_outer(c, b.matrix(row[None])[0], -0.5)
    expected = host.T @ host + other.T @ other - 0.5 * np.outer(row, row)
    np.testing.assert_allclose(low(b.to_host(seen)), low(expected), atol=1e-12)
    np.testing.assert_allclose(b.diagonal(c), np.diagonal(expected), atol=1e-12)


def test_numpy_refuses_what_it_would_copy() -> None:
    b = get_backend("cpu")
    with pytest.raises(ValueError, match="in place"):
        b.add_gram(np.zeros((4, 4)), np.ones((3, 4)))
    with pytest.raises(ValueError, match="in place"):
        b.add_outer(np.zeros((4, 4), dtype=np.float32, order="F"), np.ones(4), 1.0)


@pytest.mark.parametrize("n", [1, 2, 3, 40, 130])
def test_eigen(b: Backend, n: int) -> None:
    q, _ = np.linalg.qr(RNG.standard_normal((n, n)))
    values = np.logspace(3, -3, n)
    host = (q * values) @ q.T
    c = b.square(n)
    b.add(c, b.matrix(np.tril(host)))  # the upper triangle is never looked at
    eigen = b.eigen(c)
    np.testing.assert_allclose(eigen.values, values, atol=1e-12 * values[0])
    for k in sorted({0, 1, n // 2, n}):
        v = b.to_host(eigen.vectors(k))
        assert v.shape == (n, k)
        np.testing.assert_allclose(v.T @ v, np.eye(k), atol=1e-12)
        np.testing.assert_allclose(host @ v, v * values[:k], atol=1e-12 * values[0])


@pytest.mark.parametrize("seed", range(12))
def test_eigen_of_repeated_and_null_values(b: Backend, seed: int) -> None:
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((60, 60)))
    values = np.repeat([2.0, 1.0, 0.0], 20)
    c = b.square(60)
    b.add(c, b.matrix((q * values) @ q.T))
    eigen = b.eigen(c)
    np.testing.assert_allclose(eigen.values, values, atol=1e-14 * 60)
    v = b.to_host(eigen.vectors(45))
    np.testing.assert_allclose(v.T @ v, np.eye(45), atol=1e-11)
    np.testing.assert_allclose(v[:, :20] @ v[:, :20].T, q[:, :20] @ q[:, :20].T, atol=1e-11)


def test_matmul_and_orthonormalise(b: Backend) -> None:
    host = RNG.standard_normal((30, 4))
    np.testing.assert_allclose(b.to_host(b.matmul(b.matrix(host.T), b.matrix(host))), host.T @ host, atol=1e-13)
    q = b.to_host(b.orthonormalise(b.matrix(host)))
    np.testing.assert_allclose(q.T @ q, np.eye(4), atol=1e-14)
    r = q.T @ host
    np.testing.assert_allclose(q @ r, host, atol=1e-13)
    np.testing.assert_allclose(np.tril(r, -1), 0, atol=1e-13)
    assert (np.diagonal(r) > 0).all()


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_products_are_exact_in_float32(b: Backend, dtype: str) -> None:
    products = b.products(dtype)
    assert products in ({"float64"} if dtype in ("float64", "float32") else {"float32", dtype})


def test_products_of_a_cuda_device_are_its_tensor_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = _backend("cuda code", monkeypatch)
    assert backend.products("bfloat16") == "bfloat16" and backend.products("float16") == "float16"
    import torch

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert backend.products("bfloat16") == "float32" and backend.products("float16") == "float16"
    monkeypatch.setattr(torch, "__version__", "2.7.1+cu126")
    assert backend.products("bfloat16") == "float32" and backend.products("float16") == "float32"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # as for a plan that another machine will follow
    assert backend.products("bfloat16") == "bfloat16"


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("rows", [1, 30, 1300])
def test_gram_of_every_kind_of_products(b: Backend, dtype: str, products: str, rows: int) -> None:
    if products in HALVES and products != dtype:
        return
    width = 530
    block = RNG.standard_normal((rows, width)).astype(HALVES[dtype])
    wide = block.astype(np.float64)
    c = b.square(width, "float64" if products == "float64" else "float32")
    for _ in range(2):
        b.add_gram(c, b.matrix(block, products), products)
    exact, size = 2 * wide.T @ wide, 2 * np.abs(wide).T @ np.abs(wide)
    # Products are exact, so that one row's is; sums of m have an error of m units in the last place at most.
    allowed = 1e-15 if products == "float64" else 2 * rows * 2.0**-24 if rows > 1 else 0.0
    assert (np.abs(low(b.to_host(c).astype(np.float64) - exact)) <= allowed * low(size)).all()
    assert b.to_host(c).dtype == (np.float64 if products == "float64" else np.float32)


def test_gram_of_float32_products_is_of_whole_float32_values(b: Backend) -> None:
    block = (1 + RNG.random((64, 520)) * 2.0**-10).astype(np.float32)  # all but 1.0 in 11 bits and in 8
    c = b.square(520, "float32")
    b.add_gram(c, b.matrix(block, "float32"), "float32")
    wide = block.astype(np.float64)
    np.testing.assert_allclose(low(b.to_host(c)), low(wide.T @ wide), rtol=64 * 2.0**-24)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("rows", [1, 31, 32, 5000])
def test_column_sum_of_16_bit_values_is_float64(b: Backend, dtype: str, rows: int) -> None:
    block = (3 + RNG.standard_normal((rows, 9))).astype(HALVES[dtype])
    exact = block.astype(np.float64).sum(axis=0)
    for products in ("float64", "float32", dtype):
        total = b.to_host(b.column_sum(b.matrix(block, products)))
        assert total.dtype == np.float64
        np.testing.assert_allclose(total, exact, rtol=1e-10)  # 1e-7 in float32


def test_subtract_row_keeps_the_dtype(b: Backend) -> None:
    block = RNG.standard_normal((8, 5)).astype(np.float32)
    row = RNG.standard_normal(5)
    for products, dtype in (("float32", np.float32), ("float64", np.float64)):
        x = b.matrix(block, products)
        b.subtract_row(x, b.matrix(row[None])[0])
        assert b.to_host(x).dtype == dtype
        np.testing.assert_array_equal(b.to_host(x), block.astype(dtype) - row.astype(dtype))


def test_add_of_float32_is_exact_and_clear_clears(b: Backend) -> None:
    host = RNG.standard_normal((530, 530)).astype(np.float32)
    c, other = b.square(530), b.square(530, "float32")
    b.add_gram(other, b.matrix(host, "float32"), "float32")
    kept = low(b.to_host(other).astype(np.float64))
    b.add(c, other)
    b.add(c, other)
    np.testing.assert_array_equal(low(b.to_host(c)), 2 * kept)
    assert b.to_host(c).dtype == np.float64
    b.clear(other)
    assert not b.to_host(other).any()
    v = b.vector(3)
    b.add(v, b.matrix(np.ones((1, 3)))[0])
    np.testing.assert_array_equal(b.to_host(v), np.ones(3))


@pytest.mark.parametrize("n", [1, 7, 530])
def test_mirror_and_deflated(b: Backend, n: int) -> None:
    host = RNG.standard_normal((n, n))
    whole = np.tril(host) + np.tril(host, -1).T
    c = b.square(n)
    b.add(c, b.matrix(np.tril(host) + np.triu(np.full((n, n), 7.0), 1)))
    b.mirror(c)
    np.testing.assert_array_equal(b.to_host(c), whole)
    a = RNG.standard_normal((n, min(n, 3)))
    for dtype, allowed in (("float64", 1e-14), ("float32", 1e-6)):
        rest = b.to_host(b.deflated(c, b.matrix(a), dtype))
        assert rest.dtype == dtype
        np.testing.assert_allclose(rest, whole - a @ a.T, atol=allowed * 30)
    np.testing.assert_array_equal(b.to_host(c), whole)


@pytest.mark.parametrize("n", [1, 2, 40, 130])
def test_eigenvalues(b: Backend, n: int) -> None:
    q, _ = np.linalg.qr(RNG.standard_normal((n, n)))
    values = np.logspace(0, -3, n)
    host = (q * values) @ q.T
    c = b.square(n)
    b.add(c, b.matrix(host))
    b.mirror(c)
    before = b.to_host(c).copy()
    for dtype, allowed in (("float64", 1e-14), ("float32", 5e-6)):
        found = b.eigenvalues(c, dtype)
        assert isinstance(found, np.ndarray) and found.dtype == np.float64 and found.shape == (n,)
        np.testing.assert_allclose(found, values, atol=allowed)
        assert (np.diff(found) <= 0).all()
    np.testing.assert_array_equal(b.to_host(c), before)
    assert isinstance(b.values_alone, bool)


def test_stream_is_a_context_that_may_be_nested(b: Backend) -> None:
    c = b.square(4)
    with b.stream():
        x = b.matrix(np.eye(4))
        with b.stream():
            b.add_gram(c, x)
        b.add_gram(c, x)
    np.testing.assert_array_equal(low(b.to_host(c)), 2 * np.eye(4))
    with pytest.raises(KeyError), b.stream():
        raise KeyError("as it was")


@pytest.mark.parametrize("products", ["float64", "float32"])
def test_states_pickle(b: Backend, products: str) -> None:
    from engine.reductions.moments import Moments

    block = RNG.standard_normal((50, 12)).astype(np.float16)
    reduction = Moments(12, b, products)
    state = reduction.step(reduction.start(), block)
    again = pickle.loads(pickle.dumps(state))
    assert getattr(again.scatter, "device", None) == getattr(state.scatter, "device", None)
    left, right = (reduction.finish(reduction.step(s, block)) for s in (state, again))
    np.testing.assert_array_equal(low(b.to_host(left.scatter)), low(b.to_host(right.scatter)))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16", "int8", "bool"])
def test_less_is_exact_and_fresh(b: Backend, dtype: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    block = (RNG.standard_normal((6, 5)) * 3).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    row = RNG.standard_normal(5)
    for given in (block, block[::2], block.T[:5].T):
        before = given.copy()
        x = b.less(given, b.matrix(row[None])[0])
        np.testing.assert_array_equal(b.to_host(x), given.astype(np.float64) - row)
        b.subtract_row(x, b.matrix(row[None])[0])
        np.testing.assert_array_equal(given, before)


def test_stack_is_a_fresh_array(b: Backend) -> None:
    top, bottom = RNG.standard_normal((3, 4)), RNG.standard_normal((2, 4))
    parts = [b.matrix(top), b.matrix(bottom)]
    stacked = b.stack(parts)
    b.subtract_row(parts[0], b.column_mean(parts[0]))
    np.testing.assert_array_equal(b.to_host(stacked), np.concatenate([top, bottom]))


@pytest.mark.parametrize(("rows", "width"), [(50, 7), (3, 7), (1, 1), (90, 80)])
def test_qr_append(b: Backend, rows: int, width: int) -> None:
    first, second = RNG.standard_normal((rows, width)), RNG.standard_normal((1, width))
    first[:, width // 2] = 0 * first[:, width // 2]
    second[:, width // 2] = 0
    r = b.qr_append(b.qr_append(b.square(width), b.matrix(first)), b.matrix(second))
    host = b.to_host(r)
    assert host.shape == (width, width) and not np.tril(host, -1).any()
    assert not host[:, width // 2].any()
    np.testing.assert_allclose(host.T @ host, first.T @ first + second.T @ second, atol=1e-13 * rows)


@pytest.mark.parametrize("method", ["moments", "tsqr", "randomized"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_whole_fit(b: Backend, method: str, dtype: str) -> None:
    from engine.fit_reduction import Fit
    from engine.methods import METHODS, Wanted
    from engine.rank import parse_rule
    from engine.rows import as_rows
    from engine.runners.serial import SerialRunner

    rng = np.random.default_rng(0)
    x = rng.standard_normal((1500, 800)) + 2 * rng.standard_normal((1500, 5)) @ rng.standard_normal((5, 800))
    rows = as_rows(x.astype(HALVES.get(dtype, dtype)))
    solver = METHODS[method].make(rows, b, Wanted(components=5))
    found = SerialRunner().run(Fit(solver, parse_rule("5"), "feature", 1, "", {}), rows)
    wide = rows.read(0, 1500).astype(np.float64)
    _, sigma, vectors = np.linalg.svd(wide - wide.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(found.singular_values[:5], sigma[:5], rtol=1e-6)
    np.testing.assert_allclose(np.abs(np.sum(found.components * vectors[:5], axis=1)), 1, atol=1e-6)

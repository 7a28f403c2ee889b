"""One suite for every backend; LAPACK and numpy in float64 are the reference."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from engine.backends import BACKENDS, choose, get_backend
from engine.backends.protocol import Backend
from ingest.errors import EigenzooError

RNG = np.random.default_rng(7)


@pytest.fixture(params=["cpu", "torch", "cuda"])
def b(request: pytest.FixtureRequest) -> Backend:
    if request.param != "cpu":
        torch = pytest.importorskip("torch")
        if request.param == "cuda" and not torch.cuda.is_available():
            pytest.skip("no CUDA device")
    backend: Backend = pickle.loads(pickle.dumps(get_backend(request.param)))
    backend.load()
    return backend


def low(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.tril(x)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16", "int8", "bool"])
def test_matrix_is_an_exact_fresh_copy(b: Backend, dtype: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    block = (RNG.standard_normal((6, 5)) * 3).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    for given in (block, block[:, 1:4], block.T):
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


def test_eigen_of_repeated_and_null_values(b: Backend) -> None:
    q, _ = np.linalg.qr(RNG.standard_normal((60, 60)))
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


def test_choice_of_device() -> None:
    assert choose("auto") in BACKENDS
    assert choose("torch") == "torch"
    with pytest.raises(EigenzooError, match="got 'tpu'"):
        choose("tpu")

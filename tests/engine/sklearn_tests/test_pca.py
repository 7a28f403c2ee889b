"""Restated after scikit-learn's test_pca.py (BSD-3-Clause), at tolerances no looser than its own.

Each test names its original. Where the two libraries mean different things by the same word, the docstring says so.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from scipy import sparse

from ingest.errors import EigenzooError
from tests.engine.sklearn_tests.adapter import EnginePCA, LapackPCA
from tests.engine.sklearn_tests.compare import same_fit
from tests.engine.sklearn_tests.data import correlated, iris, low_rank, pictures
from tests.engine.sklearn_tests.methods import EXACT, METHODS, SOLVERS

SEEDS = [42, 0, 7]

by_method = pytest.mark.parametrize("method", METHODS)
by_solver = pytest.mark.parametrize("method", SOLVERS)
by_exact_method = pytest.mark.parametrize("method", EXACT)


@by_method
@pytest.mark.parametrize("k", [1, 2, 3])
def test_iris(method: str, k: int) -> None:
    """test_pca."""
    x = iris()
    pca = EnginePCA(k, method=method)
    first = pca.fit(x).transform(x)
    assert first.shape == (150, k)
    second = pca.fit_transform(x)
    assert_allclose(first, second)
    assert_allclose(pca.transform(x), second)
    assert_allclose(pca.get_covariance() @ pca.get_precision(), np.eye(4), atol=1e-12)


@by_exact_method
@pytest.mark.parametrize("density", [0.01, 0.1, 0.3])
@pytest.mark.parametrize("k", [1, 2, 10])
@pytest.mark.parametrize("scale", [1, 10, 100])
def test_mostly_zeros(method: str, density: float, k: int, scale: float) -> None:
    """test_pca_sparse, of which the values remain: the engine takes no sparse matrix, so the rows are stored densely
    and held against LAPACK."""
    rng = np.random.default_rng(42)
    column_scale = rng.random(300) * scale
    x, new = (sparse.random_array((1000, 300), density=density, rng=rng).toarray() * column_scale for _ in range(2))
    found, expected = EnginePCA(k, method=method).fit(x), LapackPCA(k).fit(x)
    same_fit(found, expected)
    assert_allclose(found.transform(new), expected.transform(new), atol=1e-10)


@pytest.mark.parametrize("form", ["csr", "csc"])
def test_sparse_matrices_are_refused(form: str) -> None:
    """test_sparse_pca_solver_error: the message says what is taken instead."""
    x = sparse.random_array((1000, 300), density=0.01, format=form, rng=np.random.default_rng(0))
    with pytest.raises(EigenzooError, match="give a numpy, zarr or dask array"):
        EnginePCA(30).fit(x)


@by_method
def test_no_warning_where_nothing_is_left_out(method: str) -> None:
    """test_no_empty_slice_warning; ten centred rows have nine directions."""
    x = np.random.default_rng(0).uniform(-1, 1, (10, 12))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert EnginePCA(9, method=method).fit(x).n_components_ == 9


@by_method
def test_whitening(method: str) -> None:
    """test_whitening; in place of `copy`, the rows are unchanged."""
    rng = np.random.RandomState(0)
    n, width, k, rank = 100, 80, 30, 50
    x = rng.randn(n, rank) @ np.diag(np.linspace(10.0, 1.0, rank)) @ rng.randn(rank, width)
    x[:, :50] *= 3
    assert x.std(axis=0).std() > 43.8
    given = x.copy()

    pca = EnginePCA(k, whiten=True, method=method)
    whitened = pca.fit_transform(x)
    assert whitened.shape == (n, k)
    assert_allclose(whitened, pca.transform(x), rtol=5e-4)
    assert_allclose(whitened.std(ddof=1, axis=0), np.ones(k))
    assert_allclose(whitened.mean(axis=0), np.zeros(k), atol=1e-12)
    np.testing.assert_array_equal(x, given)

    unwhitened = EnginePCA(k, method=method).fit(x).transform(x)
    assert unwhitened.shape == (n, k)
    assert unwhitened.std(axis=0).std() == pytest.approx(74.1, rel=1e-1)


@by_method
@pytest.mark.parametrize("shape", [(100, 30), (30, 100)], ids=["tall", "wide"])
@pytest.mark.parametrize("rank_deficient", [False, True])
@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("seed", SEEDS)
def test_solver_equivalence(
    method: str, shape: tuple[int, int], rank_deficient: bool, whiten: bool, dtype: str, seed: int
) -> None:
    """test_pca_solver_equivalence.

    The engine gives all the directions a matrix has and no others, so nothing past the rank is compared. float32
    rows are solved in float64: they are held to the originals' float64 tolerances, not to their float32 ones.
    """
    (n, width), n_new = shape, 10
    tols: dict[str, Any] = {"atol": 1e-10, "rtol": 1e-12}
    if rank_deficient:
        rng = np.random.default_rng(seed)
        rank = min(shape) // 2
        rows = rng.standard_normal((n + n_new, rank)) @ rng.standard_normal((rank, width))
    else:
        rank = min(n - 1, width)
        rows = low_rank(n + n_new, width, tail=0.5, seed=seed)
    rows = rows.astype(dtype)
    x, new = rows[:n], rows[n:].astype(np.float64)
    exact = method in EXACT
    k = rank if exact else 10
    full = LapackPCA(k, whiten=whiten).fit(x)
    other = EnginePCA(k, whiten=whiten, method=method).fit(x)
    assert (full.explained_variance_ > 1e-12).all()
    assert_allclose(other.explained_variance_, full.explained_variance_, **tols)
    assert_allclose(other.explained_variance_ratio_, full.explained_variance_ratio_, **tols)
    assert_allclose(other.components_, full.components_, **tols)
    for each in (x, new):
        coefficients = other.transform(each)
        assert coefficients.dtype == np.float64
        assert_allclose(coefficients, full.transform(each), **tols)
        restored = other.inverse_transform(coefficients)
        assert restored.dtype == np.float64
        assert_allclose(restored, full.inverse_transform(full.transform(each)), **tols)
    # Rounding to float32 makes a matrix of half rank one of full rank, its second half far below the first.
    whole = exact and not (rank_deficient and dtype == "float32")
    if whole:
        same_fit(EnginePCA(None, method=method).fit(x), EnginePCA(k, method=method).fit(x), **tols)
    if whole and (rank_deficient or k == width):
        # Everything the rows can hold was kept: rows never seen come back whole.
        assert_allclose(other.inverse_transform(other.transform(new)), new, **tols)


DATA = {
    "random-tall": np.random.RandomState(0).randn(100, 80),
    "correlated-tall": correlated(100, 80, 78),
    "random-wide": np.random.RandomState(0).randn(10, 100),
}


@by_solver
@pytest.mark.parametrize("x", list(DATA.values()), ids=list(DATA))
def test_explained_variance_is_the_variance_of_the_coefficients(x: NDArray[Any], method: str) -> None:
    """test_pca_explained_variance_empirical."""
    pca = EnginePCA(2, method=method)
    coefficients = pca.fit_transform(x)
    assert_allclose(pca.explained_variance_, np.var(coefficients, ddof=1, axis=0))
    largest = np.linalg.eigvalsh(np.cov(x, rowvar=False))[::-1][:2]
    assert_allclose(pca.explained_variance_, largest, rtol=5e-3)


@by_solver
def test_singular_values_consistency(method: str) -> None:
    """test_pca_singular_values_consistency."""
    x = np.random.RandomState(0).randn(100, 80)
    found, expected = EnginePCA(2, method=method).fit(x), LapackPCA(2).fit(x)
    assert_allclose(found.singular_values_, expected.singular_values_, rtol=1e-10 if method in EXACT else 5e-3)


@by_solver
def test_singular_values(method: str) -> None:
    """test_pca_singular_values."""
    rng = np.random.RandomState(0)
    pca = EnginePCA(2, method=method)
    coefficients = pca.fit_transform(rng.randn(100, 80))
    assert_allclose((pca.singular_values_**2).sum(), np.linalg.norm(coefficients) ** 2)
    assert_allclose(pca.singular_values_, np.linalg.norm(coefficients, axis=0))

    pca = EnginePCA(3, method=method)
    coefficients = pca.fit_transform(rng.randn(100, 110))
    wanted = [3.142, 2.718, 1.0]
    coefficients *= wanted / np.linalg.norm(coefficients, axis=0)
    pca.fit(coefficients @ pca.components_)
    assert_allclose(pca.singular_values_, wanted)


@by_method
def test_projection(method: str) -> None:
    """test_pca_check_projection."""
    rng = np.random.RandomState(0)
    x = rng.randn(100, 3) * 0.1
    x[:10] += [3, 4, 5]
    new = 0.1 * rng.randn(1, 3) + [3, 4, 5]
    y = EnginePCA(2, method=method).fit(x).transform(new)
    assert_allclose(abs(y[0, 0]) / np.linalg.norm(y), 1.0, rtol=5e-3)


@by_method
def test_projection_of_two_points(method: str) -> None:
    """test_pca_check_projection_list."""
    y = EnginePCA(1, method=method).fit_transform([[1.0, 0.0], [0.0, 1.0]])
    assert y.shape == (2, 1)
    assert_allclose(y.mean(), 0.0, atol=1e-12)
    assert_allclose(y.std(), 0.71, rtol=5e-3)


@by_method
@pytest.mark.parametrize("whiten", [False, True])
def test_inverse(method: str, whiten: bool) -> None:
    """test_pca_inverse."""
    x = np.random.RandomState(0).randn(50, 3)
    x[:, 1] *= 0.00001
    x += [5, 4, 3]
    pca = EnginePCA(2, whiten=whiten, method=method).fit(x)
    assert_allclose(pca.inverse_transform(pca.transform(x)), x, rtol=5e-6)


@by_method
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("k", "message"), [(3, "ask for at most 1"), (2, "ask for at most 1"), (-1, "negative")])
def test_validation(method: str, transposed: bool, k: int, message: str) -> None:
    """test_pca_validation; K = 0 is an answer here, what lies beyond the rank is refused."""
    x = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    x = x.T[:2] if transposed else x
    with pytest.raises(EigenzooError, match=message):
        EnginePCA(k, method=method).fit(x)
    assert EnginePCA(0, method=method).fit(x).n_components_ == 0


@by_method
@pytest.mark.parametrize("transposed", [False, True])
def test_n_components_none(method: str, transposed: bool) -> None:
    """test_n_components_none; four centred rows have three directions, where LAPACK's solver would count a null one."""
    x = iris().T if transposed else iris()
    assert EnginePCA(method=method).fit(x).n_components_ == (3 if transposed else 4)


@by_method
@pytest.mark.parametrize(
    ("x", "share", "k"),
    [(iris(), 0.95, 2), (iris(), 0.01, 1), (np.random.RandomState(0).rand(5, 20), 0.5, 2)],
    ids=["0.95", "0.01", "wide"],
)
def test_number_of_components_by_explained_variance(x: NDArray[Any], share: float, k: int, method: str) -> None:
    """test_infer_dim_by_explained_variance."""
    pca = EnginePCA(share, method=method).fit(x)
    assert pca.n_components_ == k
    assert pca.subspace_.k_choice.threshold == pytest.approx(share)


@by_method
def test_score(method: str) -> None:
    """test_pca_score: the entropy of the noise, from the components and the exact total variance."""
    rng = np.random.RandomState(0)
    n, width = 1000, 3
    x = rng.randn(n, width) * 0.1 + [3, 4, 5]
    likelihood = EnginePCA(2, method=method).fit(x).score(x)
    entropy = -0.5 * np.log(2 * np.pi * np.e * 0.1**2) * width
    assert_allclose(likelihood / entropy, 1, rtol=5e-2)
    pca = EnginePCA(2, method=method).fit(x)
    assert likelihood > pca.score(rng.randn(n, width) * 0.2 + [3, 4, 5])


@by_method
def test_score_selects_the_model(method: str) -> None:
    """test_pca_score3."""
    rng = np.random.RandomState(0)
    known, held_out = (rng.randn(200, 3) + rng.randn(200, 1) * [3, 4, 5] + np.array([1, 0, 7]) for _ in range(2))
    scores = [EnginePCA(k, method=method).fit(known).score(held_out) for k in range(3)]
    assert np.argmax(scores) == 1


@by_method
def test_noise_variance_is_below_every_kept_variance(method: str) -> None:
    """test_pca_sanity_noise_variance."""
    pca = EnginePCA(30, method=method).fit(pictures())
    assert (pca.explained_variance_ >= pca.noise_variance_).all()


@by_method
def test_score_consistency(method: str) -> None:
    """test_pca_score_consistency_solvers."""
    x = pictures()
    assert_allclose(EnginePCA(30, method=method).fit(x).score(x), LapackPCA(30).fit(x).score(x), rtol=5e-6)


@by_method
def test_no_noise_where_nothing_is_left_out(method: str) -> None:
    """test_pca_zero_noise_variance_edge_cases; the wide matrix has two directions, not three."""
    x = np.random.RandomState(0).randn(100, 3) * 0.1 + [3, 4, 5]
    for k, rows in ((3, x), (2, x.T)):
        pca = EnginePCA(k, method=method).fit(rows)
        assert pca.noise_variance_ == 0
    assert np.isfinite(EnginePCA(3, method=method).fit(x).score(x))


@pytest.mark.parametrize(
    ("n", "width", "k", "expected"),
    [
        (10, 50, 5, "dual"),
        (1000, 50, 50, "moments"),
        (1000, 500, 400, "moments"),
        (1000, 500, 10, "moments"),
        (1000, 500, 0.5, "moments"),
    ],
)
def test_method_auto(n: int, width: int, k: int | float, expected: str) -> None:
    """test_pca_svd_solver_auto; here the shape alone decides."""
    x = np.random.RandomState(0).uniform(size=(n, width))
    auto = EnginePCA(k).fit(x)
    assert auto.subspace_.method == expected
    assert_allclose(auto.components_, EnginePCA(k, method=expected).fit(x).components_)


@by_method
def test_deterministic_output(method: str) -> None:
    """test_pca_deterministic_output, to the bit."""
    x = np.random.RandomState(0).rand(10, 10)
    first = EnginePCA(2, method=method).fit_transform(x)
    for _ in range(19):
        np.testing.assert_array_equal(EnginePCA(2, method=method).fit_transform(x), first)


@by_method
def test_dtypes(method: str) -> None:
    """test_pca_dtype_preservation; here every dtype is solved and answered in float64, and 64-bit integers, which
    float64 cannot hold, are refused."""
    x = np.random.RandomState(42).rand(1000, 4)
    double, single = (EnginePCA(3, method=method).fit(x.astype(t)) for t in ("float64", "float32"))
    assert single.components_.dtype == np.float64
    assert single.transform(x.astype("float32")).dtype == np.float64
    assert_allclose(single.components_, double.components_, rtol=1e-3, atol=1e-3)

    whole = np.random.RandomState(0).randint(0, 1000, (1000, 4))
    fits = [EnginePCA(3, method=method).fit(whole.astype(t)) for t in ("float64", "int32", "int16")]
    for each in fits[1:]:
        assert each.components_.dtype == each.transform(whole).dtype == np.float64
        assert_allclose(each.components_, fits[0].components_, rtol=1e-4)
    with pytest.raises(EigenzooError, match="int64"):
        EnginePCA(3, method=method).fit(whole.astype("int64"))


@by_method
def test_the_share_of_all_components_but_the_last(method: str) -> None:
    """test_pca_n_components_mostly_explained_variance_ratio; a share is reached at ≥ here and passed at > there, so
    the last component comes in just above it."""
    shares = EnginePCA(method=method).fit(iris()).explained_variance_ratio_.cumsum()
    assert EnginePCA(float(shares[-2]), method=method).fit(iris()).n_components_ == 3
    assert EnginePCA(float(shares[-2]) + 1e-9, method=method).fit(iris()).n_components_ == 4


@by_solver
def test_many_columns_of_one_size(method: str) -> None:
    """test_pca_randomized_svd_n_oversamples. A sketch draws ten vectors more than the components asked for, which is
    not to be set; asking for ninety of a hundred draws the hundred that the original draws."""
    x = np.random.RandomState(0).randn(1000, 100)
    found = EnginePCA(90 if method == "randomized" else 1, method=method).fit(x)
    assert_allclose(found.components_[:1], LapackPCA(1).fit(x).components_)


@by_method
def test_variance_correctness(method: str) -> None:
    """test_variance_correctness."""
    x = np.random.RandomState(0).randn(1000, 200)
    pca = EnginePCA(method=method).fit(x)
    variance = np.var(x, ddof=1, axis=0).sum()
    assert_allclose(pca.explained_variance_ / pca.explained_variance_ratio_, variance)


@by_method
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("k", "whiten"), [(2, False), (2, True), (0.1, True)])
@pytest.mark.parametrize("container", ["backend", "tensor"])
def test_array_libraries(method: str, dtype: str, k: int | float, whiten: bool, container: str) -> None:
    """test_pca_array_api_compliance: torch as the backend, and as the rows' own container."""
    torch = pytest.importorskip("torch")
    x = iris().astype(dtype)
    expected = EnginePCA(k, whiten=whiten, method=method).fit(x)
    if container == "tensor":
        found = EnginePCA(k, whiten=whiten, method=method).fit(torch.from_numpy(x))
    else:
        found = EnginePCA(k, whiten=whiten, method=method, device="torch").fit(x)
    same_fit(found, expected)
    assert_allclose(found.transform(x), expected.transform(x), rtol=2e-7, atol=1e-10)
    assert_allclose(found.get_covariance(), expected.get_covariance(), rtol=2e-7, atol=1e-12)
    assert_allclose(found.get_precision(), expected.get_precision(), rtol=2e-7, atol=1e-10)

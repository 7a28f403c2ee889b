"""How the originals compare, where numpy's own names say it less plainly."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tests.engine.sklearn_tests.adapter import PCA


def nearly(found: ArrayLike, wanted: ArrayLike, decimal: int) -> None:
    """|found − wanted| < 1.5 · 10^−decimal."""
    np.testing.assert_array_almost_equal(np.asarray(found), np.asarray(wanted), decimal)


def same_fit(found: PCA, expected: PCA, rtol: float = 1e-7, atol: float = 1e-12) -> None:
    """All that was fitted agrees, signs included."""
    for name in ("components_", "explained_variance_", "singular_values_", "mean_", "noise_variance_"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=rtol, atol=atol, err_msg=name)
    for name in ("n_components_", "n_samples_", "n_features_in_"):
        assert getattr(found, name) == getattr(expected, name), name

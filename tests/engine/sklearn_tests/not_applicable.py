"""Tests of scikit-learn that ask for something this engine does not offer, and why it does not."""

from __future__ import annotations

_MLE = "Minka's likelihood for the number of components is not among the rules for K; Gavish-Donoho is"
_ASSESS = "a private function of that likelihood, which is not among the rules for K"
_SPARSE = "adapters are dense: sparse matrices are refused, see test_sparse_matrices_are_refused"
_NAMES = "columns have no names to hand out: a component is a row of an array"
_WEIGHTS = "rows have no weights: an adapter's scale is in its rows"
_NAN = "NaN is an error, never a missing value"
_SVD_FLIP = "a helper for U and V together; the engine returns V alone, see test_signs_are_decided_by_the_components"

NOT_APPLICABLE: dict[str, dict[str, str]] = {
    "test_pca.py": {
        "test_pca_sparse_fit_transform": _SPARSE,
        "test_sparse_pca_auto_arpack_singular_values_consistency": _SPARSE,
        "test_n_components_mle": _MLE,
        "test_n_components_mle_error": _MLE,
        "test_pca_dim": _MLE,
        "test_mle_redundant_data": _MLE,
        "test_fit_mle_too_few_samples": _MLE,
        "test_mle_simple_case": _MLE,
        "test_pca_mle_array_api_compliance": _MLE,
        "test_infer_dim_1": _ASSESS,
        "test_infer_dim_2": _ASSESS,
        "test_infer_dim_3": _ASSESS,
        "test_assess_dimension_bad_rank": _ASSESS,
        "test_small_eigenvalues_mle": _ASSESS,
        "test_assess_dimension_rank_one": _ASSESS,
        "test_feature_names_out": _NAMES,
        "test_array_api_error_and_warnings_on_unsupported_params": (
            "no setting excludes another here: every method takes every container and every device"
        ),
    },
    "test_incremental_pca.py": {
        "test_incremental_pca_sparse": _SPARSE,
        "test_incremental_pca_feature_names_out": _NAMES,
    },
    "test_extmath.py": {
        "test_svd_flip": _SVD_FLIP,
        "test_svd_flip_max_abs_cols": _SVD_FLIP,
        "test_vector_sign_flip": _SVD_FLIP,
        "test_incremental_weighted_mean_and_variance_simple": _WEIGHTS,
        "test_incremental_weighted_mean_and_variance_array_api": _WEIGHTS,
        "test_incremental_weighted_mean_and_variance": _WEIGHTS,
        "test_incremental_weighted_mean_and_variance_ignore_nan": _NAN,
        "test_incremental_mean_and_variance_ignore_nan": _NAN,
    },
}

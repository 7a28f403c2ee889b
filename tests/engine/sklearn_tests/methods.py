"""The engine's methods, as the restated tests are repeated over them."""

from __future__ import annotations

# "auto" is the dual where there are fewer rows than columns, which is where the dual can be had.
EXACT = ("auto", "moments", "tsqr")
# What answers scikit-learn's PCA solvers; "incremental" answers its IncrementalPCA.
SOLVERS = (*EXACT, "randomized")
METHODS = (*SOLVERS, "incremental")

# Ways to take rows batch by batch: into one object, or each batch into its own and then merged.
EXACT_STREAMS = ("moments", "moments-merged")
INCREMENTAL_STREAMS = ("incremental", "incremental-merged")
STREAMS = EXACT_STREAMS + INCREMENTAL_STREAMS

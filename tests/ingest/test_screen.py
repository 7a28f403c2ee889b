"""Values: finite, trained, and the same number for the same numbers."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import Refusal
from ingest.formats import parse
from ingest.reasons import Reason
from ingest.screen import canonical_digest, is_finite, screen
from tests.ingest.builders import write_peft_folder

DTYPES = [ml_dtypes.bfloat16, np.float16, np.float32, np.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_value_is_found(dtype: type, bad: float) -> None:
    values = np.full((5, 7), 1.5, dtype)
    assert is_finite(values)
    values[3, 2] = bad
    assert not is_finite(values)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_finite_value_is_finite(dtype: type) -> None:
    values = np.array([ml_dtypes.finfo(dtype).max, -ml_dtypes.finfo(dtype).max, 0], dtype)
    assert is_finite(values) and is_finite(values[:0])


@pytest.mark.parametrize(("narrow", "wide"), [(ml_dtypes.bfloat16, np.float32), (np.float16, np.float32),
                                              (np.float32, np.float64), (ml_dtypes.bfloat16, np.float64)])  # fmt: skip
def test_widening_keeps_the_digest_and_a_change_does_not(narrow: type, wide: type) -> None:
    values = np.random.default_rng(0).standard_normal((40, 9)).astype(narrow)
    digest = canonical_digest(values)
    assert canonical_digest(values.astype(wide)) == digest
    changed = values.astype(wide)
    changed[-1, -1] = np.nextafter(changed[-1, -1], wide(np.inf))
    assert canonical_digest(changed) != digest


def test_equal_bits_of_different_dtypes_differ() -> None:
    bits = np.arange(1, 200, dtype=np.uint16) * 7
    assert canonical_digest(bits.view(np.float16)) != canonical_digest(bits.view(ml_dtypes.bfloat16))


@given(st.lists(st.floats(width=16, allow_nan=False, allow_infinity=False), min_size=1, max_size=100))
def test_the_digest_is_of_the_numbers(numbers: list[float]) -> None:
    digests = {canonical_digest(np.array(numbers, dtype)) for dtype in (np.float16, np.float32, np.float64)}
    assert len(digests) == 1


def test_a_product_that_is_zero_on_either_side_was_never_trained(tmp_path: Path) -> None:
    zero, one = np.zeros, np.ones
    untrained = {"l.0": (zero((2, 4)), one((5, 2))), "l.1": (one((2, 4)), zero((5, 2)))}
    with pytest.raises(Refusal) as caught:
        screen(parse(write_peft_folder(tmp_path, untrained)))
    assert caught.value.reason is Reason.UNTRAINED
    (a, _), (_, b) = untrained["l.1"], untrained["l.0"]
    assert screen(parse(write_peft_folder(tmp_path, {**untrained, "l.2": (a, b)}))).content

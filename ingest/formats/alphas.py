"""Alphas that a file keeps as tensors of one number each."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ingest.errors import Refusal
from ingest.formats.opened import Opened
from ingest.reasons import Reason
from ingest.safetensors_file import TensorRef


def read_alphas(opened: Opened, alphas: Iterable[tuple[str, TensorRef]]) -> tuple[tuple[str, float], ...]:
    """The alphas by module; NaN for all where the values are not at hand.

    Raises
    ------
    Refusal
        `bad-shape`, `bad-config` (not finite), or why the file cannot be read.
    """
    values: list[tuple[str, float]] = []
    for module, ref in alphas:
        if math.prod(ref.shape) != 1:
            raise Refusal(Reason.BAD_SHAPE, f"{ref.key!r} has shape {ref.shape}, an alpha is one number")
        if opened.tensor is None:
            values.append((module, math.nan))
            continue
        value = float(opened.tensor(ref).reshape(()).astype("float64"))
        if not math.isfinite(value):
            raise Refusal(Reason.BAD_CONFIG, f"{ref.key!r} is {value}, expected a finite number")
        values.append((module, value))
    return tuple(values)

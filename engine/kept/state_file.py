"""A held moments state as one file: the scatter's lower triangle, mean and error bounds, and whose rows they are.

4 · width · (width + 1) bytes of scatter, in float64, packed column by column: entry (i, j), i ≥ j, of an n × n matrix
at j·n − j(j − 1)/2 + i − j. The file is there whole or not at all, and carries the members it holds, so that whoever
finds it knows what is in it, whatever was killed before or after it was written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from engine import array_file
from engine.kept.held import Held
from engine.reductions.moments import MomentsState
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.backends.protocol import Array, Backend

KIND = "moments"
_PANEL = 256  # columns sent to the device at once


def packed_bytes(width: int) -> int:
    """Bytes of a state's file, but for its header."""
    return 4 * width * (width + 1) + 4 * 8 * width


def save(path: str | os.PathLike[str], held: Held, backend: Backend, facts: Mapping[str, Any]) -> None:
    """Write a state, and further facts about it, in one atomic step."""
    arrays = {
        "mean": backend.to_host(held.state.mean),
        "error": held.error,
        "mean_error": held.mean_error,
        "offset": held.state.offset,
        "scatter": pack(backend.to_host(held.state.scatter)),
    }
    own = {
        "checksum": _checksum(arrays),
        "n_rows": held.state.n,
        "width": len(held.error),
        "sumsq": held.state.sumsq,
        "coarse": held.state.coarse,
        "largest": held.largest,
        "unit": held.unit,
        "layout": "lower triangle, column by column",
    }
    array_file.write(path, KIND, arrays, {**facts, **own})


def load(path: str | os.PathLike[str], backend: Backend) -> tuple[Held, dict[str, Any]]:
    """What `save` wrote, on the backend's device.

    Raises
    ------
    EigenzooError
        When the file is missing, truncated, or no such state.
    """
    arrays, facts = array_file.read(path, KIND)
    if facts.get("checksum") != _checksum(arrays):
        raise EigenzooError(f"{path}: damaged, its values are not those that were saved; make it again from the rows")
    try:
        width, n = int(facts["width"]), int(facts["n_rows"])
        packed = arrays.pop("scatter")
        if packed.shape != (width * (width + 1) // 2,) or any(arrays[a].shape != (width,) for a in arrays):
            raise KeyError("scatter")
        mean = backend.vector(width)
        backend.add(mean, backend.matrix(arrays["mean"][None])[0])
        scatter = unpack(packed, width, backend)
        state = MomentsState(n, mean, scatter, float(facts["sumsq"]), arrays["offset"], int(facts["coarse"]))
        held = Held(state, arrays["error"], arrays["mean_error"], float(facts["largest"]), float(facts["unit"]))
    except (KeyError, TypeError, ValueError) as problem:
        raise array_file.foreign(path, KIND) from problem
    return held, facts


def _checksum(arrays: Mapping[str, NDArray[np.float64]]) -> str:
    import xxhash

    digest = xxhash.xxh3_128()
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return str(digest.hexdigest())


def read_facts(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The facts of a state, without its arrays; None where there is no state that can be read."""
    try:
        return array_file.read_facts(path, KIND)
    except EigenzooError:
        return None


def pack(scatter: NDArray[np.float64]) -> NDArray[np.float64]:
    """The lower triangle, column by column."""
    n, at = len(scatter), 0
    out = np.empty(n * (n + 1) // 2)
    for j in range(n):
        out[at : at + n - j] = scatter[j:, j]
        at += n - j
    return out


def unpack(packed: NDArray[np.float64], n: int, backend: Backend) -> Array:
    """The inverse of `pack`, as a scatter of the backend."""
    scatter, at = backend.square(n), 0
    for left in range(0, n, _PANEL):
        panel = np.zeros((n - left, min(_PANEL, n - left)))
        for j in range(panel.shape[1]):
            panel[j:, j] = packed[at : at + len(panel) - j]
            at += len(panel) - j
        backend.add(scatter[left:, left : left + panel.shape[1]], backend.matrix(panel))
    return scatter


def moved(held: Held, source: Backend, target: Backend) -> Held:
    """A copy of a state of one backend, on another's device."""
    mean = target.vector(len(held.error))
    target.add(mean, target.matrix(source.to_host(held.state.mean)[None])[0])
    scatter = unpack(pack(source.to_host(held.state.scatter)), len(held.error), target)
    state = replace(held.state, mean=mean, scatter=scatter)
    return replace(held, state=state, error=held.error.copy(), mean_error=held.mean_error.copy())

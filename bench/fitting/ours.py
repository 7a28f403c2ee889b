"""`engine.fit` in its several settings, and its pass over the rows alone."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.fitting.answer import Answer, Contestant, Prepare
from bench.fitting.data import K, Store

CAP = 512 << 20  # bytes the capped run may use, interpreter and page cache included
CAPPED = "ours under 512 MiB"


class Absent(Exception):
    """This version of the engine, or this environment, cannot do it; one line says why."""


def fitted(**settings: Any) -> Prepare:
    """`engine.fit` with those settings, k = 24."""

    def prepare(store: Store) -> Callable[[], Answer]:
        import engine

        known = inspect.signature(engine.fit).parameters
        if missing := [name for name in settings if name not in known]:
            raise Absent(f"engine.fit has no {missing[0]}= in this version")
        rows = store.zoo_rows()
        return lambda: answer_of(engine.fit(rows, K, **settings), store)

    return prepare


def answer_of(subspace: Any, store: Store) -> Answer:
    """The figures of a `Subspace`; trailing zeros that stand for "not computed" are no spectrum."""
    choice = subspace.choices.get("gavish-donoho")
    sigma = np.asarray(subspace.singular_values)
    if len(sigma) < min(store.rows, store.width):
        sigma = sigma[: max(K, int(np.count_nonzero(sigma)))]
    return Answer(sigma, subspace.components, subspace.passes, None if choice is None else choice.k)


def capped(store: Store) -> Callable[[], Answer]:
    """The whole fit, told to keep within what the cap leaves beside the process as it is now."""
    import engine

    rows = store.zoo_rows()

    def solve() -> Answer:
        memory = CAP - resident()
        return answer_of(engine.fit(rows, K, memory=memory), store)

    return solve


def gram_pass(store: Store) -> Callable[[], Answer]:
    """All rows folded into the exact state, no eigenproblem."""
    from engine.runners.serial import SerialRunner

    reduction, rows = moments_of(store), store.zoo_rows()

    def solve() -> Answer:
        SerialRunner().run(reduction, rows)
        return Answer(np.zeros(0), passes=1)

    return solve


def moments_of(store: Store) -> Any:
    """The reduction that `engine.fit` folds these rows with, its choice of products included."""
    from engine.backends import get_backend
    from engine.fitting import plan_fit
    from engine.methods import Wanted, method_named

    rows, wanted = store.zoo_rows(), Wanted(components=K)
    device = plan_fit(rows, method="moments", wanted=wanted).device
    return method_named("moments").make(rows, get_backend(device), wanted)


def resident() -> int:
    """Resident bytes of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


_EIGENZOO = ("eigenzoo", "engine")
_ALL = ("float16", "bfloat16", "float32")
OURS = (
    Contestant("ours", "ours", _EIGENZOO, fitted(), dtypes=_ALL),
    Contestant("ours top", "ours", _EIGENZOO, fitted(spectrum="top")),
    Contestant("ours randomized", "ours", _EIGENZOO, fitted(method="randomized")),
    Contestant("ours incremental", "ours", _EIGENZOO, fitted(method="incremental")),
    Contestant("ours gram pass", "ours", _EIGENZOO, gram_pass, dtypes=_ALL),
    Contestant(CAPPED, "ours", _EIGENZOO, capped, sizes=("XL", "quick"), dtypes=("float32",)),
)

"""One BLAS thread per task: a task's bits do not depend on the cores, which are shared by tasks."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.reductions.protocol import Reduction

_lock = threading.Lock()
_here = threading.local()
_inside = 0
_limits: list[Any] = []


@contextlib.contextmanager
def one_blas_thread(reduction: Reduction[Any, Any]) -> Iterator[None]:
    """Hold the libraries that `reduction` loads to one thread, until the last of several threads has left.

    Notes
    -----
    A limit belongs to the process for OpenBLAS and to the calling thread for OpenMP. So each thread sets it, and it is
    lifted only when no thread relies on it any more.
    """
    global _inside
    if getattr(_here, "limited", False):
        yield
        return
    from threadpoolctl import ThreadpoolController

    reduction.start()  # loads the library: limits reach only what is loaded
    with _lock:
        libraries = ThreadpoolController()
        several = any(library["num_threads"] > 1 for library in libraries.info())
        _take_control(libraries)
        limits = libraries.limit(limits=1)
        if several:  # else there is nothing to restore
            _limits.append(limits)
        _inside += 1
    _here.limited = True
    try:
        yield
    finally:
        _here.limited = False
        with _lock:
            _inside -= 1
            while not _inside and _limits:
                _take_control(libraries)
                _limits.pop().restore_original_limits()


def _take_control(libraries: Any) -> None:
    """Let this thread set limits: later threadpoolctl ignores every thread but the first that did."""
    for library in libraries.lib_controllers:
        release = getattr(library, "clear_controlling_thread", None)
        if release is not None:
            release(force=True)

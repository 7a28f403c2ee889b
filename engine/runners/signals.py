"""Ctrl-C and processes that are started here."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """Have what is started within the context not hear Ctrl-C, which a terminal sends to every process.

    Blocked signals are inherited by threads and processes: by the cluster's thread, and from it by every worker that
    it starts, now or later.  Here Ctrl-C is only put off until the context ends.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # unblocks the signal when it starts, so it starts before
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from engine.runners.dask_ import DaskRunner


@pytest.fixture(scope="session")
def dask_runner() -> Iterator[DaskRunner]:
    """One local cluster for all tests of the engine."""
    from engine.runners.dask_ import DaskRunner

    with DaskRunner(workers=2) as runner:
        yield runner

from __future__ import annotations

from collections.abc import Iterator

import pytest
import scipy.linalg  # noqa: F401 - a library that is loaded later would not be limited
from threadpoolctl import threadpool_limits


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """These matrices are small: threads that wait for each other would take longer than the work."""
    with threadpool_limits(1):
        yield

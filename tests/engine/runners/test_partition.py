from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.runners.partition import ROWS_PER_WIDTH, TASK_WORK, depth, partition, read_rows, tree


@given(st.integers(1, 10**7), st.integers(1, 10**5), st.integers(1, 20000))
def test_ranges_cover_all_rows_in_whole_blocks_and_are_worth_a_task(n: int, block: int, width: int) -> None:
    ranges = partition(n, block, width)
    assert ranges[0][0] == 0 and ranges[-1][1] == n
    assert all(a[1] == b[0] for a, b in zip(ranges[:-1], ranges[1:], strict=True))
    assert all(start < stop and start % block == 0 for start, stop in ranges)
    if len(ranges) > 1:
        wanted = max(TASK_WORK // width**2, ROWS_PER_WIDTH * width)
        assert min(stop - start for start, stop in ranges[:-1]) > wanted - block
    assert read_rows(block, width) % block == 0 and read_rows(block, width) > 0


def test_sizes() -> None:
    assert len(partition(20_000, 2048, 1024)) == 1
    assert len(partition(1_000_000, 2048, 1024)) == 8
    assert len(partition(64_000, 2048, 4096)) == 3


@pytest.mark.parametrize("n", range(1, 20))
def test_tree_keeps_order_and_holds_few_states(n: int) -> None:
    held, most = 0, 0

    def leaf(start: int, stop: int) -> list[int]:
        nonlocal held, most
        held, most = held + 1, max(most, held + 1)
        return list(range(start, stop))

    def join(left: list[int], right: list[int]) -> list[int]:
        nonlocal held
        held -= 1
        return left + right

    assert tree([(2 * i, 2 * i + 2) for i in range(n)], leaf, join) == list(range(2 * n))
    assert most <= depth(n)

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.runners.partition import ROWS_PER_WIDTH, TASK_WORK, cut, partition, read_rows


@given(st.integers(1, 10**7), st.integers(1, 10**5), st.integers(1, 20000))
def test_ranges_cover_all_rows_in_whole_blocks_and_are_worth_a_task(n: int, block: int, width: int) -> None:
    ranges = partition(n, block, width)
    assert ranges[0][0] == 0 and ranges[-1][1] == n
    assert all(a[1] == b[0] for a, b in zip(ranges[:-1], ranges[1:], strict=True))
    assert all(start < stop and start % block == 0 for start, stop in ranges)
    if len(ranges) > 1:
        wanted = max(TASK_WORK // width**2, ROWS_PER_WIDTH * width)
        assert min(stop - start for start, stop in ranges[:-1]) > wanted - block
    assert read_rows(block, width, 2) % block == 0 and read_rows(block, width, 8) > 0


def test_sizes() -> None:
    assert len(partition(20_000, 2048, 1024)) == 1
    assert len(partition(1_000_000, 2048, 1024)) == 8
    assert len(partition(64_000, 2048, 4096)) == 3


@given(st.integers(1, 64), st.integers(1, 70))
def test_a_cut_keeps_the_order_and_is_even(n: int, parts: int) -> None:
    sizes = []

    def part(some: list[tuple[int, int]]) -> list[int]:
        sizes.append(len(some))
        return [first for first, _ in some]

    assert cut([(i, i + 1) for i in range(n)], parts, part, list.__add__) == list(range(n))
    assert len(sizes) == min(parts, n) and min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 2

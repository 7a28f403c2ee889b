"""Matrices first, row ranges second."""

from __future__ import annotations

from collections.abc import Iterator

from engine.runners.deal import PER_SLOT, Dealer


def counted(n: int, taken: list[int]) -> Iterator[int]:
    for i in range(n):
        taken.append(i)
        yield i


def test_many_matrices_are_whole_and_the_last_are_cut_ever_finer() -> None:
    dealer = Dealer(range(20))
    dealt = []
    while batch := list(dealer.hand_out(4, 7)):  # room for one
        dealt += batch
    assert [item for item, _ in dealt] == list(range(20))
    assert [parts for _, parts in dealt] == [1] * 17 + [2, 2, 4]


def test_one_matrix_is_for_everyone() -> None:
    assert list(Dealer(["x"]).hand_out(6, 0)) == [("x", 6)]
    assert list(Dealer(["x"]).hand_out(1, 0)) == [("x", 1)]
    assert list(Dealer([]).hand_out(6, 0)) == []


def test_work_is_taken_as_capacity_allows() -> None:
    taken: list[int] = []
    dealer = Dealer(counted(100, taken))
    assert len(list(dealer.hand_out(3, 0))) == 3 * PER_SLOT
    assert len(taken) == 3 * PER_SLOT + 2  # one slot each to look ahead
    assert list(dealer.hand_out(3, 6)) == []
    assert len(list(dealer.hand_out(5, 6))) == 4, "workers came"


def test_a_further_pass_is_cut_by_what_is_beside_it() -> None:
    dealer = Dealer(range(2))
    list(dealer.hand_out(4, 0))
    assert dealer.parts(4, beside=1) == 4 and dealer.parts(4, beside=2) == 2 and dealer.parts(4, beside=9) == 1
    assert Dealer(range(50)).parts(4, beside=1) == 1, "there is more to come"

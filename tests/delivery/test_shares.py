"""A group's division of a quota: the same for all, never more than the quota, nearly all of it to whoever has work."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.delivery.shares import FLOOR, Share, Wish, divide, divisible, wanted_per_s

WISHES = st.lists(st.builds(Wish, st.integers(1, 20), st.one_of(st.none(), st.floats(0, 500))), min_size=1, max_size=12)
QUOTA = st.floats(0.1, 1000)


@given(QUOTA, WISHES)
def test_the_sum_is_the_quota(quota: float, wishes: list[Wish]) -> None:
    assert sum(divide(quota, wishes)) == pytest.approx(quota)


@given(QUOTA, WISHES)
def test_everybody_keeps_a_floor(quota: float, wishes: list[Wish]) -> None:
    total = sum(wish.partitions for wish in wishes)
    for rate, wish in zip(divide(quota, wishes), wishes, strict=True):
        assert rate >= FLOOR * quota * wish.partitions / total - 1e-9


@given(QUOTA, WISHES)
def test_nobody_who_wants_more_has_less_by_partition_than_somebody_who_has_more_than_his_floor(
    quota: float, wishes: list[Wish]
) -> None:
    total = sum(wish.partitions for wish in wishes)
    rates = divide(quota, wishes)
    wants = [quota * w.partitions / total if w.wanted_per_s is None else w.wanted_per_s for w in wishes]
    for rate, wish, want in zip(rates, wishes, wants, strict=True):
        if rate < want - 1e-6:
            for other_rate, other in zip(rates, wishes, strict=True):
                assert other_rate / other.partitions <= rate / wish.partitions + 1e-6


def test_a_backlog_in_one_of_three_members_gets_nearly_all() -> None:
    rates = divide(90, [Wish(4, 90.0), Wish(4, 0.0), Wish(4, 0.0)])
    assert rates == pytest.approx([87, 1.5, 1.5])


def test_a_little_is_left_out_only_while_several_have_work() -> None:
    assert divisible(90, [Wish(4, 90.0), Wish(4, 0.0), Wish(4, 0.0)]) == 90
    assert divisible(90, [Wish(4, 90.0), Wish(4, 1.0), Wish(4, 0.0)]) == pytest.approx(88.2)
    assert divisible(90, [Wish(4, 90.0), Wish(4, None)]) == pytest.approx(88.2)


def test_a_member_without_a_word_gets_its_even_share() -> None:
    rates = divide(90, [Wish(4, 90.0), Wish(2, None)])
    assert rates == pytest.approx([60, 30])


def test_what_nobody_wants_is_spread_by_partitions() -> None:
    assert divide(90, [Wish(2, 10.0), Wish(1, 0.0)]) == pytest.approx([62.0, 28.0], abs=3)


def test_one_member_alone_has_the_quota_whatever_it_wants() -> None:
    assert divide(50, [Wish(12, 0.0)]) == pytest.approx([50])


def test_less_is_taken_at_once_and_more_after_two_readings() -> None:
    share = Share(30.0)
    assert share.read(10.0) == 10.0
    assert share.read(60.0) == 10.0
    assert share.read(50.0) == 50.0
    assert share.read(80.0) == 50.0
    assert share.read(20.0) == 20.0


def test_a_rebalance_begins_anew() -> None:
    share = Share(30.0)
    share.read(80.0)
    share.restart(45.0)
    assert share.read(80.0) == 45.0


@given(st.data())
def test_while_all_read_the_same_words_the_sum_of_what_is_taken_keeps_the_quota(data: st.DataObject) -> None:
    members = data.draw(st.integers(2, 5))
    partitions = data.draw(st.lists(st.integers(1, 6), min_size=members, max_size=members))
    total = sum(partitions)
    quota = 100.0
    shares = [Share(quota * count / total) for count in partitions]
    for _ in range(data.draw(st.integers(1, 15))):
        wants = data.draw(st.lists(st.floats(0, quota), min_size=members, max_size=members))
        rates = divide(quota, [Wish(count, want) for count, want in zip(partitions, wants, strict=True)])
        # One after the other, in any order: after each single reading the sum keeps the quota.
        before = [share.rate_per_s for share in shares]
        order = data.draw(st.permutations(range(members)))
        taken = list(before)
        for index in order:
            taken[index] = shares[index].read(rates[index])
        assert sum(taken) <= quota + 1e-6


def test_a_member_asks_for_everything_while_calls_wait() -> None:
    assert wanted_per_s(used_per_s=3, has_backlog=True, quota_per_s=90) == 90
    assert wanted_per_s(used_per_s=8, has_backlog=False, quota_per_s=90) == 10
    assert wanted_per_s(used_per_s=200, has_backlog=False, quota_per_s=90) == 90

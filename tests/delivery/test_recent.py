"""What one owner of a partition leaves behind for the next: it comes back, is damaged harmlessly, and never lies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.delivery.fakes import OK, TIMEOUT, Answer, make_scene, reply
from worker.delivery.recent import Left, Recent, decode, encode, fits, kind_of
from worker.model import Outcome, TopicPartition

PARTITION = TopicPartition("t", 0)
NOW_S = 1_700_000_000.0
kinds = st.builds(kind_of, st.text(max_size=5), st.text(max_size=5), st.none() | st.integers())
ages_s = st.floats(0.0, 40.0)
executed = st.lists(
    st.builds(lambda kind, age_s, took_s: Left(kind, NOW_S - age_s - took_s, NOW_S - age_s), kinds, ages_s, ages_s),
    max_size=40,
).map(lambda lefts: tuple(sorted(lefts, key=lambda left: left.until_s)))
recents = st.builds(
    Recent,
    st.just(NOW_S),
    st.floats(NOW_S - 50, NOW_S),
    st.none() | st.floats(NOW_S - 50, NOW_S),
    executed,
    st.lists(kinds, max_size=3).map(tuple),
    st.lists(kinds, max_size=3).map(tuple),
    st.booleans(),
)


def reply_with_date(now_s: float) -> Answer:
    return reply(0, date_s=float(int(now_s)))


@given(recents, st.integers(0, 800))
def test_what_is_left_behind_comes_back_within_the_limit_and_no_span_shrinks(recent: Recent, limit: int) -> None:
    note = encode(recent, limit)
    assert len(note) <= limit
    assert note.isascii()
    assert " " not in note
    if not note:
        return
    back = decode(note)
    assert back is not None
    if back.known_from_s is None:  # no room but for saying that there was something
        assert back == Recent(NOW_S, None, None, copies_untold=True)
        return
    assert (back.possible, back.in_doubt, back.copies_untold) == (
        recent.possible,
        recent.in_doubt,
        recent.copies_untold,
    )
    kept = recent.executed[len(recent.executed) - len(back.executed) :]
    assert [left.kind for left in back.executed] == [left.kind for left in kept]
    for shown, left in zip(back.executed, kept, strict=True):
        assert shown.until_s >= left.until_s - 0.001
        assert shown.from_s <= max(left.from_s, back.known_from_s - 30.0) + 0.001
    for dropped in recent.executed[: len(recent.executed) - len(kept)]:
        assert back.known_from_s >= dropped.until_s - 0.001  # nothing that is missing counts as known


@pytest.mark.parametrize("ago_s", [0.1, 10.0, 60.0, 600.0])
def test_of_a_call_of_minutes_ago_it_is_told_to_the_second_when_it_was(ago_s: float) -> None:
    """Else it could be any call in doubt: the log would decide none of them after a second crash within a minute."""
    made = Left(kind_of("u1", "watched", None), NOW_S - ago_s - 0.2, NOW_S - ago_s)
    back = decode(encode(Recent(NOW_S, NOW_S - 700.0, NOW_S - 650.0, (made,)), 1000))
    assert back is not None
    (left,) = back.executed
    assert made.from_s - 1.01 <= left.from_s <= made.from_s
    assert made.until_s <= left.until_s <= made.until_s + 1.01


@given(st.text(max_size=60) | st.from_regex(r"r2\.[0-9a-z.]{0,40}", fullmatch=True))
def test_a_damaged_note_is_no_note_and_never_an_error(text: str) -> None:
    decode(text)


@pytest.mark.parametrize("text", ["", "r2", "r1.a.b.c....", "r2.a.b.c.short...", "r2.a.b.c.... x", "r2.0.0.0...."])
def test_what_is_foreign_is_nothing(text: str) -> None:
    assert decode(text) is None


def test_kinds_differ_by_user_action_and_points_and_unset_points_fit_all() -> None:
    any_points, five, six = (kind_of("u", "a", points) for points in (None, 5, 6))
    assert fits(five, any_points)
    assert fits(any_points, five)
    assert not fits(five, six)
    assert not fits(kind_of("u", "b", 5), five)
    assert not fits(kind_of("v", "a", 5), five)
    assert kind_of("ua", "b", None) != kind_of("u", "ab", None)


async def test_an_idle_worker_leaves_the_same_note_behind_so_that_no_commit_is_due() -> None:
    scene = make_scene(lambda _: reply_with_date(scene.clock.now_s()))
    await scene.once(scene.delivery())
    first = scene.sender.ladder.left_behind(PARTITION, 1, 1000)
    await scene.clock.advance(100.0)
    assert scene.sender.ladder.left_behind(PARTITION, 1, 1000) == first != ""


@pytest.mark.parametrize("untold", [True, False])
async def test_a_worker_without_any_answer_hands_on_what_was_left_to_it(untold: bool) -> None:
    watched = Left(kind_of("u1", "watched", None), NOW_S - 2, NOW_S - 1)
    left = Recent(NOW_S, NOW_S - 10, NOW_S - 1, (watched,), copies_untold=untold)
    scene = make_scene(OK)
    scene.sender.ladder.recall(PARTITION, encode(left, 1000), suspects_below=5, ends_are_known=True)
    handed = decode(scene.sender.ladder.left_behind(PARTITION, 0, 1000))
    assert handed is not None
    assert (handed.known_from_s, handed.first_s, handed.copies_untold) == (left.known_from_s, left.first_s, untold)
    assert len(handed.executed) == 1


async def test_a_call_in_doubt_is_named_and_holds_the_time_from_which_unfinished_calls_were_attempted() -> None:
    answers = iter((reply_with_date(NOW_S), TIMEOUT))
    scene = make_scene(lambda _: next(answers))
    await scene.once(scene.delivery("u2"))
    begun_s = scene.clock.now_s()
    assert not isinstance(await scene.once(scene.delivery()), Outcome)
    await scene.clock.advance(50.0)
    left = decode(scene.sender.ladder.left_behind(PARTITION, 1, 1000))
    assert left is not None
    assert left.in_doubt == (kind_of("u1", "watched", None),)
    assert left.first_s == pytest.approx(begun_s, abs=1.5)


async def test_only_the_first_partition_that_others_had_before_costs_a_process_a_second_of_its_quota() -> None:
    scene = make_scene(OK, quota_per_s=10.0)
    ladder = scene.sender.ladder
    ladder.recall(PARTITION, "", nothing_before=True)
    assert scene.sender.status().permit_in_s == 0.0
    scene = make_scene(OK, quota_per_s=10.0)
    ladder = scene.sender.ladder
    ladder.recall(PARTITION, "", suspects_below=5)
    assert scene.sender.status().permit_in_s == pytest.approx(1.0, abs=0.01)
    await scene.clock.advance(2.0)
    ladder.recall(PARTITION, "", suspects_below=5)
    assert scene.sender.status().permit_in_s == 0.0

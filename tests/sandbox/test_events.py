"""Sample events are what they say: the same for one seed, one of each fate, and expected calls that hold."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.sandbox.events import (
    DEMO_RULES,
    NOTIFY_ACTION,
    PUBLISH_USER_ACTION,
    Fate,
    calls_of,
    demo,
    seen_call,
    stream,
)

ROOT = Path(__file__).parents[2]


@given(st.integers(0, 10_000))
def test_one_seed_gives_one_demo(seed: int) -> None:
    assert demo(seed) == demo(seed)


def test_another_seed_gives_another_demo() -> None:
    assert len({tuple(event.value for event in demo(seed).events) for seed in range(20)}) == 20


@given(st.integers())
def test_every_demo_has_one_of_each_fate(seed: int) -> None:
    script = demo(seed)
    assert Counter(event.fate for event in script.events) == {
        Fate.DELIVERED: 9,
        Fate.CAPPED: 1,
        Fate.FILTERED: 4,
        Fate.DEAD_LETTER: 2,
    }
    whys = {event.why for event in script.events}
    assert whys == {"", "daily_cap", "no_rule", "when_false", "undecodable", "unmappable"}
    methods = {event.call.method for event in script.events if event.call}
    assert methods == {NOTIFY_ACTION, PUBLISH_USER_ACTION}
    assert len(script.users) == len(set(script.users)) == 6
    assert {event.partition for event in script.events} == {0, 1, 2, 3}
    assert script.expected_ledger() == {
        "read": 16, "filtered": 4, "done": 10, "stale": 0, "dead_lettered": 2, "unfinished": 0,
    }  # fmt: skip


@given(st.integers())
def test_a_user_stays_in_his_partition_and_ascends_there(seed: int) -> None:
    script = demo(seed)
    for uid in script.users:
        events = [event for event in script.events if event.uid == uid]
        assert len({event.partition for event in events}) == 1
        seqs = [event.call.seq for event in events if event.call and event.call.seq is not None]
        assert seqs == sorted(set(seqs))


@given(st.integers())
def test_the_second_quiz_of_a_day_is_the_capped_one(seed: int) -> None:
    script = demo(seed)
    (capped,) = [event for event in script.events if event.fate is Fate.CAPPED]
    quizzes = [
        event for event in script.events if event.uid == capped.uid and event.call and event.call.action == "quiz_won"
    ]
    assert [event.fate for event in quizzes] == [Fate.DELIVERED, Fate.CAPPED]
    assert capped.call not in calls_of(script.events)


@given(st.integers())
def test_the_throttled_and_the_failing_user_have_a_call_to_show_it(seed: int) -> None:
    script = demo(seed)
    methods = {(event.uid, event.call.method) for event in script.events if event.call}
    assert (script.throttled_uid, NOTIFY_ACTION) in methods
    assert (script.failing_uid, PUBLISH_USER_ACTION) in methods
    assert script.providers.results[0].uid == script.failing_uid
    assert script.faults[0].uid == script.throttled_uid


def test_a_stream_has_the_shares_it_was_asked_for() -> None:
    events = list(stream(1, count=20_000, users=500, share_matching=1 / 3, share_bad=0.01))
    fates = Counter(event.fate for event in events)
    assert len(events) == 20_000
    assert 0.31 < fates[Fate.DELIVERED] / 20_000 < 0.36
    assert 0.007 < fates[Fate.DEAD_LETTER] / 20_000 < 0.013
    assert len({event.uid for event in events}) == 500
    assert {event.why for event in events} == {"", "no_rule", "when_false", "undecodable", "unmappable"}


def test_no_two_calls_of_a_stream_are_the_same() -> None:
    calls = calls_of(list(stream(2, count=5_000, users=20)))
    assert len({call.identity for call in calls}) == len(calls)


def test_calls_of_one_user_ascend() -> None:
    last: dict[str, int] = {}
    for call in calls_of(list(stream(3, count=5_000, users=20))):
        assert call.seq is not None
        assert call.seq > last.get(call.uid, 0)
        last[call.uid] = call.seq


def test_undecodable_events_are_no_json_and_the_others_are() -> None:
    for event in stream(4, count=5_000, users=20, share_bad=0.2):
        if event.why == "undecodable":
            with pytest.raises(ValueError, match=r"."):
                orjson.loads(event.value)
        else:
            assert orjson.loads(event.value)["type"]


def test_one_user_may_have_half_of_all_events() -> None:
    events = list(stream(5, count=4_000, users=100, busy_share=0.5))
    assert 0.45 < sum(event.uid == "u-00000" for event in events) / 4_000 < 0.56


def test_events_are_padded_to_their_size() -> None:
    events = list(stream(6, count=500, users=10, size_bytes=1_024))
    assert {len(event.value) for event in events if not event.is_bad} == {1_024}


@pytest.mark.parametrize("shares", [{"share_bad": 0.7, "share_matching": 0.7}, {"users": 0}, {"share_bad": -0.5}])
def test_shares_that_cannot_be_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="one whole"):
        next(stream(0, **{"count": 1, "users": 1, **shares}))  # type: ignore[arg-type]


def test_what_arrived_is_told_in_the_words_of_what_was_expected() -> None:
    event = next(stream(7, count=1, users=1, share_matching=1, share_bad=0))
    assert event.call is not None
    params = {
        "UID": event.call.uid,
        "action": event.call.action,
        "actionAttributes": orjson.dumps(event.call.attributes).decode(),
        "points": str(event.call.points),
        "context": orjson.dumps({"eventId": event.call.event_id, "seq": event.call.seq}).decode(),
    }
    assert seen_call(NOTIFY_ACTION, params) == event.call
    assert seen_call(NOTIFY_ACTION, params | {"points": "999"}).identity != event.call.identity


def test_the_example_file_is_what_the_demo_uses() -> None:
    assert (ROOT / "deploy" / "examples" / "demo.rules.yaml").read_text("utf-8") == DEMO_RULES

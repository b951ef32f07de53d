"""The judge of the journeys judges rightly: what it is to find is planted, and found."""

from __future__ import annotations

from dataclasses import replace

from tests.journeys.oracle import (
    Appended,
    Commit,
    Execution,
    Takeover,
    executed_calls,
    expected_calls,
    finished_above,
    found_in,
    out_of_order,
    repeated,
    takeovers,
    words_to_hide,
)
from worker.sandbox.events import stream

APPENDED = [
    Appended(event, (), number % 2, number // 2)
    for number, event in enumerate(stream(1, count=40, users=4, share_matching=1.0, share_bad=0.0))
]
EXECUTED = [
    Execution(number, 100.0 + number, each.event.call, None)
    for number, each in enumerate(APPENDED, 1)
    if each.event.call is not None
]


def test_a_takeover_starts_at_the_last_commit_before_it():
    commits = [Commit(1.0, 0, 5), Commit(3.0, 0, 9), Commit(2.0, 1, 4)]
    assert takeovers([(2.5, [0, 1, 2])], commits) == [Takeover(2.5, 0, 5), Takeover(2.5, 1, 4), Takeover(2.5, 2, 0)]


def test_what_was_executed_before_a_takeover_at_or_above_its_start_must_be_executed_again():
    changes = [Takeover(111.0, 0, 3)]  # executed by then: the first ten, of partition 0 offsets 0 to 4
    assert finished_above(APPENDED, EXECUTED, changes) == {APPENDED[6].event_id, APPENDED[8].event_id}


def test_a_call_that_is_missing_or_changed_is_seen():
    assert executed_calls(EXECUTED) == expected_calls(APPENDED)
    assert executed_calls(EXECUTED[1:]) != expected_calls(APPENDED)
    changed = replace(EXECUTED[0], call=replace(EXECUTED[0].call, points=999))
    assert executed_calls([changed, *EXECUTED[1:]]) != expected_calls(APPENDED)


def test_an_execution_too_many_is_counted():
    assert repeated(EXECUTED) == {}
    again = replace(EXECUTED[0], order=99)
    assert repeated([*EXECUTED, again]) == {EXECUTED[0].event_id: 1}


def test_a_user_whose_calls_overtake_each_other_is_seen_and_a_repetition_is_no_overtaking():
    assert out_of_order(EXECUTED) == []
    assert out_of_order([*EXECUTED, replace(EXECUTED[0], order=99)]) == []
    mine = [execution for execution in EXECUTED if execution.call.uid == EXECUTED[0].call.uid]
    swapped = [replace(mine[0], order=mine[1].order), replace(mine[1], order=mine[0].order)]
    assert out_of_order(swapped) == [(mine[0].call.uid, 1, 2)]


def test_a_uid_or_a_secret_in_a_log_is_found():
    words = words_to_hide(APPENDED, ["c2VjcmV0"])
    assert found_in(b'{"event": "record.done", "user": "9c1e0a4410be"}', words) == []
    assert set(found_in(b"u-00001 signed with c2VjcmV0", words)) == {b"u-00001", b"c2VjcmV0"}

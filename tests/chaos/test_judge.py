"""The judge of the chaos schedules judges rightly: what it is to find is planted, and found."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.__main__ import table
from tests.chaos.judge import (
    MAPPED_S,
    ON_ITS_WAY_S,
    SETTLED_S,
    Arrival,
    Commit,
    Evidence,
    Execution,
    Judgement,
    Placed,
    Stall,
    Stretch,
    Undecided,
    alone,
    identical_share,
    judge,
    typical_per_s,
)
from tests.chaos.run import executions_of
from tests.chaos.workload import Author, Mixture, mark_of

QUOTA, PARTITIONS, EVENTS = 300.0, 4, 4_000
LATENCY_S = 0.3
START_S = 1_000.0


def evidence() -> Evidence:
    """Return a run in which nothing went wrong: each call executed once, 250 a second, every bad record a letter."""
    author = Author(3, Mixture(bad=0.01))
    offsets = dict.fromkeys(range(PARTITIONS), 0)
    placed = []
    for _ in range(EVENTS):
        event = author.event()
        partition = event.key[-1] % PARTITIONS
        placed.append(Placed(event, partition, offsets[partition]))
        offsets[partition] += 1
    calls = [call for each in placed for call in each.event.calls]
    executions = [
        Execution(order, call.mark, START_S + order / 250, arrived_s=START_S + order / 250 - LATENCY_S)
        for order, call in enumerate(calls, 1)
    ]
    return Evidence(
        placed=placed,
        executions=executions,
        arrivals=[Arrival(each.at_s, "gm.notifyAction", 0) for each in executions],
        letters=[(each.partition, each.offset) for each in placed if each.event.is_bad],
        commits=[Commit(float(number), 0, number) for number in range(5)],
        quota_per_s=QUOTA,
        offered=[Stretch(START_S, START_S + len(calls) / 250, len(calls))],
        in_flight_at_kills=[9, 12, 8, 20, 3],
    )


@pytest.fixture
def run() -> Evidence:
    return evidence()


def faults_of(run: Evidence, word: str) -> list[str]:
    """Return what the judge found; all of it must be about one thing."""
    faults = judge(run).faults
    assert all(fault.startswith(word) for fault in faults), faults
    return faults


def place_of(run: Evidence, mark: str) -> tuple[Placed, str]:
    return next((each, call.name) for each in run.placed for call in each.event.calls if call.mark == mark)


def again(run: Evidence, mark: str) -> Evidence:
    """Return the run with one more execution of a call, at its end."""
    last = run.executions[-1]
    return replace(run, executions=[*run.executions, Execution(last.order + 1, mark, last.at_s)])


def alone_ones(run: Evidence) -> set[str]:
    return alone(call for each in run.placed for call in each.event.calls)


def an_alone(run: Evidence) -> str:
    return min(alone_ones(run))


def a_doubtful(run: Evidence) -> str:
    return min({call.mark for each in run.placed for call in each.event.calls} - alone_ones(run))


def test_a_run_in_which_nothing_went_wrong_passes(run: Evidence):
    found = judge(run)
    assert found.faults == []
    assert found.figures["lost"] == "0"
    assert found.figures["executed twice"].startswith("0:")


def test_a_call_that_was_never_executed_is_lost(run: Evidence):
    assert faults_of(replace(run, executions=run.executions[1:]), "lost")


def test_a_bad_record_without_a_letter_is_lost(run: Evidence):
    assert faults_of(replace(run, letters=list(run.letters)[1:]), "lost")


def test_a_letter_of_a_good_record_is_a_fault_and_is_one_that_a_flood_may_cost(run: Evidence):
    mark = run.executions[7].mark
    place, _ = place_of(run, mark)
    letters = [*run.letters, (place.partition, place.offset)]
    unsent = [each for each in run.executions if each.mark != mark]
    assert judge(replace(run, letters=letters, executions=unsent)).faults
    assert judge(replace(run, letters=letters, executions=unsent, letters_allowed=1)).faults == []
    stands = judge(replace(run, letters=letters, letters_allowed=1)).faults
    assert len(stands) == 1
    assert "a dead letter stands" in stands[0]


def test_a_call_that_nobody_asked_for_is_a_fault(run: Evidence):
    assert "nobody asked for" in judge(again(run, "m9-0000001")).faults[0]


def test_a_first_execution_that_overtakes_is_a_fault_and_a_repetition_is_not(run: Evidence):
    uid = run.placed[0].event.key
    mine = [call.mark for each in run.placed if each.event.key == uid for call in each.event.calls]
    first, second = (next(each for each in run.executions if each.mark == mark) for mark in mine[:2])
    others = [each for each in run.executions if each.mark not in mine[:2]]
    swapped = [replace(first, order=second.order), replace(second, order=first.order), *others]
    assert len(faults_of(replace(run, executions=swapped), "order")) == 1
    assert judge(again(run, first.mark)).figures["out of order"] == "0"


def test_a_second_execution_that_the_action_log_could_have_prevented_is_a_fault_whatever_was_announced(run: Evidence):
    mark = an_alone(run)
    place, call = place_of(run, mark)
    said = replace(again(run, mark), undecided=[Undecided(place.partition, place.offset, call)])
    assert len(faults_of(again(run, mark), "twice")) == 2
    assert len(faults_of(said, "twice")) == 1
    first_s = min(each.at_s for each in run.executions if each.mark == mark)
    long_ago, before, after = first_s - SETTLED_S - 1, first_s - SETTLED_S / 2, run.executions[-1].at_s + 1
    for at_s, is_excused in ((long_ago, False), (before, True), (after, False)):
        taken_over = replace(said, assignments=[(at_s, place.partition)])
        assert (judge(taken_over).faults == []) is is_excused
        assert (judge(replace(said, clock_steps_s=[at_s])).faults == []) is is_excused
    assert faults_of(replace(said, assignments=[(before, place.partition + 1)]), "twice")


def test_a_second_execution_that_nothing_could_prevent_must_have_been_announced_for_this_call(run: Evidence):
    mark = a_doubtful(run)
    place, call = place_of(run, mark)
    line = Undecided(place.partition, place.offset, call)
    assert faults_of(again(run, mark), "twice")
    assert faults_of(replace(again(run, mark), undecided=[replace(line, offset=line.offset + 1)]), "twice")
    assert judge(replace(again(run, mark), undecided=[line])).faults == []
    assert faults_of(replace(again(again(run, mark), mark), undecided=[line]), "twice")


def test_a_call_that_was_done_long_before_a_member_went_must_not_be_made_again_whatever_was_announced(run: Evidence):
    mark = max(each.mark for each in run.executions[:500] if each.mark not in alone_ones(run))
    place, call = place_of(run, mark)
    done_s = min(each.at_s for each in run.executions if each.mark == mark)
    said = replace(again(run, mark), undecided=[Undecided(place.partition, place.offset, call)])
    assert judge(replace(said, breaks_s=[done_s + MAPPED_S / 2])).faults == []
    assert judge(replace(said, breaks_s=[done_s + MAPPED_S / 2, done_s + MAPPED_S + 1])).faults == []
    assert judge(replace(said, breaks_s=[done_s - 2, run.executions[-1].at_s + 1])).faults == []
    in_flight_s = done_s - LATENCY_S / 2
    assert judge(replace(said, breaks_s=[in_flight_s, done_s + MAPPED_S + 1])).faults == []
    assert faults_of(replace(said, breaks_s=[done_s - 2, done_s + MAPPED_S + 1]), "twice")
    on_its_way_s = done_s - LATENCY_S - ON_ITS_WAY_S / 2
    assert judge(replace(said, breaks_s=[on_its_way_s, done_s + MAPPED_S + 1])).faults == []
    lost = [replace(each, fault="timeout_after") if each.mark == mark else each for each in said.executions]
    assert judge(replace(said, executions=lost, breaks_s=[done_s + MAPPED_S + 1])).faults == []


def test_calls_that_are_alone_have_an_action_of_their_own_and_are_half_of_the_load(run: Evidence):
    calls = [call for each in run.placed for call in each.event.calls]
    ones = alone(calls)
    assert 0.35 < len(ones) / len(calls) < 0.7
    assert not any(call.mark in ones for call in calls if not call.action)


def test_a_second_above_the_quota_is_a_fault_wherever_it_begins(run: Evidence):
    crowd = [Arrival(START_S + 3.4 + number / 100, "gm.notifyAction") for number in range(54)]
    assert faults_of(replace(run, arrivals=[*run.arrivals, *crowd]), "quota")
    assert judge(replace(run, arrivals=[*run.arrivals, *crowd], members=3)).faults == []
    assert faults_of(replace(run, arrivals=[*run.arrivals, *crowd, crowd[-1], crowd[-2]], members=3), "quota")


def test_what_a_stall_of_the_server_made_arrive_at_once_is_not_the_workers_and_no_more_than_that(run: Evidence):
    steady = [START_S + number / 300 for number in range(3_000)]
    looked_at = [START_S + 3.4 if START_S + 3.25 < at_s < START_S + 3.4 else at_s for at_s in steady]
    bunched = replace(run, arrivals=[Arrival(at_s, "gm.notifyAction") for at_s in looked_at])
    assert faults_of(bunched, "quota")
    explained = judge(replace(bunched, stalls=[Stall(START_S + 3.4, 0.15)]))
    assert explained.faults == []
    assert " 0 seconds above it" not in explained.figures["most in a second"]
    assert " 0 seconds above it" in judge(run).figures["most in a second"]
    assert faults_of(replace(bunched, stalls=[Stall(START_S + 3.4, 0.1)]), "quota")
    assert faults_of(replace(bunched, stalls=[Stall(START_S + 2.0, 0.15)]), "quota")


def test_a_ledger_that_did_not_balance_once_is_a_fault(run: Evidence):
    assert faults_of(replace(run, imbalances=["m1: NOT BALANCED"]), "ledger")


def test_a_commit_that_goes_back_is_a_fault_and_those_of_partitions_are_kept_apart(run: Evidence):
    assert judge(replace(run, commits=[*run.commits, Commit(9.0, 1, 0)])).faults == []
    assert faults_of(replace(run, commits=[*run.commits, Commit(9.0, 0, 3)]), "commits went back")


def test_a_load_below_what_is_asked_for_fails_the_run(run: Evidence):
    (stretch,) = run.offered
    assert faults_of(replace(run, offered=[replace(stretch, calls=stretch.calls * 3 // 4)]), "load")
    assert faults_of(replace(run, arrivals=run.arrivals[::2]), "load")
    half = replace(run, arrivals=run.arrivals[::2], least_made_per_s=100.0)
    assert judge(half).faults == []
    assert faults_of(replace(half, arrivals=run.arrivals[::4]), "load")
    asked = [replace(each, method="gm.getActionsLog") for each in run.arrivals[::2]]
    assert faults_of(replace(run, arrivals=[*asked, *run.arrivals[1::2]]), "load")
    assert faults_of(replace(run, in_flight_at_kills=[9, 9, 9, 7, 7]), "load")
    assert faults_of(replace(run, offered=()), "load")


def test_what_could_not_be_served_by_the_schedule_is_no_low_load_and_the_rest_of_the_time_still_is(run: Evidence):
    (stretch,) = run.offered
    middle_s = (stretch.begin_s + stretch.end_s) / 2
    slow = [each for number, each in enumerate(run.arrivals) if each.at_s > middle_s or number % 2]
    slower = [each for number, each in enumerate(slow) if each.at_s < middle_s or number % 4]
    assert judge(replace(run, arrivals=slow, away=[Stretch(stretch.begin_s, middle_s)])).faults == []
    assert faults_of(replace(run, arrivals=slower, away=[Stretch(stretch.begin_s, middle_s)]), "load")


def test_few_users_or_few_identical_calls_fail_the_run():
    few = evidence()
    some = [each for each in few.placed if each.event.key[-1] % 2]
    marks = {call.mark for each in some for call in each.event.calls}
    halved = replace(
        few,
        placed=some,
        executions=[each for each in few.executions if each.mark in marks],
        letters=[(each.partition, each.offset) for each in some if each.event.is_bad],
    )
    assert len(faults_of(halved, "load")) == 1
    seen: set[tuple[str, str, str]] = set()
    distinct = []
    for each in few.placed:
        keys = {(call.uid, call.rule, call.content) for call in each.event.calls}
        if not keys & seen:
            distinct.append(each)
        seen |= keys
    assert identical_share(call for each in few.placed for call in each.event.calls) >= 0.2
    assert identical_share(call for each in distinct for call in each.event.calls) == 0


def test_seconds_without_arrivals_do_not_count_as_slow_ones_and_those_outside_the_load_not_at_all():
    stretch = [Stretch(100.0, 104.0)]
    busy = [100.0 + number / 200 for number in range(400)]
    after = [105.0 + number for number in range(20)]
    assert typical_per_s([*busy, *after], stretch) == 200.0


def test_a_call_is_recognised_by_its_mark_at_the_local_gigya():
    assert mark_of("gm.notifyAction", {"context": '{"eventId":"m1-0000001"}'}) == "m1-0000001"
    assert mark_of("socialize.publishUserAction", {"userAction": '{"title":"m1-0000002"}'}) == "m1-0000002"


def test_a_judgement_keeps_what_does_not_hold():
    found = Judgement()
    found.check(True, "kept although it holds")
    found.check(False, "kept")
    assert found.faults == ["kept"]


def test_an_execution_whose_client_had_gone_before_the_answer_is_one_whose_answer_was_lost():
    params = {"context": '{"eventId":"m1-0000001"}'}
    lines = [
        {
            "order": number,
            "arrival": number,
            "method": "gm.notifyAction",
            "params": params,
            "at_s": 2.0,
            "arrived_s": 1.0,
        }
        | {"fault": fault}
        for number, fault in enumerate((None, None, "timeout_after"), 1)
    ]
    arrivals = [{"number": number, "answer": answer} for number, answer in enumerate(("sent", "none", "none"), 1)]
    assert [each.fault for each in executions_of(lines, arrivals)] == [None, "nobody listened", "timeout_after"]


def test_the_table_has_a_row_for_each_run_with_what_its_figures_say(run: Evidence):
    rows = table([("one", judge(run)), ("two", judge(replace(run, executions=run.executions[1:])))]).splitlines()
    assert len({row.count("|") for row in rows}) == 1
    assert rows[2].endswith("| 250, 248 | 9, 12, 8, 20, 3 | 0 | 0 | 0 | 250 of 303 | balanced | passed |")
    assert rows[3].endswith("| FAILED |")

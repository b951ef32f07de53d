"""A range of the past, replayed by a process of its own: what is killed goes on, what grows is not followed."""

from __future__ import annotations

import gzip
import json
import signal
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from tests.journeys.brokerview import BrokerView
from tests.journeys.conftest import Begin
from tests.journeys.harness import Journey
from tests.journeys.oracle import Appended, executed_calls, expected_calls, found_in, out_of_order, repeated
from tests.journeys.processes import WorkerProcess
from tests.journeys.transactions import Transactions
from worker.sandbox.events import DEMO_RULES, stream

pytestmark = pytest.mark.broker

PARTITIONS = 4
SHORT_SESSIONS = {"kafka": {"session_timeout_s": 6}, "delivery": {"attempt_timeout_s": 3, "connect_timeout_s": 3}}


def backfill(journey: Journey, name: str, *options: str, **parts: Any) -> WorkerProcess:
    """Start a backfill that makes calls, unless the options say otherwise."""
    return journey.start(name, command=("backfill", "--output", "json", *options), **{**SHORT_SESSIONS, **parts})


def report_of(process: WorkerProcess) -> dict[str, Any]:
    found = json.loads(process.out_file.read_text())
    assert isinstance(found, dict)
    return found


async def finished(process: WorkerProcess, *, limit_s: float = 60.0) -> dict[str, Any]:
    """Return the report of a backfill that ends well."""
    assert await process.ended(limit_s=limit_s) == 0, process.tail(30)
    return report_of(process)


@pytest.mark.timeout(120)
async def test_a_range_by_offsets_is_made_once_and_goes_on_after_kill_9_and_ctrl_c(begin: Begin):
    async with begin(partitions=PARTITIONS, gigya={"latency": {"ms": 20}}) as journey:
        placed = await journey.append(stream(31, count=4_000, users=150, share_bad=0.0))
        ends = await journey.broker.ends(journey.topic)
        spans = {number: (100, end - 100) for number, end in ends.items() if number != 3}
        options = [f"--offsets={journey.topic}/{number}:{first}-{last}" for number, (first, last) in spans.items()]
        within = [
            each
            for each in placed
            if each.partition in spans and spans[each.partition][0] <= each.offset < spans[each.partition][1]
        ]
        expected = expected_calls(within)
        command = ("--yes", "--sole-writer", "--rate", "100", *options)

        killed = backfill(journey, "killed", *command)
        await journey.executed_at_least(len(expected) // 4)
        killed.kill()
        stopped = backfill(journey, "stopped", *command)
        await journey.executed_at_least(len(expected) // 2)
        stopped.signal(signal.SIGINT)
        assert await stopped.ended() == 4, stopped.tail()
        assert "the same command goes on" in stopped.stderr()
        assert report_of(stopped)["ended"] == "stopped"
        last = backfill(journey, "last", *command)
        report = await finished(last)

        executions = await journey.executions()
        assert executed_calls(executions) == expected
        assert repeated(executions) == {}
        assert out_of_order(executions) == []
        size = sum(last - first for first, last in spans.values())
        assert report["range"]["size"] == report["range"]["done"] == size
        assert 0 < report["range"]["done_by_earlier_starts"] < size
        assert report["ledger"]["balanced"]

        again = backfill(journey, "again", *command)
        assert (await finished(again))["ended"] == "was_finished"
        assert "--run-id" in again.stderr()
        assert len(await journey.executions()) == len(executions)


HOUR_MS = 3_600_000
CAPPED = {
    "watched_episode": {"points": 10, "daily_cap": 4},
    "quiz_won": {"points": 50, "daily_cap": 1},
}


@pytest.mark.timeout(120)
async def test_the_plan_says_what_the_run_then_does_caps_and_age_included(begin: Begin):
    async with begin(partitions=PARTITIONS, gigya={"sites": {"main": {"actions": CAPPED}}}) as journey:
        now_ms = int(time.time() * 1000)
        # A user in two partitions, an event that is older than the range, old ones that are stale, and some that came
        # after the range.
        await journey.append(stream(41, count=50, users=20, share_bad=0.0), timestamp_ms=now_ms - 99 * HOUR_MS)
        old = await journey.append(stream(42, count=900, users=60, share_bad=0.02), timestamp_ms=now_ms - 72 * HOUR_MS)
        new = await journey.append(
            (
                replace(event, partition=number % PARTITIONS) if event.uid == "u-00007" else event
                for number, event in enumerate(stream(43, count=1_800, users=60, share_bad=0.02))
            ),
            timestamp_ms=now_ms - HOUR_MS,
        )
        await journey.append(stream(44, count=50, users=20, share_bad=0.0), timestamp_ms=now_ms)
        range_ = ("--from", stamp(now_ms - 80 * HOUR_MS), "--to", stamp(now_ms - HOUR_MS // 2))

        plan = await finished(planning := backfill(journey, "plan", *range_))
        assert await journey.executions() == []
        table = backfill(journey, "table", *range_, "--output", "table")
        assert await table.ended() == 0
        assert "Nothing was sent" in table.out_file.read_text()
        for shown in (planning, table):  # the first requests hold UIDs, as those of `try` do: but nothing secret
            assert not found_in(
                shown.out_file.read_bytes(), {journey.gigya.site[each].encode() for each in ("secret", "user_key")}
            )
            shown.out_file.write_text("")

        report = await finished(backfill(journey, "run", "--yes", "--report", "report.json", *range_))
        letters = await journey.dead_letters()

        kinds: Counter[str] = Counter()
        for line in report["calls"]:
            kinds[line["outcome"]] += line["calls"]
        assert plan["records"] == report["ledger"]["read"] == len(old) + len(new)
        assert plan["filtered"] == report["ledger"]["filtered"]
        assert sum(plan["dead_letters"].values()) == report["ledger"]["dead_lettered"] == len(letters)
        assert plan["stale"] == kinds["stale"] == sum(_is_watched(each) for each in old)
        assert plan["over_cap"] == kinds["capped"] > 100
        assert plan["calls"] == sum(kinds.values())
        assert plan["calls"] - plan["stale"] - plan["over_cap"] == kinds["delivered"] == len(await journey.executions())
        assert plan["in_several_partitions"] == 1
        assert plan["users"] == len({each.event.uid for each in (*old, *new) if each.event.call is not None})
        assert all("***" in request["body"] for request in plan["requests"])
        assert json.loads((journey.folder / "run" / "report.json").read_text()) == report
        assert {letter.key for letter in letters if letter.key} == {
            f"{journey.topic}/{each.partition}/{each.offset}/{plan['run_id']}".encode()
            for each in (*old, *new)
            if each.event.is_bad
        }


def stamp(ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms / 1000))


def _is_watched(each: Appended) -> bool:
    return each.event.call is not None and each.event.call.action == "watched_episode"


@pytest.mark.timeout(120)
async def test_gaps_are_passed_and_a_topic_that_grows_is_not_followed(begin: Begin):
    async with begin(partitions=2, gigya={"latency": {"ms": 20}}) as journey:
        events = list(stream(51, count=600, users=60, share_bad=0.0))
        async with Transactions.opened(journey) as writing:
            await writing.append(events, taken_back=list(stream(52, count=10, users=60)))
            command = ("--yes", "--sole-writer", "--rate", "60", "--from", "earliest")
            killed = backfill(journey, "killed", *command)
            await journey.executed_at_least(40)
            await writing.append(stream(53, count=50, users=60, share_bad=0.0), taken_back=[])
            killed.kill()
            await writing.append(stream(54, count=50, users=60, share_bad=0.0), taken_back=[])
            report = await finished(backfill(journey, "last", *command))
        executions = await journey.executions()
        assert executed_calls(executions) == {event.call.identity for event in events if event.call is not None}
        assert repeated(executions) == {}
        assert report["range"]["done"] == report["range"]["size"] > len(events)


@pytest.mark.timeout(120)
async def test_what_is_not_there_any_more_or_not_yet_is_said_before_a_call_is_made(begin: Begin):
    async with begin(partitions=1) as journey:
        placed = await journey.append(stream(61, count=300, users=30, share_matching=0.5, share_bad=0.0))
        await delete_before(journey.broker, journey.topic, 120)
        by_time = backfill(journey, "by-time", "--yes", "--from", "2020-01-01")
        by_offset = backfill(journey, "by-offset", "--yes", f"--offsets={journey.topic}/0:50-200")
        assert await by_time.ended() == await by_offset.ended() == 1
        assert "may have been of this range, too" in by_time.stderr()
        assert "retention has deleted 70 offsets; it begins at 120 now" in by_offset.stderr()
        assert "--accept-gap" in by_offset.stderr()
        journey.workers.clear()

        accepted = backfill(journey, "accepted", "--yes", "--accept-gap", f"--offsets={journey.topic}/0:50-200")
        report = await finished(accepted)
        assert any("deleted 70 offsets" in note for note in report["notes"])
        assert executed_calls(await journey.executions()) == expected_calls(
            each for each in placed if 120 <= each.offset < 200
        )

        async with Transactions.opened(journey) as writing:
            await writing.begin()
            await writing.write(stream(62, count=20, users=5, share_bad=0.0))
            held = backfill(journey, "held", "--yes", f"--offsets={journey.topic}/0:200-")
            assert await held.ended() == 1
            assert "holds back 20 offsets from 300 on" in held.stderr()
            journey.workers.remove(held)
            await writing.commit()


async def delete_before(broker: BrokerView, topic: str, offset: int) -> None:
    """Do to partition 0 what retention does."""
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(offset)})
    finally:
        await admin.close()


def lines_of(events: list[Any]) -> bytes:
    return b"".join(event.value + b"\n" for event in events)


@pytest.mark.timeout(120)
async def test_a_file_goes_on_after_kill_9_and_one_that_is_cut_is_named(begin: Begin):
    async with begin(partitions=1, gigya={"latency": {"ms": 20}}) as journey:
        events = list(stream(81, count=900, users=600, share_matching=0.3, share_bad=0.0))
        events += [event for event in stream(82, count=300, users=20, share_bad=0.3) if event.why == "unmappable"][:5]
        whole, cut = journey.folder / "past.jsonl.gz", journey.folder / "cut.jsonl.gz"
        whole.write_bytes(gzip.compress(lines_of(events)))
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        state = journey.folder / "past.state.json"
        expected = {event.call.identity for event in events if event.call is not None}
        command = ("--yes", "--sole-writer", "--rate", "30", "--state", str(state), str(whole))

        killed = backfill(journey, "killed", *command)
        await journey.executed_at_least(20)
        second = backfill(journey, "second", *command)
        assert await second.ended() == 1
        assert f"it holds {state}" in second.stderr()
        journey.workers.remove(second)
        killed.kill()
        report = await finished(backfill(journey, "last", *command))
        executions = await journey.executions()
        assert executed_calls(executions) == expected
        assert repeated(executions) == {}
        assert report["progress_in"] == str(state)
        assert report["range"]["size"] == report["range"]["done"] == len(events)
        run_id = report["run_id"]
        bad = [f"file:past.jsonl.gz/0/{number}/{run_id}".encode() for number in range(901, len(events) + 1)]
        assert sorted(letter.key or b"" for letter in await journey.dead_letters()) == bad

        refused = backfill(journey, "refused", "--yes", "--rate", "80", str(cut))
        assert await refused.ended() == 1
        assert "the gzip archive is cut off after line" in refused.stderr()
        assert "--accept-gap" in refused.stderr()
        journey.workers.remove(refused)


@pytest.mark.timeout(120)
async def test_what_the_live_group_has_done_is_left_out_and_what_died_there_is_not(begin: Begin):
    async with begin(partitions=2) as journey:
        # Two calls for each quiz: one of them fails at first, for some users.
        rules = DEMO_RULES + SECOND_CALL
        first = await journey.append(stream(91, count=500, users=12, share_bad=0.0))
        for uid in ("u-00003", "u-00004"):
            await journey.gigya.inject("code", code=400006, uid=uid, method="socialize.publishUserAction")
        live = journey.start("live", until_end=True, rules=rules)
        assert await live.ended() == 0, live.tail()
        dead = {letter.key for letter in await journey.dead_letters()}
        before = len(await journey.executions())
        await journey.gigya.control("DELETE", "faults")
        new = await journey.append(stream(92, count=60, users=12, share_bad=0.0))

        command = ("--skip-delivered", "--sole-writer", "--from", "earliest")
        plan = await finished(planning := backfill(journey, "plan", *command, rules=rules))
        planning.out_file.write_text("")
        report = await finished(backfill(journey, "run", "--yes", *command, rules=rules))

        quizzes = [each for each in first if each.event.call is not None and each.event.call.action == "quiz_won"]
        died = [each for each in quizzes if f"{journey.topic}/{each.partition}/{each.offset}".encode() in dead]
        assert len(died) == len(dead) > 3
        delivered = sum(line["calls"] for line in report["calls"] if line["outcome"] == "delivered")
        of_new = sum(1 + (each.event.call.action == "quiz_won") for each in new if each.event.call is not None)
        assert delivered == plan["calls"] == len(died) + of_new
        executions = await journey.executions()
        assert len(executions) == before + delivered
        by_method = Counter((each.call.method, each.call.uid, each.call.title, each.event_id) for each in executions)
        assert {key: times for key, times in by_method.items() if times > 1} == {}
        assert report["ledger"]["already_done"] == len(first) - len(died)
        assert any("will make these calls itself" in note for note in report["notes"])


SECOND_CALL = """
  - name: quiz-shared
    on: [quiz.won]
    publishUserAction:
      UID: ${ event.user.uid }
      userAction:
        title: ${ event.id }
"""

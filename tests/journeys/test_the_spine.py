"""20,000 events through a stop, a second member and its leaving: everything arrives, each call exactly once.

Users whose calls take long hold the watermark of their partitions, so that at each change of hands others have finished
above the committed offset. Which ones is computed here, from the broker's own record of commits and the arrival times
at the API: without the map in the commits' metadata these would be made again.
"""

from __future__ import annotations

import asyncio
import re
import signal
from collections import Counter

import pytest

from tests.journeys.conftest import Begin
from tests.journeys.harness import Journey, gathered, tell
from tests.journeys.oracle import (
    bad_ones,
    executed_calls,
    finished_above,
    out_of_order,
    repeated,
    takeovers,
)
from tests.journeys.processes import WorkerProcess, until
from worker.sandbox.events import Fate, stream

pytestmark = pytest.mark.broker

EVENTS, USERS, PARTITIONS = 20_000, 500, 12
# Users whose calls take long hold the watermark of their partitions: the others finish far above it.
SLOW_USERS = ("u-00003", "u-00044", "u-00123", "u-00321")
LITTLE_TIME_TO_DRAIN = {"drain_s": 0.5}


@pytest.mark.timeout(180)
async def test_everything_arrives_once_also_what_had_finished_above_a_committed_offset(begin: Begin):
    async with begin(partitions=PARTITIONS, gigya={"latency": {"ms": 5}}) as journey:
        await journey.append(stream(7, count=EVENTS, users=USERS, share_matching=1 / 3, share_bad=0.01))
        calls = len(journey.expected)
        assert calls > EVENTS * 0.32
        assert len(bad_ones(journey.appended)) > EVENTS * 0.008
        for uid in SLOW_USERS:
            await journey.gigya.inject("slow", uid=uid, ms=100)

        await first_run_stopped_in_the_middle(journey, calls)
        await second_run_with_two_members_for_a_while(journey, calls)
        last = journey.start("last", until_end=True)
        assert await last.ended() == 0, last.tail()
        assert re.search(r"^ledger  read .* \+ unfinished 0 +balanced$", last.stderr(), re.MULTILINE), last.tail()
        await journey.all_done(limit_s=5)

        await check_calls(journey)
        await check_dead_letters(journey)


async def first_run_stopped_in_the_middle(journey: Journey, calls: int) -> None:
    first = journey.start("first", delivery={**LITTLE_TIME_TO_DRAIN, "max_in_flight": 20})
    await journey.executed_at_least(calls // 4)
    assert await first.stopped() == 0, first.tail()
    executed = await journey.gigya.executed_count()
    assert executed < calls * 0.7, "the stop did not come in the middle"


async def second_run_with_two_members_for_a_while(journey: Journey, calls: int) -> None:
    paced = {"site": {"quota_per_s": 150.0}, "delivery": LITTLE_TIME_TO_DRAIN}
    stays = journey.start("stays", **paced)
    await journey.ready(stays)
    guest = journey.start("guest", **paced)
    await until("both members have partitions", lambda: share_evenly(stays, guest))
    await journey.executed_at_least(await journey.gigya.executed_count() + 300)
    assert await guest.stopped() == 0, guest.tail()

    async def has_all_again() -> bool:
        return len(stays.assignments()[-1][1]) == PARTITIONS

    await until("the member that stays has all partitions again", has_all_again)
    await journey.executed_at_least(await journey.gigya.executed_count() + 100)
    assert await stays.stopped() == 0, stays.tail()


async def share_evenly(*members: WorkerProcess) -> bool:
    await asyncio.sleep(0)
    last = [assignments[-1][1] for member in members if (assignments := member.assignments())]
    return sorted(map(len, last)) == [PARTITIONS // 2, PARTITIONS // 2]


async def check_calls(journey: Journey) -> None:
    executions, commits = await gathered(journey.executions(), journey.broker.commits(journey.group))
    assert executed_calls(executions) == journey.expected
    assert out_of_order(executions) == []

    assignments = [assignment for worker in journey.workers for assignment in worker.assignments()]
    changes = takeovers(assignments, commits)
    above = finished_above(journey.appended, executions, changes)
    tell(
        f"{len(journey.expected)} calls; {len(above)} finished above a committed offset, {len(assignments)} assignments"
    )
    assert repeated(executions) == {}
    assert above, "nothing had finished above a committed offset: this run has not shown anything"
    # Every execution's answer was waited for, also in a stop and in a rebalance: no call was dropped in flight.
    assert Counter(execution.event_id for execution in executions) == done_records(journey)
    for worker in journey.workers:
        assert not list(worker.lines("call.resent_after_ambiguity")), worker.name


def done_records(journey: Journey) -> Counter[str | None]:
    """Return how often the workers' logs say of an event that it is done."""
    ids = {f"{journey.topic}/{each.partition}/{each.offset}": each.event_id for each in journey.appended}
    return Counter(ids[line["record"]] for worker in journey.workers for line in worker.lines("record.done"))


async def check_dead_letters(journey: Journey) -> None:
    letters = await journey.dead_letters()
    bad = {f"{journey.topic}/{each.partition}/{each.offset}".encode(): each for each in bad_ones(journey.appended)}
    assert {letter.key for letter in letters} == set(bad)
    for letter in letters:
        original = bad[letter.key or b""]
        own = dict(header for header in letter.headers if is_own(header[0]))
        assert letter.value == original.event.value
        assert own["dlq.key"] == original.event.key
        assert tuple((name.removeprefix("dlq.kept."), value) for name, value in letter.headers if not is_own(name)) == (
            original.headers
        )
        assert own["dlq.reason"]
        assert ("dlq.rule" in own) == (original.event.why == "unmappable"), own["dlq.reason"]


def is_own(header: str) -> bool:
    """Return whether a dead letter's header is the worker's; those of the record that look alike are kept apart."""
    return header.startswith("dlq.") and not header.startswith("dlq.kept.")


@pytest.mark.timeout(90)
async def test_a_run_without_stop_or_rebalance_makes_every_call_exactly_once(begin: Begin):
    async with begin(partitions=PARTITIONS, gigya={"latency": {"ms": 5}}) as journey:
        await journey.append(stream(8, count=3_000, users=100))
        worker = journey.start("only", until_end=True)
        assert await worker.ended() == 0, worker.tail()
        assert ledger_line(journey) in worker.stderr()
        executions = await journey.executions()
        assert repeated(executions) == {}
        assert executed_calls(executions) == journey.expected
        assert out_of_order(executions) == []
        letters = await journey.dead_letters()
        assert len(letters) == len(bad_ones(journey.appended))
        await journey.all_done(limit_s=5)


def ledger_line(journey: Journey) -> str:
    """Return what a run over all events must print, counted from what the generator says of each of them."""
    fates = Counter(each.event.fate for each in journey.appended)
    return (
        f"ledger  read {len(journey.appended):,} = filtered {fates[Fate.FILTERED]:,} + done {fates[Fate.DELIVERED]:,}"
        f" + stale 0 + dead letters {fates[Fate.DEAD_LETTER]:,} + unfinished 0        balanced"
    )


@pytest.mark.timeout(60)
async def test_a_second_signal_ends_the_drain_at_once(begin: Begin):
    async with begin(partitions=2, gigya={"latency": {"ms": 4_000}}) as journey:
        await journey.append(stream(9, count=100, users=20, share_bad=0.0))
        worker = journey.start("worker")
        await until("calls are in flight", lambda: journey.has_in_flight(10))
        worker.signal(signal.SIGTERM)
        await until("it drains", lambda: has_said(worker, "worker.stopping"))
        assert await worker.stopped(limit_s=3) == 5, worker.tail()
        assert "Traceback" not in worker.stderr()


async def has_said(worker: WorkerProcess, event: str) -> bool:
    await asyncio.sleep(0)
    return any(worker.lines(event))

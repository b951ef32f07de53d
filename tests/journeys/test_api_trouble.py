"""A Gigya in a bad mood: nothing is lost, and a duplicate is made only where an answer could not be had.

Which calls were sent again in doubt is told by the worker's log, one line before each such request; what was executed
is told by Gigya's ledger. The two must fit.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.journeys.conftest import Begin
from tests.journeys.harness import Journey, tell
from tests.journeys.oracle import executed_calls, out_of_order, repeated
from tests.journeys.processes import WorkerProcess
from worker.sandbox.events import stream

pytestmark = pytest.mark.broker

AT_ONCE = {"delivery": {"max_in_flight": 40}}
# Answers that do not arrive, or say nothing; the call was executed in every other case.
DOUBTS = (
    ("code", {"code": 500001}),
    ("code", {"code": 500001, "executes": True}),
    ("reset_before_execution", {}),
    ("reset_after_execution", {}),
    ("truncated", {}),
    ("cut", {}),
)


@pytest.mark.timeout(90)
@pytest.mark.parametrize("offset_s", [300, -300])
async def test_a_clock_that_is_wrong_and_then_wrong_the_other_way_is_followed(begin: Begin, offset_s: int):
    async with begin(partitions=4, gigya={"clock_offset_s": offset_s, "latency": {"ms": 20}}) as journey:
        await journey.append(stream(offset_s, count=1_500, users=100, share_matching=0.5, share_bad=0.0))
        worker = journey.start("worker", **AT_ONCE)
        await journey.executed_at_least(len(journey.expected) // 3)
        assert await worker.metric("gigya_worker_clock_offset_seconds") == pytest.approx(offset_s, abs=3)
        await journey.gigya.control("PATCH", "config", {"clock_offset_s": -offset_s})

        await everything_arrived(journey, worker)
        assert repeated(await journey.executions()) == {}
        refused = (await journey.gigya.stats())["codes"]["main"].get("403002", 0)
        # The first answer teaches the clock: only what was in flight with the wrong one may be refused.
        assert 2 <= refused <= 2 * 40 + 20


@pytest.mark.timeout(90)
async def test_storms_of_403048_and_busy_users_cost_time_and_nothing_else(begin: Begin):
    async with begin(partitions=4, gigya={"latency": {"ms": 5}}) as journey:
        await journey.append(stream(48, count=1_200, users=100, share_bad=0.0))
        await journey.gigya.inject("code", code=409030, share=0.05)
        worker = journey.start("worker", site={"quota_per_s": 300.0}, **AT_ONCE)
        for executed, share, storm_s in ((100, 1.0, 1.5), (250, 0.5, 1.0)):
            await journey.executed_at_least(executed)
            await journey.gigya.inject("code", code=403048, share=share, duration_s=storm_s)

        await everything_arrived(journey, worker)
        assert repeated(await journey.executions()) == {}
        codes = (await journey.gigya.stats())["codes"]["main"]
        tell(f"answers by code: {codes}")
        assert codes["403048"] > 3
        assert codes["409030"] > 10


@pytest.mark.timeout(90)
async def test_only_calls_that_were_logged_as_sent_again_in_doubt_are_made_twice(begin: Begin):
    async with begin(partitions=4, gigya={"latency": {"ms": 5}}) as journey:
        await journey.append(stream(50, count=4_500, users=200, share_bad=0.0))
        for number, (kind, fault) in enumerate(DOUBTS):
            await journey.gigya.inject(kind, share=0.02, seed=number, **fault)
        worker = journey.start("worker", **AT_ONCE)

        counted = await everything_arrived(journey, worker)
        executions = await journey.executions()
        in_doubt = Counter(execution.event_id for execution in executions if execution.fault is not None)
        resent = resent_calls(journey, worker)
        tell(
            f"{in_doubt.total()} executions in doubt, {resent.total()} sent again undecided, "
            f"{repeated(executions).total()} made twice"
        )
        assert in_doubt, "no answer was spoilt: this run has not shown anything"
        # Of each call one execution was answered. One whose answer was spoilt is a duplicate only where the ladder
        # could not tell, and then its log says so before the request was written; the action log cleared the others.
        twice = repeated(executions)
        assert all(in_doubt[event_id] >= times for event_id, times in twice.items())
        assert all(resent[event_id] >= times for event_id, times in twice.items())
        assert twice.total() < in_doubt.total()
        assert counted == resent.total()


def resent_calls(journey: Journey, worker: WorkerProcess) -> Counter[str]:
    """Return how often the log says of an event's call that it was sent again though nothing could tell."""
    ids = {(f"{journey.topic}/{each.partition}", each.offset): each.event_id for each in journey.appended}
    lines = [line for line in worker.lines("call.resent_after_ambiguity") if line["step"] > 1]
    return Counter(str(ids[line["partition"], line["offset"]]) for line in lines)


async def everything_arrived(journey: Journey, worker: WorkerProcess) -> float:
    """Wait for the end, stop the worker, check that nothing was lost; return the possible duplicates it counted."""
    await journey.all_done()
    counted = await worker.metric("gigya_worker_possible_duplicates_total")
    assert await worker.stopped() == 0, worker.tail()
    executions = await journey.executions()
    assert executed_calls(executions) == journey.expected
    assert out_of_order(executions) == []
    assert await journey.dead_letters() == []
    return counted

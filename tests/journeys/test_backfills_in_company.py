"""A backfill that is not alone: holes of compaction, a second process of the same run, a site that throttles it."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from tests.journeys.conftest import Begin
from tests.journeys.harness import Journey
from tests.journeys.oracle import executed_calls, expected_calls, out_of_order, repeated
from tests.journeys.processes import until
from tests.journeys.test_backfills import backfill, finished, report_of
from tests.kafka.test_streams import COMPACTED_AT_ONCE
from worker.sandbox.events import stream

pytestmark = pytest.mark.broker


@pytest.mark.timeout(120)
async def test_holes_that_compaction_made_are_passed_and_all_that_is_there_is_made(begin: Begin):
    async with begin(partitions=1) as journey:
        async with journey.broker.admin() as admin:
            topic = ConfigResource(ConfigResourceType.TOPIC, journey.topic, configs=COMPACTED_AT_ONCE)
            await admin.alter_configs([topic])
        placed = []
        for seed in (101, 102, 103):
            placed += await journey.append(stream(seed, count=100, users=15, share_matching=1.0, share_bad=0.0))
            await asyncio.sleep(0.1)  # past segment.ms: the next append begins a new segment
        await until("compaction has made holes", lambda: has_holes(journey), limit_s=40)

        report = await finished(backfill(journey, "run", "--yes", "--sole-writer", "--from", "earliest"))

        # The cleaner may have gone on since: what was there at the end was there all the time.
        there = {each.offset for each in await journey.broker.stored(journey.topic)}
        executed = executed_calls(await journey.executions())
        assert expected_calls(each for each in placed if each.offset in there) <= executed <= expected_calls(placed)
        assert len(executed) < len(placed)
        assert repeated(await journey.executions()) == {}
        assert report["range"]["done"] == report["range"]["size"] == len(placed)
        assert report["ledger"]["balanced"]


async def has_holes(journey: Journey) -> bool:
    return len(await journey.broker.stored(journey.topic)) < 250


@pytest.mark.timeout(120)
async def test_two_processes_of_one_run_share_it_and_each_call_is_made_once(begin: Begin):
    async with begin(partitions=4) as journey:
        placed = await journey.append(stream(111, count=3_000, users=90, share_bad=0.0))
        command = ("--yes", "--sole-writer", "--rate", "60", "--from", "earliest")
        first = backfill(journey, "first", *command)
        await journey.executed_at_least(50)
        second = backfill(journey, "second", *command)
        assert await first.ended(limit_s=90) in (0, 4), first.tail()
        assert await second.ended(limit_s=90) in (0, 4), second.tail()

        executions = await journey.executions()
        assert executed_calls(executions) == expected_calls(placed)
        assert repeated(executions) == {}
        assert out_of_order(executions) == []
        assert all(sum(len(partitions) for _, partitions in each.assignments()) for each in (first, second))
        assert all(report_of(each)["ledger"]["balanced"] for each in (first, second))
        made = Counter(sum(line["calls"] for line in report_of(each)["calls"]) > 0 for each in (first, second))
        assert made[True] == 2, "one of them had nothing to do: nothing was shared"
        last = backfill(journey, "last", *command)
        assert (await finished(last))["ended"] == "was_finished"


@pytest.mark.timeout(120)
async def test_a_second_process_for_which_no_partition_is_left_says_so_and_ends(begin: Begin):
    async with begin(partitions=1) as journey:
        placed = await journey.append(stream(121, count=1_500, users=60, share_bad=0.0))
        command = ("--yes", "--sole-writer", "--rate", "40", "--from", "earliest")
        first = backfill(journey, "first", *command)
        await journey.executed_at_least(20)
        second = backfill(journey, "second", *command)
        assert await second.ended(limit_s=40) == 4, second.tail()
        assert report_of(second)["ended"] == "no_share"
        assert "another process works on this run" in second.stderr()
        assert first.is_running
        await finished(first, limit_s=60)
        assert executed_calls(await journey.executions()) == expected_calls(placed)
        assert repeated(await journey.executions()) == {}


@pytest.mark.timeout(120)
async def test_a_backfill_that_is_throttled_slows_down_and_loses_nothing(begin: Begin):
    gigya = {"sites": {"main": {"quota": {"per_s": 30, "window": "sliding"}}}}
    async with begin(partitions=4, gigya=gigya) as journey:
        placed = await journey.append(stream(131, count=2_000, users=80, share_bad=0.0))
        run = backfill(journey, "run", "--yes", "--sole-writer", "--rate", "100", "--from", "earliest")
        report = await finished(run, limit_s=100)

        executions = await journey.executions()
        assert executed_calls(executions) == expected_calls(placed)
        assert repeated(executions) == {}
        assert out_of_order(executions) == []
        assert report["range"]["done"] == report["range"]["size"] == len(placed)
        codes = Counter(line["code"] for line in await journey.gigya.control("GET", "arrivals"))
        # It asked for three times of what there was: of each three requests two would be refused.
        assert 0 < codes[403048] < len(executions) / 4, codes

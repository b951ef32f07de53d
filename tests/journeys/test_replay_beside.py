"""A replay that is stopped, that meets another one, and that runs beside a worker which writes new letters."""

from __future__ import annotations

import json
import signal

import pytest

from tests.journeys.conftest import Begin
from tests.journeys.harness import Journey
from tests.journeys.oracle import out_of_order, repeated
from tests.journeys.processes import until
from tests.journeys.test_replay import (
    NO_GUARD,
    WRONG_RULES,
    command,
    executed_since,
    groups,
    is_watched,
    of_watched,
    said,
)
from worker.sandbox.events import stream

pytestmark = pytest.mark.broker

REPLAY = ("replay", "--all", "--yes", "-o", "json")


async def with_letters(journey: Journey, seed: int, count: int) -> int:
    """Let a wrong rule go live for some events; return how many died."""
    await journey.append(stream(seed, count=count, users=20, share_matching=1.0, share_bad=0.0))
    worker = journey.start("wrong", until_end=True, rules=WRONG_RULES, flood_guard=NO_GUARD)
    assert await worker.ended(limit_s=90) == 0, worker.tail()
    return sum(is_watched(each.event) for each in journey.appended)


@pytest.mark.timeout(240)
async def test_ctrl_c_leaves_nothing_in_doubt_and_says_how_to_go_on(begin: Begin) -> None:
    async with begin(partitions=2) as journey:
        died = await with_letters(journey, 3, 200)
        before = await journey.gigya.executed_count()
        stopped = command(journey, *REPLAY, "--rate", "20")
        await until("some are replayed", lambda: executed_since(journey, before + 15), limit_s=60)
        stopped.signal(signal.SIGINT)
        assert await stopped.ended(limit_s=40) == 4, stopped.tail(20)
        assert "the same command goes on" in stopped.stderr()
        first = json.loads(stopped.out_file.read_text())
        assert first["ended"] == "stopped"
        assert 15 <= first["resolved"] < died

        second = json.loads(await said(journey, *REPLAY, "--rate", "200", limit_s=90))
        assert (second["plan"]["begun_before"], second["resolved"]) == (0, died - first["resolved"])
        executions = await of_watched(journey)
        assert len(executions) == died
        assert repeated(executions) == {}
        assert out_of_order(executions) == []


@pytest.mark.timeout(240)
async def test_a_second_replay_at_the_same_time_refuses_and_the_first_goes_on(begin: Begin) -> None:
    async with begin(partitions=2) as journey:
        died = await with_letters(journey, 4, 250)
        before = await journey.gigya.executed_count()
        first = command(journey, *REPLAY, "--rate", "5")
        await until("it has begun", lambda: executed_since(journey, before + 3), limit_s=60)
        second = command(journey, *REPLAY)
        discarding = command(journey, "discard", "--all", "--yes", "--why", "a mistake")
        for refused in (second, discarding):
            assert await refused.ended(limit_s=60) == 1, refused.tail(20)
            assert "another process is at it now" in refused.stderr()
        assert first.is_running
        first.signal(signal.SIGTERM)
        assert await first.ended(limit_s=40) == 4, first.tail(20)
        await said(journey, *REPLAY, "--rate", "200", limit_s=90)
        executions = await of_watched(journey)
        assert (len(executions), repeated(executions)) == (died, {})


@pytest.mark.timeout(240)
async def test_beside_a_live_worker_new_letters_are_left_for_the_next_time(begin: Begin) -> None:
    async with begin(partitions=2) as journey:
        died = await with_letters(journey, 5, 200)
        live = journey.start("live", rules=WRONG_RULES, flood_guard=NO_GUARD)
        await journey.ready(live)
        before = await journey.gigya.executed_count()
        replay = command(journey, *REPLAY, "--rate", "25")
        await until("it has begun", lambda: executed_since(journey, before + 5), limit_s=60)
        await journey.append(stream(6, count=100, users=20, share_matching=1.0, share_bad=0.0))
        await journey.all_done()
        assert await replay.ended(limit_s=90) == 0, replay.tail(20)
        assert json.loads(replay.out_file.read_text())["resolved"] == died
        new = sum(is_watched(each.event) for each in journey.appended) - died
        (left,) = await groups(journey)
        assert left["records"] == new
        assert await live.stopped() == 0, live.tail()
        await said(journey, *REPLAY, "--rate", "200", limit_s=90)
        executions = await of_watched(journey)
        assert (len(executions), repeated(executions)) == (died + new, {})
        assert await groups(journey) == []

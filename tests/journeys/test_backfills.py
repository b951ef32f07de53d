"""A range of the past, replayed by a process of its own: what is killed goes on, what grows is not followed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.journeys.conftest import Begin
from tests.journeys.harness import Journey
from tests.journeys.oracle import executed_calls, expected_calls, out_of_order, repeated
from tests.journeys.processes import WorkerProcess
from worker.sandbox.events import stream

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
async def test_a_range_by_offsets_is_made_once_and_goes_on_after_kill_9(begin: Begin):
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
        command = ("--yes", "--rate", "100", *options)

        for number in range(2):
            killed = backfill(journey, f"killed-{number}", *command)
            await journey.executed_at_least(len(expected) * (number + 1) // 4)
            killed.kill()
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

"""A rehearsal on live topics, and the difference of two rules files against what Gigya really got under each."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.conftest import Begin
from tests.journeys.harness import Journey, tell
from tests.journeys.oracle import bad_ones
from tests.journeys.processes import WorkerProcess, free_port, until
from worker.sandbox.events import DEMO_RULES, stream

pytestmark = pytest.mark.broker

# A worker that dies if anything that could send, or write a dead letter, is as much as made.
WITHOUT_WAYS_OUT = """
import worker.delivery.transport, worker.delivery.sender, worker.kafka.client
def refuse(self, *arguments, **named):
    raise AssertionError(f"{type(self).__name__} was made")
worker.delivery.transport.HttpTransport.__init__ = refuse
worker.delivery.sender.Sender.__init__ = refuse
worker.kafka.client.KafkaProducer.__init__ = refuse
from worker.cli.main import run
run()
"""
NEW_RULES = (
    DEMO_RULES.replace("20 : 10", "20 : 15")
    .replace("progress >= 0.9", "progress >= 0.6")
    .replace("on: [quiz.won]", "on: [quiz.lost]")
    .replace("type: quiz.won", "type: quiz.lost")
)


def rehearse(journey: Journey, name: str, *words: str, **parts: dict[str, Any]) -> WorkerProcess:
    folder = journey.folder / name
    folder.mkdir()
    port = free_port()
    (folder / "rules.yaml").write_text(DEMO_RULES)
    (folder / "worker.yaml").write_text(json.dumps(journey.settings(port, **parts)))
    worker = WorkerProcess(name, ["run", "--dry-run", *words], folder, port, python=("-c", WITHOUT_WAYS_OUT))
    journey.workers.append(worker)
    return worker


def counted(worker: WorkerProcess) -> tuple[Counter[str], Counter[str]]:
    """Return would-be calls by rule, and would-be dead letters by reason, of the last summary."""
    *_, summary = worker.lines("dry_run.summary")
    calls = Counter({each["rule"]: each["calls"] for each in summary["calls"]})
    return calls, Counter(summary["dead_letters"])


@pytest.mark.timeout(120)
async def test_a_rehearsal_counts_what_would_be_and_leaves_no_trace_but_its_own_offsets(begin: Begin):
    no_guard = {"flood_guard": {"max_ratio": 1, "max_run": None}}
    async with begin(partitions=3) as journey:
        await journey.append(stream(11, count=3_000, users=100, share_bad=0.02))
        first = rehearse(journey, "first", "--until-end", **no_guard)
        assert await first.ended() == 0, first.tail()
        calls, letters = counted(first)
        assert sum(calls.values()) == len(journey.expected)
        assert sum(letters.values()) == len(bad_ones(journey.appended))
        assert "calls and " in first.stderr()
        assert "nothing was sent or written" in first.stderr()

        stats = await journey.gigya.stats()
        assert stats["arrivals"] == 0, stats
        assert await journey.executions() == []
        assert await journey.dead_letters() == []
        assert await journey.broker.committed(journey.group) == {}
        ends = await journey.broker.ends(journey.topic)
        assert await journey.broker.committed(f"{journey.group}.dry-run") == ends

        again = rehearse(journey, "again", "--until-end", **no_guard)
        assert await again.ended() == 0, again.tail()
        assert sum(counted(again)[0].values()) == 0


@pytest.mark.timeout(90)
async def test_a_rehearsal_that_goes_on_is_ready_says_what_it_is_and_ends_like_any_worker(begin: Begin):
    async with begin(partitions=1) as journey:
        await journey.append(stream(12, count=200, users=20, share_bad=0.0))
        worker = rehearse(journey, "worker")
        await journey.ready(worker)

        async def has_counted() -> bool:
            return await worker.metric("gigya_worker_dry_run_calls_total") >= len(journey.expected)

        await until("all calls are counted", has_counted)
        assert await worker.metric("gigya_worker_dry_run") == 1
        assert await worker.metric("gigya_worker_attempts_total") == 0
        _, readiness = await worker.readiness()
        assert readiness["site:main"]["reason"] == "dry_run"
        assert await worker.stopped() == 0, worker.tail()
        assert sum(counted(worker)[0].values()) == len(journey.expected)


Sent = Counter[tuple[str, str, str]]


@pytest.mark.timeout(240)
async def test_the_difference_is_that_of_what_gigya_gets(begin: Begin):
    """10,000 events: `try --diff` against the ledgers of two real runs, call by call."""
    async with begin(partitions=4) as journey:
        await journey.append(stream(13, count=10_000, users=500, share_matching=1 / 3, share_bad=0.01))
        old = await sent_under(journey, "old", DEMO_RULES)
        new = await sent_under(journey, "new", NEW_RULES) - old
        diff = await compared(journey)
        removed, added = Sent(), Sent()
        for change in diff:
            for call in change["calls"]:
                before, after = as_sent(call)
                removed.update(before)
                added.update(after)
        assert added - removed == new - old
        assert removed - added == old - new
        tell(f"{sum(old.values())} calls before, {sum(new.values())} after; {len(diff)} records change")
        assert len(diff) > 1_000


async def sent_under(journey: Journey, name: str, rules: str) -> Sent:
    """Return everything that Gigya has executed by the end of a run with these rules, earlier runs included."""
    no_guard = {"flood_guard": {"max_ratio": 1, "max_run": None}}
    worker = journey.start(name, until_end=True, rules=rules, kafka={"group_id": f"{journey.group}-{name}"}, **no_guard)
    assert await worker.ended(limit_s=90) == 0, worker.tail()
    lines = await journey.gigya.control("GET", "ledger")
    return Counter((line["method"], line["params"]["UID"], canonical(line["params"])) for line in lines)


async def compared(journey: Journey) -> list[dict[str, Any]]:
    folder = journey.folder / "old"
    (folder / "new.yaml").write_text(NEW_RULES)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WORKER_")}
    words = ["try", "--last", "20000", "--diff", "new.yaml", "--output", "jsonl"]
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "worker", *words],
        cwd=Path(folder),
        env=environment,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def as_sent(change: dict[str, Any]) -> tuple[Sent, Sent]:
    """Return what a change takes away from what is sent, and what it adds."""
    params = change["params"]
    after = Counter([(change["method"], params["UID"], canonical(params))])
    if change["change"] == "added":
        return Sent(), after
    if change["change"] == "removed":
        return after, Sent()
    earlier = {**params, **{each["name"]: each["before"] for each in change["fields"]}}
    kept = {name: value for name, value in earlier.items() if value is not None}
    return Counter([(change["method"], kept["UID"], canonical(kept))]), after


def canonical(params: dict[str, str]) -> str:
    return json.dumps(params, sort_keys=True)

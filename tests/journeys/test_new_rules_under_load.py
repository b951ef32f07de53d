"""New rules while events pour through: each event is mapped by exactly one version, and the log says by which.

Versions differ in the points that they give. What Gigya was sent is compared with what the log line of the same record
names: the digest of the rules that mapped it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.journeys.conftest import Begin
from tests.journeys.harness import Journey, tell
from tests.journeys.oracle import bad_ones, repeated
from tests.journeys.processes import WorkerProcess, until
from worker.mapping import rules
from worker.sandbox.events import DEMO_RULES, stream

pytestmark = pytest.mark.broker

QUOTA = 250.0
# A record is mapped when it is taken: little is taken ahead, so that each version gets its part.
AHEAD = 40


def version(number: int) -> str:
    """Return the demo's rules with points that tell the version: points // 1000."""
    more = number * 1000
    text = DEMO_RULES.replace("? 20 : 10", f"? {more + 20} : {more + 10}").replace(
        "points: 20\n", f"points: {more + 20}\n"
    )
    text = text.replace("${ event.quiz.score }", f"${{ event.quiz.score + {more} }}")
    return text.replace("points: 40\n", f"points: {more + 40}\n")


def digest(text: str, folder: Path) -> str:
    file = folder / "some.rules.yaml"
    file.write_text(text)
    return rules.load(file, sites=["main"], topics=["any"]).digest[:12]


def put(worker: WorkerProcess, folder: Path, text: str, *, in_place: bool = False, tell_it: bool = True) -> None:
    """Change a worker's rules as an editor does, or in place; and tell it, or let it notice."""
    file = folder / worker.name / "rules.yaml"
    if in_place:
        file.write_text(text)
    else:
        new = file.with_suffix(".new")
        new.write_text(text)
        os.replace(new, file)
    if tell_it:
        worker.signal(signal.SIGHUP)


async def said(worker: WorkerProcess, event: str, times: int) -> None:
    async def is_said() -> bool:
        await asyncio.sleep(0)
        return len(list(worker.lines(event))) >= times

    await until(f"{worker.name} says {event} {times} times", is_said, limit_s=20)


@pytest.mark.timeout(120)
async def test_every_event_is_mapped_by_exactly_one_version_and_a_bad_file_changes_nothing(
    begin: Begin, tmp_path: Path
):
    versions = {digest(version(number), tmp_path): number for number in range(4)}
    assert len(versions) == 4
    async with begin(partitions=4, gigya={"latency": {"ms": 10}}) as journey:
        await journey.append(stream(77, count=8_000, users=300, share_matching=0.5, share_bad=0.01))
        calls = len(journey.expected)
        worker = journey.start("worker", rules=version(0), site={"quota_per_s": QUOTA}, delivery={"max_ahead": AHEAD})

        await journey.executed_at_least(calls // 6)
        put(worker, journey.folder, version(1))
        await said(worker, "rules.reloaded", 1)
        await journey.executed_at_least(calls * 2 // 6)
        # Bad ones of three kinds: no YAML, an unknown field, an example that fails.
        for count, wrong in enumerate(("version: 1\nrules: [", version(9) + "\nmore: 1\n", broken_example()), 1):
            put(worker, journey.folder, wrong)
            await said(worker, "rules.refused", count)
            _, readiness = await worker.readiness()
            assert readiness["rules"]["in_force"][:12] == digest(version(1), tmp_path)
            assert readiness["rules"]["refused"]
        await journey.executed_at_least(calls * 3 // 6)
        put(worker, journey.folder, version(2), in_place=True, tell_it=False)  # noticed by its content
        await said(worker, "rules.reloaded", 2)
        await journey.executed_at_least(calls * 5 // 6)
        put(worker, journey.folder, version(3))
        await said(worker, "rules.reloaded", 3)

        await journey.all_done()
        assert await worker.stopped() == 0, worker.tail()
        await check(journey, worker, versions)


def broken_example() -> str:
    return version(9).replace("points: 9020\n", "points: 9021\n")


async def check(journey: Journey, worker: WorkerProcess, versions: dict[str, int]) -> None:
    executions = await journey.executions()
    assert repeated(executions) == {}
    assert {execution.event_id for execution in executions} == {
        each.event_id for each in journey.appended if each.event_id is not None
    }

    places = {f"{journey.topic}/{each.partition}/{each.offset}": each for each in journey.appended}
    named: dict[str, int] = {}  # event -> the version that its one log line names
    for line in worker.lines("record.done"):
        event_id = str(places[line["record"]].event_id)
        assert event_id not in named, "two lines for one record"
        named[event_id] = versions[line["rules"]]
    sent = {execution.event_id: (execution.call.points or 0) // 1000 for execution in executions}
    assert sent == named
    used = [sum(number == one for one in sent.values()) for number in range(4)]
    tell(f"{len(sent)} calls: {used} by version")
    assert min(used) > 100, "a version that mapped nothing shows nothing"

    # Within a partition the versions follow one another: a record is never mapped by older rules than the one before.
    for partition in range(journey.partitions):
        in_order = [sent[each.event_id] for each in journey.appended if each.partition == partition and each.event_id]
        assert in_order == sorted(in_order)

    letters = await journey.dead_letters()
    assert len(letters) == len(bad_ones(journey.appended))
    for letter in letters:
        headers = dict(letter.headers)
        assert (headers["dlq.rules"] or b"").decode()[:12] in versions

"""The cause of dead letters is mended, and they are replayed: each call once, in order, kill -9 or not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from itertools import count
from typing import Any

import pytest

from tests.journeys.conftest import Begin
from tests.journeys.harness import Journey, tell
from tests.journeys.oracle import Execution, out_of_order, repeated
from tests.journeys.processes import WorkerProcess, free_port, until
from tests.journeys.test_flood import RULES
from worker.sandbox.events import Fate, SampleEvent, stream

pytestmark = pytest.mark.broker

WATCHED = "watched_episode"
WRONG_RULES = RULES.replace("event.episode.show", "event.episode.title")
NO_GUARD = {"max_ratio": 1.0, "max_run": None}
_numbers = count(1)


def with_watched(seed: int, wanted: int, *, users: int) -> Iterable[SampleEvent]:
    """Yield events until so many episodes were watched; a few are bad, a few are won quizzes."""
    for event in stream(seed, count=20 * wanted, users=users, share_matching=0.97, share_bad=0.01):
        yield event
        wanted -= is_watched(event)
        if not wanted:
            return


def is_watched(event: SampleEvent) -> bool:
    return event.call is not None and event.call.action == WATCHED


def command(journey: Journey, *words: str, rules: str = RULES, **parts: Any) -> WorkerProcess:
    """Start `gigya-worker dead-letters ...`, with the settings of the workers."""
    folder = journey.folder / f"command-{next(_numbers)}"
    folder.mkdir()
    (folder / "rules.yaml").write_text(rules)
    (folder / "worker.yaml").write_text(json.dumps(journey.settings(free_port(), **parts)))
    started = WorkerProcess("command", ["dead-letters", *words], folder, 0)
    journey.workers.append(started)
    return started


async def said(journey: Journey, *words: str, code: int = 0, limit_s: float = 60, **options: Any) -> str:
    done = command(journey, *words, **options)
    assert await done.ended(limit_s=limit_s) == code, done.tail(30) + done.out_file.read_text()
    return done.out_file.read_text()


async def groups(journey: Journey) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (await said(journey, "groups", "-o", "jsonl")).splitlines()]


async def of_watched(journey: Journey) -> list[Execution]:
    return [each for each in await journey.executions() if each.call.action == WATCHED]


async def died_of_a_wrong_rule(journey: Journey, wanted: int) -> dict[str, Any]:
    """Let a wrong rule go live for so many events, and return their group as `groups` shows it."""
    await journey.append(with_watched(31, wanted, users=150))
    worker = journey.start("wrong", until_end=True, rules=WRONG_RULES, flood_guard=NO_GUARD)
    assert await worker.ended(limit_s=120) == 0, worker.tail()
    assert await of_watched(journey) == []
    found = await groups(journey)
    (group,) = [each for each in found if each["rule"] == "episode-watched" and "title" in each["text"]]
    # Some events are bad in another way, too, which only the mended rule will show.
    bad = sum(each.event.fate is Fate.DEAD_LETTER for each in journey.appended)
    assert wanted < group["records"] < wanted + bad
    watchers = {each.event.uid for each in journey.appended if is_watched(each.event)}
    assert len(watchers) <= group["users"] <= len(watchers) + group["records"] - wanted
    assert len(found) > 1  # the bad events
    return group


@pytest.mark.parametrize("is_killed", [False, True], ids=["undisturbed", "killed in the middle"])
@pytest.mark.timeout(400)
async def test_a_wrong_rule_is_mended_and_its_group_is_replayed(begin: Begin, is_killed: bool) -> None:
    async with begin(partitions=6) as journey:
        group = await died_of_a_wrong_rule(journey, 5_000)
        others = [each for each in await groups(journey) if each["group"] != group["group"]]
        only, bad = ("--group", group["group"][:6]), group["records"] - 5_000

        preview = await said(journey, "replay", *only)
        assert f"{5_000 + bad:,} records -> 5,000 calls to make (watched_episode 5,000), {bad} still fail" in preview
        assert preview.endswith("Nothing sent yet. Run again with --yes.\n")
        assert await of_watched(journey) == []

        replay = ("replay", *only, "--yes", "--rate", "500", "-o", "json")
        if is_killed:
            await killed_at(journey, 2_000, replay)
        done = command(journey, *replay)
        code, report = await done.ended(limit_s=180), json.loads(done.out_file.read_text())
        # What still fails is told anew, in a group of its own; before the kill some of it was.
        assert (report["ended"], report["died_again"]) == ("done", 0)
        assert report["left"] <= bad if is_killed else report["left"] == bad
        assert code == (4 if report["left"] else 0), done.tail(30)
        if is_killed:
            assert report["plan"]["begun_before"] > 0
        else:
            assert report["resolved"] == 5_000

        suspects = report["plan"]["begun_before"]
        executions = await of_watched(journey)
        twice, named = repeated(executions), named_in_doubt(journey)
        tell(f"{suspects} letters were asked about; {report['calls']}; {len(twice)} made twice, {named} lines said so")
        assert twice == {}, done.tail(30)
        expected = {each.event.call.identity for each in journey.appended if is_watched(each.event) and each.event.call}
        assert {each.call.identity for each in executions} == expected
        assert out_of_order(executions) == []
        left = await groups(journey)
        assert [each for each in left if each in others] == others
        assert sum(each["records"] for each in left if each not in others) == bad
        assert group["group"] not in {each["group"] for each in left}

        await said(journey, "discard", "--all", "--yes", "--why", "bad events of a test")
        assert await said(journey, "groups") == "No dead letters.\n"


def named_in_doubt(journey: Journey) -> int:
    """Return how many calls were sent again where nothing could tell; each was named before."""
    lines = (line for worker in journey.workers for line in worker.lines("call.resent_after_ambiguity"))
    return sum(line["step"] > 1 for line in lines)


async def killed_at(journey: Journey, calls: int, words: tuple[str, ...]) -> None:
    before = await journey.gigya.executed_count()
    victim = command(journey, *words)

    async def is_under_way() -> bool:
        assert victim.is_running, victim.tail(30)
        return await journey.gigya.executed_count() >= before + calls

    await until(f"{calls} calls are replayed", is_under_way, limit_s=90)
    victim.kill()


@pytest.mark.timeout(200)
async def test_calls_that_were_executed_when_a_replay_was_killed_are_found_and_not_made_again(begin: Begin) -> None:
    async with begin(partitions=3) as journey:
        await journey.append(stream(8, count=400, users=30, share_matching=1.0, share_bad=0.0))
        worker = journey.start("wrong", until_end=True, rules=WRONG_RULES, flood_guard=NO_GUARD)
        assert await worker.ended(limit_s=60) == 0, worker.tail()
        wanted = {each.event_id for each in journey.appended if is_watched(each.event)}

        replay = ("replay", "--reason", "missing_field", "--yes", "--rate", "40", "-o", "json")
        before = await journey.gigya.executed_count()
        victim = command(journey, *replay)
        await until("some are replayed", lambda: executed_since(journey, before + 60), limit_s=60)
        await journey.gigya.inject("timeout_after")
        seen = await journey.gigya.executed_count()
        await until("more are executed, unanswered", lambda: executed_since(journey, seen + 12), limit_s=20)
        victim.kill()
        await journey.gigya.control("DELETE", "faults")

        done = command(journey, *replay)
        assert await done.ended(limit_s=90) == 0, done.tail(30)
        report = json.loads(done.out_file.read_text())
        found = sum(each["count"] for each in report["calls"] if each["reason"] == "found_in_log")
        tell(f"{report['plan']['begun_before']} letters were asked about, {found} calls were found: {report['calls']}")
        executions = await of_watched(journey)
        assert repeated(executions) == {}, done.tail(30)
        assert {each.event_id for each in executions} == wanted
        assert found >= 12
        assert out_of_order(executions) == []
        assert await groups(journey) == []


async def executed_since(journey: Journey, count: int) -> bool:
    return await journey.gigya.executed_count() >= count


WITH_A_PUBLISH = (
    RULES
    + """\
  - name: watched-shared
    on: [episode.watched]
    when: event.progress >= 0.9
    publishUserAction:
      UID: ${ event.user.uid }
      userAction: {title: "${ event.episode.show }"}
"""
)


@pytest.mark.timeout(120)
async def test_of_a_fan_out_only_the_call_that_failed_is_made_again(begin: Begin) -> None:
    async with begin(partitions=2) as journey:
        await journey.append(stream(5, count=60, users=10, share_matching=1.0, share_bad=0.0))
        both = sum(is_watched(each.event) for each in journey.appended)
        fault = await journey.gigya.inject("code", code=400006, method="socialize.publishUserAction")
        worker = journey.start("first", until_end=True, rules=WITH_A_PUBLISH, flood_guard=NO_GUARD)
        assert await worker.ended(limit_s=60) == 0, worker.tail()
        await journey.gigya.control("DELETE", "faults")
        before = await journey.executions()
        assert Counter(each.call.method for each in before) == {"gm.notifyAction": 60}, fault

        shown = await said(journey, "replay", "--all", rules=WITH_A_PUBLISH)
        assert f"{both} records -> {both} calls to make (publishUserAction {both})" in shown
        assert f"{both} calls of these records were delivered and are not made again" in shown
        await said(journey, "replay", "--all", "--yes", rules=WITH_A_PUBLISH)
        after = Counter(each.call.method for each in await journey.executions())
        assert after == {"gm.notifyAction": 60, "socialize.publishUserAction": both}
        assert await groups(journey) == []

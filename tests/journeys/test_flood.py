"""Rules that can map nothing do not empty a topic into another: the worker holds, and good rules go on from there."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.journeys.conftest import Begin
from tests.journeys.harness import Journey
from tests.journeys.oracle import executed_calls, out_of_order, repeated
from tests.journeys.processes import WorkerProcess, until
from worker.sandbox.events import stream

pytestmark = pytest.mark.broker

RULES = """\
version: 1
rules:
  - name: episode-watched
    on: [episode.watched]
    when: event.progress >= 0.9
    notifyAction:
      UID: ${ event.user.uid }
      action: watched_episode
      actionAttributes:
        tv-show: ${ event.episode.show }
        genre: ${ first(event.episode.genres, 2) }
      points: '${ event.user.premium ? 20 : 10 }'
      context: {eventId: "${ event.id }", seq: "${ event.seq }"}
  - name: quiz-won
    on: [quiz.won]
    notifyAction:
      UID: ${ event.user.uid }
      action: quiz_won
      actionAttributes: {quiz: "${ event.quiz.name }"}
      points: ${ event.quiz.score }
      context: {eventId: "${ event.id }", seq: "${ event.seq }"}
"""
BAD_RULES = RULES.replace("event.user.uid", "event.customer.uid")
LETTERS_OF_A_FLOOD = 50  # flood_guard.max_run


@pytest.mark.timeout(90)
async def test_a_flood_is_held_with_few_letters_and_good_rules_deliver_the_rest(begin: Begin):
    async with begin(partitions=4) as journey:
        await journey.append(stream(6, count=3_000, users=100, share_bad=0.0))
        await held_while_it_stays_up(journey)
        bounded = journey.start("bounded", until_end=True, rules=BAD_RULES)
        assert await bounded.ended() == 4, bounded.tail()

        letters = {letter.key for letter in await journey.dead_letters()}
        assert 0 < len(letters) <= 2 * LETTERS_OF_A_FLOOD
        assert await journey.gigya.executed_count() == 0
        stopped_at = await journey.broker.committed(journey.group)
        good = journey.start("good", until_end=True, rules=RULES)
        assert await good.ended() == 0, good.tail()

        executions = await journey.executions()
        passed = {
            each.event_id
            for each in journey.appended
            if f"{journey.topic}/{each.partition}/{each.offset}".encode() in letters
            and each.offset < stopped_at[each.partition]
        }
        delivered = {execution.event_id for execution in executions}
        wanted = {each.event_id for each in journey.appended if each.event_id is not None}
        assert delivered == wanted - passed
        assert executed_calls(executions) <= journey.expected
        assert repeated(executions) == {}
        assert out_of_order(executions) == []
        await journey.all_done(limit_s=5)


async def held_while_it_stays_up(journey: Journey) -> None:
    worker = journey.start("held", rules=BAD_RULES)
    part = await until("the flood guard holds", lambda: held_guard(worker), limit_s=20)
    assert part["reason"] == "flood_run"
    assert "rules" in part["remedy"]
    await asyncio.sleep(1)  # those that were allowed before are still being written
    letters = len(await journey.dead_letters())
    assert 0 < letters <= LETTERS_OF_A_FLOOD
    await asyncio.sleep(1.5)  # a commit or two later there are no more
    assert len(await journey.dead_letters()) == letters
    assert (await worker.readiness())[0] == 503
    assert (await worker.get("/livez"))[0] == 200
    assert await worker.stopped() == 0, worker.tail()


async def held_guard(worker: WorkerProcess) -> dict[str, Any] | None:
    status, body = await worker.readiness()
    part: dict[str, Any] = body.get("flood_guard", {})
    return part if status == 503 and part.get("state") == "held" else None

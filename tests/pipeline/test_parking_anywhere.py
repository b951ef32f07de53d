"""Whatever a record waits for, it can be parked: with the sender of `run`, over a transport that answers as told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.delivery.fakes import OK, Request, Scene, make_scene, reply
from tests.pipeline.test_parking import ANNA, House, running
from worker.clock import settle
from worker.delivery.site_state import State
from worker.gigya.replies import NoReply, Reply

LOST = NoReply("timeout", may_have_arrived=True)
AWAY = NoReply("connect", may_have_arrived=False)
Answers = Callable[[Request], Reply | NoReply]


def asked(**answers: Reply | NoReply) -> Answers:
    """Answer u1's calls with `call`, questions to the site with `site`, and to the action log with `log`."""

    def answer(request: Request) -> Reply | NoReply:
        match request.method:
            case "gm.getActionConfig":
                return answers.get("site", OK)
            case "gm.getActionsLog":
                return answers.get("log", OK)
        return answers["call"] if request.params["UID"] == "u1" else OK

    return answer


async def gate_is_closed(house: House, scene: Scene) -> None:
    scene.sender.pause()
    await house.take("u1")


async def taken(house: House, scene: Scene) -> None:
    await house.take("u1")
    await house.clock.advance(2.0)


# name -> (what the site answers, how the record gets there, whether it may have been executed)
STATES = {
    "at a gate that is paused": (asked(call=OK), gate_is_closed, False),
    "in back-off": (asked(call=reply(409030)), taken, False),
    "held, and the site does not say": (asked(call=reply(403003), site=reply(403048)), taken, False),
    "held by a site that is stopped": (asked(call=reply(400093), site=reply(400093)), taken, False),
    "in doubt, and the log is silent": (asked(call=LOST, log=AWAY), taken, True),
    "in doubt, and the log may not be asked": (asked(call=LOST, log=reply(403007)), taken, True),
    "never connected": (asked(call=AWAY, site=AWAY, log=AWAY), taken, False),
}


@pytest.mark.parametrize("state", STATES)
async def test_a_record_is_parked_wherever_it_waits_and_nothing_of_it_is_left_behind(state: str) -> None:
    answers, get_there, may_be_executed = STATES[state]
    scene = make_scene(answers)
    async with running(House(scene)) as house:
        asking = asyncio.create_task(scene.sender.run())
        await get_there(house, scene)
        assert 0 in house.progress.unfinished
        requests = len(scene.transport.calls())
        assert house.handler.park(house.ticket(0), ANNA)
        await house.clock.advance(0.1)
        (letter,) = house.letters.written
        assert letter.reason == "parked"
        assert [end.outcome.maybe_executed for end in letter.calls] == [may_be_executed]
        assert house.watermark == 1
        assert scene.sender.status().held == 0

        await house.clock.advance(3600.0)
        assert len(scene.transport.calls()) == requests  # the call is made no more
        scene.transport.answer = asked(call=OK)
        scene.sender.go_on()
        scene.sender.resume()
        await house.take("u1")
        await house.clock.advance(60.0)
        assert scene.sender.status().state is State.OPEN
        assert house.watermark == 2  # and the user's next one is
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def test_a_record_that_waits_for_its_permit_is_parked_and_the_next_permit_is_somebody_elses() -> None:
    scene = make_scene(quota_per_s=0.01)
    async with running(House(scene)) as house:
        await house.take("u2", "u1", "u2")
        await house.clock.advance(1.0)
        assert house.handler.park(house.ticket(1), ANNA)
        await house.clock.advance(0.1)
        assert [letter.record.offset for letter in house.letters.written] == [1]
        await house.clock.advance(400.0)
        assert [request.params["UID"] for request in scene.transport.calls()] == ["u2", "u2"]
        assert house.watermark == 3


async def test_a_record_whose_call_stands_behind_another_of_its_user_is_parked_alone() -> None:
    scene = make_scene(asked(call=reply(409030)))
    async with running(House(scene)) as house:
        await house.take("u1", "u1")
        await house.clock.advance(1.0)
        assert house.handler.park(house.ticket(1), ANNA)
        await settle()
        await house.clock.advance(0.1)
        assert [letter.record.offset for letter in house.letters.written] == [1]
        assert list(house.progress.unfinished) == [0]

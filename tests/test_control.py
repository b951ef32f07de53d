"""What an operator says is done, said back, and never guessed at."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from tests.delivery.fakes import make_scene, reply
from tests.pipeline.fakes import delivered
from tests.pipeline.test_parking import House, running
from worker.clock import settle
from worker.control import Answer, Control
from worker.delivery.deliveries import Later
from worker.delivery.site_state import State
from worker.pipeline.offsets import Offsets


def control_of(house: House) -> Control:
    return Control(handler=house.handler, offsets=house.offsets, senders={}, clock=house.clock)


async def parked(house: House, record: str, *, advance_s: float = 0.5) -> Answer:
    task = asyncio.create_task(control_of(house).park(record, "anna", "blocks"))
    await house.clock.advance(advance_s)
    assert task.done()
    return task.result()


async def test_park_tells_how_each_call_ended() -> None:
    async with running(House()) as house:
        await house.take("two")
        house.sender.answer("u1", delivered())
        house.sender.answer("u2", Later("server_error", 60.0))
        await settle()
        status, answer = await parked(house, "user-events/0/0")
        assert (status, answer["state"]) == (200, "dead_lettered")
        assert answer["calls"] == [
            {"call": "0/first/0", "outcome": "delivered", "reason": "ok", "maybe_executed": False},
            {"call": "0/second/0", "outcome": "failed", "reason": "parked", "maybe_executed": False},
        ]


async def test_park_tells_when_the_attempt_in_flight_ended_it_well() -> None:
    async with running(House()) as house:
        await house.take("u1")
        house.clock.call_later(1.0, lambda: house.sender.answer("u1", delivered()))
        status, answer = await parked(house, "user-events/0/0", advance_s=2.0)
        assert (status, answer["state"]) == (200, "done")
        assert not house.letters.written


async def test_park_answers_in_time_what_it_still_waits_for_and_goes_on() -> None:
    async with running(House()) as house:
        await house.take("u1")
        status, answer = await parked(house, "user-events/0/0", advance_s=16.0)
        assert (status, answer["state"], answer["waits_for"]) == (202, "parking", "the attempt in flight")
        house.letters.refuse()
        house.sender.answer("u1", Later("timeout", 1.0))
        await settle()
        status, answer = await parked(house, "user-events/0/0", advance_s=16.0)
        assert (status, answer["waits_for"]) == (202, "the dead letter to be written")
        house.letters.accept()
        await settle()
        assert [letter.reason for letter in house.letters.written] == ["parked"]


async def test_parking_twice_writes_one_letter_and_keeps_who_was_first() -> None:
    async with running(House()) as house:
        await house.take("u1")
        control = control_of(house)
        tasks = [asyncio.create_task(control.park("user-events/0/0", by, "")) for by in ("anna", "bo")]
        await house.clock.advance(0.2)
        house.sender.answer("u1", Later("timeout", 1.0))
        await house.clock.advance(0.2)
        assert [task.result()[0] for task in tasks] == [200, 200]
        assert [letter.text for letter in house.letters.written] == ['parked by "anna"']


async def test_a_record_that_is_not_unfinished_is_404_with_what_is_known() -> None:
    async with running(House()) as house:
        await house.take("none", "u1", "u2", "none")
        house.sender.answer("u2", delivered())
        await settle()
        known = {
            record: (await parked(house, record))
            for record in ("user-events/0/0", "user-events/0/2", "user-events/0/4", "user-events/1/0")
        }
        assert {status for status, _ in known.values()} == {404}
        assert [answer["state"] for _, answer in known.values()] == [
            "below_the_watermark",
            "already_done",
            "not_read_yet",
            "not_ours",
        ]
        assert known["user-events/0/0"][1]["watermark"] == 1
        assert known["user-events/1/0"][1]["partitions"] == ["user-events/0"]
        assert not house.letters.written


@pytest.mark.parametrize(
    "record", ["", "user-events", "user-events/0", "user-events/0/-1", "a b/0/1", "t/0/1/2", "t/x/1"]
)
async def test_what_is_no_place_of_a_record_is_refused(record: str) -> None:
    async with running(House()) as house:
        assert (await parked(house, record))[0] == 400


async def test_a_record_whose_partition_is_given_back_meanwhile_is_said_to_be_somebody_elses() -> None:
    async with running(House()) as house:
        await house.take("u1")
        partition = house.progress.partition
        task = asyncio.create_task(control_of(house).park("user-events/0/0", "", ""))
        await house.clock.advance(0.2)
        void = house.offsets.forget([partition])
        house.lanes.forget([partition])
        house.handler.forget(void)
        house.sender.answer("u1", Later("timeout", 1.0))
        await house.clock.advance(0.2)
        assert (task.result()[0], task.result()[1]["state"]) == (409, "not_ours")
        assert not house.letters.written
        house.ledger.handed_back(partition, len(void))
        house.offsets.assign({partition: 0})
        house.ledger.assigned(partition, house.progress.epoch)


async def test_a_record_of_a_partition_that_is_being_given_back_is_left_alone() -> None:
    async with running(House()) as house:
        await house.take("u1")
        house.progress.is_closing = True
        assert (await parked(house, "user-events/0/0"))[0] == 409
        assert house.ticket(0).parked is None


async def test_resume_without_a_site_releases_the_flood_guard_and_with_one_does_not() -> None:
    async with running(House(max_run=3)) as house:
        await house.take(*["bad"] * 5)
        control = Control(
            handler=house.handler, offsets=house.offsets, senders={"main": make_scene().sender}, clock=house.clock
        )
        assert "without a site" in str(control.resume("main", "", "")[1]["flood_guard"])
        assert house.handler.flood is not None
        assert control.resume("", "anna", "")[1]["flood_guard"] == {"was": "held", "is": "ok", "asked_again": 2}
        await settle()
        assert len(house.letters.written) == 5


# --- pause and resume ------------------------------------------------------------------------------------------------


def sites(*names: str) -> Control:
    scenes = {name: make_scene() for name in names}
    house = House()
    return Control(
        handler=house.handler,
        offsets=Offsets(),
        senders={name: scene.sender for name, scene in scenes.items()},
        clock=house.clock,
    )


def test_a_pause_is_of_one_site_or_of_all_and_keeps_who_paused_first() -> None:
    control = sites("main", "shop")
    assert control.pause("shop", "anna", "maintenance")[1]["paused"] == ["shop"]
    assert control._senders["main"].status().is_paused is False
    control.pause("", "bo", "")
    assert {name: pause.who.by for name, pause in control.pauses.items()} == {"shop": "anna", "main": "bo"}
    assert control.resume("shop", "", "")[1]["sites"] == {"shop": {"was": "paused", "is": "open"}}
    assert list(control.pauses) == ["main"]
    control.resume("", "", "")
    assert not control.pauses


@pytest.mark.parametrize("told", ["pause", "resume"])
def test_a_site_that_is_not_there_is_404_with_those_that_are(told: str) -> None:
    control = sites("main", "shop")
    status, answer = getattr(control, told)("mian", "", "")
    assert (status, answer["sites"]) == (404, ["main", "shop"])
    assert not control.pauses


async def test_resume_opens_a_site_that_is_stopped() -> None:
    scene = make_scene(reply(400093))
    await scene.once(scene.delivery("u1"))
    assert scene.sender.status().state is State.STOPPED
    house = House()
    control = Control(handler=house.handler, offsets=Offsets(), senders={"main": scene.sender}, clock=scene.clock)
    with capture_logs() as lines:
        assert control.resume("main", "anna", "new key")[1]["sites"] == {"main": {"was": "stopped", "is": "open"}}
    assert {"event": "site.resumed", "site": "main", "was": "stopped", "by": "anna", "why": "new key"} in [
        {key: value for key, value in line.items() if key != "log_level"} for line in lines
    ]

"""An operator turns one record into a dead letter, or lets the worker go on after a flood. Neither loses anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.delivery.fakes import Scene
from tests.pipeline.fakes import MemoryLetters, ScriptedSender, TableMapper, call, commit_when_due, delivered
from worker.clock import ManualClock, settle
from worker.delivery.deliveries import Later
from worker.errors import Unmappable
from worker.metrics import Metrics
from worker.model import Event, KafkaRecord, OutcomeKind, Record, TopicPartition
from worker.pipeline.flood_guard import FloodGuard, FloodGuardSettings
from worker.pipeline.handler import Handler
from worker.pipeline.lanes import Lanes
from worker.pipeline.ledger import Ledger
from worker.pipeline.offsets import Offsets, PartitionProgress
from worker.pipeline.parking import Parked
from worker.pipeline.tickets import Ticket

P0 = TopicPartition("user-events", 0)
ANNA = Parked("anna", "blocks partition 0")


def decode(record: Record) -> tuple[Event, ...]:
    return (Event({"type": (record.value or b"").decode()}),)


class House:
    """Handler and lanes, running, over a sender whose attempts end when the test says so; or over a scene's."""

    def __init__(self, scene: Scene | None = None, **limits: float) -> None:
        self.clock = scene.clock if scene is not None else ManualClock()
        self.offsets, self.ledger = Offsets(), Ledger()
        self.letters = MemoryLetters()
        self.sender = ScriptedSender()
        self.guard = FloodGuard(FloodGuardSettings.model_validate(limits))
        table = {
            "u1": (call("u1"),),
            "u2": (call("u2"),),
            "two": (call("u1", "first"), call("u2", "second")),
            "bad": Unmappable("missing_field", "no such field"),
        }
        self.handler = Handler(
            decode=decode,
            mapper=TableMapper(table),  # type: ignore[arg-type]
            rules_digest="d1g35t",
            letters=self.letters,
            offsets=self.offsets,
            ledger=self.ledger,
            guard=self.guard,
            clock=self.clock,
            metrics=Metrics(),
            user_mark=lambda site, uid: "0123456789ab",
        )
        sender = scene.sender if scene is not None else self.sender
        self.lanes = Lanes({"main": sender}, max_in_flight=10, clock=self.clock, ended=self.handler.call_ended)
        self.handler.queue = self.lanes
        self.offsets.assign({P0: 0})
        self.ledger.assigned(P0, self.progress.epoch)

    @property
    def progress(self) -> PartitionProgress:
        progress = self.offsets.get(P0)
        assert progress is not None
        return progress

    def ticket(self, offset: int) -> Ticket:
        return self.progress.unfinished[offset]

    async def take(self, *values: str) -> None:
        first = self.progress.position
        records = [KafkaRecord("user-events", 0, first + index, value.encode()) for index, value in enumerate(values)]
        self.handler.take(self.progress, records, 0, until_s=self.clock.monotonic_s() + 1, max_ahead=10_000)
        await settle()

    @property
    def watermark(self) -> int:
        return self.progress.committable

    def is_balanced(self) -> bool:
        return self.ledger.balanced({P0: len(self.progress.unfinished)})


@asynccontextmanager
async def running(house: House) -> AsyncIterator[House]:
    committing = commit_when_due(house.offsets, house.handler)
    tasks = [asyncio.create_task(work) for work in (house.lanes.run(), house.handler.run(), committing)]
    try:
        yield house
        assert not any(task.done() for task in tasks)
        assert house.is_balanced()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_parked_record_becomes_a_letter_that_says_who_and_why_and_its_offset_moves() -> None:
    async with running(House()) as house:
        await house.take("u1")
        house.sender.answer("u1", Later("server_error", 100.0))
        await settle()
        assert house.handler.park(house.ticket(0), ANNA)
        await settle()
        (letter,) = house.letters.written
        assert (letter.reason, letter.text) == ("parked", 'parked by "anna": "blocks partition 0"')
        assert house.watermark == 1


async def test_letters_of_records_that_were_parked_are_one_group_whatever_was_typed() -> None:
    async with running(House()) as house:
        house.lanes.hold()
        await house.take("u1", "u2")
        house.handler.park(house.ticket(0), Parked("anna", 'ticket "4711"'))
        house.handler.park(house.ticket(1), Parked("bo", "another reason"))
        await settle()
        assert len({letter.fingerprint for letter in house.letters.written}) == 1


async def test_the_letter_waits_for_the_acknowledgement_and_the_offset_for_the_letter() -> None:
    async with running(House()) as house:
        house.letters.refuse()
        await house.take("u1")
        house.sender.answer("u1", Later("server_error", 100.0))
        await settle()
        house.handler.park(house.ticket(0), ANNA)
        await settle()
        assert house.watermark == 0
        assert not house.handler.park(house.ticket(0), ANNA)
        assert house.handler.letters_waiting == 1
        house.letters.accept()
        await settle()
        assert house.watermark == 1
        assert house.handler.letters_waiting == 0


async def test_parking_waits_for_the_attempt_in_flight_and_an_undecided_one_may_have_been_executed() -> None:
    async with running(House()) as house:
        await house.take("u1", "u1")
        house.handler.park(house.ticket(0), ANNA)
        await settle()
        assert not house.letters.written
        house.lanes._sites["main"].lanes["u1"].jobs[0].delivery.may_be_executed = True
        house.sender.answer("u1", Later("timeout", 3.0))
        await settle()
        (letter,) = house.letters.written
        assert letter.calls[0].outcome.maybe_executed
        assert house.sender.in_flight == [("u1", 1)]  # his next call goes on at once


async def test_an_attempt_in_flight_that_delivers_ends_its_record_well_and_no_letter_is_written() -> None:
    async with running(House()) as house:
        await house.take("u1")
        house.handler.park(house.ticket(0), ANNA)
        house.sender.answer("u1", delivered())
        await settle()
        assert not house.letters.written
        assert house.watermark == 1


async def test_a_letter_holds_the_calls_that_were_made_beside_those_that_were_parked() -> None:
    async with running(House()) as house:
        await house.take("two")
        house.sender.answer("u1", delivered())
        house.sender.answer("u2", Later("ask", None))
        await settle()
        house.handler.park(house.ticket(0), ANNA)
        await settle()
        (letter,) = house.letters.written
        assert [end.outcome.kind for end in letter.calls] == [OutcomeKind.DELIVERED, OutcomeKind.FAILED]
        assert [delivery.call.uid for delivery in house.sender.forgotten] == ["u2"]


async def test_a_suspect_call_that_was_never_tried_may_have_been_executed() -> None:
    async with running(House()) as house:
        house.lanes.hold()
        await house.take("u1")
        house.lanes._sites["main"].lanes["u1"].jobs[0].delivery.suspect = True
        house.handler.park(house.ticket(0), ANNA)
        await settle()
        assert house.letters.written[0].calls[0].outcome.maybe_executed


async def test_parking_lets_the_users_next_call_go_on() -> None:
    async with running(House()) as house:
        await house.take("u1", "u1")
        house.sender.answer("u1", Later("user_busy", 30.0))
        await settle()
        assert house.sender.in_flight == []
        house.handler.park(house.ticket(0), ANNA)
        await settle()
        assert house.sender.in_flight == [("u1", 1)]


async def test_a_parked_call_in_the_middle_of_a_lane_leaves_the_others_where_they_are() -> None:
    async with running(House()) as house:
        await house.take("u1", "u1", "u1")
        house.handler.park(house.ticket(1), ANNA)
        await settle()
        assert [letter.record.offset for letter in house.letters.written] == [1]
        house.sender.answer("u1", delivered())
        await settle()
        assert house.sender.in_flight == [("u1", 2)]
        assert house.lanes.statistics()["main"].waiting == 0


async def test_parked_records_do_not_count_for_the_flood_guard() -> None:
    async with running(House(max_run=3)) as house:
        house.lanes.hold()
        await house.take(*["u1"] * 20)
        for offset in range(20):
            house.handler.park(house.ticket(offset), ANNA)
        await settle()
        assert len(house.letters.written) == 20
        assert house.handler.flood is None


async def test_a_record_that_the_guard_holds_can_be_parked_and_keeps_the_reason_it_died_of() -> None:
    async with running(House(max_run=3)) as house:
        await house.take(*["bad"] * 5)
        assert house.handler.flood is not None
        assert len(house.letters.written) == 3
        assert house.handler.park(house.ticket(3), ANNA)
        await settle()
        assert house.letters.written[-1].record.offset == 3
        assert house.letters.written[-1].reason == "missing_field"
        assert house.handler.flood is not None


async def test_what_the_guard_refused_asks_again_when_it_is_released_and_can_hold_again() -> None:
    async with running(House(max_run=3)) as house:
        await house.take(*["bad"] * 9)
        assert len(house.letters.written) == 3
        assert house.handler.resume() == 6
        await settle()
        assert [letter.record.offset for letter in house.letters.written] == [0, 1, 2, 3, 4, 5]
        assert house.handler.tripped.is_set()
        assert house.handler.resume() == 3
        await settle()
        assert not house.handler.tripped.is_set()
        assert house.watermark == 9


async def test_resume_does_nothing_while_the_guard_does_not_hold() -> None:
    async with running(House(max_run=3)) as house:
        await house.take("bad", "bad")
        assert house.handler.resume() == 0
        assert not house.handler.released.is_set()


async def test_what_was_refused_and_given_back_does_not_ask_again() -> None:
    async with running(House(max_run=3)) as house:
        await house.take(*["bad"] * 6)
        void = house.offsets.forget([P0])
        house.handler.forget(void)
        house.ledger.handed_back(P0, len(void))
        house.offsets.assign({P0: 3})
        house.ledger.assigned(P0, house.progress.epoch)
        assert house.handler.resume() == 0
        await settle()
        assert len(house.letters.written) == 3

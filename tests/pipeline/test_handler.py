"""One record's fate: exactly one end for every record, and no offset passes what is not safe."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.pipeline.fakes import (
    ListQueue,
    MemoryLetters,
    TableMapper,
    call,
    commit_now,
    commit_when_due,
    delivered,
    failed,
)
from worker.clock import ManualClock, settle
from worker.errors import Undecodable, Unmappable
from worker.metrics import Metrics
from worker.model import Event, KafkaRecord, Outcome, OutcomeKind, Record, TopicPartition
from worker.pipeline.earlier import Earlier
from worker.pipeline.flood_guard import FloodGuard, FloodGuardSettings
from worker.pipeline.handler import Handler
from worker.pipeline.ledger import Ledger
from worker.pipeline.offsets import Offsets, PartitionProgress

P0 = TopicPartition("user-events", 0)


def decode(record: Record) -> tuple[Event, ...]:
    if record.value is None:
        return ()
    if record.value == b"broken":
        raise Undecodable("invalid_json", "JSON ends at byte 6")
    return (Event({"type": record.value.decode()}),)


class House:
    """A handler with its neighbours, none of which does anything by itself."""

    def __init__(self, guard: FloodGuardSettings | None = None) -> None:
        self.clock = ManualClock()
        self.offsets = Offsets()
        self.ledger = Ledger()
        self.letters = MemoryLetters()
        self.queue = ListQueue()
        self.mapper = TableMapper({"one": (call("u1"),), "two": (call("u1", "first"), call("u2", "second"))})
        self.handler = Handler(
            decode=decode,
            mapper=self.mapper,
            rules_digest="d1g35t",
            queue=self.queue,
            letters=self.letters,
            offsets=self.offsets,
            ledger=self.ledger,
            guard=FloodGuard(guard or FloodGuardSettings()),
            clock=self.clock,
            metrics=Metrics(),
            user_mark=lambda site, uid: "0123456789ab",
        )
        self.offsets.assign({P0: 0})
        self.ledger.assigned(P0, self.progress.epoch)

    @property
    def progress(self) -> PartitionProgress:
        progress = self.offsets.get(P0)
        assert progress is not None
        return progress

    @property
    def watermark(self) -> int:
        return self.progress.committable

    def take(self, *values: bytes | None, first: int = 0, max_ahead: int = 10_000) -> int:
        records = [KafkaRecord("user-events", 0, first + index, value) for index, value in enumerate(values)]
        until_s = self.clock.monotonic_s() + 1
        return self.handler.take(self.progress, records, 0, until_s=until_s, max_ahead=max_ahead)

    def unfinished(self) -> dict[TopicPartition, int]:
        return {P0: len(self.progress.unfinished)}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(self.handler.run()),
            asyncio.create_task(commit_when_due(self.offsets, self.handler)),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def test_a_record_that_nobody_wants_ends_at_once_and_may_be_committed() -> None:
    house = House()
    house.take(b"unknown", b"unknown")
    assert house.watermark == 2
    assert house.ledger.total(house.unfinished()).filtered == 2


def test_a_tombstone_is_filtered() -> None:
    house = House()
    house.take(None)
    assert house.watermark == 1
    assert house.ledger.total(house.unfinished()).filtered == 1


def test_a_wanted_record_holds_its_offset_until_all_its_calls_ended() -> None:
    house = House()
    house.take(b"unknown", b"two", b"unknown")
    assert house.watermark == 1
    house.handler.call_ended(house.queue.jobs[0], delivered())
    assert house.watermark == 1
    house.handler.call_ended(house.queue.jobs[1], delivered())
    assert house.watermark == 3
    assert house.ledger.balanced(house.unfinished())


def test_calls_join_their_lanes_in_the_order_of_the_rules() -> None:
    house = House()
    house.take(b"two", b"one")
    assert [(job.delivery.offset, job.delivery.call.name.rule) for job in house.queue.jobs] == [
        (0, "first"),
        (0, "second"),
        (1, "watched"),
    ]


async def test_the_offset_moves_only_after_the_dead_letter_was_acknowledged() -> None:
    house = House()
    house.letters.refuse()
    async with house.running():
        house.take(b"broken")
        await settle()
        assert house.watermark == 0
        assert house.handler.letters_under_way({P0})
        house.letters.accept()
        await settle()
        assert house.watermark == 1
        assert [letter.reason for letter in house.letters.written] == ["invalid_json"]
        assert not house.handler.letters_under_way({P0})


async def test_the_offset_moves_only_after_the_tombstone_was_acknowledged() -> None:
    house = House()
    house.letters.refuse()
    house.offsets.assign({P0: 0}, {P0: Earlier(letters_below=1)})  # a letter of record 0 may be in the topic
    async with house.running():
        house.take(b"one", b"nobody wants this")
        house.handler.call_ended(house.queue.jobs[0], delivered())
        await settle()
        assert house.watermark == 0
        assert house.handler.letters_under_way({P0})
        house.letters.accept()
        await settle()
        assert house.watermark == 2
        assert house.letters.withdrawn == [0]


def test_a_record_of_several_events_makes_the_calls_of_all_or_none() -> None:
    house = House()
    house.mapper.table["bad"] = Unmappable("missing_field", "event.nobody is missing")
    house.handler.use_rules(house.mapper, "d1g35t", lambda record: (_event("one"), _event(str(record.value, "ascii"))))
    house.take(b"two", b"bad")
    assert [(job.delivery.offset, job.delivery.call.name.rule) for job in house.queue.jobs] == [
        (0, "watched"),
        (0, "first"),
        (0, "second"),
    ]
    assert house.progress.unfinished[1].error_reason == "missing_field"


def _event(kind: str) -> Event:
    return Event({"type": kind})


async def test_one_failed_call_of_a_fan_out_makes_one_letter_with_the_outcome_of_each() -> None:
    house = House()
    async with house.running():
        house.take(b"two")
        house.handler.call_ended(house.queue.jobs[0], delivered())
        house.handler.call_ended(house.queue.jobs[1], failed())
        await settle()
    (letter,) = house.letters.written
    assert letter.reason == "invalid_parameter_value"
    assert letter.site == "main"
    assert [(end.name.rule, end.outcome.kind) for end in letter.calls] == [
        ("first", OutcomeKind.DELIVERED),
        ("second", OutcomeKind.FAILED),
    ]
    assert house.ledger.total(house.unfinished()).dead_lettered == 1


@pytest.mark.parametrize(
    ("kinds", "end"),
    [
        ((OutcomeKind.DELIVERED, OutcomeKind.DELIVERED), "done"),
        ((OutcomeKind.DELIVERED, OutcomeKind.STALE), "done"),
        ((OutcomeKind.CAPPED, OutcomeKind.STALE), "done"),
        ((OutcomeKind.STALE, OutcomeKind.STALE), "stale"),
        ((OutcomeKind.FAILED, OutcomeKind.STALE), "dead_lettered"),
    ],
)
async def test_the_end_of_a_record_follows_from_its_calls(kinds: tuple[OutcomeKind, ...], end: str) -> None:
    house = House()
    async with house.running():
        house.take(b"two")
        for job, kind in zip(list(house.queue.jobs), kinds, strict=True):
            house.handler.call_ended(job, Outcome(kind, "some_reason"))
        await settle()
    assert getattr(house.ledger.total(house.unfinished()), end) == 1


async def test_a_capped_call_becomes_a_dead_letter_only_where_its_rule_asks_for_it() -> None:
    house = House()
    kept = call("u1", keep=frozenset({OutcomeKind.CAPPED}))
    house.mapper.table["kept"] = (kept,)
    async with house.running():
        house.take(b"one", b"kept")
        for job in list(house.queue.jobs):
            house.handler.call_ended(job, Outcome(OutcomeKind.CAPPED, "limit_reached", code=400124))
        await settle()
    assert [letter.record.offset for letter in house.letters.written] == [1]


def test_a_bug_while_mapping_passes_no_offset() -> None:
    house = House()
    house.mapper.table["bug"] = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        house.take(b"unknown", b"unknown", b"bug", b"unknown")
    assert house.watermark == 2
    assert house.ledger.balanced(house.unfinished())


def test_taking_stops_when_the_slice_of_time_is_used_up_and_goes_on_where_it_stopped() -> None:
    house = House()
    records = [KafkaRecord("user-events", 0, offset, b"unknown") for offset in range(100)]
    house.mapper.on_call = lambda: house.clock.step_monotonic(0.001)
    index = house.handler.take(house.progress, records, 0, until_s=house.clock.monotonic_s() + 0.02, max_ahead=10_000)
    assert 20 <= index < 60
    assert house.watermark == index
    house.mapper.on_call = lambda: None
    assert house.handler.take(
        house.progress, records, index, until_s=house.clock.monotonic_s() + 1, max_ahead=10_000
    ) == len(records)
    assert house.ledger.total(house.unfinished()).filtered == 100


def test_an_unfinished_record_bounds_how_far_its_partition_is_read() -> None:
    house = House()
    house.take(b"one")
    taken = house.take(*[b"unknown"] * 200, first=1, max_ahead=64)
    assert 60 <= taken <= 80


def test_the_memory_of_a_record_is_counted_from_its_start_to_its_end() -> None:
    house = House()
    house.take(b"two", b"one")
    assert house.handler.held_bytes > 0
    for job in list(house.queue.jobs):
        house.handler.call_ended(job, delivered())
    assert house.handler.held_bytes == 0


async def test_forgotten_records_write_no_letter_and_hold_no_memory() -> None:
    house = House()
    house.letters.refuse()
    async with house.running():
        house.take(b"broken", b"one")
        await settle()
        void = house.offsets.forget({P0})
        house.handler.forget(void)
        house.letters.accept()
        await settle()
    assert house.handler.held_bytes == 0
    assert house.ledger.total({}).dead_lettered == 0


async def test_a_letter_of_a_record_that_is_not_ours_any_more_keeps_no_place_from_others() -> None:
    house = House()
    house.letters.refuse()
    async with house.running():
        house.take(*[b"broken"] * 40)
        await settle()
        house.handler.forget(house.offsets.forget({P0}))
        await settle()
        assert not house.handler.letters_under_way({P0})
        house.offsets.assign({P0: 40})
        house.ledger.assigned(P0, house.progress.epoch)
        house.letters.accept()
        house.take(b"broken", first=40)
        await settle()
    assert [letter.record.offset for letter in house.letters.written] == [40]


async def test_a_letter_is_written_after_a_commit_that_names_its_record_and_makes_another_one_due_at_once() -> None:
    house = House()
    task = asyncio.create_task(house.handler.run())
    due = house.handler.commit_due
    house.take(b"broken")
    assert due.is_set()
    await settle()
    assert not house.letters.written
    due.clear()

    house.letters.refuse()
    commit_now(house.offsets, house.handler)
    await settle()
    assert not due.is_set()
    house.letters.accept()
    await settle()
    assert len(house.letters.written) == 1
    assert due.is_set()
    assert commit_now(house.offsets) == {P0: 1}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_record_that_trips_the_flood_guard_and_all_later_ones_stay_unfinished() -> None:
    house = House(FloodGuardSettings(window=100, min_sample=100, max_run=5, max_ratio=0.5))
    async with house.running():
        house.take(*[b"broken"] * 40)
        await settle()
    assert house.handler.tripped.is_set()
    assert len(house.letters.written) == 5
    assert house.watermark == 5
    assert house.handler.flood is not None


async def test_a_record_is_mapped_by_one_version_of_the_rules_and_its_letter_names_it() -> None:
    house = House()
    async with house.running():
        house.take(b"broken", b"one")
        house.handler.use_rules(TableMapper({}), "0ther", decode)
        house.take(b"broken", b"one", first=2)
        house.handler.call_ended(house.queue.jobs[0], failed())
        await settle()
    assert {letter.record.offset: letter.rules_digest for letter in house.letters.written} == {
        0: "d1g35t",
        1: "d1g35t",
        2: "0ther",
    }
    assert len(house.queue.jobs) == 1

"""Scripted neighbours of the pipeline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from worker.deadletters.record import DeadLetter
from worker.delivery.deliveries import Delivery, Later
from worker.delivery.gate import Permit
from worker.gigya.calls import NOTIFY_ACTION, Call
from worker.kafka.progress import Note
from worker.model import CallName, Event, KafkaRecord, Outcome, OutcomeKind, Record, TopicPartition
from worker.pipeline.handler import Handler
from worker.pipeline.offsets import Offsets
from worker.pipeline.site_lanes import Job
from worker.pipeline.tickets import Ticket


def delivered() -> Outcome:
    return Outcome(OutcomeKind.DELIVERED, "ok", code=0, attempts=1)


def failed() -> Outcome:
    return Outcome(OutcomeKind.FAILED, "invalid_parameter_value", code=400006, attempts=1)


def call(uid: str, rule: str = "watched", site: str = "main", keep: frozenset[OutcomeKind] = frozenset()) -> Call:
    return Call(
        method=NOTIFY_ACTION,
        site=site,
        uid=uid,
        params={"UID": uid, "action": "watched_episode"},
        name=CallName(0, rule),
        stale_at_s=None,
        dead_letter_on=keep,
    )


def job(uid: str, offset: int, partition: TopicPartition) -> Job:
    record = KafkaRecord(partition.topic, partition.partition, offset, b"{}")
    made = call(uid)
    ticket = Ticket(
        record=record, partition=partition, epoch=1, number=offset, started_s=0.0, calls=(made,), outcomes=[None]
    )
    return Job(Delivery(call=made, partition=partition, offset=offset, timestamp_ms=-1), ticket, 0)


class ScriptedSender:
    """A sender whose attempts end when the test says so."""

    def __init__(self) -> None:
        self.released: Callable[[Delivery], None] = lambda delivery: None
        self.is_open = True
        self.in_flight: list[tuple[str, int]] = []
        self.most_per_user = 0
        self.given_back = 0
        self.forgotten: list[Delivery] = []
        self._gate = asyncio.Event()
        self._gate.set()
        self._answers: dict[str, asyncio.Future[Outcome | Later]] = {}

    def __repr__(self) -> str:
        return f"<ScriptedSender in flight {self.in_flight}, gate {'open' if self._gate.is_set() else 'closed'}>"

    def close_gate(self) -> None:
        self._gate.clear()

    def open_gate(self) -> None:
        self._gate.set()

    async def admit(self) -> Permit:
        await self._gate.wait()
        return Permit(serial=0)

    def give_back(self, permit: Permit) -> None:
        self.given_back += 1

    async def attempt(self, delivery: Delivery, permit: Permit) -> Outcome | Later:
        uid = delivery.call.uid
        self.in_flight.append((uid, delivery.offset))
        self.most_per_user = max(self.most_per_user, [each for each, _ in self.in_flight].count(uid))
        answer = self._answers[uid] = asyncio.get_running_loop().create_future()
        try:
            return await answer
        finally:
            self.in_flight.remove((uid, delivery.offset))

    def forget(self, delivery: Delivery) -> None:
        self.forgotten.append(delivery)

    def abandon(self, delivery: Delivery) -> None:
        self.forgotten.append(delivery)

    def answer(self, uid: str, answer: Outcome | Later) -> None:
        self._answers.pop(uid).set_result(answer)


class ListQueue:
    """A queue that makes no call."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def join(self, job: Job) -> None:
        self.jobs.append(job)

    def withdraw(self, ticket: Ticket) -> list[Job]:
        withdrawn = [job for job in self.jobs if job.ticket is ticket and ticket.outcomes[job.call_index] is None]
        self.jobs = [job for job in self.jobs if job not in withdrawn]
        return withdrawn


class TableMapper:
    """Maps an event's type by a table; an exception in the table is raised."""

    def __init__(self, table: dict[str, tuple[Call, ...] | Exception]) -> None:
        self.table = table
        self.on_call: Callable[[], None] = lambda: None

    def calls(self, record: Record, event: Event) -> tuple[Call, ...]:
        self.on_call()
        found = self.table.get(str(event.payload["type"]), ())
        if isinstance(found, Exception):
            raise found
        return found


class MemoryLetters:
    """A dead-letter topic that acknowledges at once, or not before it is told to."""

    def __init__(self) -> None:
        self.written: list[DeadLetter] = []
        self.withdrawn: list[int] = []
        self._accepting = asyncio.Event()
        self._accepting.set()

    def refuse(self) -> None:
        self._accepting.clear()

    def accept(self) -> None:
        self._accepting.set()

    async def write(self, letter: DeadLetter) -> None:
        await self._accepting.wait()
        self.written.append(letter)

    async def withdraw(self, record: Record) -> None:
        await self._accepting.wait()
        self.withdrawn.append(record.offset)


def commit_now(offsets: Offsets, handler: Handler | None = None) -> dict[TopicPartition, int]:
    """Commit what is due as if Kafka said yes at once; return the offsets."""
    due = offsets.due(Note())
    named = offsets.acknowledged(due)
    if handler is not None:
        handler.named(named)
    return {partition: commit.position.offset for partition, commit in due.items()}


async def commit_when_due(offsets: Offsets, handler: Handler) -> None:
    """Commit as soon as the handler asks for it, until cancelled."""
    while True:
        await handler.commit_due.wait()
        handler.commit_due.clear()
        commit_now(offsets, handler)

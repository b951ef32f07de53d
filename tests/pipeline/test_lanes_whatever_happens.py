"""Lanes under random completions, revocations, drains, holds, parkings, horizons: order, bounds, and nothing lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pipeline.fakes import ScriptedSender, delivered, job
from worker.clock import ManualClock, settle
from worker.delivery.deliveries import Delivery, Later
from worker.delivery.gate import Permit
from worker.model import Outcome, TopicPartition
from worker.pipeline.horizon import Horizon
from worker.pipeline.lanes import Lanes
from worker.pipeline.site_lanes import Job

USERS = ("u1", "u2", "u3", "u4")
PARTITIONS = (TopicPartition("t", 0), TopicPartition("t", 1))
Step: TypeAlias = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["join"] * 8
            + ["delivered"] * 4
            + ["commit"] * 3
            + ["put off", "throttled", "held", "release", "advance"] * 2
            + ["forget", "drain", "park", "hold", "go on", "go on", "close gate", "open gate", "open gate"]
            + ["trouble", "open", "near horizon"]
        ),
        st.integers(0, 3),
        st.integers(0, 1),
    ),
    min_size=20,
    max_size=100,
)


class Watching(ScriptedSender):
    """Notes every attempt, and lets a user have one at a time."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock
        self.not_before_s: dict[int, float] = {}  # by the identity of what was put off
        self.attempted: list[Delivery] = []
        self.now: dict[str, Delivery] = {}  # what is in flight, by user
        self.answers: dict[str, asyncio.Future[Outcome | Later]] = {}
        self.held: dict[str, Delivery] = {}
        self.permits_out = 0

    async def admit(self) -> Permit:
        permit = await super().admit()
        self.permits_out += 1
        return permit

    def give_back(self, permit: Permit) -> None:
        self.permits_out -= 1

    async def attempt(self, delivery: Delivery, permit: Permit) -> Outcome | Later:
        uid = delivery.call.uid
        assert uid not in self.answers, "two calls of one user in flight"
        assert self._clock.monotonic_s() >= self.not_before_s.get(id(delivery), 0.0), "its pause is not over"
        self.attempted.append(delivery)
        self.now[uid] = delivery
        answer = self.answers[uid] = asyncio.get_running_loop().create_future()
        try:
            result = await answer
        finally:
            del self.answers[uid], self.now[uid]
            self.permits_out -= 1
        if isinstance(result, Later):
            self.not_before_s[id(delivery)] = self._clock.monotonic_s() + (result.wait_s or 0.0)
        return result


class House:
    """Lanes, and a book of what became of every job."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.sender = Watching(self.clock)
        self.ended: list[Job] = []
        self.lanes = Lanes(
            {"main": self.sender}, max_in_flight=3, clock=self.clock, ended=lambda job, outcome: self._end(job)
        )
        self.jobs: list[Job] = []
        self.withdrawn: list[Job] = []
        self.is_held = False
        self.renewals = 0
        self.lanes.renew = self._renew
        self.next_offset = dict.fromkeys(PARTITIONS, 0)
        self.horizons: dict[TopicPartition, Horizon] = {}
        for partition in PARTITIONS:
            self.assign(partition)

    def _renew(self) -> None:
        self.renewals += 1

    def _end(self, ended: Job) -> None:
        assert not ended.ticket.is_void, "the end of a record that is not ours any more"
        self.ended.append(ended)

    def assign(self, partition: TopicPartition) -> None:
        position = self.next_offset[partition]
        self.horizons[partition] = Horizon(position, position, self.clock.monotonic_s())
        self.lanes.keep_to(partition, self.horizons[partition])

    def commit(self, partition: TopicPartition) -> None:
        """Commit as the engine does: propose, send, hear that it was kept."""
        horizon, heads = self.horizons[partition], self.lanes.heads()(partition)
        assert heads.behind == sorted(heads.behind)
        unfinished = [(each.ticket.offset, 1) for each in self.open_jobs() if each.ticket.partition == partition]
        proposed = horizon.propose(unfinished, heads, self.next_offset[partition], self.clock.monotonic_s())
        horizon.sent(proposed)
        horizon.acknowledged(proposed)
        self.lanes.horizons_moved([partition])

    def come_near(self, partition: TopicPartition, ahead: int) -> None:
        """Commit a horizon so near that calls wait for the next one, some that were ready for a permit among them."""
        horizon = self.horizons[partition]
        offsets = (each.offset for each in self.sender.attempted if each.partition == partition)
        near = max(offsets, default=-1) + 1 + ahead
        horizon.sent(near)
        horizon.acknowledged(near)
        self.lanes.horizons_moved([partition])

    def void(self, partition: TopicPartition) -> None:
        for each in self.jobs:
            if each.ticket.partition == partition:
                each.ticket.is_void = True
        self.lanes.forget([partition])

    def job_of(self, delivery: Delivery) -> Job:
        return next(each for each in self.jobs if each.delivery is delivery)

    def open_jobs(self) -> list[Job]:
        gone = {id(each.delivery) for each in (*self.ended, *self.withdrawn)}
        return [each for each in self.jobs if id(each.delivery) not in gone and not each.ticket.is_void]

    def answer(self, number: int, result: Outcome | Later) -> str:
        """Answer one attempt, if any is in flight; return whose."""
        in_flight = sorted(self.sender.answers)
        if not in_flight:
            return ""
        uid = in_flight[number % len(in_flight)]
        if not self.sender.answers[uid].done():
            self.sender.answers[uid].set_result(result)
        return uid


async def step(house: House, what: str, number: int, which: int) -> None:
    partition, sender = PARTITIONS[which], house.sender
    match what:
        case "join":
            joined = job(USERS[number], house.next_offset[partition], partition)
            house.next_offset[partition] += 1
            house.jobs.append(joined)
            house.lanes.join(joined)
        case "delivered":
            house.answer(number, delivered())
        case "put off":
            house.answer(number, Later("server_error", 0.5 + which))
        case "throttled":
            house.answer(number, Later("rate_limited", 0.0))
        case "held" if uid := house.answer(number, Later("ask", None)):
            sender.held[uid] = sender.now[uid]
            if which:  # released before the lanes have heard that it is held
                sender.released(sender.held.pop(uid))
        case "release" if sender.held:
            uid = sorted(sender.held)[number % len(sender.held)]
            sender.released(sender.held.pop(uid))
        case "advance":
            await house.clock.advance(0.4 * (number + 1))
        case "forget":
            house.void(partition)
            house.assign(partition)
        case "drain":
            await drain(house, partition)
        case "hold" | "go on":
            (house.lanes.hold if what == "hold" else house.lanes.go_on)()
        case "park" if open_jobs := house.open_jobs():
            ticket = open_jobs[number % len(open_jobs)].ticket
            house.withdrawn += house.lanes.withdraw(ticket)
        case "close gate" | "open gate":
            (sender.close_gate if what == "close gate" else sender.open_gate)()
        case "trouble" | "open":
            sender.is_open = what == "open"
        case "commit":
            house.commit(partition)
        case "near horizon":
            house.come_near(partition, number)
    await settle(12)


async def drain(house: House, partition: TopicPartition) -> None:
    """Give a partition back, as the engine does: whatever is in flight ends first, whatever it brings."""
    draining = asyncio.create_task(house.lanes.drain([partition], until_s=house.clock.monotonic_s() + 1.0))
    for turn in range(40):
        await house.clock.advance(0.2)
        if draining.done():
            break
        if turn > 8 or len(house.jobs) % 2:  # some answers come only after the drain's time
            house.answer(turn, delivered())
    await draining
    assert all(delivery.partition != partition for delivery in house.sender.now.values()), "not waited for"
    house.void(partition)
    house.assign(partition)


def look(house: House) -> None:
    """Check what is true after every step."""
    sender, open_jobs = house.sender, house.open_jobs()
    assert len(sender.answers) <= 3
    assert house.lanes.in_flight == len(sender.answers)
    statistics = house.lanes.statistics()["main"]
    void = sum(house.job_of(delivery).ticket.is_void for delivery in sender.now.values())
    assert statistics.waiting + statistics.in_flight == len(open_jobs) + void, "a call was lost, or is there twice"
    for delivery in sender.now.values():
        is_void = house.job_of(delivery).ticket.is_void
        first = next((each for each in open_jobs if each.delivery.call.uid == delivery.call.uid), None)
        assert is_void or (first is not None and first.delivery is delivery), "an earlier call of its user is not over"
        assert is_void or delivery.offset < house.horizons[delivery.partition].below, "attempted behind the horizon"


@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_whatever_happens_order_is_kept_and_no_call_is_lost(steps: list[Step]) -> None:
    asyncio.run(story(steps))


async def story(steps: list[Step]) -> None:
    house = House()
    running = asyncio.create_task(house.lanes.run())
    try:
        for partition in PARTITIONS:
            house.commit(partition)
        for what, number, which in steps:
            await step(house, what, number, which)
            look(house)
        await let_all_end(house)
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    firsts = list(dict.fromkeys(id(delivery) for delivery in house.sender.attempted))
    for uid in USERS:
        mine = [id(each.delivery) for each in house.jobs if each.delivery.call.uid == uid]
        assert [each for each in firsts if each in mine] == [each for each in mine if each in firsts], "out of order"
    ends = Counter(id(each.delivery) for each in (*house.ended, *house.withdrawn))
    assert all(count == 1 for count in ends.values()), "ended twice"
    assert house.open_jobs() == []
    assert house.sender.permits_out <= 1  # the one that the dispatcher may hold
    assert house.lanes.statistics()["main"].users == 0


async def let_all_end(house: House) -> None:
    """Let everything be well again: all that is open must end."""
    house.sender.open_gate()
    house.sender.is_open = True
    house.lanes.go_on()
    for turn in range(2_000):
        if not house.open_jobs() and not house.sender.answers:
            return
        for partition in PARTITIONS:
            house.commit(partition)
        for uid in sorted(house.sender.held):
            house.sender.released(house.sender.held.pop(uid))
        house.answer(turn, delivered())
        await house.clock.advance(0.5)
    raise AssertionError(f"{len(house.open_jobs())} calls never ended")

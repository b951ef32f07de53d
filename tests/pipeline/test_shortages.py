"""Whatever keeps some calls from going on, others that wait for a horizon alone are made.

Real lanes, offsets and horizons; commits take their time, as brokers do. A site that is not short of calls makes as
many as it may: what is asked for below is a share of that. No horizon is ever believed that the group may not have.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable

import pytest

from tests.pipeline.fakes import call, delivered
from worker.clock import ManualClock, settle
from worker.delivery.deliveries import Delivery, Later
from worker.delivery.gate import Permit
from worker.kafka.progress import Note
from worker.model import KafkaRecord, Outcome, TopicPartition
from worker.pipeline.lanes import Lanes
from worker.pipeline.offsets import Commit, Offsets
from worker.pipeline.site_lanes import Job
from worker.pipeline.tickets import Ticket

STEP_S = 0.05
HOURS = Later("backoff", 36_000.0)
Answer = Callable[[Delivery], Outcome | Later]


class PacedSender:
    """Makes so many calls a second; none while it is away."""

    def __init__(self, per_s: float, answer: Answer = lambda delivery: delivered()) -> None:
        self.released: Callable[[Delivery], None] = lambda delivery: None
        self.is_open = True
        self.ended: Counter[TopicPartition] = Counter()
        self._per_s = per_s
        self._answer = answer
        self._permits = 0.0
        self._more = asyncio.Event()

    def pass_time(self) -> None:
        if self.is_open:
            self._permits = min(max(1.0, self._per_s * STEP_S), self._permits + self._per_s * STEP_S)
            self._more.set()

    async def admit(self) -> Permit:
        while self._permits < 1 or not self.is_open:
            self._more.clear()
            await self._more.wait()
        self._permits -= 1
        return Permit(serial=0)

    def give_back(self, permit: Permit) -> None:
        self._permits += 1

    async def attempt(self, delivery: Delivery, permit: Permit) -> Outcome | Later:
        await asyncio.sleep(0)
        answer = self._answer(delivery)
        self.ended[delivery.partition] += isinstance(answer, Outcome)
        return answer

    def forget(self, delivery: Delivery) -> None:
        """Nothing is remembered."""

    def abandon(self, delivery: Delivery) -> None:
        """Nothing is remembered."""


class World:
    """A worker that has read a backlog, each call of a user of its own, and commits."""

    def __init__(self, senders: dict[str, PacedSender], *, partitions: int = 1, commit_s: float) -> None:
        self.clock = ManualClock()
        self.offsets = Offsets()
        self.partitions = [TopicPartition("t", number) for number in range(partitions)]
        self._senders = senders
        self._commit_s = commit_s
        self._is_due = True
        self._due_s = 0.0
        self._under_way: tuple[float, dict[TopicPartition, Commit]] | None = None
        self._stored: dict[TopicPartition, set[int]] = {each: {0} for each in self.partitions}  # what Kafka may hold
        self.lanes = Lanes(dict(senders), max_in_flight=100, clock=self.clock, ended=self._ended)
        self.lanes.renew = self._renew
        self.offsets.assign(dict.fromkeys(self.partitions, 0), None, self.clock.monotonic_s())
        for partition in self.partitions:
            self.lanes.keep_to(partition, self._progress(partition).horizon)

    def _progress(self, partition: TopicPartition):  # type: ignore[no-untyped-def]
        progress = self.offsets.get(partition)
        assert progress is not None
        return progress

    def _renew(self) -> None:
        self._is_due = True

    def _ended(self, job: Job, outcome: Outcome) -> None:
        if job.ticket.call_ended(job.call_index, outcome):
            self.offsets.finish(job.ticket)

    def pass_over(self, count: int) -> None:
        """Read records that nobody wants."""
        for partition in self.partitions:
            progress = self._progress(partition)
            progress.pass_to(progress.position + count)

    def read(self, sites: Iterable[str]) -> None:
        """Read one record for each of these, in every partition."""
        for number, site in enumerate(sites):
            for partition in self.partitions:
                progress = self._progress(partition)
                offset = progress.position
                made = call(f"{partition.partition}-{offset}", site=site)
                record = KafkaRecord(partition.topic, partition.partition, offset, b"{}")
                ticket = Ticket(record, partition, progress.epoch, number, 0.0, (made,), [None], deliveries=[None])
                progress.start(ticket)
                delivery = ticket.deliveries[0] = Delivery(made, partition, offset, -1)
                self.lanes.join(Job(delivery, ticket, 0))

    async def run(self, seconds: float) -> None:
        running = asyncio.create_task(self.lanes.run())
        try:
            for _ in range(round(seconds / STEP_S)):
                self._commit()
                for sender in self._senders.values():
                    sender.pass_time()
                await self.clock.advance(STEP_S)
                await settle()
                assert not running.done()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    def _commit(self) -> None:
        now_s = self.clock.monotonic_s()
        if self._under_way is not None and now_s >= self._under_way[0]:
            commits = self._under_way[1]
            self.offsets.acknowledged(commits)
            self._under_way = None
            for partition, commit in commits.items():
                self._stored[partition] = {commit.horizon}
            self.lanes.horizons_moved(commits)
        if self._under_way is None and (self._is_due or now_s >= self._due_s):
            self._is_due, self._due_s = False, now_s + 1.0
            commits = self.offsets.due(Note(), heads=self.lanes.heads(), now_s=now_s)
            if commits:
                self._under_way = now_s + self._commit_s, commits
            for partition, commit in commits.items():
                self._stored[partition].add(commit.horizon)
        for partition, horizons in self._stored.items():
            # What is under way counts at once where it is lower, and not before it is acknowledged where it is higher.
            assert self._progress(partition).horizon.below <= min(horizons)


COMMITS = pytest.mark.parametrize("commit_s", [0.0, 0.3, 1.0])


@COMMITS
async def test_a_site_makes_its_calls_while_another_that_has_as_many_is_away(commit_s: float) -> None:
    away, well = PacedSender(200), PacedSender(100)
    world = World({"away": away, "well": well}, commit_s=commit_s)
    away.is_open = False
    world.read(["away", "well"] * 1_000)
    await world.run(20)
    assert well.ended.total() > 0.45 * 1_000


@COMMITS
async def test_a_site_makes_its_calls_while_another_has_hardly_any_quota(commit_s: float) -> None:
    slow, fast = PacedSender(1), PacedSender(100)
    world = World({"slow": slow, "fast": fast}, commit_s=commit_s)
    world.read(["slow", "fast"] * 1_000)
    await world.run(20)
    assert fast.ended.total() > 0.45 * 1_000


async def test_a_site_whose_calls_a_lowered_horizon_keeps_back_does_not_sleep_for_ever() -> None:
    """It comes down to behind calls of another site, which makes none; the shortage shows while that is under way."""
    slow, well = PacedSender(0.01), PacedSender(100)
    world = World({"slow": slow, "well": well}, commit_s=0.1)
    world.pass_over(10_000)
    await world.run(1.5)
    world.read(["slow"] * 400 + ["well"] * 400)
    await world.run(10)
    assert well.ended.total() == 400


@COMMITS
async def test_users_who_wait_for_hours_do_not_hold_those_behind_them(commit_s: float) -> None:
    sender = PacedSender(100, lambda delivery: HOURS if delivery.offset % 10 else delivered())
    world = World({"main": sender}, commit_s=commit_s)
    world.read(["main"] * 1_000)
    await world.run(30)
    assert sender.ended.total() == 100


@COMMITS
async def test_a_partition_whose_first_users_wait_has_its_turn_while_another_keeps_the_site_busy(
    commit_s: float,
) -> None:
    def answer(delivery: Delivery) -> Outcome | Later:
        return HOURS if delivery.partition.partition == 1 and delivery.offset < 200 else delivered()

    sender = PacedSender(100, answer)
    world = World({"main": sender}, partitions=2, commit_s=commit_s)
    world.read(["main"] * 5_000)
    await world.run(40)
    busy, waiting = (sender.ended[partition] for partition in world.partitions)
    assert busy > 1_000
    assert waiting > 100


@COMMITS
async def test_slow_commits_do_not_keep_a_backlog_behind_many_unwanted_records_from_being_made(commit_s: float) -> None:
    sender = PacedSender(300)
    world = World({"main": sender}, commit_s=commit_s)
    world.pass_over(50_000)
    await world.run(1)
    world.read(["main"] * 6_000)
    await world.run(20)
    assert sender.ended.total() > 2_000

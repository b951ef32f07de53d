"""Members of a group keep a quota together, with nothing between them but their commits."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

import pytest

from worker.clock import ManualClock
from worker.delivery.shares import SHARED
from worker.errors import WorkerError
from worker.kafka.progress import encode
from worker.kafka.source import Position
from worker.model import TopicPartition
from worker.pipeline.group_quota import GroupQuota

PARTITIONS = [TopicPartition("user-events", number) for number in range(6)]
QUOTA = 90.0


class Broker:
    """The commits of a group."""

    def __init__(self) -> None:
        self.commits: dict[TopicPartition, Position] = {}
        self.is_away = False


class Seat:
    """One member's view of the broker."""

    def __init__(self, broker: Broker, owned: Sequence[TopicPartition]) -> None:
        self.broker = broker
        self.owned = frozenset(owned)

    async def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Position | None]:
        if self.broker.is_away:
            raise WorkerError("nothing answers there")
        return {partition: self.broker.commits.get(partition) for partition in partitions}

    def partitions_of_group(self) -> Sequence[TopicPartition]:
        return PARTITIONS

    def assignment(self) -> frozenset[TopicPartition]:
        return self.owned


class Sender:
    """A site's sender: uses its whole rate while it has a backlog."""

    def __init__(self) -> None:
        self.written = 0.0
        self.calls_at_the_gate = False
        self.load_per_s = 0.0
        self.rate_per_s = QUOTA

    @property
    def requests_written(self) -> int:
        return int(self.written)

    def set_quota(self, quota_per_s: float | None) -> None:
        assert quota_per_s is not None
        self.rate_per_s = quota_per_s

    def work(self, seconds: float) -> None:
        self.written += min(self.load_per_s, self.rate_per_s) * seconds
        self.calls_at_the_gate = self.load_per_s > self.rate_per_s


class Group:
    """Some members, committing once a second as the engine does."""

    def __init__(self, shares: Sequence[Sequence[TopicPartition]]) -> None:
        self.clock = ManualClock()
        self.broker = Broker()
        self.senders = [Sender() for _ in shares]
        self.seats = [Seat(self.broker, share) for share in shares]
        self.members = [
            GroupQuota(
                quotas_per_s={"main": QUOTA},
                meters={"main": sender},
                commits=seat,
                clock=self.clock,
                member=f"{number:012x}",
            )
            for number, (sender, seat) in enumerate(zip(self.senders, self.seats, strict=True), 10)
        ]
        for member, seat in zip(self.members, self.seats, strict=True):
            member.assigned(seat.owned)
        self.most_together = 0.0

    def start(self) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(member.run()) for member in self.members]

    async def run(self, seconds: int) -> None:
        for _ in range(seconds):
            for _ in range(10):
                await self.clock.advance(0.1)
                for sender in self.senders:
                    sender.work(0.1)
                self.most_together = max(self.most_together, sum(self.rates()))
            for member, seat in zip(self.members, self.seats, strict=True):
                for partition in seat.owned:
                    self.broker.commits[partition] = Position(7, encode(member.note))

    def rates(self) -> list[float]:
        return [sender.rate_per_s for sender in self.senders]


THREE = (PARTITIONS[0:2], PARTITIONS[2:4], PARTITIONS[4:6])


async def test_at_an_assignment_everybody_has_his_even_share() -> None:
    assert Group(THREE).rates() == pytest.approx([30.0 * SHARED] * 3)
    assert Group((PARTITIONS[0:1], PARTITIONS[1:6])).rates() == pytest.approx([15.0 * SHARED, 75.0 * SHARED])
    assert Group((PARTITIONS,)).rates() == [QUOTA]


async def test_a_member_without_a_partition_is_given_no_rate_of_nothing() -> None:
    assert Group((PARTITIONS, ())).rates() == [QUOTA, QUOTA]


async def test_a_backlog_of_one_member_gets_nearly_all_and_an_even_load_is_divided_evenly() -> None:
    group = Group(THREE)
    tasks = group.start()
    group.senders[0].load_per_s = 1000
    await group.run(30)
    assert group.rates()[0] > 0.95 * QUOTA
    for sender in group.senders:
        sender.load_per_s = 1000
    await group.run(30)
    assert all(abs(rate - 30) < 1 for rate in group.rates())
    assert group.most_together <= QUOTA * 1.001
    for task in tasks:
        task.cancel()


async def test_an_older_member_that_says_nothing_keeps_its_even_share() -> None:
    group = Group(THREE)
    silent = group.members.pop()
    seat, _ = group.seats.pop(), group.senders.pop()
    for partition in seat.owned:
        group.broker.commits[partition] = Position(7, "")
    del silent
    tasks = group.start()
    for sender in group.senders:
        sender.load_per_s = 1000
    await group.run(30)
    assert sum(group.rates()) <= QUOTA - 30 + 0.1
    for task in tasks:
        task.cancel()


async def test_while_the_broker_is_away_nobody_takes_more() -> None:
    group = Group(THREE)
    tasks = group.start()
    await group.run(10)
    group.broker.is_away = True
    before = group.rates()
    group.senders[0].load_per_s = 1000
    await group.run(30)
    assert group.rates() == before
    assert not any(task.done() for task in tasks)
    for task in tasks:
        task.cancel()


async def test_one_member_alone_has_the_whole_quota() -> None:
    group = Group((PARTITIONS,))
    tasks = group.start()
    await group.run(10)
    assert group.rates() == [QUOTA]
    for task in tasks:
        task.cancel()

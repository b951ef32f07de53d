"""The whole pipeline over a fake cluster: nothing lost, order kept, offsets only over what has ended."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import pytest

from tests.fakes import FakeCluster, FakeProducer, FakeSource
from tests.pipeline.fakes import call
from worker.clock import ManualClock
from worker.codecs import json as json_codec
from worker.deadletters.writer import DeadLetterWriter
from worker.delivery.deliveries import Delivery, Later
from worker.delivery.gate import Permit
from worker.gigya.calls import Call
from worker.metrics import Metrics
from worker.model import Event, Outcome, OutcomeKind, Record, TopicPartition
from worker.pipeline.commits import Memory
from worker.pipeline.engine import Ended, Engine
from worker.pipeline.flood_guard import FloodGuard, FloodGuardSettings
from worker.pipeline.handler import Handler, Mapper
from worker.pipeline.lanes import Lanes
from worker.pipeline.ledger import Ledger
from worker.pipeline.offsets import Offsets

TOPIC, DEAD, GROUP = "user-events", "user-events.dead", "group"


class UidMapper:
    """One call for an event with a uid; none for the others."""

    def calls(self, record: Record, event: Event) -> tuple[Call, ...]:
        uid = event.payload.get("uid")
        return (call(str(uid)),) if uid else ()


class Site:
    """The API as all members see it: who was called when, and answers as the test scripts them."""

    def __init__(self, clock: ManualClock, rng: Random) -> None:
        self.clock = clock
        self.rng = rng
        self.executed: list[tuple[str, TopicPartition, int]] = []
        self.blocked: set[str] = set()  # users whose calls are put off again and again
        self.latency_s: Callable[[], float] = lambda: 0.01
        self.answer: Callable[[Delivery], Outcome | Later] = lambda delivery: Outcome(OutcomeKind.DELIVERED, "ok")
        self.in_flight: Counter[str] = Counter()
        self.most_per_user_and_member = 0

    def first_executions(self, uid: str, partition: TopicPartition) -> list[int]:
        offsets = [offset for name, where, offset in self.executed if name == uid and where == partition]
        return list(dict.fromkeys(offsets))


class Sender:
    """One member's sender to the Site."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.is_open = True
        self.released: Callable[[Delivery], None] = lambda delivery: None
        self._mine: Counter[str] = Counter()

    async def admit(self) -> Permit:
        return Permit(serial=0)

    def give_back(self, permit: Permit) -> None: ...

    def forget(self, delivery: Delivery) -> None: ...

    def abandon(self, delivery: Delivery) -> None: ...

    async def attempt(self, delivery: Delivery, permit: Permit) -> Outcome | Later:
        uid = delivery.call.uid
        delivery.attempts += 1
        self._mine[uid] += 1
        self.site.most_per_user_and_member = max(self.site.most_per_user_and_member, self._mine[uid])
        try:
            await self.site.clock.sleep(self.site.latency_s())
        finally:
            self._mine[uid] -= 1
        if uid in self.site.blocked:
            return Later("server_error", 1.0)
        answer = self.site.answer(delivery)
        if isinstance(answer, Outcome):
            self.site.executed.append((uid, delivery.partition, delivery.offset))
        return answer


class Member:
    """One worker: an engine with everything below it but Kafka and the API."""

    def __init__(
        self,
        world: World,
        *,
        until_end: bool = False,
        source: FakeSource | None = None,
        mapper: Mapper | None = None,
        memories: Mapping[str, Memory] | None = None,
        rules: str = "d1g35t",
        **limits: int,
    ) -> None:
        clock = world.clock
        self.offsets, self.ledger = Offsets(), Ledger()
        self.source = source or FakeSource(world.cluster, [TOPIC], group_id=GROUP)
        self.handler = Handler(
            decode=json_codec.decode,
            mapper=mapper or UidMapper(),
            rules_digest=rules,
            letters=DeadLetterWriter(
                topic=DEAD, producer=world.producer, clock=clock, rng=world.rng, metrics=Metrics()
            ),
            offsets=self.offsets,
            ledger=self.ledger,
            guard=FloodGuard(FloodGuardSettings(max_run=20)),
            clock=clock,
            metrics=Metrics(),
            user_mark=lambda site, uid: "0123456789ab",
            max_held_bytes=limits.get("max_held_bytes", 10_000_000),
        )
        self.sender = world.sender()
        self.lanes = Lanes({"main": self.sender}, max_in_flight=50, clock=clock, ended=self.handler.call_ended)
        self.handler.queue = self.lanes
        self.engine = Engine(
            source=self.source,
            handler=self.handler,
            lanes=self.lanes,
            offsets=self.offsets,
            ledger=self.ledger,
            clock=clock,
            metrics=Metrics(),
            max_ahead=limits.get("max_ahead", 1000),
            drain_s=5.0,
            until_end=until_end,
            memories=memories,
        )
        self.task = asyncio.create_task(self.engine.run())

    @property
    def is_balanced(self) -> bool:
        return self.ledger.balanced(self.engine.unfinished())

    def crash(self) -> None:
        """Be gone without a word, as after kill -9 and the end of the session."""
        self.source.evict()
        self.task.cancel()


class World:
    """A cluster, an API and the members between them."""

    def __init__(self, partitions: int = 1, seed: int = 0) -> None:
        self.clock = ManualClock()
        self.rng = Random(seed)
        self.cluster = FakeCluster(self.clock)
        self.partitions = self.cluster.create_topic(TOPIC, partitions)
        self.cluster.create_topic(DEAD)
        self.producer = FakeProducer(self.cluster)
        self.site = Site(self.clock, self.rng)
        self.members: list[Member] = []

    def append(self, *uids: str, partition: int = 0) -> None:
        for uid in uids:
            value = b'{"uid": "%s"}' % uid.encode() if uid != "broken" else b'{"uid": '
            self.cluster.append(self.partitions[partition], value)

    def sender(self) -> Sender:
        return Sender(self.site)

    def start(self, **options: Any) -> Member:
        member = Member(self, **options)
        self.members.append(member)
        return member

    async def until(self, condition: Callable[[], bool], limit_s: float = 600.0) -> None:
        end_s = self.clock.monotonic_s() + limit_s
        while not condition():
            assert self.clock.monotonic_s() < end_s, "did not come true in time"
            await self.clock.advance(0.05)

    async def finish(self, task: asyncio.Task[Ended]) -> Ended:
        await self.until(task.done)
        return task.result()

    def committed(self, partition: int = 0) -> int:
        position = self.cluster.committed.get((GROUP, self.partitions[partition]))
        return position.offset if position else 0

    def is_all_committed(self) -> bool:
        return all(self.committed(number) == self.cluster.logs[one].end for number, one in enumerate(self.partitions))

    async def close(self) -> None:
        for member in self.members:
            member.task.cancel()
        await asyncio.gather(*(member.task for member in self.members), return_exceptions=True)


async def test_a_bounded_run_ends_when_everything_has_ended_and_is_committed() -> None:
    world = World(partitions=3)
    for number in range(3):
        world.append("u1", "", "u2", "", "broken", "u1", partition=number)
    member = world.start(until_end=True)
    assert await world.finish(member.task) is Ended.REACHED_END
    assert world.is_all_committed()
    assert len(world.site.executed) == 9
    assert len(world.cluster.logs[TopicPartition(DEAD, 0)].records) == 3
    total = member.ledger.total(member.engine.unfinished())
    assert (total.read, total.filtered, total.done, total.dead_lettered) == (18, 6, 9, 3)
    assert member.is_balanced


async def test_a_blocked_user_holds_his_partitions_offset_and_nobody_elses_calls() -> None:
    world = World(partitions=2)
    world.site.blocked = {"blocked"}
    world.append("u1", "blocked", "u2", "u3")
    world.append("u4", "u5", partition=1)
    member = world.start()
    await world.until(lambda: len(world.site.executed) == 5)
    await world.clock.advance(2)
    assert (world.committed(0), world.committed(1)) == (1, 2)
    (status,) = [one for one in member.engine.partitions() if one.partition == world.partitions[0]]
    assert status.blocker_offset == 1
    assert status.blocker_attempts >= 1
    assert status.blocker_reason == "server_error"
    world.site.blocked.clear()
    await world.until(world.is_all_committed)
    await world.close()


async def test_a_partition_without_room_does_not_stop_the_others_from_being_read() -> None:
    world = World(partitions=2)
    world.site.blocked = {"blocked"}
    world.append("blocked", *["u1"] * 500)
    member = world.start(max_ahead=100)
    await world.clock.advance(3)
    held = member.offsets.get(world.partitions[0])
    assert held is not None
    assert held.ahead <= 100 + 16
    world.append(*["u2"] * 50, partition=1)
    await world.until(lambda: world.committed(1) == 50)
    world.site.blocked.clear()
    await world.until(world.is_all_committed)
    assert world.site.first_executions("u1", world.partitions[0]) == list(range(1, 501))
    await world.close()


async def test_memory_is_bounded_while_nothing_ends_and_reading_goes_on_afterwards() -> None:
    world = World()
    world.site.blocked = {f"u{number}" for number in range(400)}
    world.append(*(f"u{number}" for number in range(400)))
    limit_bytes = 400_000
    member = world.start(max_held_bytes=limit_bytes)
    await world.clock.advance(5)
    assert 0.5 * limit_bytes < member.handler.held_bytes < 1.2 * limit_bytes
    world.site.blocked.clear()
    await world.until(world.is_all_committed)
    assert member.handler.held_bytes == 0
    await world.close()


async def test_a_stop_lets_waiting_calls_end_and_commits_them() -> None:
    world = World()
    world.site.latency_s = lambda: 1.0
    world.append(*(f"u{number % 20}" for number in range(60)))
    member = world.start()
    await world.clock.advance(0.5)
    member.engine.stop()
    assert await world.finish(member.task) is Ended.STOPPED
    assert world.committed() == len(world.site.executed) == 60
    assert member.is_balanced


async def test_a_stop_hands_back_what_cannot_end_and_the_next_member_makes_it() -> None:
    world = World()
    world.site.blocked = {"blocked"}
    world.append("u1", "blocked", "blocked", "u2")
    first = world.start()
    await world.until(lambda: len(world.site.executed) == 2)
    first.engine.stop()
    assert await world.finish(first.task) is Ended.STOPPED
    assert world.committed() == 1
    world.site.blocked.clear()
    second = world.start(until_end=True)
    assert await world.finish(second.task) is Ended.REACHED_END
    assert world.site.first_executions("blocked", world.partitions[0]) == [1, 2]
    # u2 had ended behind the blocked one: the offset cannot tell, but the map beside it can.
    assert sorted(world.site.executed, key=lambda each: each[2]) == [
        (uid, world.partitions[0], offset) for offset, uid in enumerate(["u1", "blocked", "blocked", "u2"])
    ]
    assert second.ledger.total(second.engine.unfinished()).already_done == 1


async def test_a_second_member_takes_over_its_share_and_nothing_is_made_twice() -> None:
    world = World(partitions=4)
    for number in range(4):
        world.append(*(f"u{number}-{index % 7}" for index in range(100)), partition=number)
    world.start()
    await world.until(lambda: len(world.site.executed) > 50)
    world.start()
    await world.until(world.is_all_committed)
    assert len(world.site.executed) == 400
    assert all(member.is_balanced for member in world.members)
    assert len(world.members[1].offsets) == 2
    await world.close()


async def test_a_member_without_a_share_of_a_bounded_run_ends() -> None:
    world = World(partitions=1)
    world.append("u1")
    members = [world.start(until_end=True), world.start(until_end=True)]
    assert [await world.finish(member.task) for member in members] == [Ended.REACHED_END] * 2
    assert world.is_all_committed()


async def test_an_offset_does_not_move_while_the_dead_letter_topic_takes_no_writes() -> None:
    world = World()
    world.producer.failures_left = 10_000
    world.append("u1", "broken", "u2")
    world.start()
    await world.clock.advance(120)
    assert world.committed() == 1
    world.producer.failures_left = 0
    await world.until(world.is_all_committed)
    assert len(world.cluster.logs[TopicPartition(DEAD, 0)].records) == 1
    await world.close()


async def test_a_flood_holds_the_worker_and_a_restart_goes_on_where_it_stopped() -> None:
    world = World()
    world.append("u1", *["broken"] * 200, "u2")
    member = world.start(until_end=True)
    assert await world.finish(member.task) is Ended.HELD
    letters = len(world.cluster.logs[TopicPartition(DEAD, 0)].records)
    assert letters == 20
    assert world.committed() == 1 + letters
    assert ("u2", world.partitions[0], 201) not in world.site.executed


async def test_while_the_guard_holds_no_further_call_is_made() -> None:
    world = World()
    world.site.latency_s = lambda: 0.5
    # One user: his calls wait behind one another while the flood comes.
    world.append(*["u1"] * 10, *["broken"] * 30)
    member = world.start()
    await world.until(member.handler.tripped.is_set)
    made = len(world.site.executed)
    await world.clock.advance(10)
    assert made < 10
    assert len(world.site.executed) <= made + 1  # what was in flight
    await world.close()


async def test_a_failing_commit_loses_nothing_and_is_made_up_for() -> None:
    world = World()
    member = world.start()
    world.append("u1", "u2")
    await world.until(lambda: len(world.site.executed) == 2)
    member.source.evict()
    await world.clock.advance(3)
    assert world.committed() == 0
    assert member.engine.last_commit_error
    await world.close()


async def test_a_call_is_in_flight_once_per_user_within_a_member() -> None:
    world = World()
    world.site.latency_s = lambda: world.rng.uniform(0.01, 0.3)
    world.append(*(f"u{world.rng.randint(0, 5)}" for _ in range(200)))
    member = world.start(until_end=True)
    await world.finish(member.task)
    assert world.site.most_per_user_and_member == 1


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_happens_to_the_members_nothing_is_lost_and_order_is_kept(seed: int) -> None:
    world = World(partitions=3, seed=seed)
    rng = world.rng
    world.site.latency_s = lambda: rng.choice([0.0, 0.01, 0.05, 0.4])
    world.site.answer = lambda delivery: (
        Later("server_error", rng.random()) if rng.random() < 0.2 else Outcome(OutcomeKind.DELIVERED, "ok")
    )
    expected: set[tuple[str, TopicPartition, int]] = set()
    for _ in range(300):
        number = rng.randrange(3)
        uid = rng.choice(["", f"u{number}-{rng.randint(0, 9)}"])
        if uid:
            expected.add((uid, world.partitions[number], world.cluster.logs[world.partitions[number]].end))
        world.append(uid, partition=number)
    alive = [world.start()]
    for _ in range(15):
        await world.clock.advance(rng.uniform(0.05, 1.5))
        what = rng.choice(["join", "stop", "crash", "nothing"])
        if what == "join" and len(alive) < 3:
            alive.append(world.start())
        elif what == "stop" and len(alive) > 1:
            member = alive.pop(rng.randrange(len(alive)))
            member.engine.stop()
            assert await world.finish(member.task) is Ended.STOPPED
            assert member.is_balanced
        elif what == "crash":
            member = alive.pop(rng.randrange(len(alive)))
            member.crash()
            await asyncio.gather(member.task, return_exceptions=True)
            if not alive:
                alive.append(world.start())
            else:
                await asyncio.wait_for(_rebalanced(world), 30)
    await world.until(world.is_all_committed)
    assert set(world.site.executed) == expected
    for uid, partition, _ in expected:
        firsts = world.site.first_executions(uid, partition)
        assert firsts == sorted(firsts)
    assert all(member.is_balanced for member in alive)
    await world.close()


async def _rebalanced(world: World) -> None:
    task = asyncio.create_task(world.cluster.rebalance(GROUP))
    while not task.done():
        await world.clock.advance(0.05)
    task.result()

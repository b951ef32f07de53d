"""Moments at which promises break easily: a rebalance between two lines, a stop before the start, a bug in a drain."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

import pytest

from tests.fakes import FakeCluster, FakeSource
from tests.pipeline.test_engine import GROUP, TOPIC, Member, UidMapper, World
from worker.clock import settle
from worker.delivery.deliveries import Delivery
from worker.gigya.calls import Call
from worker.kafka.source import Owner, Position, SourceFailed
from worker.model import Event, Outcome, Record, TopicPartition
from worker.pipeline.engine import Ended


class SlowMapper:
    """Wants every event, takes a millisecond for each, and tells when it has seen so many."""

    def __init__(self, member: Member, world: World) -> None:
        self._wrapped = member.handler._mapper
        self._world = world
        self.seen = 0
        self.at: dict[int, asyncio.Event] = {}

    def calls(self, record: Record, event: Event):  # type: ignore[no-untyped-def]
        self.seen += 1
        self._world.clock.step_monotonic(0.001)
        if self.seen in self.at:
            self.at[self.seen].set()
        return self._wrapped.calls(record, event)


async def test_a_rebalance_between_two_slices_of_a_batch_does_not_end_the_worker() -> None:
    world = World()
    world.append(*(f"u{number}" for number in range(300)))
    member = world.start()
    member.sender.is_open = False  # what waits is dropped at once: the revocation needs no turn of the loop
    member.sender.admit = asyncio.Event().wait
    mapper = SlowMapper(member, world)
    member.handler._mapper = mapper
    moment = mapper.at[20] = asyncio.Event()

    async def revoke() -> None:
        await moment.wait()
        await member.engine.partitions_revoked(frozenset(world.partitions))

    revoking = asyncio.create_task(revoke())
    await world.until(revoking.done)
    await world.clock.advance(1)

    assert not member.task.done(), member.task.exception()
    await world.close()


class RevokedWhileReading(FakeSource):
    """Hands over its first batch of partition 0 just as the group takes the partitions away."""

    def __init__(self, cluster: FakeCluster) -> None:
        super().__init__(cluster, [TOPIC], group_id=GROUP)
        self._fake_cluster = cluster
        self.has_revoked = False

    async def read(
        self, partitions: Collection[TopicPartition], *, max_records: int, timeout_s: float
    ) -> Mapping[TopicPartition, Sequence[Record]]:
        found = await super().read(partitions, max_records=max_records, timeout_s=timeout_s)
        if not self.has_revoked and any(partition.partition == 0 for partition in found):
            self.has_revoked = True
            self._fake_cluster.later(self._fake_cluster.rebalance(GROUP))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return found


async def test_a_bounded_run_passes_no_record_that_arrived_while_its_partition_was_taken_away() -> None:
    world = World(partitions=2)
    source = RevokedWhileReading(world.cluster)
    member = world.start(until_end=True, source=source)
    world.site.latency_s = lambda: 3.0  # the drain of the other partition takes a while
    world.append("slow", partition=1)
    await world.until(lambda: bool(member.lanes.in_flight))
    world.append("a", "b", "c", partition=0)
    member.engine._ends = {partition: world.cluster.logs[partition].end for partition in world.partitions}

    await world.until(lambda: source.has_revoked)
    ended = await world.finish(member.task)

    assert ended is Ended.REACHED_END
    assert {uid for uid, _, _ in world.site.executed} >= {"a", "b", "c"}
    await world.close()


async def test_what_the_group_met_is_heard_by_a_member_that_has_no_partitions() -> None:
    world = World(partitions=1)
    world.start()
    await world.clock.advance(1)
    second = world.start()
    await world.clock.advance(1)
    assert not second.source.assignment()

    second.source._failed(PermissionError())

    await world.until(second.task.done, limit_s=10)
    with pytest.raises(SourceFailed):
        second.task.result()
    await world.close()


async def test_what_the_group_met_is_heard_while_there_is_no_room_to_read() -> None:
    world = World()
    world.append(*(f"u{number}" for number in range(50)))
    world.site.blocked = {f"u{number}" for number in range(50)}
    member = world.start(max_ahead=16)
    await world.clock.advance(5)
    assert member.engine._with_room() == []

    member.source._failed(PermissionError())

    await world.until(member.task.done, limit_s=10)
    with pytest.raises(SourceFailed):
        member.task.result()
    await world.close()


class NeverJoins(FakeSource):
    """A group that keeps everybody waiting: another member drains, or the coordinator is away."""

    async def start(self, owner: Owner) -> None:
        await asyncio.Event().wait()


async def test_a_stop_does_not_wait_for_the_group_to_let_us_in() -> None:
    world = World()
    member = world.start()
    member.engine._source = NeverJoins(world.cluster, [TOPIC], group_id=GROUP)
    await world.clock.advance(1)

    member.engine.stop()

    await world.until(member.task.done, limit_s=5)
    assert member.task.result() is Ended.STOPPED
    await world.close()


async def test_a_commit_that_was_refused_is_no_trouble_any_more_once_nothing_is_left_to_commit() -> None:
    world = World()
    member = world.start()
    await world.clock.advance(2)
    member.source.refuses_commits = True
    world.append("u1")
    await world.clock.advance(3)
    assert member.engine.last_commit_error
    await member.engine.partitions_revoked(frozenset(world.partitions))

    await world.clock.advance(5)

    assert member.engine.last_commit_error == ""
    await world.close()


async def test_a_failed_source_still_lets_what_is_in_flight_end_and_commits_it() -> None:
    world = World()
    world.append("a")
    world.site.latency_s = lambda: 2.0
    member = world.start()
    await world.until(lambda: bool(member.lanes.in_flight))

    member.source._failed(PermissionError())

    await world.until(member.task.done, limit_s=30)
    with pytest.raises(SourceFailed):
        member.task.result()
    assert [uid for uid, _, _ in world.site.executed] == ["a"]
    assert world.committed() == 1
    await settle()
    await world.close()


async def test_a_bug_in_an_attempt_while_draining_ends_the_worker_instead_of_hanging_it() -> None:
    world = World()
    world.append("a", "b")
    world.site.latency_s = lambda: 2.0
    member = world.start()
    await world.until(lambda: bool(member.lanes.in_flight))

    def breaks(delivery: Delivery) -> Outcome:
        raise ZeroDivisionError

    world.site.answer = breaks
    member.engine.stop()

    await world.until(member.task.done, limit_s=30)
    with pytest.raises(BaseExceptionGroup):
        member.task.result()
    await world.close()


async def test_the_lag_grows_while_an_outage_keeps_the_partition_from_being_read() -> None:
    world = World()
    world.append(*(f"u{number}" for number in range(50)))
    world.site.blocked = {f"u{number}" for number in range(50)}
    member = world.start(max_ahead=16)
    member.source.highwater = lambda partition: 50  # as of the last fetch, and no further one is made
    await world.clock.advance(20)
    assert [partition.lag for partition in member.engine.partitions()] == [50]

    world.append(*(f"u{number}" for number in range(50)))
    await world.clock.advance(20)

    assert [partition.lag for partition in member.engine.partitions()] == [100]
    await world.close()


async def test_a_long_batch_leaves_the_loop_to_others_every_few_milliseconds() -> None:
    world = World()
    turns, seen_at = 0, []

    class Slow(UidMapper):
        def calls(self, record: Record, event: Event) -> tuple[Call, ...]:
            seen_at.append(turns)
            world.clock.step_monotonic(0.001)  # a thousand events a second, all of them in the buffer
            return super().calls(record, event)

    async def breathe() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    world.append(*[""] * 1600)
    breathing = asyncio.create_task(breathe())
    world.start(mapper=Slow(), until_end=True)
    await world.until(world.is_all_committed)
    breathing.cancel()
    assert seen_at[-1] - seen_at[0] > 1600 / 16 / 2
    await world.close()


async def test_what_was_read_under_an_assignment_that_is_over_is_not_started_again() -> None:
    world = World()

    class Late(FakeSource):
        """What it has read is a while on its way."""

        async def read(
            self, partitions: Collection[TopicPartition], *, max_records: int, timeout_s: float
        ) -> Mapping[TopicPartition, Sequence[Record]]:
            found = await super().read(partitions, max_records=max_records, timeout_s=timeout_s)
            if found:
                await world.clock.sleep(1.0)
            return found

    world.append(*(f"u{number}" for number in range(10)))
    member = world.start(source=Late(world.cluster, [TOPIC], group_id=GROUP))
    await world.clock.advance(0.5)
    await world.cluster.rebalance(GROUP)  # the same records are read again, and both reads come back
    await world.until(world.is_all_committed)
    await world.clock.advance(3.0)
    assert not member.task.done()
    assert len(world.site.executed) == 10
    await world.close()


async def test_commits_do_not_overtake_each_other() -> None:
    world = World()
    under_way = most = 0

    class Slow(FakeSource):
        async def commit(self, positions: Mapping[TopicPartition, Position]) -> bool:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await world.clock.sleep(2.0)
            under_way -= 1
            return await super().commit(positions)

    world.append("u1", "u2")
    member = world.start(source=Slow(world.cluster, [TOPIC], group_id=GROUP))
    await world.clock.advance(1.5)
    member.handler.commit_due.set()
    stopping = asyncio.create_task(member.engine.partitions_revoked(frozenset(world.partitions)))
    await world.until(stopping.done)
    assert most == 1
    assert world.committed() == 2
    await world.close()

"""Kafka without Kafka: what tests of other rooms use instead of KafkaSource and KafkaProducer.

Both pass the same battery as the real ones (tests/contracts), so what a test sees here it would see there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field

from worker.clock import Clock, SystemClock
from worker.errors import CommitRefused, TooLarge, WriteFailed
from worker.kafka.membership import Found, untouched
from worker.kafka.source import Owner, Position, SourceFailed
from worker.model import KafkaRecord, Record, TopicPartition

Headers = Sequence[tuple[str, bytes | None]]


@dataclass
class _Log:
    """One partition: its records, and the first offset that retention has left."""

    records: list[KafkaRecord] = field(default_factory=list)
    beginning: int = 0

    @property
    def end(self) -> int:
        return len(self.records)


class FakeCluster:
    """Topics, groups with their committed offsets, and the members of the groups."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or SystemClock()
        self.logs: dict[TopicPartition, _Log] = {}
        self.committed: dict[tuple[str, TopicPartition], Position] = {}
        self.members: dict[str, list[FakeSource]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._rebalancing: dict[str, asyncio.Lock] = {}

    def __repr__(self) -> str:
        sizes = ", ".join(f"{partition}: {log.beginning}..{log.end}" for partition, log in self.logs.items())
        return f"<FakeCluster {sizes or 'empty'}>"

    def create_topic(self, name: str, partitions: int = 1) -> list[TopicPartition]:
        created = [TopicPartition(name, number) for number in range(partitions)]
        self.logs.update({partition: _Log() for partition in created})
        return created

    def partitions(self, topics: Collection[str]) -> list[TopicPartition]:
        return sorted(partition for partition in self.logs if partition.topic in topics)

    def append(
        self, partition: TopicPartition, value: bytes | None, *, key: bytes | None = None, headers: Headers = ()
    ) -> KafkaRecord:
        log = self.logs[partition]
        now_ms = int(self.clock.now_s() * 1000)
        record = KafkaRecord(*partition, log.end, value, key, tuple(headers), now_ms)
        log.records.append(record)
        for members in self.members.values():
            for member in members:
                member.changed.set()
        return record

    def delete_before(self, partition: TopicPartition, offset: int) -> None:
        """Do what retention does."""
        self.logs[partition].beginning = offset

    def later(self, work: Coroutine[object, object, None]) -> None:
        """Run `work` in a task of the cluster's, as a broker would."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def rebalance(self, group: str) -> None:
        """Take all partitions from all members, then deal them out anew: evenly, by turns, in the order of joining."""
        async with self._rebalancing.setdefault(group, asyncio.Lock()):
            members = list(self.members.get(group, ()))
            await asyncio.gather(*(member.give_back() for member in members))
            members = [member for member in members if member in self.members[group]]
            shares: dict[FakeSource, list[TopicPartition]] = {member: [] for member in members}
            for topic in sorted({topic for member in members for topic in member.topics}):
                readers = [member for member in members if topic in member.topics]
                for turn, partition in enumerate(self.partitions([topic])):
                    shares[readers[turn % len(readers)]].append(partition)
            await asyncio.gather(*(member.take(frozenset(share)) for member, share in shares.items()))


class FakeSource:
    """A member of a fake group. `evict` makes it the zombie that does not know it has lost its partitions."""

    def __init__(
        self,
        cluster: FakeCluster,
        topics: Collection[str],
        *,
        group_id: str = "group",
        start: str = "earliest",
        session_timeout_s: float = 45.0,
        accept_gap: bool = False,
    ) -> None:
        self.topics = frozenset(topics)
        self.changed = asyncio.Event()
        self.commits: list[dict[TopicPartition, Position]] = []
        self._cluster = cluster
        self._group_id = group_id
        self._start = start
        self._session_timeout_s = session_timeout_s
        self._accept_gap = accept_gap
        self._owner: Owner | None = None
        self._owned: frozenset[TopicPartition] = frozenset()
        self.trouble = ""
        self.refuses_commits = False
        self.keeps_metadata = True  # some brokers are set to refuse it
        self._found: dict[TopicPartition, Found] = {}
        self._positions: dict[TopicPartition, int] = {}
        self._lost: dict[TopicPartition, int] = {}
        self._failure: SourceFailed | None = None
        self._is_settled = False
        self._last_sign_s = float("-inf")
        self._evicted = asyncio.Event()

    def __repr__(self) -> str:
        positions = ", ".join(f"{partition}@{self._positions[partition]}" for partition in sorted(self._owned))
        return f"<FakeSource {self._group_id} {positions or 'no partitions'}>"

    async def start(self, owner: Owner) -> None:
        self._owner = owner
        self._cluster.members.setdefault(self._group_id, []).append(self)
        await self._cluster.rebalance(self._group_id)

    async def stop(self) -> None:
        members = self._cluster.members.get(self._group_id, [])
        self._is_settled = False
        if self in members:
            members.remove(self)
            if members:  # they hear of it at their next heartbeat, in a task of their own
                self._cluster.later(self._cluster.rebalance(self._group_id))

    def evict(self) -> None:
        """Let the group go on without this member, as after a session without a heartbeat; it is not told."""
        self._evicted.set()
        self._cluster.members[self._group_id].remove(self)

    def heartbeat(self) -> None:
        """Note a heartbeat that was answered now; there are no others in a fake group."""
        self._last_sign_s = self._cluster.clock.monotonic_s()

    async def read(
        self, partitions: Collection[TopicPartition], *, max_records: int, timeout_s: float
    ) -> Mapping[TopicPartition, Sequence[Record]]:
        self._raise_failure()
        until_s = self._cluster.clock.monotonic_s() + timeout_s
        while True:
            self.changed.clear()
            found = self._take(partitions, max_records)
            left_s = until_s - self._cluster.clock.monotonic_s()
            if found or left_s <= 0:
                if not timeout_s:
                    await asyncio.sleep(0)
                return found
            timer = self._cluster.clock.call_later(left_s, self.changed.set)
            try:
                await self.changed.wait()
            finally:
                timer.cancel()
            self._raise_failure()

    def _take(self, partitions: Collection[TopicPartition], max_records: int) -> dict[TopicPartition, list[Record]]:
        found: dict[TopicPartition, list[Record]] = {}
        if not self._is_settled:
            return found
        for partition in partitions:
            if partition not in self._owned or partition in self._lost or max_records <= 0:
                continue
            log, position = self._cluster.logs[partition], self._positions[partition]
            if not log.beginning <= position <= log.end:
                self._note_gap(partition)
                continue
            if batch := log.records[position : position + max_records]:
                found[partition] = list(batch)
                self._positions[partition] += len(batch)
                max_records -= len(batch)
        return found

    async def commit(self, positions: Mapping[TopicPartition, Position]) -> bool:
        await asyncio.sleep(0)
        if self._evicted.is_set() or self.refuses_commits or not self._owned.issuperset(positions):
            raise CommitRefused("the group has given the partitions to another member")
        self.commits.append(dict(positions))
        for partition, position in positions.items():
            self._cluster.committed[self._group_id, partition] = Position(
                position.offset, position.metadata if self.keeps_metadata else ""
            )
        return self.keeps_metadata

    async def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Position | None]:
        await asyncio.sleep(0)
        return {partition: self._cluster.committed.get((self._group_id, partition)) for partition in partitions}

    def assignment(self) -> frozenset[TopicPartition]:
        return self._owned

    def partitions_of_group(self) -> Sequence[TopicPartition]:
        return self._cluster.partitions(self.topics)

    def position(self, partition: TopicPartition) -> int:
        return self._positions[partition]

    def found(self, partition: TopicPartition) -> Found:
        return self._found[partition]

    def highwater(self, partition: TopicPartition) -> int | None:
        return self._cluster.logs[partition].end if partition in self._owned else None

    def held_back(self, partition: TopicPartition) -> int:
        return 0

    async def end_offsets(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        await asyncio.sleep(0)
        return {partition: self._cluster.logs[partition].end for partition in partitions}

    @property
    def lost(self) -> Mapping[TopicPartition, int]:
        return self._lost

    def lease_valid_until_s(self) -> float:
        return self._last_sign_s + self._session_timeout_s

    async def give_back(self) -> None:
        """Called by the cluster when a rebalance begins."""
        self._is_settled = False
        self.changed.set()
        if self._owned and self._owner is not None:
            try:
                await self._revoke(self._owner)
            except Exception as error:  # noqa: BLE001  # as the real one: raised to whoever reads next
                self._failed(error)
        self._owned = frozenset()
        self._lost.clear()

    async def _revoke(self, owner: Owner) -> None:
        """Let the owner finish, unless the group goes on without this member meanwhile: a dead one never comes back."""
        revoking = asyncio.ensure_future(owner.partitions_revoked(self._owned))
        gone = asyncio.ensure_future(self._evicted.wait())
        try:
            await asyncio.wait({revoking, gone}, return_when=asyncio.FIRST_COMPLETED)
            if revoking.done():
                revoking.result()
        finally:
            revoking.cancel()
            gone.cancel()

    async def take(self, partitions: frozenset[TopicPartition]) -> None:
        """Called by the cluster with the new assignment."""
        self.heartbeat()
        for partition in partitions:
            self._positions[partition] = self._first_position(partition)
            if self._positions[partition] < self._cluster.logs[partition].beginning:
                self._note_gap(partition)
        self._owned = partitions
        try:
            if self._owner is not None:
                await self._owner.partitions_assigned(partitions)
        except Exception as error:  # noqa: BLE001  # as the real one: raised to whoever reads next
            self._failed(error)
        self._is_settled = True
        self.changed.set()

    def _first_position(self, partition: TopicPartition) -> int:
        every = self._cluster.partitions([partition.topic])
        known = {one: self._cluster.committed.get((self._group_id, one)) for one in every}
        if not any(known.values()):
            for one in every:
                log = self._cluster.logs[one]
                first = untouched(log.beginning if self._start == "earliest" else log.end)
                known[one] = self._cluster.committed[self._group_id, one] = first
        found = known[partition]
        self._found[partition] = Found(found, self._cluster.logs[partition].end)
        return self._cluster.logs[partition].beginning if found is None else found.offset

    def _note_gap(self, partition: TopicPartition) -> None:
        beginning, position = self._cluster.logs[partition].beginning, self._positions[partition]
        if self._accept_gap:
            self._positions[partition] = beginning
        else:
            self._lost[partition] = max(0, beginning - position)

    def _failed(self, error: Exception) -> None:
        self._failure = SourceFailed(f"the owner of the partitions failed ({type(error).__name__})")
        self._failure.__cause__ = error

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


class FakeProducer:
    """Writes to a fake cluster's topics, partition 0; fails as it is told to."""

    def __init__(self, cluster: FakeCluster, *, max_message_bytes: int = 1_048_588) -> None:
        self._cluster = cluster
        self._max_message_bytes = max_message_bytes
        self.failures_left = 0  # how many further sends raise WriteFailed

    def __repr__(self) -> str:
        return f"<FakeProducer on {self._cluster!r}, {self.failures_left} failures left>"

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def send(self, topic: str, key: bytes, value: bytes | None, headers: Headers, /) -> None:
        await asyncio.sleep(0)
        if self.failures_left:
            self.failures_left -= 1
            raise WriteFailed(f"nothing could be written to topic {topic}: no answer in time")
        size = len(key) + len(value or b"") + sum(len(name) + len(text or b"") for name, text in headers)
        if size > self._max_message_bytes:
            raise TooLarge(f"a message of {size} bytes is more than topic {topic} takes")
        self._cluster.append(TopicPartition(topic, 0), value, key=key, headers=headers)

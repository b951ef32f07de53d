"""The live consumer: batches of the partitions that have room, commits while they are ours, rebalances, the lease.

aiokafka's group protocol is always eager: at a rebalance a member gives up all partitions, then gets its new ones.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka import TopicPartition as Theirs
from aiokafka import errors as kafka_errors
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

from worker.clock import Clock
from worker.errors import CommitRefused, StartFailed, WorkerError
from worker.kafka.closing import close
from worker.kafka.login import where, why
from worker.kafka.membership import Found, Membership, Position, position_of, untouched
from worker.kafka.settings import KafkaSettings, connection
from worker.kafka.watch import Watch
from worker.kafka.wording import wording
from worker.model import Record, TopicPartition

__all__ = ["CommitFailed", "KafkaSource", "Owner", "Position", "SourceFailed"]

log = structlog.get_logger(__name__)

COMMIT_LIMIT_S = 10.0
REQUEST_LIMIT_S = 10.0
STOP_LIMIT_S = 10.0
RETRY_S = 0.5
# Between the end of a drain and the group's patience: the last commit, and the way to the broker and back.
REBALANCE_MARGIN_S = 10.0
# The library's own limit on a request cuts a JoinGroup short, which waits for the slowest member's drain.
JOIN_MARGIN_S = 10.0
# A read that asks for this partition gets nothing and drops nothing, but counts as reading: the membership holds, and
# what has been fetched stays. (No partition at all would mean all of them; pausing throws the buffers away.)
NOWHERE = Theirs("", -1)
# Of one partition at a time. A backlog is fetched ahead for all of them: with the library's 1 MiB twelve partitions
# took 30 MB more, and no event was read sooner. A record that is larger still arrives, alone (KIP-74).
FETCH_BYTES = 256 * 1024
# aiokafka counts in milliseconds and Kafka in Int32: no limit, the watchdog is ours.
MAX_POLL_INTERVAL_MS = 2**31 - 1


class Owner(Protocol):
    """Who works on the partitions. Both methods are awaited by the group's own task; an exception ends the source."""

    async def partitions_assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """Begin with these; called before a record of them is handed out, when `position` is right.

        No heartbeat goes out meanwhile: be back well within the session time-out.
        """
        ...

    async def partitions_revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """Finish what can be finished, commit, forget these. Heartbeats go on; the limit is the drain time.

        `read` hands out nothing from here on; `commit` still works.
        """
        ...


class SourceFailed(WorkerError):
    """Reading cannot go on: a permission is gone, a topic was deleted, an owner's callback raised. Nothing is lost."""

    reason = "source_failed"


class CommitFailed(WorkerError):
    """A commit did not happen, or is not known to have: the broker is away. The next one carries the same or more."""

    reason = "commit_failed"


class KafkaSource:
    """A member of the consumer group. Use from one event loop; one `read` at a time."""

    def __init__(self, settings: KafkaSettings, *, drain_s: float, clock: Clock, accept_gap: bool = False) -> None:
        self._settings = settings
        self._drain_s = drain_s
        self._clock = clock
        self._accept_gap = accept_gap
        self._consumer: AIOKafkaConsumer | None = None
        self._membership: Membership | None = None
        self._owner: Owner | None = None
        self._owned: frozenset[TopicPartition] = frozenset()
        self._settled = asyncio.Event()  # set while the owner knows its partitions, clear during a rebalance
        self._reading: asyncio.Timeout | None = None
        self._failure: SourceFailed | None = None
        self._lost: dict[TopicPartition, int] = {}
        self._found: dict[TopicPartition, Found] = {}
        self._keeps_metadata, self._needs_metadata = True, False
        self._watch = Watch(settings, clock)
        self._last_positions: dict[TopicPartition, int] = {}

    def __repr__(self) -> str:
        state = "settled" if self._settled.is_set() else "rebalancing"
        return f"<KafkaSource {self._settings.group_id} {state} {len(self._owned)} partitions, {len(self._lost)} lost>"

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self, owner: Owner) -> None:
        """Join the group and return when the first assignment is known to `owner`. Raises StartFailed.

        Waits for other members that drain. Cancelled or failed, it leaves nothing behind.
        """
        self._owner = owner
        limit_s = self._rebalance_timeout_s + self._settings.session_timeout_s + REQUEST_LIMIT_S
        self._consumer = consumer = self._new_consumer()
        try:
            async with asyncio.timeout(limit_s):
                # Not subscribed yet: the coordinator is there before it joins, so that no sign of life is missed.
                await consumer.start()
                self._membership = Membership(consumer, self._clock, self._settings.session_timeout_s)
                consumer.subscribe(list(self._settings.topics), listener=_Listener(self))
                while not self._settled.is_set():
                    await consumer.getmany(NOWHERE, timeout_ms=50)  # raises what the coordinator met
                    self._raise_failure()
        except (kafka_errors.KafkaError, OSError) as error:  # TimeoutError is an OSError
            await self.stop()
            text = await why(self._settings, error)
            raise StartFailed(f"{self._where}: group {self._settings.group_id} could not be joined: {text}") from error
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Leave the group; the others take over at once. The owner is not asked: it has drained before."""
        consumer, self._consumer = self._consumer, None
        self._settled.clear()
        await self._watch.stop()
        if consumer is None:
            return
        if (error := await close(consumer, limit_s=STOP_LIMIT_S)) is not None:
            log.warning("source.stopped_late", error=wording(error))

    @property
    def _where(self) -> str:
        return where(self._settings)

    @property
    def _rebalance_timeout_s(self) -> float:
        return max(self._drain_s + REBALANCE_MARGIN_S, self._settings.session_timeout_s)

    def _new_consumer(self) -> AIOKafkaConsumer:
        settings = self._settings
        request_timeout_s = max(40.0, self._rebalance_timeout_s + JOIN_MARGIN_S)
        return AIOKafkaConsumer(
            **connection(settings),
            group_id=settings.group_id,
            auto_offset_reset="none",  # the default, latest, loses; `_Start` decides
            enable_auto_commit=False,
            partition_assignment_strategy=(StickyPartitionAssignor,),
            session_timeout_ms=int(settings.session_timeout_s * 1000),
            heartbeat_interval_ms=int(settings.heartbeat_interval_s * 1000),
            rebalance_timeout_ms=int(self._rebalance_timeout_s * 1000),
            max_poll_interval_ms=MAX_POLL_INTERVAL_MS,
            request_timeout_ms=int(request_timeout_s * 1000),
            isolation_level="read_committed",  # an event of a transaction that was taken back never happened
            fetch_max_wait_ms=500,
            fetch_min_bytes=1,
            max_partition_fetch_bytes=FETCH_BYTES,
        )

    # -- reading -----------------------------------------------------------------------------------------------------

    async def read(
        self, partitions: Collection[TopicPartition], *, max_records: int, timeout_s: float
    ) -> Mapping[TopicPartition, Sequence[Record]]:
        """Return what has arrived of `partitions`, in offset order each; {} when nothing did in `timeout_s`.

        No partitions: nothing is handed out, nothing dropped, the membership holds. During a rebalance: {}. Partitions
        that are not ours, or stopped (`lost`), are left out. May be cancelled: nothing is lost by it. Raises
        SourceFailed.
        """
        self._raise_failure()
        if self._membership is not None:
            self._watch.look(self._membership.lease_valid_until_s())
        if not self._settled.is_set():
            await self._wait_settled(timeout_s)
            return await self._hear()
        consumer = self._started()
        wanted = [Theirs(*one) for one in partitions if one in self._owned and one not in self._lost]
        try:
            # The library forgets its own time-out when a rebalance begins: then the listener ends this one.
            async with asyncio.timeout(None) as self._reading:
                batches = await consumer.getmany(
                    *(wanted or (NOWHERE,)), timeout_ms=timeout_s * 1000, max_records=max_records
                )
        except TimeoutError:
            return {}
        except kafka_errors.OffsetOutOfRangeError as error:
            await self._stand_still(error.args[0])
            return {}
        except (kafka_errors.KafkaError, kafka_errors.ConsumerStoppedError) as error:
            return await self._survive(error)
        finally:
            self._reading = None
        return {TopicPartition(*partition): records for partition, records in batches.items()}

    async def _hear(self) -> Mapping[TopicPartition, Sequence[Record]]:
        """Raise what the group met between two assignments: it waits until somebody has heard it."""
        try:
            if self._membership is not None:
                self._membership.raise_trouble()
        except (kafka_errors.KafkaError, kafka_errors.ConsumerStoppedError) as error:
            return await self._survive(error)
        return {}

    async def _survive(self, error: Exception) -> Mapping[TopicPartition, Sequence[Record]]:
        """Go on after what passes by itself; raise SourceFailed for the rest."""
        if getattr(error, "retriable", False):
            log.warning("source.read_failed", error=wording(error))
            return {}
        raise SourceFailed(f"{self._where}: {await why(self._settings, error)}") from error

    async def _wait_settled(self, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._settled.wait()
        await asyncio.sleep(0)

    def assignment(self) -> frozenset[TopicPartition]:
        """Return the partitions the owner was last told of, and has not given back."""
        return self._owned

    def partitions_of_group(self) -> Sequence[TopicPartition]:
        """Return every partition of the group's topics, ours or not; empty before the first assignment."""
        if self._consumer is None:
            return ()
        known = ((topic, self._consumer.partitions_for_topic(topic) or ()) for topic in self._settings.topics)
        return sorted(TopicPartition(topic, number) for topic, numbers in known for number in numbers)

    def position(self, partition: TopicPartition) -> int:
        """Return the offset that is read next: above markers and compacted records. KeyError for one never owned."""
        found = position_of(self._consumer, partition) if partition in self._owned else None
        if found is not None:
            self._last_positions[partition] = found
        return self._last_positions[partition]

    def found(self, partition: TopicPartition) -> Found:
        """Return how a partition of ours stood when it was assigned to us. KeyError for one never owned."""
        return self._found[partition]

    def highwater(self, partition: TopicPartition) -> int | None:
        """Return the end of the partition as of its last fetch; None before one, and for one that is not ours."""
        if self._consumer is None or partition not in self._owned:
            return None
        with contextlib.suppress(kafka_errors.KafkaError, AssertionError):
            end: int | None = self._consumer.highwater(Theirs(*partition))
            return end
        return None

    def held_back(self, partition: TopicPartition) -> int:
        """Return how many offsets lie behind the first transaction that has not ended; 0 before that was reached.

        Until its producer, or the broker for it, commits or aborts it, nothing behind its first record is handed out.
        """
        if self._consumer is None or partition not in self._owned:
            return 0
        with contextlib.suppress(kafka_errors.KafkaError, AssertionError):
            stable: int | None = self._consumer.last_stable_offset(Theirs(*partition))
            end = self.highwater(partition)
            if stable is not None and end is not None and 0 <= stable <= self.position(partition):
                return max(0, end - stable)
        return 0

    @property
    def lost(self) -> Mapping[TopicPartition, int]:
        """Partitions that stand still because retention deleted what comes next -> how many records were lost."""
        return self._lost

    @property
    def trouble(self) -> str:
        """Why the brokers have not been heard of for a whole session, in one line; empty while all is well."""
        return self._watch.trouble

    async def end_offsets(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Return one above the last offset of each partition that can be read now. Raises SourceFailed."""
        return await self._ask(self._started().end_offsets, partitions)

    async def _ask(
        self, question: Callable[[list[Any]], Awaitable[Mapping[Any, int]]], partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        try:
            async with asyncio.timeout(REQUEST_LIMIT_S):
                found = await question([Theirs(*one) for one in partitions])
        except (kafka_errors.KafkaError, OSError) as error:
            raise SourceFailed(f"{self._where}: {wording(error)}") from error
        return {TopicPartition(*one): offset for one, offset in found.items()}

    # -- committing --------------------------------------------------------------------------------------------------

    async def commit(self, positions: Mapping[TopicPartition, Position]) -> bool:
        """Commit all of `positions`, or none. Raises CommitRefused when one is not ours any more, else CommitFailed.

        Returns whether their metadata was kept, too. A broker may be set to refuse it; it is not asked again then.
        Whether they are still ours is checked in the same step as the request is made: a commit by somebody outside
        succeeds while his group is empty. After CommitFailed it may have been done all the same.
        """
        membership = self._membership
        if membership is None or not positions:
            return True
        if self._consumer is None or not self._owned.issuperset(positions):
            raise CommitRefused("the partitions were given back before the commit")
        if self._clock.monotonic_s() >= membership.lease_valid_until_s():
            raise CommitFailed("no heartbeat has been answered for a whole session: the commit waits for one")
        if not self._keeps_metadata:
            positions = {partition: Position(one.offset) for partition, one in positions.items()}
        try:
            await membership.commit(positions, limit_s=COMMIT_LIMIT_S)
        except kafka_errors.OffsetMetadataTooLargeError as error:
            if self._needs_metadata or not self._keeps_metadata:
                raise CommitFailed(f"offsets could not be committed: {wording(error)}") from error
            self._keeps_metadata = False
            log.warning(
                "commit.metadata_refused",
                characters=max(len(one.metadata) for one in positions.values()),
                remedy="set offset.metadata.max.bytes of the brokers to 4096, their default, and restart. Until then "
                "a restart may repeat calls, and members share a site's quota by their partitions",
            )
            return await self.commit(positions)
        except (kafka_errors.CommitFailedError, kafka_errors.IllegalStateError) as error:
            raise CommitRefused("the group has given the partitions to another member") from error
        except (kafka_errors.KafkaError, OSError) as error:
            text = await why(self._settings, error)
            raise CommitFailed(f"offsets could not be committed: {text}") from error
        return self._keeps_metadata

    async def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Position | None]:
        """Return what the group has committed, ours or not; None where nothing is. Raises SourceFailed."""
        if self._membership is None:
            raise SourceFailed("the source has not been started")
        try:
            async with asyncio.timeout(REQUEST_LIMIT_S):
                return await self._membership.committed(partitions)
        except (kafka_errors.KafkaError, OSError) as error:
            raise SourceFailed(f"{self._where}: {wording(error)}") from error

    def lease_valid_until_s(self) -> float:
        """Return until when (monotonic) nobody else can own our partitions; minus infinity outside the group."""
        return self._membership.lease_valid_until_s() if self._membership is not None else float("-inf")

    # -- rebalance ---------------------------------------------------------------------------------------------------

    async def revoked(self) -> None:
        """Called by the listener, in the coordinator's task, when the group rebalances."""
        self._settled.clear()
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.reschedule(asyncio.get_running_loop().time())
        given_back = self._owned
        if given_back and self._owner is not None:
            await self._guarded(self._owner.partitions_revoked(given_back))
        self._owned = frozenset()
        self._lost.clear()

    async def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """Called by the listener, in the coordinator's task, with the new assignment. No heartbeats meanwhile."""
        if self._consumer is None or self._membership is None or self._owner is None:
            return
        self._membership.renew()
        try:
            async with asyncio.timeout(self._settings.session_timeout_s / 2):
                await self._find_positions(partitions)
        except (WorkerError, kafka_errors.KafkaError, OSError) as error:
            await self._try_again(error)
            return
        self._owned = partitions
        await self._guarded(self._owner.partitions_assigned(partitions))
        self._settled.set()

    async def _try_again(self, error: Exception) -> None:
        """Ask for another round of the group, of which the owner has heard nothing yet; or fail, where it is no use."""
        cause = error.__cause__ if isinstance(error, WorkerError) else error
        if isinstance(cause, kafka_errors.KafkaError) and not cause.retriable:
            self._failure = (
                error
                if isinstance(error, SourceFailed)
                else SourceFailed(f"{self._where}: {await why(self._settings, cause)}")
            )
            self._settled.set()
            return
        log.warning("source.assignment_failed", error=str(error) if cause is None else wording(cause))
        if self._membership is not None:
            await self._clock.sleep(RETRY_S)
            self._membership.rejoin()

    async def _guarded(self, callback: Awaitable[None]) -> None:
        """Await an owner's callback. The library would log its exception and go on as if nothing had happened."""
        try:
            await callback
        except Exception as error:  # noqa: BLE001  # kept, and raised to whoever reads next
            self._failure = SourceFailed(f"the owner of the partitions failed ({type(error).__name__})")
            self._failure.__cause__ = error

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _find_positions(self, partitions: frozenset[TopicPartition]) -> None:
        """Set the position of each partition, so that none is left for the library to guess."""
        if not partitions:
            return
        consumer = self._started()
        known = await self._committed_or_begun(partitions)
        beginnings = await self._ask(consumer.beginning_offsets, partitions)
        ends = await self._ask(consumer.end_offsets, partitions)
        for partition, position in known.items():
            self._found[partition] = Found(position, ends[partition])
            offset = beginnings[partition] if position is None else position.offset
            if offset >= beginnings[partition]:  # beyond the end: the broker says so when it is asked for a record
                consumer.seek(Theirs(*partition), offset)
            else:
                self._note_gap(partition, offset, beginnings[partition])

    async def _committed_or_begun(self, partitions: frozenset[TopicPartition]) -> dict[TopicPartition, Position | None]:
        """Return what the group has committed, or what it begins with now, by `kafka.start`.

        `kafka.start` counts only for a topic of which the group has no offset in any partition. Then the owner of its
        partition 0 commits the start of all, and the others wait for that: each deciding for itself, one would take
        the other's first commit for proof that its own partition is a later one, or put `latest` further than where
        the other has begun. A single partition without an offset (None) is a later one: from its beginning.
        """
        consumer = self._started()
        found: dict[TopicPartition, Position | None] = {}
        for topic in {partition.topic for partition in partitions}:
            numbers = consumer.partitions_for_topic(topic)
            if not numbers:
                raise SourceFailed(f"{self._where}: topic {topic} is not known yet")
            every = [TopicPartition(topic, number) for number in numbers]
            mine = [partition for partition in partitions if partition.topic == topic]
            known = await self.committed({*every, *mine})
            if not any(known.values()):
                known = await self._first_starts(every, is_decider=TopicPartition(topic, 0) in partitions)
            found.update({partition: known.get(partition) for partition in mine})
        return found

    async def _first_starts(
        self, every: Sequence[TopicPartition], *, is_decider: bool
    ) -> Mapping[TopicPartition, Position | None]:
        if is_decider and self._membership is not None:
            consumer = self._started()
            of_topic = consumer.beginning_offsets if self._settings.start == "earliest" else consumer.end_offsets
            first = {partition: untouched(offset) for partition, offset in (await self._ask(of_topic, every)).items()}
            await self._membership.commit(first, limit_s=COMMIT_LIMIT_S)
            log.info("source.started_new_group", topic=every[0].topic, start=self._settings.start)
            return first
        while True:
            known = await self.committed(every)
            if any(known.values()):
                return known
            await self._clock.sleep(0.05)

    async def _stand_still(self, offsets: Mapping[Any, int]) -> None:
        """Stop the partitions whose next offset retention has deleted since they were assigned."""
        late = {TopicPartition(*partition): offset for partition, offset in offsets.items()}
        beginnings = await self._ask(self._started().beginning_offsets, late)
        for partition, offset in late.items():
            if partition in self._owned:
                self._note_gap(partition, offset, beginnings[partition])

    def _note_gap(self, partition: TopicPartition, offset: int, beginning: int) -> None:
        """Stop a partition, or go on from its beginning where that was agreed to.

        An offset above the end means that the topic was made anew or truncated: what was lost cannot be counted, and
        the beginning is the only place that loses nothing more.
        """
        lost = max(0, beginning - offset)
        log.error("partition.gap", partition=str(partition), offset=offset, lost=lost, goes_on=self._accept_gap)
        if self._accept_gap:
            self._started().seek(Theirs(*partition), beginning)
            return
        self._lost[partition] = lost
        self._last_positions[partition] = offset

    def _started(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            raise SourceFailed("the source has not been started, or is stopped")
        return self._consumer


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    def __init__(self, source: KafkaSource) -> None:
        self._source = source

    async def on_partitions_revoked(self, revoked: Collection[Theirs]) -> None:
        await self._source.revoked()

    async def on_partitions_assigned(self, assigned: Collection[Theirs]) -> None:
        await self._source.assigned(frozenset(TopicPartition(*one) for one in assigned))

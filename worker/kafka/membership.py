"""What aiokafka's consumer knows and does not publish: signs of life, generation, positions, commits for a whole topic.

Nearly all of the library's private names that we touch are here (closing.py has those of its tasks, login.py and
permissions.py have one each); its version is pinned, and tests/contracts checks the names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as Theirs
from aiokafka import errors as kafka_errors
from aiokafka.protocol.group import HeartbeatRequest, SyncGroupRequest
from aiokafka.structs import OffsetAndMetadata

from worker.clock import Clock
from worker.kafka.progress import Bounds, Note, Progress, fit
from worker.model import CallName, TopicPartition


class Position(NamedTuple):
    """What is committed for a partition: the next offset, and ASCII metadata of up to 4,096 characters."""

    offset: int
    metadata: str = ""


class LeftOut(NamedTuple):
    """What a backfill leaves out, because another group has done it. It is not among what the run's commits tell."""

    runs: tuple[range, ...] = ()  # offsets, ascending
    calls: Mapping[int, frozenset[CallName]] = MappingProxyType({})  # of other records by offset: these calls


class Found(NamedTuple):
    """How a partition stood when it was assigned to us."""

    committed: Position | None  # by the group; None: it never committed anything for it
    end: int  # one above the last record that could be read
    left_out: LeftOut = LeftOut()


def untouched(offset: int, bounds: Bounds | None = None) -> Position:
    """Return what is committed for a partition that nobody has worked on: what follows is not suspect."""
    return Position(offset, fit(Note(), Progress(offset, offset, bounds=bounds))[0])


class Membership:
    """Our place in the group: until when it is surely ours, and what the group has committed."""

    def __init__(self, consumer: AIOKafkaConsumer, clock: Clock, session_timeout_s: float) -> None:
        self._consumer = consumer
        self._coordinator = coordinator = consumer._coordinator
        self._clock = clock
        self._session_timeout_s = session_timeout_s
        self._last_sign_s = float("-inf")
        self._member: tuple[int, str] = (-1, "")
        self._send, self._do_commit = coordinator._send_req, coordinator._do_commit_offsets
        coordinator._send_req = self._send_and_note
        coordinator._do_commit_offsets = self._commit_if_member

    def lease_valid_until_s(self) -> float:
        return self._last_sign_s + self._session_timeout_s

    def renew(self) -> None:
        """Note under which generation the new assignment was given."""
        self._member = (self._coordinator.generation, self._coordinator.member_id)

    def rejoin(self) -> None:
        self._coordinator.request_rejoin()

    def raise_trouble(self) -> None:
        """Raise what the coordinator met, if anything; it goes on after that."""
        self._coordinator.check_errors()

    async def commit(self, positions: Mapping[TopicPartition, Position], *, limit_s: float) -> None:
        """Commit for any partition of the group's topics; the library's own method takes only assigned ones."""
        assignment = self._consumer._subscription.subscription.assignment
        offsets = {Theirs(*one): OffsetAndMetadata(*position) for one, position in positions.items()}
        async with asyncio.timeout(limit_s):  # while the broker is away the library tries without end
            await self._coordinator.commit_offsets(assignment, offsets)

    async def committed(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, Position | None]:
        found = await self._coordinator.fetch_committed_offsets([Theirs(*one) for one in partitions])
        known = {TopicPartition(*one): Position(*position) for one, position in found.items()}
        return {partition: known.get(partition) for partition in partitions}

    async def _send_and_note(self, request: Any) -> Any:
        sent_s = self._clock.monotonic_s()
        answer = await self._send(request)
        if isinstance(request, HeartbeatRequest | SyncGroupRequest):
            if answer.error_code in (0, kafka_errors.RebalanceInProgressError.errno):
                self._last_sign_s = max(self._last_sign_s, sent_s)
            elif answer.error_code in (
                kafka_errors.UnknownMemberIdError.errno,
                kafka_errors.IllegalGenerationError.errno,
            ):
                self._last_sign_s = float("-inf")  # the group has gone on without us
        return answer

    async def _commit_if_member(self, assignment: Any, offsets: Any) -> Any:
        """Check and send in one step: the library builds its request before it waits for anything."""
        if (self._coordinator.generation, self._coordinator.member_id) != self._member:
            raise kafka_errors.CommitFailedError("the membership that read these records is over")
        return await self._do_commit(assignment, offsets)


def position_of(consumer: AIOKafkaConsumer | None, partition: TopicPartition) -> int | None:
    """Return the consumer's position without waiting for one, as its own method would; None where it has none."""
    subscription = consumer._subscription.subscription if consumer is not None else None
    assignment = subscription.assignment if subscription is not None else None
    if assignment is None or partition not in assignment.tps:
        return None
    state = assignment.state_value(Theirs(*partition))
    return int(state.position) if state.has_valid_position else None


async def partitions_by_topic(consumer: AIOKafkaConsumer) -> dict[str, frozenset[int]]:
    """Return every topic that this login may describe; the library's own methods tell of names only."""
    cluster = await consumer._client.fetch_all_metadata()
    return {topic: frozenset(cluster.partitions_for_topic(topic) or ()) for topic in cluster.topics()}

"""A group with one member, so that one process at a time does what must not be done twice at once.

The member subscribes to a topic and must be given all of its partitions; it reads nothing. It has a lease, as the live
worker has: a process that was stopped, or cut off from the broker, does not know that another goes on in its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from worker.clock import Clock
from worker.errors import StartFailed
from worker.kafka.groups import GroupView
from worker.kafka.settings import KafkaSettings
from worker.kafka.source import KafkaSource, SourceFailed
from worker.model import TopicPartition

LOOK_S = 0.2
ASK_EVERY_S = 1.0


class Occupied(StartFailed):
    """Another process does the same now."""


class SoleMember:
    """The only member of `settings.group_id`, as long as it is. Use from one event loop."""

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        *,
        drain_s: float,
        clock: Clock,
        ousted: Callable[[], Awaitable[None]],
    ) -> None:
        """`ousted` is awaited when another joins: it ends what is under way, within `drain_s`."""
        self._settings = settings.model_copy(update={"topics": (topic,), "start": "earliest"})
        self._source = KafkaSource(self._settings, drain_s=drain_s, clock=clock, accept_gap=True)
        self._ousted = ousted
        self._owned: frozenset[TopicPartition] = frozenset()
        self.is_ousted = False

    @asynccontextmanager
    async def joined(self, *, wait_s: float, waiting: Callable[[], None] = lambda: None) -> AsyncIterator[None]:
        """Be the only member; leaves in the end. Raises Occupied if there is another after `wait_s`.

        So long a member that died without a word still counts; `waiting` is told when that begins.
        """
        await self._until_empty(wait_s, waiting)
        await self._source.start(self)
        keeping = asyncio.create_task(self._keep(), name="sole-member")
        try:
            if set(self._source.partitions_of_group()) - self._owned:
                raise Occupied(f"group {self._settings.group_id}: another process has begun at this moment; try again")
            yield
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            await self._source.stop()

    def lease_valid_until_s(self) -> float:
        """Return until when (monotonic) it surely is the only one."""
        return float("-inf") if self.is_ousted else self._source.lease_valid_until_s()

    async def _until_empty(self, wait_s: float, waiting: Callable[[], None]) -> None:
        async with GroupView.opened(self._settings) as groups:
            left_s = wait_s
            while await groups.members(self._settings.group_id):
                if left_s == wait_s:
                    waiting()
                if left_s <= 0:
                    raise Occupied(
                        f"group {self._settings.group_id}: another process is at it now; wait for its end, or end it"
                    )
                await asyncio.sleep(ASK_EVERY_S)
                left_s -= ASK_EVERY_S

    async def _keep(self) -> None:
        """Read nothing, again and again: what the group met is told to who reads."""
        while True:
            try:
                await self._source.read((), max_records=1, timeout_s=LOOK_S)
            except SourceFailed:
                await self._oust()
                return

    async def partitions_assigned(self, partitions: frozenset[TopicPartition]) -> None:
        self._owned = partitions

    async def partitions_revoked(self, partitions: frozenset[TopicPartition]) -> None:
        if partitions:
            await self._oust()

    async def _oust(self) -> None:
        if not self.is_ousted:
            await self._ousted()
            self.is_ousted = True

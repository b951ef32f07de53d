"""What other groups have done, as the broker knows it: asked about without joining them.

async with GroupView.opened(settings) as groups:
    found = await groups.committed("gigya-worker")
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar

from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient

from worker.errors import StartFailed
from worker.kafka.login import where
from worker.kafka.settings import KafkaSettings, connection
from worker.kafka.wording import wording

ASK_LIMIT_S = 20.0
# A broker that has just started has no place for groups before somebody asks for one.
_AGAIN_S = 0.2
_T = TypeVar("_T")


class GroupView:
    """Asks about groups. Raises StartFailed where there is no answer, or no permission (Describe on the group)."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._where = where(settings)
        self._admin = AIOKafkaAdminClient(**connection(settings))

    @classmethod
    @asynccontextmanager
    async def opened(cls, settings: KafkaSettings) -> AsyncIterator[GroupView]:
        view = cls(settings)
        try:
            await view._ask(view._admin.start(), "Kafka")
            yield view
        finally:
            await view._admin.close()

    async def members(self, group: str) -> int:
        """Return how many members a group has now; one that has died counts until its session is over."""
        while True:
            try:
                (answer,) = await self._ask(self._admin.describe_consumer_groups([group]), f"group {group}")
                break
            except _NotYet:
                await asyncio.sleep(_AGAIN_S)
        return sum(len(described[5]) for described in answer.groups)

    async def beginning_with(self, prefix: str) -> list[str]:
        """Return the groups, of those this login may see, whose names begin so."""
        found = await self._ask(self._admin.list_consumer_groups(), "the groups")
        return sorted(name for name, *_ in found if name.startswith(prefix))

    async def _ask(self, question: Awaitable[_T], what: str) -> _T:
        try:
            async with asyncio.timeout(ASK_LIMIT_S):
                return await question
        except kafka_errors.GroupCoordinatorNotAvailableError as error:
            raise _NotYet(str(error)) from error
        except (kafka_errors.KafkaError, OSError) as error:  # TimeoutError is an OSError
            raise StartFailed(f"{self._where}: {what} cannot be asked about: {wording(error)}") from error


class _NotYet(StartFailed):
    """The broker is about to have a place for groups."""

"""What a group has committed, asked from outside it: joins nothing, changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient

from worker.errors import StartFailed
from worker.kafka.login import where
from worker.kafka.membership import Position
from worker.kafka.settings import KafkaSettings, connection
from worker.kafka.wording import wording
from worker.model import TopicPartition

ASK_LIMIT_S = 20.0
RETRY_EVERY_S = 0.3


async def commits_of(settings: KafkaSettings, group: str) -> Mapping[TopicPartition, Position]:
    """Return every offset of a group with its metadata; nothing for a group that never was. Raises StartFailed."""
    admin = AIOKafkaAdminClient(**connection(settings))
    try:
        async with asyncio.timeout(ASK_LIMIT_S):
            await admin.start()
            while True:
                try:
                    found = await admin.list_consumer_group_offsets(group)
                    break
                except kafka_errors.KafkaError as error:
                    if not error.retriable or isinstance(error, kafka_errors.NodeNotReadyError):
                        raise
                await asyncio.sleep(RETRY_EVERY_S)
    except (kafka_errors.KafkaError, OSError) as error:
        raise StartFailed(f"{where(settings)}: the offsets of group {group}: {wording(error)}") from error
    finally:
        await admin.close()
    return {
        TopicPartition(*partition): Position(one.offset, one.metadata or "")
        for partition, one in found.items()
        if one.offset >= 0
    }

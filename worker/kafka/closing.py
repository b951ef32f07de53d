"""Close the library's consumer, whatever state it is in: by private names of aiokafka, which tests/contracts checks."""

from __future__ import annotations

import asyncio
import contextlib

from aiokafka import AIOKafkaConsumer
from aiokafka import errors as kafka_errors

ABANDON_LIMIT_S = 5.0


async def close(consumer: AIOKafkaConsumer, *, limit_s: float) -> Exception | None:
    """Leave the group, so that the others take over at once, and close all connections; return what hindered it.

    With that, the group may learn of it by the session time-out only. All is closed then, too, within `limit_s` and
    twice ABANDON_LIMIT_S.
    """
    task = asyncio.current_task()
    cancelled_before = task.cancelling() if task is not None else 0
    try:
        async with asyncio.timeout(limit_s):
            await _stopped(consumer, cancelled_before)
    except (kafka_errors.KafkaError, OSError) as error:  # TimeoutError is an OSError
        await _abandon(consumer)
        return error
    return None


async def _stopped(consumer: AIOKafkaConsumer, cancelled_before: int) -> None:
    try:
        await consumer.stop()
    except asyncio.CancelledError:
        # A fetch that failed waits before it is repeated. The library cancels that, and lets it out as if we had been
        # cancelled (0.14): the worker would end as if by a second signal. By then the group has been left.
        task = asyncio.current_task()
        if task is None or task.cancelling() > cancelled_before:
            raise
        await _abandon(consumer)


async def _abandon(consumer: AIOKafkaConsumer) -> None:
    """Close what a `stop` that did not get to its end has left open."""
    coordinator, fetcher = consumer._coordinator, consumer._fetcher
    # A consumer without a group has another coordinator, with another task.
    names = ("_coordination_task", "_heartbeat_task", "_commit_refresh_task", "_reset_committed_task")
    tasks = {task for name in names if (task := getattr(coordinator, name, None)) is not None}
    if fetcher is not None:
        tasks |= {fetcher._fetch_task, *fetcher._pending_tasks}
    for task in tasks:
        task.cancel()
    if tasks:
        ended, _ = await asyncio.wait(tasks, timeout=ABANDON_LIMIT_S)
        for task in ended:
            task.cancelled() or task.exception()  # retrieved: nobody is to act on it any more
    with contextlib.suppress(TimeoutError, kafka_errors.KafkaError, OSError):
        async with asyncio.timeout(ABANDON_LIMIT_S):
            await consumer._client.close()

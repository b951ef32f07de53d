"""The producer; and, for those who look for Kafka's settings and checks, where they are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors

from worker.errors import StartFailed, TooLarge, WriteFailed
from worker.kafka.checks import Finding, check_cluster, examine_cluster
from worker.kafka.login import why
from worker.kafka.permissions import Operation, missing
from worker.kafka.settings import KafkaSettings, SecuritySettings, connection

__all__ = [
    "Finding",
    "KafkaProducer",
    "KafkaSettings",
    "SecuritySettings",
    "check_cluster",
    "connection",
    "examine_cluster",
]

log = structlog.get_logger(__name__)

SEND_LIMIT_S = 15.0
FLUSH_LIMIT_S = 0.2
DISCARD_LIMIT_S = 2.0
# Of the second the library says it when a login may write to no topic at all: it gets no place to write from.
MAY_NOT_WRITE = (kafka_errors.TopicAuthorizationFailedError, kafka_errors.ClusterAuthorizationFailedError)


class KafkaProducer:
    """Writes messages that must not be lost: idempotent, acknowledged by all in-sync replicas. Use from one loop."""

    def __init__(self, settings: KafkaSettings, *, send_limit_s: float = SEND_LIMIT_S) -> None:
        self._settings = settings
        self._send_limit_s = send_limit_s
        self._producer: AIOKafkaProducer | None = None
        self._replacing = asyncio.Lock()

    async def start(self) -> None:
        """Connect. Raises StartFailed."""
        try:
            async with asyncio.timeout(self._send_limit_s):
                self._producer = await self._connect()
        except (kafka_errors.KafkaError, OSError) as error:
            raise StartFailed(f"Kafka at {self._settings.bootstrap_servers}: {await self._why(error)}") from error

    async def stop(self) -> None:
        """Close; what has not been acknowledged by then has failed its sender already."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await _discard(producer)

    async def send(
        self, topic: str, key: bytes, value: bytes | None, headers: Sequence[tuple[str, bytes | None]], /
    ) -> None:
        """Return when all in-sync replicas have the message. Raises WriteFailed or TooLarge; may be cancelled.

        After WriteFailed the message may have been written all the same.
        """
        producer = self._producer
        try:
            async with asyncio.timeout(self._send_limit_s):
                if producer is None:
                    producer = await self._reconnected()
                await producer.send_and_wait(topic, value=value, key=key, headers=list(headers))
        except (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError) as error:
            size = len(key) + len(value or b"") + sum(len(name) + len(text or b"") for name, text in headers)
            raise TooLarge(f"a message of {size} bytes is more than topic {topic} takes") from error
        except (kafka_errors.KafkaError, OSError) as error:
            if producer is not None:
                await self._give_up_on(producer)
            raise WriteFailed(f"nothing could be written to topic {topic}: {await self._why(error)}") from error

    async def _why(self, error: BaseException) -> str:
        if isinstance(error, MAY_NOT_WRITE):
            return missing(self._settings, Operation.Write, "topic", self._settings.dead_letter_topic)
        return await why(self._settings, error)

    async def _connect(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **connection(self._settings),
            acks="all",
            enable_idempotence=True,
            # The broker knows what a topic takes; the library's own limit of 1 MB knows nothing of it.
            max_request_size=2**31 - 1,
            request_timeout_ms=int(self._send_limit_s * 1000),
        )
        try:
            await producer.start()
        except BaseException:
            await _discard(producer)
            raise
        return producer

    async def _reconnected(self) -> AIOKafkaProducer:
        async with self._replacing:
            if self._producer is None:
                self._producer = await self._connect()
            return self._producer

    async def _give_up_on(self, producer: AIOKafkaProducer) -> None:
        """Drop a producer that did not deliver: after a broker's clean stop it would spin and starve this process."""
        if self._producer is producer:
            self._producer = None
            log.warning("producer.replaced", topic=self._settings.dead_letter_topic)
            await _discard(producer)


async def _discard(producer: AIOKafkaProducer) -> None:
    """Close a producer whatever state it is in: its `stop` waits for batches that may never be sent."""
    with contextlib.suppress(TimeoutError, kafka_errors.KafkaError, OSError):
        async with asyncio.timeout(FLUSH_LIMIT_S):
            await producer.flush()
    producer._closed = True
    sending = producer._sender.sender_task
    if sending is not None:
        sending.cancel()
        await asyncio.wait({sending}, timeout=DISCARD_LIMIT_S)
        if not sending.cancelled() and sending.done():
            sending.exception()  # retrieved: its batches have told their senders
    with contextlib.suppress(TimeoutError, kafka_errors.KafkaError, OSError):
        async with asyncio.timeout(DISCARD_LIMIT_S):
            await producer.client.close()

"""The producer; and, for those who look for Kafka's settings and checks, where they are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors

from worker.errors import StartFailed, TooLarge, WriteFailed
from worker.kafka.checks import Finding, check_cluster, examine_cluster
from worker.kafka.login import why
from worker.kafka.permissions import Operation, missing
from worker.kafka.settings import KafkaSettings, SecuritySettings, connection
from worker.kafka.wording import wording

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
# Between two questions for a partition's leader that were not answered.
ASK_AGAIN_S = 0.25
FLUSH_LIMIT_S = 0.2
DISCARD_LIMIT_S = 2.0
_NOT_ACKNOWLEDGED = (
    "see that the topic has leaders, and min.insync.replicas replicas of each in sync (kafka-topics.sh --describe)"
)
# Of the second the library says it when a login may write to no topic at all: it gets no place to write from.
MAY_NOT_WRITE = (kafka_errors.TopicAuthorizationFailedError, kafka_errors.ClusterAuthorizationFailedError)


class KafkaProducer:
    """Writes messages that must not be lost: acknowledged by all in-sync replicas. Use from one loop.

    Not "idempotent": whoever writes here writes the same again under the same key, which harms nothing. And the numbers
    of an idempotent producer have a gap after a message that was too large; brokers then refuse all that follows.
    """

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
            is_there = producer is None or topic in producer.client.cluster.topics()
            if producer is not None:
                await self._give_up_on(producer)
            reason = await self._why(error) if is_there or isinstance(error, MAY_NOT_WRITE) else _not_there(topic)
            raise WriteFailed(f"nothing could be written to topic {topic}: {reason}") from error

    async def _why(self, error: BaseException) -> str:
        if isinstance(error, MAY_NOT_WRITE):
            return missing(self._settings, Operation.Write, "topic", self._settings.dead_letter_topic)
        reason = await why(self._settings, error)
        if isinstance(error, TimeoutError) and reason == wording(error):
            # The brokers answer, and have not acknowledged. The library keeps to itself what they said.
            return f"no acknowledgement within {self._send_limit_s:g} s: {_NOT_ACKNOWLEDGED}"
        return reason

    async def _connect(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **connection(self._settings),
            acks="all",
            # One message for each request: a topic's limit counts what comes together, too.
            max_batch_size=1,
            # The broker knows what a topic takes; the library's own limit of 1 MB knows nothing of it.
            max_request_size=2**31 - 1,
            request_timeout_ms=int(self._send_limit_s * 1000),
        )
        _ask_calmly(producer)
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
        """Drop a producer that did not deliver: what waits in it would be written late, after what is written next."""
        if self._producer is producer:
            self._producer = None
            log.warning("producer.replaced", topic=self._settings.dead_letter_topic)
            await _discard(producer)


def _not_there(topic: str) -> str:
    return f"topic {topic} is not there (any more): create it, purely compacted"


def _ask_calmly(producer: AIOKafkaProducer) -> None:
    """Let the library wait between two questions for a partition's leader.

    It has no pause of its own there. After a broker's clean stop in the middle of a write it would ask thousands of
    times a second, as long as the write has time left, and starve this process.
    """
    ask: Callable[[], asyncio.Future[bool]] = producer.client.force_metadata_update
    loop = asyncio.get_running_loop()

    def ask_calmly() -> asyncio.Future[bool]:
        told: asyncio.Future[bool] = loop.create_future()

        def tell(has_answer: bool) -> None:
            if not told.done():
                told.set_result(has_answer)

        def answered(asked: asyncio.Future[bool]) -> None:
            has_answer = not asked.cancelled() and asked.result()
            loop.call_later(0.0 if has_answer else ASK_AGAIN_S, tell, has_answer)

        # Asked at once: the library calls this also while it is being answered, and that is no further question.
        ask().add_done_callback(answered)
        return told

    producer.client.force_metadata_update = ask_calmly


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

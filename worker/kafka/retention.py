"""What the topics' settings say while the worker runs: when records are deleted, and whether dead letters are kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass

import structlog
from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from worker.clock import Clock
from worker.kafka.settings import KafkaSettings, connection
from worker.kafka.wording import wording

log = structlog.get_logger(__name__)

ASK_EVERY_S = 60.0  # somebody who raises it in an outage wants to see the alarm go
ASK_AGAIN_S = 30.0
ASK_LIMIT_S = 20.0


@dataclass(frozen=True, slots=True)
class Kept:
    """How long, and how much of, a topic is kept; None: without a limit of that kind."""

    seconds: float | None
    bytes: int | None  # of each partition
    policy: str  # cleanup.policy


async def ask_retention(settings: KafkaSettings) -> dict[str, Kept]:
    """Return what is kept of the topics and of the dead letters. Topics of which nothing is told are left out.

    Raises KafkaError or OSError.
    """
    admin = AIOKafkaAdminClient(**connection(settings))
    names = {"cleanup.policy": "", "retention.ms": "", "retention.bytes": ""}
    topics = [*settings.topics, settings.dead_letter_topic]
    wanted = [ConfigResource(ConfigResourceType.TOPIC, topic, names) for topic in topics]
    async with asyncio.timeout(ASK_LIMIT_S):
        try:
            await admin.start()
            answers = await admin.describe_configs(wanted)
        finally:
            await admin.close()
    return {
        topic: kept_by({entry[0]: entry[1] for entry in entries})
        for answer in answers
        for code, _, _, topic, entries in answer.resources
        if not code
    }


def kept_by(config: Mapping[str, str]) -> Kept:
    """Return what a topic's settings mean."""
    policy = config.get("cleanup.policy", "")
    age_ms, size_bytes = int(config.get("retention.ms", "-1")), int(config.get("retention.bytes", "-1"))
    deletes = "delete" in policy
    return Kept(
        seconds=age_ms / 1000 if deletes and age_ms >= 0 else None,
        bytes=size_bytes if deletes and size_bytes >= 0 else None,
        policy=policy,
    )


class Retention:
    """What is known of the topics' retention. `run` asks at the start and every minute; the last answer stays."""

    def __init__(
        self,
        topics: Collection[str],
        ask: Callable[[], Awaitable[Mapping[str, Kept]]],
        clock: Clock,
        *,
        dead_letter_topic: str = "",
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._dead_letter_topic = dead_letter_topic
        self.seconds: dict[str, float | None] = dict.fromkeys(topics)  # None: never by age, or not known
        self.bytes: dict[str, int | None] = dict.fromkeys(topics)  # None: never by size, or not known
        self.letters_policy = "compact"  # cleanup.policy of the dead-letter topic, as far as it is known

    async def run(self) -> None:
        """Ask until cancelled."""
        is_failing = False
        while True:
            try:
                self._hear(await self._ask())
            except (kafka_errors.KafkaError, OSError, ValueError) as error:  # TimeoutError is an OSError
                if not is_failing:
                    log.warning("retention.unknown", error=wording(error))
                is_failing = True
            else:
                is_failing = False
            await self._clock.sleep(ASK_AGAIN_S if is_failing else ASK_EVERY_S)

    def _hear(self, kept: Mapping[str, Kept]) -> None:
        for topic in self.seconds.keys() & kept.keys():
            self.seconds[topic], self.bytes[topic] = kept[topic].seconds, kept[topic].bytes
        letters = kept.get(self._dead_letter_topic)
        if letters is None:
            return
        if letters.policy != "compact" and self.letters_policy == "compact":
            # Somebody altered it; or it was deleted, and a broker that is set to do so made it anew.
            log.error("dead_letters.not_kept", topic=self._dead_letter_topic, policy=letters.policy)
        self.letters_policy = letters.policy

    def part_used(self, topic: str, age_s: float) -> float:
        """Return how much of its time a record of this age has had; at 1 it is deleted. 0 without a retention."""
        retention_s = self.seconds.get(topic)
        return 0.0 if retention_s is None else age_s / max(retention_s, 0.001)

    def part_filled(self, topic: str, size_bytes: float) -> float:
        """Return how much of what is kept of a partition these bytes are; 0 without a limit by size."""
        limit_bytes = self.bytes.get(topic)
        return 0.0 if limit_bytes is None else size_bytes / max(limit_bytes, 1)

"""After how long the topics delete records: what decides how long an outage may last."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping

import structlog
from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from worker.clock import Clock
from worker.kafka.settings import KafkaSettings, connection
from worker.kafka.wording import wording

log = structlog.get_logger(__name__)

ASK_EVERY_S = 600.0  # somebody who raises it in an outage wants to see the alarm go
ASK_AGAIN_S = 30.0
ASK_LIMIT_S = 20.0


async def ask_retention(settings: KafkaSettings) -> dict[str, float | None]:
    """Return topic -> seconds until a record is deleted for its age; None for never.

    Topics of which nothing is told are left out. Raises KafkaError or OSError.
    """
    admin = AIOKafkaAdminClient(**connection(settings))
    names = {"cleanup.policy": "", "retention.ms": ""}
    wanted = [ConfigResource(ConfigResourceType.TOPIC, topic, names) for topic in settings.topics]
    async with asyncio.timeout(ASK_LIMIT_S):
        try:
            await admin.start()
            answers = await admin.describe_configs(wanted)
        finally:
            await admin.close()
    return {
        topic: _retention_s({entry[0]: entry[1] for entry in entries})
        for answer in answers
        for code, _, _, topic, entries in answer.resources
        if not code
    }


def _retention_s(config: Mapping[str, str]) -> float | None:
    age_ms = int(config.get("retention.ms", "-1"))
    return age_ms / 1000 if age_ms >= 0 and "delete" in config.get("cleanup.policy", "") else None


class Retention:
    """What is known of the topics' retention. `run` asks at the start and now and then; the last answer stays."""

    def __init__(
        self, topics: Collection[str], ask: Callable[[], Awaitable[Mapping[str, float | None]]], clock: Clock
    ) -> None:
        self._ask = ask
        self._clock = clock
        self.seconds: dict[str, float | None] = dict.fromkeys(topics)  # None: never by age, or not known

    async def run(self) -> None:
        """Ask until cancelled."""
        is_failing = False
        while True:
            try:
                self.seconds.update(await self._ask())
            except (kafka_errors.KafkaError, OSError, ValueError) as error:  # TimeoutError is an OSError
                if not is_failing:
                    log.warning("retention.unknown", error=wording(error))
                is_failing = True
            else:
                is_failing = False
            await self._clock.sleep(ASK_AGAIN_S if is_failing else ASK_EVERY_S)

    def part_used(self, topic: str, age_s: float) -> float:
        """Return how much of its time a record of this age has had; at 1 it is deleted. 0 without a retention."""
        retention_s = self.seconds.get(topic)
        return 0.0 if retention_s is None else age_s / max(retention_s, 0.001)

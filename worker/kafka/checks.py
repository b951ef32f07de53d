"""The checks before anything is consumed: what Kafka must have, and what this login must be allowed to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from worker.errors import StartFailed
from worker.kafka.login import check_login, where
from worker.kafka.permissions import NOT_TOLD, Operation, TopicAnswer, ask_topics, missing
from worker.kafka.settings import KafkaSettings, connection
from worker.kafka.wording import wording

CHECK_LIMIT_S = 20.0
RETRY_EVERY_S = 0.3
_CREATE = "kafka-topics.sh --create --topic"


async def check_cluster(settings: KafkaSettings, *, limit_s: float = CHECK_LIMIT_S) -> None:
    """Make sure that Kafka has what a run needs. Raises StartFailed: a line for each thing that is missing.

    Checked: brokers, login, topics, the dead-letter topic and its settings, the permissions. Creates and joins
    nothing. Takes some 0.2 s where all is well, `limit_s` at most.
    """
    _check_names(settings)
    try:
        async with asyncio.timeout(limit_s), aclosing(_examined(settings)) as findings:
            problems = [one.problem async for one in findings if one.problem is not None]
    except (kafka_errors.KafkaError, OSError) as error:  # TimeoutError is an OSError
        raise StartFailed(f"{where(settings)}: {wording(error)}") from error
    if problems:
        raise StartFailed("\n".join(map(str, problems))) from problems[0]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `problem` is None where all is well, else what `check_cluster` would raise."""

    check: str  # connection, cluster, topic, dead-letter topic, dead-letter settings, group, permission
    subject: str  # the servers, the topic, the group
    found: str
    problem: StartFailed | None = None


async def examine_cluster(settings: KafkaSettings, *, limit_s: float = CHECK_LIMIT_S) -> tuple[Finding, ...]:
    """Ask what `check_cluster` asks, and tell what is well, too.

    Creates and joins nothing. Takes `limit_s` at most; raises nothing but cancellation.
    """
    found: list[Finding] = []
    try:
        async with asyncio.timeout(limit_s), aclosing(_examined(settings)) as findings:
            async for one in findings:
                found.append(one)  # noqa: PERF401  # what was found before a time-out is told, too
    except StartFailed as problem:
        found.append(Finding("connection", settings.bootstrap_servers, "", problem))
    except (kafka_errors.KafkaError, OSError) as error:
        text = StartFailed(f"{where(settings)}: {wording(error)}")
        found.append(Finding("cluster" if found else "connection", settings.bootstrap_servers, "", text))
    return tuple(found)


async def _examined(settings: KafkaSettings) -> AsyncGenerator[Finding, None]:
    """Yield each finding as it comes. Raises StartFailed without a connection, and what the library raises."""
    options = connection(settings)
    await check_login(settings, options)
    admin = AIOKafkaAdminClient(**options)
    try:
        await admin.start()
        yield Finding("connection", settings.bootstrap_servers, "connected")
        checks = _Checks(settings, admin)
        async for finding in checks.topics():
            yield finding
        async for finding in checks.dead_letters():
            yield finding
        yield await checks.group()
    finally:
        await admin.close()


def _check_names(settings: KafkaSettings) -> None:
    if settings.dead_letter_topic in settings.topics:
        raise StartFailed(
            f"kafka.dead_letter_topic {settings.dead_letter_topic} is among kafka.topics: the worker would read its own"
            " dead letters; name another topic"
        )


class _Checks:
    """The questions to a cluster that answers."""

    def __init__(self, settings: KafkaSettings, admin: AIOKafkaAdminClient) -> None:
        self._settings = settings
        self._admin = admin
        self._seen: set[str] = set()  # topics that are there and may be described

    async def topics(self) -> AsyncIterator[Finding]:
        answers = await ask_topics(self._admin, self._settings.topics)
        for topic in self._settings.topics:
            absent = f"create it ({_CREATE} {topic}), or correct kafka.topics"
            for finding in self._topic("topic", topic, answers[topic], Operation.Read, absent):
                yield finding

    async def dead_letters(self) -> AsyncIterator[Finding]:
        letters = self._settings.dead_letter_topic
        try:
            _check_names(self._settings)
        except StartFailed as problem:
            yield Finding("dead-letter topic", letters, "", problem)
            return
        answers = await ask_topics(self._admin, [letters])
        absent = f"create it ({_CREATE} {letters} --config cleanup.policy=compact), or correct kafka.dead_letter_topic"
        for finding in self._topic("dead-letter topic", letters, answers[letters], Operation.Write, absent):
            yield finding
        configs: dict[str, dict[str, str]] = {}
        for topic, code, entries in await self._topic_settings((letters, *self._settings.topics)):
            if code == kafka_errors.TopicAuthorizationFailedError.errno:
                yield self._missing(Operation.DescribeConfigs, "topic", topic)
            elif not code:
                configs[topic] = entries
        if letters in configs and letters in self._seen:
            yield self._letters_fit(configs)

    def _topic(
        self, check: str, topic: str, answer: TopicAnswer, operation: Operation, absent: str
    ) -> Sequence[Finding]:
        """Return whether a topic is there and may be used; `absent`: what to do where it is not."""
        if answer.is_hidden:  # it may be there or not: Kafka does not tell strangers
            return [Finding(check, topic, "", StartFailed(missing(self._settings, operation, "topic", topic)))]
        if answer.error == kafka_errors.UnknownTopicOrPartitionError.errno:
            return [Finding(check, topic, "", StartFailed(f"{check} {topic} does not exist; {absent}"))]
        if answer.error:
            text = wording(kafka_errors.for_code(answer.error)())
            return [Finding(check, topic, "", StartFailed(f"{check} {topic}: {text}"))]
        self._seen.add(topic)
        there = Finding(check, topic, f"there, partitions: {answer.partitions}")
        if operation.is_in(answer.operations):
            return [there]
        return [there, self._missing(operation, "topic", topic)]

    def _missing(self, operation: Operation, kind: str, name: str) -> Finding:
        problem = StartFailed(missing(self._settings, operation, kind, name))
        return Finding("permission", f"{operation.name} on {kind} {name}", "", problem)

    def _letters_fit(self, configs: Mapping[str, Mapping[str, str]]) -> Finding:
        """Check the settings of the dead-letter topic beside those of its sources, as far as they are known."""
        letters = self._settings.dead_letter_topic
        text, policy = "", configs[letters]["cleanup.policy"]
        alter = f"kafka-configs.sh --alter --entity-type topics --entity-name {letters} --add-config"
        takes = int(configs[letters]["max.message.bytes"])
        limits = [(int(config["max.message.bytes"]), topic) for topic, config in configs.items()]
        largest, source = max(limits)
        if policy != "compact":
            text = (
                f"dead-letter topic {letters} has cleanup.policy {policy}: letters would be deleted with age; it must"
                f" be compact ({alter} cleanup.policy=compact)"
            )
        elif takes < largest:
            text = (
                f"dead-letter topic {letters} takes messages up to {takes} bytes, topic {source} up to {largest}: a"
                f" large record would be lost; raise it ({alter} max.message.bytes={largest})"
            )
        found = "cleanup.policy compact; takes messages as large as its sources"
        return Finding("dead-letter settings", letters, found, StartFailed(text) if text else None)

    async def _topic_settings(self, topics: Collection[str]) -> Sequence[tuple[str, int, dict[str, str]]]:
        """Return topic, error code and the settings that matter here, one for each topic."""
        names = {"cleanup.policy": "", "max.message.bytes": ""}
        wanted = [ConfigResource(ConfigResourceType.TOPIC, topic, names) for topic in topics]
        return [
            (topic, code, {entry[0]: entry[1] for entry in entries})
            for answer in await self._admin.describe_configs(wanted)
            for code, _, _, topic, entries in answer.resources
        ]

    async def group(self) -> Finding:
        group = self._settings.group_id
        denied = Finding("group", group, "", StartFailed(missing(self._settings, Operation.Read, "group", group)))
        try:
            (answer,) = await self._until_ready(group)
        except kafka_errors.GroupAuthorizationFailedError:
            return denied
        code, _, state, kind, *rest = answer.groups[0]
        operations = rest[-1] if answer.API_VERSION >= 3 else NOT_TOLD
        if code == kafka_errors.GroupAuthorizationFailedError.errno or not Operation.Read.is_in(operations):
            return denied
        if state not in ("Dead", "Empty", "") and kind not in ("consumer", ""):
            text = f"group {group} is in use by another kind of program ({kind}); choose another group_id"
            return Finding("group", group, "", StartFailed(text))
        return Finding("group", group, "may be used")

    async def _until_ready(self, group: str) -> Sequence[Any]:
        """Describe the group; a fresh cluster needs a moment to make the topic its groups live in."""
        while True:
            try:
                return list(await self._describe(group))
            except kafka_errors.KafkaError as error:
                if not error.retriable or isinstance(error, kafka_errors.NodeNotReadyError):
                    raise
            await asyncio.sleep(RETRY_EVERY_S)

    async def _describe(self, group: str) -> Sequence[Any]:
        try:
            return list(await self._admin.describe_consumer_groups([group], include_authorized_operations=True))
        except kafka_errors.IncompatibleBrokerVersion:
            return list(await self._admin.describe_consumer_groups([group]))

"""The connection to Kafka: what goes wrong with it in words, the checks before anything is consumed, the producer."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.conn import collect_hosts, create_conn

from worker.errors import StartFailed, TooLarge, WriteFailed
from worker.kafka.settings import KafkaSettings, SecuritySettings, connection

__all__ = [
    "Finding",
    "KafkaProducer",
    "KafkaSettings",
    "SecuritySettings",
    "check_cluster",
    "check_login",
    "connection",
    "examine_cluster",
    "wording",
]

log = structlog.get_logger(__name__)

CHECK_LIMIT_S = 20.0
CONNECT_LIMIT_S = 5.0
RETRY_EVERY_S = 0.3
SEND_LIMIT_S = 15.0
FLUSH_LIMIT_S = 0.2
DISCARD_LIMIT_S = 2.0
# Of a group's authorized operations, the bit of READ (AclOperation.java, Kafka 4.3); the least Int32 = not told.
READ_BIT = 1 << 3
NOT_TOLD = -(2**31)
_CREATE = "kafka-topics.sh --create --topic"

# What a person reads instead of the library's exception, and what to do about it: the one table at this edge. The
# first row that fits counts, so the special ones come first.
WORDINGS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (kafka_errors.SaslAuthenticationFailed, "the login was refused; check kafka.security.username and password"),
    (
        (kafka_errors.UnsupportedSaslMechanismError, kafka_errors.IllegalSaslStateError),
        "this listener does not take the login; check kafka.security.protocol and mechanism, and the port",
    ),
    (
        ssl.SSLCertVerificationError,
        "the broker's certificate is not trusted, or is for another name; check kafka.security.ca_file",
    ),
    (ssl.SSLError, "the TLS handshake failed; check kafka.security.protocol and the port"),
    (kafka_errors.TopicAuthorizationFailedError, "this login may not use the topic; grant Read and Describe on it"),
    (kafka_errors.GroupAuthorizationFailedError, "this login may not use the group; grant Read on kafka.group_id"),
    (kafka_errors.ClusterAuthorizationFailedError, "this login lacks a permission on the cluster"),
    (
        kafka_errors.InconsistentGroupProtocolError,
        "the group has members of another program; choose another kafka.group_id",
    ),
    (
        kafka_errors.InvalidSessionTimeoutError,
        "the broker does not allow this kafka.session_timeout_s (its group.min/max.session.timeout.ms)",
    ),
    (kafka_errors.ConsumerStoppedError, "it was stopped meanwhile"),
    (kafka_errors.UnknownTopicOrPartitionError, "a topic does not exist any more"),
    (
        kafka_errors.KafkaConnectionError,
        "the connection was closed at once; check kafka.security.protocol and the port",
    ),
    (
        (kafka_errors.NodeNotReadyError, kafka_errors.StaleMetadata),
        "the broker answers, but names itself by an address (advertised.listeners) that cannot be reached from here",
    ),
    (TimeoutError, "no answer in time; check kafka.bootstrap_servers, the network, and that the broker runs"),
    (
        OSError,
        "nothing answers there; check kafka.bootstrap_servers, and that the broker runs",
    ),
)


def wording(error: BaseException) -> str:
    """Return one line that says what went wrong and what to do; safe to log."""
    for kinds, text in WORDINGS:
        if isinstance(error, kinds):
            return text
    return type(error).__name__


# --- checks -----------------------------------------------------------------------------------------------------------


async def check_cluster(settings: KafkaSettings, *, limit_s: float = CHECK_LIMIT_S) -> None:
    """Make sure that Kafka has what a run needs. Raises StartFailed: one line that says what to do.

    Checked: brokers, login, topics, the dead-letter topic and its settings, the permission on the group. Creates and
    joins nothing. Takes some 0.2 s where all is well, `limit_s` at most.
    """
    _check_names(settings)
    options = connection(settings)
    where = f"Kafka at {settings.bootstrap_servers}"
    try:
        async with asyncio.timeout(limit_s):
            await check_login(where, options)
            admin = AIOKafkaAdminClient(**options)
            try:
                await admin.start()
                await _Checks(settings, admin).run()
            finally:
                await admin.close()
    except (kafka_errors.KafkaError, OSError) as error:  # TimeoutError is an OSError
        raise StartFailed(f"{where}: {wording(error)}") from error


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `problem` is None where all is well, else what `check_cluster` would raise."""

    check: str  # connection, cluster, topic, dead-letter topic, dead-letter settings, group
    subject: str  # the servers, the topic, the group
    found: str
    problem: StartFailed | None = None


async def examine_cluster(settings: KafkaSettings, *, limit_s: float = CHECK_LIMIT_S) -> tuple[Finding, ...]:
    """Ask what `check_cluster` asks, and go on after a problem, as far as one can get.

    Creates and joins nothing. Takes `limit_s` at most; raises nothing but cancellation.
    """
    where = f"Kafka at {settings.bootstrap_servers}"
    found: list[Finding] = []
    admin: AIOKafkaAdminClient | None = None
    try:
        async with asyncio.timeout(limit_s):
            options = connection(settings)
            await check_login(where, options)
            admin = AIOKafkaAdminClient(**options)
            await admin.start()
            found.append(Finding("connection", settings.bootstrap_servers, "connected"))
            await _Checks(settings, admin).examine(found)
    except StartFailed as problem:
        found.append(Finding("connection", settings.bootstrap_servers, "", problem))
    except (kafka_errors.KafkaError, OSError) as error:  # TimeoutError is an OSError
        text = StartFailed(f"{where}: {wording(error)}")
        found.append(Finding("cluster" if found else "connection", settings.bootstrap_servers, "", text))
    finally:
        if admin is not None:
            await admin.close()
    return tuple(found)


async def _finding(check: str, subject: str, found: str, checking: Coroutine[object, object, None]) -> Finding:
    try:
        await checking
    except StartFailed as problem:
        return Finding(check, subject, "", problem)
    except (kafka_errors.KafkaError, OSError) as error:
        return Finding(check, subject, "", StartFailed(f"{check} {subject}: {wording(error)}"))
    return Finding(check, subject, found)


def _check_names(settings: KafkaSettings) -> None:
    if settings.dead_letter_topic in settings.topics:
        raise StartFailed(
            f"kafka.dead_letter_topic {settings.dead_letter_topic} is among kafka.topics: the worker would read its own"
            " dead letters; name another topic"
        )


async def check_login(where: str, options: Mapping[str, object]) -> None:
    """Connect to one bootstrap server, as any client does: only here the library says why it does not work."""
    failures: list[Exception] = []
    others = ("bootstrap_servers", "retry_backoff_ms")
    chosen = {name: value for name, value in options.items() if name not in others}
    for host, port, _ in collect_hosts(options["bootstrap_servers"]):
        try:
            opened = await create_conn(host, port, request_timeout_ms=int(CONNECT_LIMIT_S * 1000), **chosen)
        except (kafka_errors.KafkaError, OSError, ValueError) as error:  # ValueError: a SCRAM server that cheats
            failures.append(error)
        else:
            opened.close()
            return
    telling = [one for one in failures if not isinstance(one, OSError) or isinstance(one, ssl.SSLError)]
    worst = (telling or failures)[0]
    raise StartFailed(f"{where}: {wording(worst)}") from worst


class _Checks:
    """The questions to a cluster that answers."""

    def __init__(self, settings: KafkaSettings, admin: AIOKafkaAdminClient) -> None:
        self._settings = settings
        self._admin = admin

    async def run(self) -> None:
        await self._check_topics()
        await self._check_dead_letter_topic()
        await self._check_group()

    async def examine(self, findings: list[Finding]) -> None:
        """Ask everything that `run` asks, and add each answer as it comes. Raises what the library raises."""
        topics, letters = self._settings.topics, self._settings.dead_letter_topic
        known = await self._partitions()
        for topic in topics:
            found = f"there, partitions: {known.get(topic)}"
            findings.append(await _finding("topic", topic, found, self._check_topic(topic, known)))
        found = f"there, partitions: {known.get(letters)}"
        findings.append(await _finding("dead-letter topic", letters, found, self._check_letters_exist(known)))
        if letters in known:
            check = self._check_dead_letter_topic([topic for topic in topics if topic in known])
            found = "cleanup.policy compact; takes messages as large as its sources"
            findings.append(await _finding("dead-letter settings", letters, found, check))
        group = self._settings.group_id
        findings.append(await _finding("group", group, "may be used", self._check_group()))

    async def _partitions(self) -> dict[str, int]:
        # All topics, not ours by name: asking by name creates a topic where the broker is set to.
        return {topic["topic"]: len(topic["partitions"]) for topic in await self._admin.describe_topics()}

    async def _check_topics(self) -> None:
        known = await self._partitions()
        for topic in self._settings.topics:
            await self._check_topic(topic, known)
        await self._check_letters_exist(known)

    async def _check_topic(self, topic: str, known: Collection[str]) -> None:
        if topic not in known:
            raise StartFailed(
                f"topic {topic} does not exist, or this login may not describe it; create it ({_CREATE} {topic}),"
                " correct kafka.topics, or grant Read and Describe"
            )

    async def _check_letters_exist(self, known: Collection[str]) -> None:
        _check_names(self._settings)
        if (letters := self._settings.dead_letter_topic) not in known:
            raise StartFailed(
                f"dead-letter topic {letters} does not exist, or this login may not describe it; create it"
                f" ({_CREATE} {letters} --config cleanup.policy=compact), or grant Write and Describe"
            )

    async def _check_dead_letter_topic(self, sources: Sequence[str] | None = None) -> None:
        """Check its settings; `sources`: the topics it must take records of, all of ours unless told otherwise."""
        letters = self._settings.dead_letter_topic
        sources = self._settings.topics if sources is None else sources
        configs = await self._topic_settings((letters, *sources))
        alter = f"kafka-configs.sh --alter --entity-type topics --entity-name {letters} --add-config"
        policy = configs[letters]["cleanup.policy"]
        if policy != "compact":
            raise StartFailed(
                f"dead-letter topic {letters} has cleanup.policy {policy}: letters would be deleted with age; it must"
                f" be compact ({alter} cleanup.policy=compact)"
            )
        takes = int(configs[letters]["max.message.bytes"])
        limits = [(int(configs[topic]["max.message.bytes"]), topic) for topic in sources]
        largest, source = max(limits, default=(takes, ""))
        if takes < largest:
            raise StartFailed(
                f"dead-letter topic {letters} takes messages up to {takes} bytes, topic {source} up to {largest}: a"
                f" large record would be lost; raise it ({alter} max.message.bytes={largest})"
            )

    async def _topic_settings(self, topics: Sequence[str]) -> dict[str, dict[str, str]]:
        names = {"cleanup.policy": "", "max.message.bytes": ""}
        wanted = [ConfigResource(ConfigResourceType.TOPIC, topic, names) for topic in topics]
        found: dict[str, dict[str, str]] = {}
        for answer in await self._admin.describe_configs(wanted):
            for code, _, _, topic, entries in answer.resources:
                if code:
                    raise StartFailed(
                        f"the settings of topic {topic} cannot be read ({kafka_errors.for_code(code).__name__}); grant"
                        " DescribeConfigs on it: a dead-letter topic of the wrong kind loses letters"
                    )
                found[topic] = {entry[0]: entry[1] for entry in entries}
        return found

    async def _check_group(self) -> None:
        group = self._settings.group_id
        denied = f"this login may not use group {group}; grant Read on it (kafka.group_id)"
        try:
            (answer,) = await self._until_ready(group)
        except kafka_errors.GroupAuthorizationFailedError as error:
            raise StartFailed(denied) from error
        code, _, state, kind, *rest = answer.groups[0]
        operations = rest[-1] if answer.API_VERSION >= 3 else NOT_TOLD
        if code == kafka_errors.GroupAuthorizationFailedError.errno or (
            operations != NOT_TOLD and not operations & READ_BIT
        ):
            raise StartFailed(denied)
        if state not in ("Dead", "Empty", "") and kind not in ("consumer", ""):
            raise StartFailed(f"group {group} is in use by another kind of program ({kind}); choose another group_id")

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


# --- the producer -----------------------------------------------------------------------------------------------------


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
            raise StartFailed(f"Kafka at {self._settings.bootstrap_servers}: {wording(error)}") from error

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
            raise WriteFailed(f"nothing could be written to topic {topic}: {wording(error)}") from error

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

"""What a login may do, asked of the broker, and the command that grants it.

The broker tells a login's rights on a topic in its answer to a Metadata request, from version 8 on (Kafka 2.3), which
the library does not speak: so this file brings the request. Asking by name with this version creates no topic.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import IntEnum

from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Schema, String

from worker.kafka.settings import KafkaSettings

# The least Int32 stands for: not told (no authorizer, or a broker that keeps it to itself).
NOT_TOLD: int = -(2**31)


class Operation(IntEnum):
    """Bits of a set of operations (AclOperation.java, Kafka 4.3), under the names that kafka-acls.sh takes."""

    Read = 3
    Write = 4
    Describe = 8
    DescribeConfigs = 10

    def is_in(self, operations: int) -> bool:
        """Return whether a set of operations holds this one; True where nothing was told."""
        return operations == NOT_TOLD or operations & (1 << self) != 0


def principal(settings: KafkaSettings) -> str:
    """Return whom to grant something; for a certificate or a token only the broker knows who that is."""
    security = settings.security
    if security.username is not None:
        return f"User:{security.username}"
    return "User:ANONYMOUS" if security.token_file is None and security.cert_file is None else "User:PRINCIPAL"


def missing(settings: KafkaSettings, operation: Operation, kind: str, name: str) -> str:
    """Return the line that says which permission is missing on a topic or a group, and the command that grants it."""
    command = [
        *("kafka-acls.sh", "--bootstrap-server", settings.bootstrap_servers, "--add"),
        *("--allow-principal", principal(settings), f"--{kind}", name, "--operation", operation.name),
    ]
    return f"this login has no permission {operation.name} on {kind} {name}; grant it: {shlex.join(command)}"


@dataclass(frozen=True, slots=True)
class TopicAnswer:
    """What a broker tells a login of a topic."""

    error: int  # Kafka's code; 0: it is there, and may be described
    partitions: int
    operations: int

    @property
    def is_hidden(self) -> bool:
        return bool(self.error == kafka_errors.TopicAuthorizationFailedError.errno)


async def ask_topics(admin: AIOKafkaAdminClient, topics: Collection[str]) -> Mapping[str, TopicAnswer]:
    """Return what the broker tells of these topics. Raises what the library raises."""
    try:
        answer = await admin._send_request(_TopicsRequest(list(topics)))
    except NotImplementedError as error:  # how the library says that no version suits both
        raise kafka_errors.IncompatibleBrokerVersion("Metadata version 8") from error
    return {
        name: TopicAnswer(code, len(partitions), operations) for code, name, _, partitions, operations in answer.topics
    }


class _TopicsAnswer(Response):  # type: ignore[misc]  # aiokafka has no types
    API_KEY = 3
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            Array(("node_id", Int32), ("host", String("utf-8")), ("port", Int32), ("rack", String("utf-8"))),
        ),
        ("cluster_id", String("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", String("utf-8")),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline_replicas", Array(Int32)),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
        ("cluster_authorized_operations", Int32),
    )


class _TopicsRequestV8(RequestStruct):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = _TopicsAnswer
    SCHEMA = Schema(
        ("topics", Array(String("utf-8"))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    )


class _TopicsRequest(Request[_TopicsRequestV8]):  # type: ignore[misc]
    API_KEY = 3

    def __init__(self, topics: list[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_TopicsRequestV8]) -> _TopicsRequestV8:
        return request_struct_class(self._topics, False, False, True)

"""A broker with certificates, logins and permissions: how to come in by each way, and how to be let do something."""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import re
import shlex
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Int8, Int16, Int32, Schema, String

from worker.sandbox.broker import AUTHORIZER, LocalKafka
from worker.sandbox.certificates import Authority

README = Path(__file__).parents[1] / "README.md"
# Each has its own permissions, so that no test waits for, or stumbles over, those of another.
USERS = {name: f"{name}-password" for name in ("tester", "stranger", "reader", "worker-1", "worker-2")}
# How long the broker lets a login by token on SASL_PLAINTEXT live, in ms: then it wants another.
RELOGIN_MS = 3000


class Way(NamedTuple):
    """A way to come in."""

    listener: str
    mechanism: str = ""

    def __str__(self) -> str:
        return "-".join(filter(None, self))


WAYS = [
    Way("SSL"),
    Way("MUTUAL_TLS"),
    *(
        Way(listener, mechanism)
        for listener in ("SASL_PLAINTEXT", "SASL_SSL")
        for mechanism in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
    ),
]


def unsigned_token(subject: str, *, ends_in_s: float) -> str:
    """Return a JWT without a signature, as the broker's default validator takes it."""
    now_s = time.time()
    claims = {"sub": subject, "iat": min(now_s, now_s + ends_in_s) - 60, "exp": now_s + ends_in_s}
    return f"{_base64({'alg': 'none'})}.{_base64(claims)}."


def _base64(document: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")


class SecureKafka:
    """One for the whole session. `folder` holds files that do not fit: they are named by what is wrong with them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        authority, another = Authority("tests"), Authority("somebody else")
        for name, content in {
            "expired.pem": authority.issue("broker", hosts=("localhost", "127.0.0.1"), days=-1),
            "other-name.pem": authority.issue("broker", hosts=("kafka.example",)),
            "other-ca.pem": another.pem,
            "client-expired.pem": authority.issue("tester", days=-1),
            "client-of-other-ca.pem": another.issue("tester"),
            "token": unsigned_token("tester", ends_in_s=3600).encode(),
        }.items():
            (folder / name).write_bytes(content)
        self.kafka = LocalKafka(
            secure=True,
            users=USERS,
            authority=authority,
            listeners={"EXPIRED": "SSL", "OTHER_NAME": "SSL"},
            settings={
                **AUTHORIZER,
                "listener.name.expired.ssl.keystore.location": str(folder / "expired.pem"),
                "listener.name.other_name.ssl.keystore.location": str(folder / "other-name.pem"),
                "listener.name.sasl_plaintext.oauthbearer.connections.max.reauth.ms": str(RELOGIN_MS),
                "log.cleaner.backoff.ms": "200",  # compaction in a test's time, not every 15 s
            },
        )
        self.kafka.start()

    def close(self) -> None:
        self.kafka.close()

    @property
    def bootstrap(self) -> str:
        """The address for those who may do everything."""
        return self.kafka.bootstrap()

    def security(self, way: Way, *, user: str = "tester", **changes: object) -> dict[str, object]:
        """Return the settings kafka.security for a way to come in."""
        protocol = "SSL" if way.listener not in ("SASL_PLAINTEXT", "SASL_SSL") else way.listener
        found: dict[str, object] = {"protocol": protocol}
        if protocol != "SASL_PLAINTEXT":
            found["ca_file"] = str(self.kafka.ca_file)
        if way.listener == "MUTUAL_TLS":
            found |= {"cert_file": str(self.kafka.client_file), "key_file": str(self.kafka.client_file)}
        if way.mechanism:
            found["mechanism"] = way.mechanism
        if way.mechanism == "OAUTHBEARER":
            found["token_file"] = str(self.folder / "token")
        elif way.mechanism:
            found |= {"username": user, "password": USERS[user]}
        return found | changes

    def settings(self, way: Way, *, user: str = "tester", **changes: Any) -> dict[str, Any]:
        """Return bootstrap_servers and security for a way to come in."""
        return {
            "bootstrap_servers": self.kafka.bootstrap(way.listener),
            "security": self.security(way, user=user, **changes),
        }

    async def run(self, commands: Iterable[str]) -> None:
        """Do what `kafka-acls.sh --add|--remove ...` would, and return when the broker acts on it."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            for rules, is_removal in map(parse_command, commands):
                request = _DeleteAcls(rules) if is_removal else _CreateAcls(rules)
                answer = await admin._send_to_controller(request)
                assert all(code == 0 for code, *_ in answer.results), answer
            await _settle()
        finally:
            await admin.close()


async def _settle() -> None:
    """The controller has answered; the broker beside it replays its log some milliseconds later."""
    await asyncio.sleep(0.3)


@dataclass(frozen=True, slots=True)
class Acl:
    """What one rule lets somebody do, in the numbers of Kafka's protocol."""

    resource: int
    name: str
    principal: str
    operation: int

    @property
    def fields(self) -> tuple[object, ...]:
        return self.resource, self.name, LITERAL, self.principal, "*", self.operation, ALLOW


LITERAL, ALLOW = 3, 3
TOPIC, GROUP = 2, 3
OPERATIONS: Mapping[str, int] = {"Read": 3, "Write": 4, "Describe": 8, "DescribeConfigs": 10}


def readme_acls(*, user: str, topic: str, letters: str, group: str) -> list[str]:
    """Return the README's kafka-acls.sh commands, with other names in the place of its own."""
    commands = re.findall(r"^kafka-acls\.sh (?:.*\\\n)*.*$", README.read_text(), re.MULTILINE)
    assert commands
    names = {
        "User:gigya-worker": f"User:{user}",
        "--group gigya-worker": f"--group {group}",
        "--topic user-events.dead": f"--topic {letters}",
        "--topic user-events": f"--topic {topic}",
    }
    pattern = re.compile("|".join(rf"{re.escape(name)}(?=\s)" for name in names))
    return [pattern.sub(lambda found: names[found[0]], command) for command in commands]


def parse_command(text: str) -> tuple[list[Acl], bool]:
    """Read a kafka-acls.sh command as that tool does, as far as we write any; True for a removal."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    for switch in ("--add", "--remove"):
        parser.add_argument(switch, action="store_true")
    for option in ("--topic", "--group", "--operation", "--allow-principal"):
        parser.add_argument(option, action="append", default=[])
    parser.add_argument("--bootstrap-server", required=True)
    program, *arguments = shlex.split(text.replace("\\\n", " "))
    assert program == "kafka-acls.sh"
    found = parser.parse_args(arguments)
    assert found.add != found.remove, text
    named = [(TOPIC, name) for name in found.topic] + [(GROUP, name) for name in found.group]
    rules = [
        Acl(resource, name, principal, OPERATIONS[operation])
        for resource, name in named
        for principal in found.allow_principal
        for operation in found.operation
    ]
    assert rules, text
    return rules, found.remove


_FIELDS = (
    ("resource_type", Int8),
    ("resource_name", String("utf-8")),
    ("pattern_type", Int8),
    ("principal", String("utf-8")),
    ("host", String("utf-8")),
    ("operation", Int8),
    ("permission_type", Int8),
)


class _CreateAclsAnswer(Response):
    API_KEY, API_VERSION = 30, 1
    SCHEMA = Schema(
        ("throttle_time_ms", Int32), ("results", Array(("error_code", Int16), ("error_message", String("utf-8"))))
    )


class _CreateAclsV1(RequestStruct):
    API_KEY, API_VERSION, RESPONSE_TYPE = 30, 1, _CreateAclsAnswer
    SCHEMA = Schema(("creations", Array(*_FIELDS)))


class _CreateAcls(Request[_CreateAclsV1]):
    API_KEY = 30

    def __init__(self, rules: list[Acl]) -> None:
        self._rules = rules

    def build(self, request_struct_class: type[_CreateAclsV1]) -> _CreateAclsV1:
        return request_struct_class([rule.fields for rule in self._rules])


class _DeleteAclsAnswer(Response):
    API_KEY, API_VERSION = 31, 1
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "results",
            Array(
                ("error_code", Int16),
                ("error_message", String("utf-8")),
                ("matching", Array(("error_code", Int16), ("error_message", String("utf-8")), *_FIELDS)),
            ),
        ),
    )


class _DeleteAclsV1(RequestStruct):
    API_KEY, API_VERSION, RESPONSE_TYPE = 31, 1, _DeleteAclsAnswer
    SCHEMA = Schema(("filters", Array(*_FIELDS)))


class _DeleteAcls(Request[_DeleteAclsV1]):
    API_KEY = 31

    def __init__(self, rules: list[Acl]) -> None:
        self._rules = rules

    def build(self, request_struct_class: type[_DeleteAclsV1]) -> _DeleteAclsV1:
        return request_struct_class([rule.fields for rule in self._rules])

"""Connect and log in as every client of ours does, and hear why it does not work: the library keeps that in its log."""

from __future__ import annotations

import base64
import json
import ssl
import time
from collections.abc import Mapping
from pathlib import Path

import aiokafka.conn
from aiokafka import errors as kafka_errors
from aiokafka.conn import OAuthAuthenticator, collect_hosts, create_conn

from worker.errors import StartFailed
from worker.kafka.permissions import Operation, missing
from worker.kafka.settings import KafkaSettings, connection
from worker.kafka.wording import wording

CONNECT_LIMIT_S = 5.0
# What clients of the library raise when they have no connection, whatever the reason. (TimeoutError is an OSError.)
HIDING = (
    kafka_errors.KafkaConnectionError,
    kafka_errors.NodeNotReadyError,
    kafka_errors.StaleMetadata,
    kafka_errors.GroupCoordinatorNotAvailableError,
    kafka_errors.RequestTimedOutError,
    OSError,
)


async def check_login(settings: KafkaSettings, options: Mapping[str, object] | None = None) -> None:
    """Connect to one bootstrap server and log in. Raises StartFailed, one line; takes CONNECT_LIMIT_S per server."""
    options = connection(settings) if options is None else options
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
    raise StartFailed(f"{where(settings)}: {_refusal(settings, worst)}") from worst


async def why(settings: KafkaSettings, error: BaseException) -> str:
    """Return one line that says what went wrong, and what to do.

    Where the library only knows that it has no connection, the reason is heard by one more login: a certificate that
    has expired since, a password that was changed, a token that nobody renews.
    """
    if isinstance(error, kafka_errors.TopicAuthorizationFailedError):
        topics = _topics_of(error) & set(settings.topics)
        return "; ".join(missing(settings, Operation.Read, "topic", topic) for topic in sorted(topics)) or wording(
            error
        )
    if isinstance(error, kafka_errors.GroupAuthorizationFailedError):
        return missing(settings, Operation.Read, "group", settings.group_id)
    if isinstance(error, HIDING):
        try:
            await check_login(settings)
        except StartFailed as failed:
            return str(failed).removeprefix(f"{where(settings)}: ")
    return wording(error)


def _topics_of(error: kafka_errors.TopicAuthorizationFailedError) -> set[str]:
    """Return the topics that the library names in an error: one, or several."""
    named = error.args[0] if error.args else ()
    return {named} if isinstance(named, str) else set(named)


def where(settings: KafkaSettings) -> str:
    """Return how texts name the cluster."""
    return f"Kafka at {settings.bootstrap_servers}"


def _refusal(settings: KafkaSettings, error: Exception) -> str:
    token_file = settings.security.token_file
    if isinstance(error, kafka_errors.SaslAuthenticationFailed) and token_file is not None:
        return _token_trouble(token_file, time.time())
    return wording(error)


def _token_trouble(file: Path, now_s: float) -> str:
    """Return why a broker may have refused the token in a file; no part of it."""
    place = f"the token in kafka.security.token_file {file}"
    end_s = _expiry_s(file)
    if end_s is not None and end_s <= now_s:
        return f"{place} expired {now_s - end_s:.0f} s ago; renew it (the file is read anew at each login)"
    return f"{place} was refused; see that it is for this broker (issuer, audience, scope), and whole"


def _expiry_s(file: Path) -> float | None:
    """Return when a JWT ends (Unix time), as it says itself; None where it does not, or is none."""
    try:
        claims = file.read_text().strip().split(".")[1]
        end_s = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["exp"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return float(end_s) if isinstance(end_s, int | float) else None


class _TokenLogin(OAuthAuthenticator):  # type: ignore[misc]  # aiokafka has no types
    """The library's login by token, which takes a refused token for an accepted one (0.14).

    A broker refuses a token by an answer with a text (RFC 7628, 3.2.2), where one that is accepted gets an empty one.
    The library looks at neither. The broker then answers its next request emptily and closes: clients hang.
    """

    async def step(self, payload: bytes | None) -> tuple[bytes, bool] | None:
        if payload:
            raise kafka_errors.SaslAuthenticationFailed("the token was refused")
        step: tuple[bytes, bool] | None = await super().step(payload)
        return step


aiokafka.conn.OAuthAuthenticator = _TokenLogin

"""The `kafka:` part of the settings, and what it means to the client library. Reads the files that it names."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Annotated, Literal, Self

from aiokafka.abc import AbstractTokenProvider
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from worker.errors import StartFailed

_FROZEN = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)
# Kafka's own rule for topics: letters, digits, dot, underscore, dash; not "." or ".."; 249 at most (Topic.java, 4.3).
TopicName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$", min_length=1, max_length=249)]
Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]


class SecuritySettings(BaseModel):
    """How the worker proves who it is, and how it knows the brokers."""

    model_config = _FROZEN

    protocol: Protocol = Field(default="PLAINTEXT", description="How the connection is secured.")
    mechanism: Mechanism | None = Field(default=None, description="How to log in; with SASL_* only.")
    username: str | None = Field(default=None, description="For PLAIN and SCRAM.")
    password: SecretStr | None = Field(default=None, description="For PLAIN and SCRAM.")
    ca_file: Path | None = Field(
        default=None, description="Certificates to trust (PEM); without it, those of the system."
    )
    cert_file: Path | None = Field(default=None, description="The client's own certificate (PEM), where one is asked.")
    key_file: Path | None = Field(default=None, description="Its private key (PEM), unless cert_file holds it.")
    token_file: Path | None = Field(
        default=None, description="For OAUTHBEARER: a file with the token, read anew at each login."
    )

    @property
    def is_encrypted(self) -> bool:
        return self.protocol in ("SSL", "SASL_SSL")

    @property
    def has_login(self) -> bool:
        return self.protocol.startswith("SASL_")

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        given = {name for name in type(self).model_fields if getattr(self, name) is not None}
        login, files = {"mechanism", "username", "password", "token_file"}, {"ca_file", "cert_file", "key_file"}
        if not self.has_login and given & login:
            raise ValueError(
                f"{_names(given & login)} without a login; set protocol to SASL_SSL (or SASL_PLAINTEXT), or remove it"
            )
        if not self.is_encrypted and given & files:
            raise ValueError(
                f"{_names(given & files)} without encryption; set protocol to SSL or SASL_SSL, or remove it"
            )
        if "key_file" in given and "cert_file" not in given:
            raise ValueError("key_file without cert_file; name the certificate, too")
        if self.has_login:
            self._check_login(given)
        return self

    def _check_login(self, given: set[str]) -> None:
        if self.mechanism is None:
            raise ValueError("mechanism is missing; one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER")
        if self.mechanism == "OAUTHBEARER":
            needed, foreign = {"token_file"}, {"username", "password"}
        else:
            needed, foreign = {"username", "password"}, {"token_file"}
        if needed - given:
            raise ValueError(f"{_names(needed - given)} is missing; {self.mechanism} needs it")
        if foreign & given:
            raise ValueError(f"{_names(foreign & given)} has no meaning with {self.mechanism}; remove it")


class KafkaSettings(BaseModel):
    """Where events come from, and where dead letters go."""

    model_config = _FROZEN

    bootstrap_servers: Annotated[str, Field(min_length=1)] = Field(
        description="host:port of one broker or more, separated by commas."
    )
    group_id: Annotated[str, Field(min_length=1)] = Field(description="The consumer group.")
    topics: Annotated[tuple[TopicName, ...], Field(min_length=1)] = Field(description="The topics to read.")
    dead_letter_topic: TopicName = Field(description="Where dead letters go; purely compacted.")
    start: Literal["earliest", "latest"] = Field(
        default="earliest", description="Where a group without any offset begins."
    )
    session_timeout_s: Annotated[float, Field(ge=1, le=1800)] = Field(
        default=45, description="Without a heartbeat for so long, a member loses its partitions."
    )
    security: SecuritySettings = Field(default=SecuritySettings(), description="Encryption and login.")

    @property
    def heartbeat_interval_s(self) -> float:
        """How often a member gives a sign of life: never rarer than three times a session."""
        return min(3.0, self.session_timeout_s / 3)

    @field_validator("bootstrap_servers")
    @classmethod
    def _are_addresses(cls, value: str) -> str:
        for address in value.split(","):
            host, _, port = address.strip().rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 65536:
                raise ValueError("must be host:port, or several separated by commas")
        return ",".join(address.strip() for address in value.split(","))

    @field_validator("topics")
    @classmethod
    def _are_different(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("names a topic twice; remove one")
        return value


def _names(fields: set[str]) -> str:
    return " and ".join(sorted(fields))


class _TokenFile(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka has no types
    """Reads the token at each login, so that whoever renews the file need not restart the worker."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def token(self) -> str:
        return (await asyncio.to_thread(self._path.read_text)).strip()


def connection(settings: KafkaSettings) -> dict[str, object]:
    """Return what every aiokafka client of ours is given to connect. Raises StartFailed for a file that is no good."""
    security = settings.security
    options: dict[str, object] = {
        "bootstrap_servers": settings.bootstrap_servers,
        "client_id": "gigya-worker",
        "security_protocol": security.protocol,
        # The default of 0.1 s fills the log with 60 lines a second while a broker is away.
        "retry_backoff_ms": 1000,
    }
    if security.is_encrypted:
        options["ssl_context"] = _ssl_context(security)
    if security.has_login:
        options["sasl_mechanism"] = security.mechanism
        if security.token_file is not None:
            if not _read("token_file", security.token_file).strip():
                raise StartFailed(f"kafka.security.token_file {security.token_file} is empty")
            options["sasl_oauth_token_provider"] = _TokenFile(security.token_file)
        elif security.password is not None:
            options["sasl_plain_username"] = security.username
            options["sasl_plain_password"] = security.password.get_secret_value()
    return options


def _ssl_context(security: SecuritySettings) -> ssl.SSLContext:
    for name in ("ca_file", "cert_file", "key_file"):
        if (path := getattr(security, name)) is not None:
            _read(name, path)
    try:
        context = ssl.create_default_context(cafile=security.ca_file)
    except (ssl.SSLError, OSError) as error:
        raise StartFailed(f"kafka.security.ca_file {security.ca_file} holds no certificate in PEM form") from error
    if security.cert_file is not None:
        try:
            # The empty password keeps OpenSSL from asking at the terminal for one.
            context.load_cert_chain(security.cert_file, security.key_file, password="")
        except (ssl.SSLError, OSError) as error:
            raise StartFailed(
                f"kafka.security.cert_file {security.cert_file} and its key do not fit together; both must be in PEM"
                " form, the key without a pass phrase"
            ) from error
    return context


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StartFailed(
            f"kafka.security.{name} {path} cannot be read ({error.strerror or type(error).__name__})"
        ) from error

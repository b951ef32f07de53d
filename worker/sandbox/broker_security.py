"""What a secure local Kafka needs beyond a plain one: listeners, users, certificates, permissions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from worker.sandbox.certificates import Authority

USER, PASSWORD = "tester", "tester-secret"
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
# Name of the listener -> its protocol.
LISTENERS: Mapping[str, str] = {
    "SSL": "SSL",
    "MUTUAL_TLS": "SSL",
    "SASL_PLAINTEXT": "SASL_PLAINTEXT",
    "SASL_SSL": "SASL_SSL",
}
# Who comes by PLAINTEXT may do everything and hands out permissions; everybody else may do nothing without one.
AUTHORIZER: Mapping[str, str] = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:ANONYMOUS",
}
_MODULES = "org.apache.kafka.common.security"


def make_certificates(folder: Path, authority: Authority, host: str) -> None:
    """Write what brokers and clients need: broker.pem and client.pem (key and certificate), ca.pem to trust."""
    (folder / "broker.pem").write_bytes(authority.issue("broker", hosts=("localhost", host)))
    (folder / "client.pem").write_bytes(authority.issue(USER))
    (folder / "ca.pem").write_bytes(authority.pem)  # the last one: where it is, the others are


def scram_users(users: Mapping[str, str]) -> list[str]:
    """Return the arguments that make Kafka's format tool remember passwords."""
    return [
        argument
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
        for user, password in users.items()
        for argument in ("--add-scram", f"{mechanism}=[name={user},password={password}]")
    ]


def broker_settings(folder: Path, users: Mapping[str, str]) -> dict[str, str]:
    """Return what a broker is told of certificates and logins."""
    settings = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(folder / "broker.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(folder / "ca.pem"),
        "listener.name.mutual_tls.ssl.client.auth": "required",
    }
    plain = " ".join(f'user_{user}="{password}"' for user, password in users.items())
    for listener in ("sasl_plaintext", "sasl_ssl"):
        prefix = f"listener.name.{listener}"
        settings[f"{prefix}.sasl.enabled.mechanisms"] = ",".join(MECHANISMS)
        settings[f"{prefix}.plain.sasl.jaas.config"] = f"{_MODULES}.plain.PlainLoginModule required {plain};"
        for mechanism in ("scram-sha-256", "scram-sha-512"):
            settings[f"{prefix}.{mechanism}.sasl.jaas.config"] = f"{_MODULES}.scram.ScramLoginModule required;"
        # Without a handler named here the broker takes unsigned tokens (JWT, alg none) and looks at their times only.
        settings[f"{prefix}.oauthbearer.sasl.jaas.config"] = (
            f'{_MODULES}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";'
        )
    return settings

"""What goes wrong with Kafka, in words: the one table at this edge."""

from __future__ import annotations

import ssl

from aiokafka import errors as kafka_errors

# What a person reads instead of the library's exception, and what to do about it. The first row that fits counts, so
# the special ones come first.
WORDINGS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (kafka_errors.SaslAuthenticationFailed, "the login was refused; check kafka.security.username and password"),
    (
        (kafka_errors.UnsupportedSaslMechanismError, kafka_errors.IllegalSaslStateError),
        "this listener does not take the login; check kafka.security.protocol and mechanism, and the port",
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
    (kafka_errors.IncompatibleBrokerVersion, "the broker is too old; Kafka 2.3 or newer is needed"),
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
# OpenSSL's codes for what is wrong with a certificate (x509_vfy.h).
NOT_YET_VALID, EXPIRED, OTHER_NAME, OTHER_ADDRESS = 9, 10, 62, 64


def wording(error: BaseException) -> str:
    """Return one line that says what went wrong and what to do; safe to log."""
    if isinstance(error, kafka_errors.KafkaConnectionError) and isinstance(error.__cause__, ssl.SSLError):
        error = error.__cause__  # TLS 1.3: a refused client certificate is heard of after the handshake
    if isinstance(error, ssl.SSLError) and (text := _of_certificate(error)):
        return text
    for kinds, text in WORDINGS:
        if isinstance(error, kinds):
            return text
    return type(error).__name__


def _of_certificate(error: ssl.SSLError) -> str:
    """Return what is wrong with the broker's certificate, or with ours; empty for other trouble."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in (NOT_YET_VALID, EXPIRED):
            state = "has expired" if error.verify_code == EXPIRED else "is not valid yet"
            return f"the broker's certificate {state}; renew it, or set this machine's clock right"
        if error.verify_code in (OTHER_NAME, OTHER_ADDRESS):
            return (
                "the broker's certificate is for another name; give in kafka.bootstrap_servers, and in the broker's"
                " advertised.listeners, a name that the certificate holds"
            )
        return (
            f"the broker's certificate is not trusted ({error.verify_message}); name the certificate of its authority"
            " in kafka.security.ca_file"
        )
    # Alerts that the broker sent, by OpenSSL's names: only the text holds them.
    text = str(error).upper()
    if "ALERT_CERTIFICATE_REQUIRED" in text:
        return "the broker asks for a client certificate; name one in kafka.security.cert_file (and key_file)"
    if "ALERT" in text and ("CERTIFICATE" in text or "UNKNOWN_CA" in text):
        return (
            "the broker refused the client certificate; it has expired, is of an authority that the broker does not"
            " trust, or is missing: check kafka.security.cert_file"
        )
    return ""

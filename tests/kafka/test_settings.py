"""What the `kafka:` part of the settings accepts, and what it says to the rest."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from worker.errors import StartFailed
from worker.kafka.settings import KafkaSettings, connection

GOOD = {"bootstrap_servers": "one:9092", "group_id": "g", "topics": ["t"], "dead_letter_topic": "t.dead"}
LOGIN = {"protocol": "SASL_SSL", "mechanism": "PLAIN", "username": "u", "password": "hush-hush"}


def test_defaults_are_those_of_the_documentation():
    settings = KafkaSettings(**GOOD)
    assert (settings.start, settings.session_timeout_s, settings.security.protocol) == ("earliest", 45, "PLAINTEXT")
    assert settings.heartbeat_interval_s == 3


def test_a_short_session_beats_at_least_three_times():
    assert KafkaSettings(**GOOD, session_timeout_s=3).heartbeat_interval_s == 1


@pytest.mark.parametrize("servers", ["a:1", "a:1,b:65535", " a:1 , b:2", "[::1]:9092"])
def test_addresses_are_host_and_port(servers):
    assert " " not in KafkaSettings(**GOOD | {"bootstrap_servers": servers}).bootstrap_servers


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"bootstrap_servers": ""}, "bootstrap_servers"),
        ({"bootstrap_servers": "one"}, "must be host:port"),
        ({"bootstrap_servers": "one:70000"}, "must be host:port"),
        ({"bootstrap_servers": "one:9092,"}, "must be host:port"),
        ({"group_id": ""}, "group_id"),
        ({"topics": []}, "topics"),
        ({"topics": ["a", "a"]}, "names a topic twice"),
        ({"topics": ["a b"]}, "topics"),
        ({"topics": ["x" * 250]}, "topics"),
        ({"start": "middle"}, "start"),
        ({"session_timeout_s": 0}, "session_timeout_s"),
        ({"session_timeout_s": float("nan")}, "session_timeout_s"),
        ({"security": {"protocol": "SSH"}}, "protocol"),
        ({"security": {"username": "u"}}, "username without a login"),
        ({"security": {"ca_file": "/ca.pem"}}, "ca_file without encryption"),
        ({"security": {"protocol": "SSL", "key_file": "/key.pem"}}, "key_file without cert_file"),
        ({"security": {"protocol": "SASL_SSL"}}, "mechanism is missing"),
        ({"security": {"protocol": "SASL_SSL", "mechanism": "PLAIN", "username": "u"}}, "password is missing"),
        ({"security": {"protocol": "SASL_SSL", "mechanism": "OAUTHBEARER"}}, "token_file is missing"),
        (
            {"security": {"protocol": "SASL_SSL", "mechanism": "OAUTHBEARER", "token_file": "t", "username": "u"}},
            "remove",
        ),
        ({"security": LOGIN | {"mechanism": "MD5"}}, "mechanism"),
    ],
)
def test_what_cannot_work_is_refused(change, text):
    with pytest.raises(ValidationError, match=text):
        KafkaSettings(**GOOD | change)


def test_a_password_is_seen_nowhere():
    settings = KafkaSettings(**GOOD, security=LOGIN)
    assert "hush-hush" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    with pytest.raises(ValidationError) as caught:
        KafkaSettings(**GOOD, security=LOGIN | {"protocol": "PLAINTEXT"})
    assert "hush-hush" not in str(caught.value)


@pytest.mark.parametrize(
    "security",
    [
        {"protocol": "SSL", "ca_file": "{missing}"},
        {"protocol": "SSL", "ca_file": "{garbage}"},
        {"protocol": "SSL", "cert_file": "{garbage}"},
        {"protocol": "SASL_PLAINTEXT", "mechanism": "OAUTHBEARER", "token_file": "{missing}"},
    ],
)
def test_a_file_that_is_no_good_is_named_in_one_line(security, tmp_path):
    (tmp_path / "garbage").write_text("no certificate")
    files = {"{missing}": str(tmp_path / "missing"), "{garbage}": str(tmp_path / "garbage")}
    settings = KafkaSettings(**GOOD, security={name: files.get(value, value) for name, value in security.items()})
    with pytest.raises(StartFailed, match=r"kafka\.security\.\w+_file .*/(missing|garbage)") as caught:
        connection(settings)
    assert "\n" not in str(caught.value)


async def test_a_token_is_read_anew_at_each_login(tmp_path):
    token = tmp_path / "token"
    token.write_text("first\n")
    security = {"protocol": "SASL_PLAINTEXT", "mechanism": "OAUTHBEARER", "token_file": token}
    provider = connection(KafkaSettings(**GOOD, security=security))["sasl_oauth_token_provider"]
    assert await provider.token() == "first"
    token.write_text("second\n")
    assert await provider.token() == "second"

"""Every way to come in works with the right papers, and says in one line what is wrong with the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.harness import Owner, read_all
from tests.secure import RELOGIN_MS, USERS, WAYS, SecureKafka, Way, unsigned_token
from worker.clock import SystemClock
from worker.errors import StartFailed
from worker.kafka.client import KafkaProducer, KafkaSettings, check_cluster, examine_cluster
from worker.kafka.source import KafkaSource, Position
from worker.model import TopicPartition
from worker.sandbox.broker import Topic, create_topics

TOKEN = Way("SASL_SSL", "OAUTHBEARER")


@pytest.fixture
async def topics(secure_kafka: SecureKafka, fresh_name: Callable[[str], str]) -> tuple[str, str, str]:
    """Return a topic, its dead-letter topic and a group, in which everybody who is called tester may do his work."""
    topic, group = fresh_name("topic"), fresh_name("group")
    letters = f"{topic}.dead"
    await create_topics(secure_kafka.bootstrap, [Topic(topic), Topic.dead_letters(letters)])
    for_all = "kafka-acls.sh --bootstrap-server b --add --allow-principal User:tester --allow-principal User:CN=tester"
    await secure_kafka.run(
        [
            f"{for_all} --group {group} --operation Read",
            f"{for_all} --topic {topic} --operation Read --operation DescribeConfigs",
            f"{for_all} --topic {letters} --operation Write --operation DescribeConfigs",
        ]
    )
    return topic, letters, group


@pytest.fixture
def settings(secure_kafka: SecureKafka, topics: tuple[str, str, str]) -> Callable[..., KafkaSettings]:
    topic, letters, group = topics
    named = {"topics": [topic], "dead_letter_topic": letters, "group_id": group, "session_timeout_s": 2}

    def made(way: Way, *, user: str = "tester", bootstrap_servers: str = "", **security: Any) -> KafkaSettings:
        given = secure_kafka.settings(way, user=user, **security)
        if bootstrap_servers:
            given["bootstrap_servers"] = bootstrap_servers
        return KafkaSettings(**named, **given)

    return made


@pytest.fixture
async def opened() -> AsyncIterator[Callable[[KafkaSettings], Any]]:
    sources: list[KafkaSource] = []

    async def start(settings: KafkaSettings) -> KafkaSource:
        source = KafkaSource(settings, drain_s=1, clock=SystemClock())
        sources.append(source)
        await source.start(Owner())
        return source

    yield start
    for source in sources:
        await source.stop()


async def said(settings: KafkaSettings) -> str:
    with pytest.raises(StartFailed) as caught:
        await check_cluster(settings, limit_s=10)
    line = str(caught.value)
    assert "\n" not in line
    assert not [password for password in USERS.values() if password in line]
    return line.removeprefix(f"Kafka at {settings.bootstrap_servers}: ")


@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_by_every_way_one_can_read_commit_and_write(secure_kafka, settings, topics, opened, way):
    topic, letters, _ = topics
    ours = settings(way)
    await check_cluster(ours)
    producer = KafkaProducer(ours)
    await producer.start()
    await producer.send(letters, b"key", b"letter", [])
    await producer.stop()
    await append(secure_kafka, topic, b"record")
    source = await opened(ours)
    assert [record.value for record in await read_all(source, 1)] == [b"record"]
    partition = TopicPartition(topic, 0)
    await source.commit({partition: Position(1)})
    assert await source.committed([partition]) == {partition: Position(1)}


async def append(secure_kafka: SecureKafka, topic: str, *values: bytes) -> None:
    from aiokafka import AIOKafkaProducer

    async with AIOKafkaProducer(bootstrap_servers=secure_kafka.bootstrap) as producer:
        for value in values:
            await producer.send_and_wait(topic, value)


@pytest.mark.parametrize(
    ("way", "changes", "texts"),
    [
        (Way("EXPIRED"), {}, ["the broker's certificate has expired; renew it"]),
        (Way("OTHER_NAME"), {}, ["the broker's certificate is for another name; give in kafka.bootstrap_servers"]),
        (Way("SSL"), {"ca_file": "other-ca.pem"}, ["certificate is not trusted (", "kafka.security.ca_file"]),
        (Way("SSL"), {"ca_file": None}, ["certificate is not trusted (", "kafka.security.ca_file"]),
        (
            Way("MUTUAL_TLS"),
            {"cert_file": None, "key_file": None},
            ["the broker asks for a client certificate; name one in kafka.security.cert_file"],
        ),
        (
            Way("MUTUAL_TLS"),
            {"cert_file": "client-expired.pem", "key_file": None},
            ["the broker refused the client certificate; it has expired", "kafka.security.cert_file"],
        ),
        (
            Way("MUTUAL_TLS"),
            {"cert_file": "client-of-other-ca.pem", "key_file": None},
            ["the broker refused the client certificate", "does not trust"],
        ),
    ],
    ids=str,
)
async def test_a_certificate_that_does_not_fit_is_told_by_what_is_wrong_with_it(
    secure_kafka, settings, way, changes, texts
):
    files = {name: str(secure_kafka.folder / file) if file else None for name, file in changes.items()}
    line = await said(settings(way, **files))
    assert [text for text in texts if text not in line] == []


async def test_the_names_in_a_certificate_are_all_good(secure_kafka, settings):
    port = secure_kafka.kafka.bootstrap("SSL").rpartition(":")[2]
    await check_cluster(settings(Way("SSL"), bootstrap_servers=f"localhost:{port}"))


@pytest.mark.parametrize("way", [way for way in WAYS if way.mechanism and way != TOKEN], ids=str)
async def test_a_login_that_is_refused_says_which_setting_to_look_at(settings, tmp_path, way):
    if way.mechanism == "OAUTHBEARER":
        line = await said(settings(way, token_file=written(tmp_path, "not.a.token")))
        assert line.startswith(f"the token in kafka.security.token_file {tmp_path / 'token'} was refused; see that")
        return
    assert await said(settings(way, password="guessed")) == (
        "the login was refused; check kafka.security.username and password"
    )
    assert "the login was refused" in await said(settings(way, username="nobody"))


def written(folder: Path, token: str) -> Path:
    (folder / "token").write_text(token)
    return folder / "token"


async def test_a_token_that_has_expired_says_since_when_and_a_new_one_is_taken_without_a_restart(settings, tmp_path):
    ours = settings(TOKEN, token_file=written(tmp_path, unsigned_token("tester", ends_in_s=-120)))
    line = await said(ours)
    assert line.startswith(f"the token in kafka.security.token_file {tmp_path / 'token'} expired 12")
    assert "renew it (the file is read anew at each login)" in line
    written(tmp_path, unsigned_token("tester", ends_in_s=60) + "\n")
    await check_cluster(ours)


async def test_an_empty_token_file_is_named(settings, tmp_path):
    line = await said(settings(TOKEN, token_file=written(tmp_path, "\n")))
    assert line == f"kafka.security.token_file {tmp_path / 'token'} is empty"


async def test_a_login_that_the_broker_ends_is_followed_by_another_with_the_token_of_then(
    secure_kafka, settings, topics, opened, tmp_path
):
    """What becomes of one whose token nobody renews is in tests/journeys/test_secure_stream.py."""
    topic, _, _ = topics
    token = written(tmp_path, unsigned_token("tester", ends_in_s=RELOGIN_MS / 1000))
    source = await opened(settings(Way("SASL_PLAINTEXT", "OAUTHBEARER"), token_file=token))
    written(tmp_path, unsigned_token("tester", ends_in_s=3600))
    await asyncio.sleep(RELOGIN_MS / 1000 + 0.3)
    await append(secure_kafka, topic, b"after another login")
    assert [record.value for record in await read_all(source, 1)] == [b"after another login"]
    assert source.trouble == ""


async def test_preflight_hears_the_reason_of_a_refused_login_too(settings):
    (only,) = await examine_cluster(settings(Way("SASL_SSL", "SCRAM-SHA-512"), password="guessed"))
    assert only.check == "connection"
    assert "the login was refused" in str(only.problem)

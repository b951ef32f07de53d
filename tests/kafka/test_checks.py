"""Each thing that is wrong with a cluster is one line that says what to do, before anything is consumed."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from tests.secure import USERS, SecureKafka
from worker.errors import StartFailed
from worker.kafka.client import KafkaProducer, KafkaSettings, check_cluster, examine_cluster
from worker.sandbox.broker import LocalKafka, Topic, create_topics

pytestmark = pytest.mark.broker

TOPICS = (
    Topic("events", 2),
    Topic.dead_letters("letters"),
    Topic("deleted-with-age"),
    Topic("both", settings={"cleanup.policy": "compact,delete"}),
    Topic("narrow", settings={"cleanup.policy": "compact", "max.message.bytes": "1000"}),
)


@pytest.fixture(scope="module")
def secure(secure_kafka: SecureKafka) -> LocalKafka:
    asyncio.run(create_topics(secure_kafka.bootstrap, TOPICS))
    return secure_kafka.kafka


def settings(kafka: LocalKafka, listener: str = "PLAINTEXT", **changes: object) -> KafkaSettings:
    whole = {"bootstrap_servers": kafka.bootstrap(listener), "group_id": "group", "topics": ["events"]}
    return KafkaSettings(**{**whole, "dead_letter_topic": "letters", **changes})


def login(protocol: str = "SASL_PLAINTEXT", mechanism: str = "PLAIN", **changes: object) -> dict[str, object]:
    known = {"username": "tester", "password": USERS["tester"]}
    return {"protocol": protocol, "mechanism": mechanism, **known, **changes}


async def said(settings: KafkaSettings) -> str:
    with pytest.raises(StartFailed) as caught:
        await check_cluster(settings, limit_s=10)
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_a_cluster_that_has_everything_passes(secure):
    await check_cluster(settings(secure))


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({"topics": ["events", "nope"]}, ["topic nope does not exist", "--create --topic nope"]),
        ({"dead_letter_topic": "nope"}, ["dead-letter topic nope does not exist", "cleanup.policy=compact"]),
        ({"dead_letter_topic": "events"}, ["is among kafka.topics"]),
        ({"dead_letter_topic": "deleted-with-age"}, ["has cleanup.policy delete", "cleanup.policy=compact"]),
        ({"dead_letter_topic": "both"}, ["has cleanup.policy compact,delete"]),
        ({"dead_letter_topic": "narrow"}, ["takes messages up to 1000 bytes", "max.message.bytes=1048588"]),
    ],
)
async def test_a_topic_that_will_not_do_is_named_with_the_remedy(secure, changes, texts):
    line = await said(settings(secure, **changes))
    assert [text for text in texts if text not in line] == []


async def test_a_topic_is_not_created_by_asking_for_it(secure):
    await said(settings(secure, topics=["asked-for"]))
    assert "topic asked-for does not exist" in await said(settings(secure, topics=["asked-for"]))


async def test_a_port_where_nothing_listens_is_told_at_once():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        began_s = time.monotonic()
        base = {"group_id": "g", "topics": ["t"], "dead_letter_topic": "d"}
        line = await said(KafkaSettings(bootstrap_servers=f"127.0.0.1:{port}", **base))
    assert f"Kafka at 127.0.0.1:{port}: nothing answers there" in line
    assert time.monotonic() - began_s < 3


async def test_a_server_that_never_answers_is_told_in_time():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        base = {"group_id": "g", "topics": ["t"], "dead_letter_topic": "d"}
        bootstrap = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(StartFailed, match="no answer in time"):
            await check_cluster(KafkaSettings(bootstrap_servers=bootstrap, **base), limit_s=0.5)


async def test_one_bootstrap_server_that_answers_is_enough(secure):
    await check_cluster(settings(secure, bootstrap_servers=f"127.0.0.1:9,{secure.bootstrap()}"))


async def test_the_wrong_protocol_for_a_port_is_told(secure):
    assert "protocol" in await said(settings(secure, "SASL_PLAINTEXT"))
    assert "protocol" in await said(settings(secure, "PLAINTEXT", security=login()))


async def test_a_producer_that_cannot_connect_says_so(secure):
    producer = KafkaProducer(settings(secure, "SASL_PLAINTEXT"), send_limit_s=5)
    with pytest.raises(StartFailed, match="Kafka at"):
        await producer.start()
    await producer.stop()


async def test_each_check_is_told_by_itself_and_none_hides_the_next(secure):
    whole = settings(secure, topics=["events", "nope"], dead_letter_topic="narrow")
    found = {(one.check, one.subject): one.problem for one in await examine_cluster(whole)}
    assert [check for check, _ in found] == [
        "connection", "topic", "topic", "dead-letter topic", "dead-letter settings", "group",
    ]  # fmt: skip
    assert "topic nope does not exist" in str(found["topic", "nope"])
    assert "takes messages up to 1000 bytes" in str(found["dead-letter settings", "narrow"])
    assert sum(problem is not None for problem in found.values()) == 2


async def test_examining_ends_where_nothing_more_can_be_asked(secure):
    (only,) = await examine_cluster(settings(secure, "SASL_PLAINTEXT", security=login(password="wrong")))
    assert only.check == "connection"
    assert "the login was refused" in str(only.problem)

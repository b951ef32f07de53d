"""Each permission that is missing is a line with the command that grants it; the README's commands grant them all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.contracts.harness import Owner
from tests.secure import SecureKafka, Way, parse_command, readme_acls
from worker.clock import SystemClock
from worker.errors import StartFailed, WriteFailed
from worker.kafka.client import KafkaProducer, KafkaSettings, check_cluster, examine_cluster
from worker.kafka.source import KafkaSource, SourceFailed
from worker.sandbox.broker import Topic, create_topics

PASSWORD_LOGIN = Way("SASL_PLAINTEXT", "SCRAM-SHA-256")


@pytest.fixture
async def settings(secure_kafka: SecureKafka, fresh_name: Callable[[str], str]) -> Callable[..., KafkaSettings]:
    topic, group = fresh_name("topic"), fresh_name("group")
    letters = f"{topic}.dead"
    await create_topics(secure_kafka.bootstrap, [Topic(topic), Topic.dead_letters(letters)])

    def made(user: str, way: Way = PASSWORD_LOGIN) -> KafkaSettings:
        given = secure_kafka.settings(way, user=user)
        return KafkaSettings(topics=[topic], dead_letter_topic=letters, group_id=group, session_timeout_s=6, **given)

    return made


async def lines(settings: KafkaSettings) -> list[str]:
    with pytest.raises(StartFailed) as caught:
        await check_cluster(settings)
    return str(caught.value).splitlines()


async def test_following_the_remedies_of_a_stranger_grants_what_the_readme_does_and_no_more(secure_kafka, settings):
    ours = settings("stranger")
    granted = set()
    for _ in range(3):
        try:
            await check_cluster(ours)
            break
        except StartFailed as failed:
            commands = [line.partition("; grant it: ")[2] for line in str(failed).splitlines()]
        assert all(commands), "a line without its command"
        await secure_kafka.run(commands)
        granted |= {rule for command in commands for rule in parse_command(command)[0]}
    await check_cluster(ours)

    texts = readme_acls(user="stranger", topic=ours.topics[0], letters=ours.dead_letter_topic, group=ours.group_id)
    told = {rule for text in texts for rule in parse_command(text)[0]}
    # Read and Write let one describe, too. The README says Describe all the same: then a Write that is taken away
    # leaves a producer that is told so, and not one that does not find its topic.
    assert granted <= told
    assert {rule.operation for rule in told - granted} == {8}
    await secure_kafka.run(command.replace("--add", "--remove") for command in texts)


async def test_a_stranger_is_told_everything_at_once_one_line_for_each(settings):
    ours = settings("stranger")
    topic, letters = ours.topics[0], ours.dead_letter_topic
    found = [line.partition("; ")[0] for line in await lines(ours)]
    assert found == [
        f"this login has no permission Read on topic {topic}",
        f"this login has no permission Write on topic {letters}",
        f"this login has no permission DescribeConfigs on topic {letters}",
        f"this login has no permission DescribeConfigs on topic {topic}",
        f"this login has no permission Read on group {ours.group_id}",
    ]


@pytest.mark.parametrize(
    ("kind", "operation"),
    [
        ("topic", "Read"),
        ("topic", "DescribeConfigs"),
        ("dead", "Write"),
        ("dead", "DescribeConfigs"),
        ("group", "Read"),
    ],
)
async def test_the_one_permission_that_is_missing_is_the_one_that_is_named(secure_kafka, settings, kind, operation):
    ours = settings("reader")
    commands = grants(ours, "reader")
    await secure_kafka.run(commands)
    await check_cluster(ours)
    resource, name = {
        "topic": ("topic", ours.topics[0]),
        "dead": ("topic", ours.dead_letter_topic),
        "group": ("group", ours.group_id),
    }[kind]
    common = f"kafka-acls.sh --bootstrap-server {ours.bootstrap_servers}"
    what = f"--allow-principal User:reader --{resource} {name} --operation {operation}"
    await secure_kafka.run([f"{common} --remove {what}"])
    assert await lines(ours) == [
        f"this login has no permission {operation} on {resource} {name}; grant it: {common} --add {what}"
    ]
    failed = [finding for finding in await examine_cluster(ours) if finding.problem is not None]
    assert [str(finding.problem) for finding in failed] == await lines(ours)


def grants(settings: KafkaSettings, user: str) -> list[str]:
    return readme_acls(user=user, topic=settings.topics[0], letters=settings.dead_letter_topic, group=settings.group_id)


async def test_whom_to_grant_it_is_left_open_where_only_the_broker_knows(settings):
    ours = settings("stranger", Way("MUTUAL_TLS"))
    assert all("--allow-principal User:PRINCIPAL " in line for line in await lines(ours))


async def test_a_producer_whose_permission_is_taken_away_names_it_and_goes_on_when_it_is_back(secure_kafka, settings):
    ours = settings("worker-1")
    await secure_kafka.run(grants(ours, "worker-1"))
    producer = KafkaProducer(ours, send_limit_s=5)
    await producer.start()
    await producer.send(ours.dead_letter_topic, b"k", b"1", [])
    write = f"--allow-principal User:worker-1 --topic {ours.dead_letter_topic} --operation Write"
    common = f"kafka-acls.sh --bootstrap-server {ours.bootstrap_servers}"
    await secure_kafka.run([f"{common} --remove {write}"])
    for _ in range(2):  # the second by a fresh producer, which may write nowhere
        with pytest.raises(WriteFailed) as caught:
            await producer.send(ours.dead_letter_topic, b"k", b"2", [])
        assert str(caught.value).endswith(f"; grant it: {common} --add {write}")
    await secure_kafka.run([f"{common} --add {write}"])
    await producer.send(ours.dead_letter_topic, b"k", b"3", [])
    await producer.stop()


async def test_a_reader_whose_permission_is_taken_away_names_it(secure_kafka, settings):
    ours = settings("worker-2")
    await secure_kafka.run(grants(ours, "worker-2"))
    source = KafkaSource(ours, drain_s=1, clock=SystemClock())
    await source.start(Owner())
    read = f"--allow-principal User:worker-2 --topic {ours.topics[0]} --operation Read"
    common = f"kafka-acls.sh --bootstrap-server {ours.bootstrap_servers}"
    await secure_kafka.run([f"{common} --remove {read}"])
    with pytest.raises(SourceFailed) as caught:
        await read_on(source)
    assert f"grant it: {common} --add {read}" in str(caught.value)
    await source.stop()


async def read_on(source: KafkaSource) -> None:
    async with asyncio.timeout(10):
        while True:
            await source.read(source.assignment(), max_records=1, timeout_s=0.1)

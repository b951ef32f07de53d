"""What the source and the producer do while the broker is away, and when it is back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from tests.contracts.harness import KafkaScene, Owner, read_all
from tests.journeys.brokerview import BrokerView
from worker.errors import WriteFailed
from worker.kafka import source as source_module
from worker.kafka.client import KafkaProducer
from worker.kafka.source import CommitFailed, Position, SourceFailed
from worker.sandbox.broker import LocalKafka, Topic, create_topics

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def broker() -> Iterator[LocalKafka]:
    kafka = LocalKafka()
    yield kafka
    kafka.close()


@pytest.fixture
def kafka(broker: LocalKafka) -> LocalKafka:
    """A broker that runs, whatever the test before has done to it."""
    broker.start()
    return broker


async def test_a_crash_of_the_broker_loses_no_record_and_bounds_every_wait(kafka, fresh_name, monkeypatch):
    monkeypatch.setattr(source_module, "COMMIT_LIMIT_S", 0.5)
    monkeypatch.setattr(source_module, "REQUEST_LIMIT_S", 0.5)
    scene = KafkaScene(kafka.bootstrap(), fresh_name)
    (partition,) = await scene.topic()
    await scene.append(partition, b"before")
    source = scene.source([partition.topic], fresh_name("group"))
    await source.start(Owner())
    assert [record.value for record in await read_all(source, 1)] == [b"before"]
    await asyncio.to_thread(kafka.kill)
    with pytest.raises(CommitFailed):
        await source.commit({partition: Position(1)})
    with pytest.raises(SourceFailed):
        await source.end_offsets([partition])
    assert await source.read([partition], max_records=10, timeout_s=0.1) == {}
    await asyncio.to_thread(kafka.start)
    await scene.append(partition, b"after")
    assert [record.value for record in await read_all(source, 1, limit_s=20)] == [b"after"]
    await _until_committed(source, {partition: Position(2)})
    await source.stop()
    await scene.close()


async def _until_committed(source, positions) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                return await source.commit(positions)
            except CommitFailed:
                await source.read((), max_records=1, timeout_s=0.2)


async def test_a_clean_stop_in_the_middle_of_writes_costs_next_to_nothing_while_they_wait(kafka, fresh_name):
    """The library alone asks for the new leader thousands of times a second, as long as a write waits for one."""
    scene = KafkaScene(kafka.bootstrap(), fresh_name)
    (partition,) = await scene.topic(settings={"cleanup.policy": "compact"})
    producer = KafkaProducer(scene.settings(["unread"], "unread"), send_limit_s=6.0)
    await producer.start()

    async def write_until_it_fails() -> str:
        while True:
            try:
                await producer.send(partition.topic, b"k", b"v", [])
            except WriteFailed as failed:
                return str(failed)

    writing = [asyncio.create_task(write_until_it_fails()) for _ in range(8)]
    await asyncio.to_thread(kafka.stop)
    used_s = time.process_time()
    await asyncio.sleep(3)
    assert time.process_time() - used_s < 0.6  # of the 3 s a spin takes 2
    assert any(not each.done() for each in writing)
    assert all("nothing could be written" in text for text in await asyncio.gather(*writing))
    await producer.stop()


@pytest.mark.timeout(90)
async def test_a_topic_with_too_few_replicas_in_sync_is_told_apart_from_brokers_that_are_away(fresh_name):
    """Kafka takes min.insync.replicas for no more than a topic has: it needs a second node to refuse."""
    kafka = await asyncio.to_thread(lambda: LocalKafka(nodes=2))
    try:
        await asyncio.to_thread(kafka.start)
        letters = fresh_name("letters")
        two = {"cleanup.policy": "compact", "min.insync.replicas": "2"}
        await create_topics(kafka.bootstrap(), [Topic(letters, 1, 2, two)])
        scene = KafkaScene(kafka.bootstrap(), fresh_name)
        settings = scene.settings(["unread"], "unread").model_copy(update={"dead_letter_topic": letters})
        producer = KafkaProducer(settings, send_limit_s=4.0)
        await producer.start()
        await producer.send(letters, b"k", b"1", [])
        await asyncio.to_thread(kafka.kill, 2)
        used_s = time.process_time()
        with pytest.raises(WriteFailed, match=r"min\.insync\.replicas"):
            await producer.send(letters, b"k", b"2", [])
        assert time.process_time() - used_s < 1.0
        await asyncio.to_thread(kafka.start, 2)
        async with asyncio.timeout(20):
            await _until_written(producer, letters)
        await producer.stop()
    finally:
        await asyncio.to_thread(kafka.close)


async def _until_written(producer: KafkaProducer, topic: str) -> None:
    while True:
        try:
            return await producer.send(topic, b"k", b"3", [])
        except WriteFailed:
            continue


async def test_a_topic_that_is_deleted_is_named_as_the_reason_and_written_to_when_it_is_back(kafka, fresh_name):
    scene = KafkaScene(kafka.bootstrap(), fresh_name)
    (partition,) = await scene.topic(settings={"cleanup.policy": "compact"})
    settings = scene.settings(["unread"], "unread").model_copy(update={"dead_letter_topic": partition.topic})
    producer = KafkaProducer(settings, send_limit_s=2.0)
    await producer.start()
    await producer.send(partition.topic, b"k", b"1", [])
    async with BrokerView(kafka.bootstrap()).admin() as admin:
        await admin.delete_topics([partition.topic])
    for _ in range(2):
        with pytest.raises(WriteFailed, match=f"topic {partition.topic} is not there"):
            await producer.send(partition.topic, b"k", b"2", [])
    await create_topics(kafka.bootstrap(), [Topic.dead_letters(partition.topic)])
    async with asyncio.timeout(10):
        await _until_written(producer, partition.topic)
    await producer.stop()


async def test_a_clean_stop_of_the_broker_does_not_set_the_producer_spinning(kafka, fresh_name):
    scene = KafkaScene(kafka.bootstrap(), fresh_name)
    (partition,) = await scene.topic(settings={"cleanup.policy": "compact"})
    producer = KafkaProducer(scene.settings(["unread"], "unread"), send_limit_s=1.5)
    await producer.start()
    await producer.send(partition.topic, b"k", b"1", [])
    await asyncio.to_thread(kafka.stop)
    with pytest.raises(WriteFailed):
        await producer.send(partition.topic, b"k", b"2", [])
    used_s = time.process_time()
    await asyncio.sleep(0.5)  # a spin would show here: some 90 % of a core
    assert time.process_time() - used_s < 0.2
    with pytest.raises(WriteFailed):
        await producer.send(partition.topic, b"k", b"2", [])
    await asyncio.to_thread(kafka.start)
    async with asyncio.timeout(20):
        while True:
            try:
                await producer.send(partition.topic, b"k", b"3", [])
                break
            except WriteFailed:
                continue
    await producer.stop()

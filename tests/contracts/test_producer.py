"""What the dead-letter writer may rely on: one battery for KafkaProducer and its fake."""

from __future__ import annotations

import asyncio

import pytest

from tests.contracts.harness import read_all
from worker.errors import TooLarge

COMPACT = {"cleanup.policy": "compact", "max.message.bytes": "4000"}


async def test_what_was_sent_can_be_read_byte_for_byte(scene, started, group):
    (partition,) = await scene.topic(settings=COMPACT)
    producer = scene.producer(partition.topic)
    await producer.start()
    headers = [("dlq.reason", b"\xff"), ("twice", b"1"), ("twice", None), ("empty", b"")]
    await producer.send(partition.topic, b"k\x00", b"\x00\xff", headers)
    await producer.send(partition.topic, b"k2", b"", [])
    await producer.stop()
    source = await started(scene.source([partition.topic], group))
    first, second = await read_all(source, 2)
    assert (first.key, first.value, list(first.headers)) == (b"k\x00", b"\x00\xff", headers)
    assert (second.key, second.value, list(second.headers)) == (b"k2", b"", [])


async def test_a_tombstone_can_be_sent(scene, started, group):
    (partition,) = await scene.topic(settings=COMPACT)
    producer = scene.producer(partition.topic)
    await producer.start()
    await producer.send(partition.topic, b"key", None, [])
    await producer.stop()
    source = await started(scene.source([partition.topic], group))
    assert [(record.key, record.value) for record in await read_all(source, 1)] == [(b"key", None)]


async def test_many_senders_at_once_are_all_served(scene, started, group):
    (partition,) = await scene.topic(settings=COMPACT)
    producer = scene.producer(partition.topic)
    await producer.start()
    await asyncio.gather(*(producer.send(partition.topic, b"%d" % one, b"v", []) for one in range(50)))
    await producer.stop()
    source = await started(scene.source([partition.topic], group))
    assert {record.key for record in await read_all(source, 50)} == {b"%d" % one for one in range(50)}


async def test_a_message_that_the_topic_never_takes_is_too_large_and_the_next_one_goes_through(scene, started, group):
    (partition,) = await scene.topic(settings=COMPACT)
    producer = scene.producer(partition.topic)
    await producer.start()
    with pytest.raises(TooLarge, match=partition.topic):
        await producer.send(partition.topic, b"key", b"x" * 5000, [])
    await producer.send(partition.topic, b"key", b"small", [])
    await producer.stop()
    source = await started(scene.source([partition.topic], group))
    assert [record.value for record in await read_all(source, 1)] == [b"small"]


async def test_after_one_that_is_too_large_the_next_ones_go_through_at_once(scene, started, group):
    """With a producer that has written before: a broker refuses numbers of an idempotent one that leave a gap."""
    (partition,) = await scene.topic(settings=COMPACT)
    producer = scene.producer(partition.topic)
    await producer.start()
    await producer.send(partition.topic, b"first", b"small", [])
    async with asyncio.timeout(5):
        for number in range(3):
            with pytest.raises(TooLarge):
                await producer.send(partition.topic, b"large", b"x" * 5000, [])
            await producer.send(partition.topic, b"%d" % number, b"small", [])
    await producer.stop()
    source = await started(scene.source([partition.topic], group))
    assert [record.key for record in await read_all(source, 4)] == [b"first", b"0", b"1", b"2"]


async def test_messages_that_fit_by_themselves_are_not_too_large_together(scene, started, group):
    (partition,) = await scene.topic(settings=COMPACT)
    producer = scene.producer(partition.topic)
    await producer.start()
    keys = [b"%d" % one for one in range(32)]
    await asyncio.gather(*(producer.send(partition.topic, key, b"x" * 3000, []) for key in keys))
    await producer.stop()
    source = await started(scene.source([partition.topic], group))
    assert sorted(record.key for record in await read_all(source, 32)) == sorted(keys)

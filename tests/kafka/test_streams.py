"""Streams as producers really write them: compressed, in transactions, compacted. Read byte for byte, gaps passed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import pytest
from aiokafka import AIOKafkaProducer

from tests.contracts.harness import KafkaScene, Owner, read_all
from worker.kafka.source import KafkaSource
from worker.model import TopicPartition

CODECS = ("gzip", "lz4", "zstd", "snappy")
COMPACTED_AT_ONCE = {
    "cleanup.policy": "compact",
    "segment.ms": "50",
    "min.cleanable.dirty.ratio": "0.01",
    "min.compaction.lag.ms": "0",
    "max.compaction.lag.ms": "200",
}


@pytest.fixture
async def scene(secure_kafka, fresh_name: Callable[[str], str]) -> AsyncIterator[KafkaScene]:
    made = KafkaScene(secure_kafka.bootstrap, fresh_name)
    yield made
    await made.close()


@pytest.fixture
async def reading(scene: KafkaScene, fresh_name: Callable[[str], str]) -> AsyncIterator[Callable[..., object]]:
    sources: list[KafkaSource] = []

    async def start(partition: TopicPartition) -> KafkaSource:
        source = scene.source([partition.topic], fresh_name("group"))
        sources.append(source)
        await source.start(Owner())
        return source

    yield start
    for source in sources:
        await source.stop()


def values() -> list[bytes]:
    """Return what compressors find easy and hard, around the sizes of their blocks (32 KB, 64 KB) and above them."""
    rng = random.Random(4)
    return [
        b"{}",
        "{'Straße': '𝄞'}".encode(),
        b"a" * 300_000,
        rng.randbytes(65_537),
        rng.randbytes(500_000),
        *(b'{"number": %d, "text": "%s"}' % (number, rng.randbytes(8).hex().encode()) for number in range(500)),
    ]


@pytest.mark.parametrize("codec", CODECS)
async def test_what_a_client_compressed_is_read_byte_for_byte(scene, reading, codec):
    (partition,) = await scene.topic()
    sent = values()
    headers = [("bytes", b"\x00\xff"), ("none", None)]
    async with AIOKafkaProducer(bootstrap_servers=scene.bootstrap, compression_type=codec) as producer:
        for value in sent:
            await producer.send(partition.topic, value, key=value[:20], headers=headers)
    records = await read_all(await reading(partition), len(sent))
    assert [record.value for record in records] == sent
    assert [record.key for record in records] == [value[:20] for value in sent]
    assert all(list(record.headers) == headers for record in records)


@pytest.mark.parametrize("codec", CODECS)
async def test_what_the_broker_compressed_is_read_byte_for_byte(scene, reading, codec):
    """With the compressors of Kafka's own clients: the broker packs anew what it gets for such a topic."""
    (partition,) = await scene.topic(settings={"compression.type": codec})
    sent = values()
    async with AIOKafkaProducer(bootstrap_servers=scene.bootstrap, linger_ms=5) as producer:
        for value in sent:
            await producer.send(partition.topic, value)
    assert [record.value for record in await read_all(await reading(partition), len(sent))] == sent


@pytest.fixture
async def transacting(scene: KafkaScene, fresh_name: Callable[[str], str]) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=scene.bootstrap, transactional_id=fresh_name("transaction"))
    await producer.start()
    yield producer
    await producer.stop()


async def test_transactions_that_are_taken_back_never_happened_wherever_they_stand(scene, reading, transacting):
    (partition,) = await scene.topic()
    kept = []
    for turn in range(6):
        await transacting.begin_transaction()
        for number in range(5):
            value = b"%d/%d" % (turn, number)
            await transacting.send(partition.topic, value, partition=0)
            kept += [value] if turn % 2 else []
        await (transacting.commit_transaction() if turn % 2 else transacting.abort_transaction())
        await scene.append(partition, b"between %d" % turn)
        kept.append(b"between %d" % turn)
    await transacting.begin_transaction()
    await transacting.send_and_wait(partition.topic, b"last", partition=0)
    await transacting.abort_transaction()
    source = await reading(partition)
    assert [record.value for record in await read_all(source, len(kept))] == kept
    (end,) = (await source.end_offsets([partition])).values()
    assert end == 6 * 7 + 2
    async with asyncio.timeout(5):
        while source.position(partition) < end:
            assert await source.read([partition], max_records=10, timeout_s=0.1) == {}


async def test_an_open_transaction_holds_back_what_stands_behind_it_and_says_how_much(scene, reading, transacting):
    (partition,) = await scene.topic()
    await scene.append(partition, b"before")
    await transacting.begin_transaction()
    await transacting.send_and_wait(partition.topic, b"open", partition=0)
    await scene.append(partition, b"behind", b"behind, too")
    source = await reading(partition)
    assert [record.value for record in await read_all(source, 1)] == [b"before"]
    assert (source.position(partition), source.highwater(partition), source.held_back(partition)) == (1, 4, 3)
    assert await source.end_offsets([partition]) == {partition: 1}  # a bounded run ends before it

    await transacting.commit_transaction()
    assert [record.value for record in await read_all(source, 3)] == [b"open", b"behind", b"behind, too"]
    async with asyncio.timeout(5):
        while source.position(partition) < 5:
            await source.read([partition], max_records=10, timeout_s=0.1)
    assert source.held_back(partition) == 0


async def test_holes_that_compaction_made_are_passed(scene, reading):
    (partition,) = await scene.topic(settings=COMPACTED_AT_ONCE)
    await scene.append(partition, b"first", key=b"first")
    for number in range(3):
        for key in (b"a", b"b"):
            await scene.append(partition, b"%s%d" % (key, number), key=key)
        await asyncio.sleep(0.1)  # past segment.ms: the next append begins a new segment
    await scene.append(partition, b"last", key=b"last")
    async with asyncio.timeout(20):
        offsets = list(range(8))
        while offsets == list(range(8)):
            source = await reading(partition)
            records = await read_all(source, 8, limit_s=0.5)
            offsets = [record.offset for record in records]
    assert (offsets[0], offsets[-1]) == (0, 7)
    assert {record.key: record.value for record in records} == {
        b"first": b"first", b"a": b"a2", b"b": b"b2", b"last": b"last",
    }  # fmt: skip
    assert source.position(partition) == 8

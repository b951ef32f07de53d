"""What a real broker keeps beside an offset, and what becomes of it: other versions, other programs, none at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
from structlog.testing import capture_logs

from tests.contracts.harness import KafkaScene, Owner, read_all
from worker.kafka.membership import Position
from worker.kafka.progress import Note, Progress, fit
from worker.kafka.source import KafkaSource
from worker.model import TopicPartition
from worker.pipeline.earlier import Earlier, earlier_of
from worker.sandbox.broker import LocalKafka

pytestmark = pytest.mark.broker
RECORDS = 30
MAX_AHEAD = 10
DONE = (range(6, 8), range(9, 12))
OURS, _ = fit(Note("1f3a5c7e9b2d", {"main": 45.0}), Progress(5, 20, 0, DONE))


async def handed_over(bootstrap: str, fresh_name: Callable[[str], str], words: Sequence[str]) -> tuple[bool, Earlier]:
    """Let one member commit offset 5 with these words in turn, and leave; return what its successor believes."""
    scene, group = KafkaScene(bootstrap, fresh_name), fresh_name("group")
    (partition,) = await scene.topic()
    await scene.append(partition, *[b"x"] * RECORDS)
    source = scene.source([partition.topic], group)
    assert isinstance(source, KafkaSource)
    is_kept = True
    try:
        await source.start(Owner())
        await read_all(source, RECORDS)
        for word in words:
            is_kept = await source.commit({partition: Position(5, word)})
    finally:
        await source.stop()
    return is_kept, await found_by_the_next(scene, partition, group)


async def found_by_the_next(scene: KafkaScene, partition: TopicPartition, group: str) -> Earlier:
    source = scene.source([partition.topic], group)
    try:
        await source.start(Owner())
        assert source.position(partition) == 5
        return earlier_of(source.found(partition), max_ahead=MAX_AHEAD)
    finally:
        await source.stop()
        await scene.close()


@pytest.mark.parametrize(
    ("word", "why"),
    [
        (OURS.replace("gw1", "gw2"), "version"),
        ("consumer-7 was here", "foreign"),
        ("", "absent"),
        (OURS.replace(" h=20", " h=2"), "damaged"),
        (OURS[:-3], "damaged"),
        (OURS.replace(" b=", " y=1 b=", 1).replace("gw1", "gw7 m=1"), "version"),
    ],
)
async def test_what_is_not_ours_is_ignored_and_all_that_its_writer_can_have_reached_is_suspect(
    kafka_bootstrap: str, fresh_name: Callable[[str], str], word: str, why: str
) -> None:
    _, earlier = await handed_over(kafka_bootstrap, fresh_name, [OURS, word])
    assert (earlier.ignored, earlier.done.runs) == (why, ())
    assert (earlier.suspect_below, earlier.letters_below) == (5 + MAX_AHEAD, 5 + MAX_AHEAD)
    assert not earlier.is_first


async def test_fields_of_a_later_version_that_kept_the_form_are_passed_over(
    kafka_bootstrap: str, fresh_name: Callable[[str], str]
) -> None:
    _, earlier = await handed_over(kafka_bootstrap, fresh_name, [OURS.replace(" w=", " z=what w=")])
    assert (earlier.ignored, earlier.done.runs, earlier.suspect_below) == ("", DONE, 20)


@pytest.fixture(scope="module")
def miserly_kafka() -> Iterator[str]:
    """A broker that takes no more than a few words beside an offset."""
    with LocalKafka(settings={"offset.metadata.max.bytes": "40"}) as kafka:
        yield kafka.bootstrap()


async def test_a_broker_that_refuses_words_gets_the_offset_and_the_next_owner_suspects(
    miserly_kafka: str, fresh_name: Callable[[str], str]
) -> None:
    with capture_logs() as lines:
        is_kept, earlier = await handed_over(miserly_kafka, fresh_name, [OURS, OURS])
    assert not is_kept
    assert [line["event"] for line in lines if line["event"] == "commit.metadata_refused"] == [
        "commit.metadata_refused"
    ]
    assert (earlier.ignored, earlier.suspect_below) == ("absent", 5 + MAX_AHEAD)
    assert not earlier.is_first

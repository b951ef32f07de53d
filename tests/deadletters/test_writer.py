"""The writer: until acknowledged, whatever the broker says, and quietly."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from worker.clock import ManualClock, settle
from worker.deadletters.record import DeadLetter, decode
from worker.deadletters.writer import LONGEST_WAIT_S, DeadLetterWriter
from worker.errors import TooLarge, WriteFailed
from worker.metrics import Metrics
from worker.model import KafkaRecord


class ScriptedProducer:
    """A topic that fails, or takes at most some bytes, or keeps its callers waiting, as told."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes, bytes | None, Sequence[tuple[str, bytes | None]]]] = []
        self.attempts = 0
        self.failures_left = 0
        self.max_bytes = 1_000_000
        self.gate: asyncio.Event | None = None
        self.under_way = self.most_under_way = 0

    async def send(
        self, topic: str, key: bytes, value: bytes | None, headers: Sequence[tuple[str, bytes | None]], /
    ) -> None:
        self.attempts += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.failures_left:
                self.failures_left -= 1
                raise WriteFailed("the broker did not answer within 10 s")
            size = len(value or b"") if self.max_bytes >= 0 else 0  # below zero nothing at all is taken
            if size > self.max_bytes:
                raise TooLarge("the topic takes fewer bytes")
        finally:
            self.under_way -= 1
        self.sent.append((topic, key, value, headers))


class Desk:
    """A writer with everything it needs, and a hand on its clock."""

    def __init__(self) -> None:
        self.producer = ScriptedProducer()
        self.clock = ManualClock()
        self.metrics = Metrics()
        self.writer = DeadLetterWriter(
            topic="t.dead", producer=self.producer, clock=self.clock, rng=random.Random(7), metrics=self.metrics
        )

    def counted(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"gigya_worker_{name}", labels) or 0.0


@pytest.fixture
def desk() -> Desk:
    return Desk()


def letter(offset: int = 0, value: bytes = b"UID-of-somebody") -> DeadLetter:
    return DeadLetter(KafkaRecord("t", 0, offset, value, b"key-of-somebody"), "unmappable", "no user", "f" * 16)


async def test_a_backfills_letters_and_tombstones_have_keys_of_their_own(desk: Desk) -> None:
    writer = DeadLetterWriter(
        topic="t.dead",
        producer=desk.producer,
        clock=desk.clock,
        rng=random.Random(7),
        metrics=desk.metrics,
        run_id="week-44",
    )
    await writer.write(letter())
    await writer.withdraw(letter().record)
    keys = [key for _, key, _, _ in desk.producer.sent]
    assert keys == [b"t/0/0/week-44", b"t/0/0/week-44"]
    _, key, value, headers = desk.producer.sent[0]
    assert decode(key, value, headers).run == "week-44"


async def test_a_letter_is_written_to_the_topic_and_counted(desk: Desk) -> None:
    await desk.writer.write(letter())
    topic, key, value, headers = desk.producer.sent[0]
    assert topic == "t.dead"
    assert decode(key, value, headers).reason == "unmappable"
    assert desk.counted("dead_letters_total", topic="t", reason="unmappable") == 1


async def test_a_write_that_fails_for_an_hour_is_written_after_it(desk: Desk) -> None:
    desk.producer.failures_left = 10**9
    task = asyncio.create_task(desk.writer.write(letter()))
    await desk.clock.advance(3600)
    assert not task.done()
    assert 120 <= desk.producer.attempts <= 260
    assert desk.counted("dead_letter_write_failures_total") == desk.producer.attempts
    desk.producer.failures_left = 0
    await desk.clock.advance(LONGEST_WAIT_S)
    await task
    assert len(desk.producer.sent) == 1


async def test_a_trouble_is_logged_once_and_its_end_once(desk: Desk) -> None:
    desk.producer.failures_left = 100
    with capture_logs() as logs:
        tasks = [asyncio.create_task(desk.writer.write(letter(n))) for n in range(20)]
        await desk.clock.advance(600)
        await asyncio.gather(*tasks)
    assert [line["event"] for line in logs] == ["dead_letters.failing", "dead_letters.recovered"]
    assert "somebody" not in repr(logs)
    assert logs[0]["remedy"]


async def test_writes_that_fail_together_lengthen_the_wait_once(desk: Desk) -> None:
    desk.producer.failures_left = 20
    tasks = [asyncio.create_task(desk.writer.write(letter(n))) for n in range(20)]
    await desk.clock.advance(0)
    await desk.clock.advance(0.5)
    await asyncio.gather(*tasks)
    assert len(desk.producer.sent) == 20


async def test_nothing_is_asked_of_a_failing_topic_before_the_wait_is_over(desk: Desk) -> None:
    desk.producer.failures_left = 1
    first = asyncio.create_task(desk.writer.write(letter(0)))
    await settle()
    second = asyncio.create_task(desk.writer.write(letter(1)))
    await settle()
    assert desk.producer.attempts == 1
    await desk.clock.advance(0.5)
    await asyncio.gather(first, second)


async def test_no_more_than_the_limit_is_under_way(desk: Desk) -> None:
    desk.producer.gate = asyncio.Event()
    tasks = [asyncio.create_task(desk.writer.write(letter(n))) for n in range(200)]
    await settle()
    assert desk.producer.most_under_way == 32
    assert desk.writer.status().waiting == 200
    desk.producer.gate.set()
    await asyncio.gather(*tasks)
    assert len(desk.producer.sent) == 200
    assert desk.producer.most_under_way == 32


async def test_a_record_too_large_is_written_as_a_reference(desk: Desk) -> None:
    desk.producer.max_bytes = 100
    with capture_logs() as logs:
        await desk.writer.write(letter(5, b"somebody" * 100))
    _, key, value, headers = desk.producer.sent[0]
    written = decode(key, value, headers)
    assert written.reference is not None
    assert written.reference.value_bytes == 800
    assert key == b"t/0/5"
    assert [(line["event"], line["record"]) for line in logs] == [("dead_letter.too_large", "t/0/5")]
    assert "somebody" not in repr(logs)


async def test_a_topic_too_small_even_for_references_holds_the_record(desk: Desk) -> None:
    desk.producer.max_bytes = -1
    task = asyncio.create_task(desk.writer.write(letter()))
    await desk.clock.advance(100)
    assert not task.done()
    status = desk.writer.status()
    assert status.reason == "dead_letter_too_large"
    assert "max.message.bytes" in status.remedy
    desk.producer.max_bytes = 1000
    await desk.clock.advance(LONGEST_WAIT_S)
    await task


async def test_a_reference_that_failed_is_tried_again_as_a_reference(desk: Desk) -> None:
    desk.producer.max_bytes = 10
    desk.producer.failures_left = 1
    task = asyncio.create_task(desk.writer.write(letter(value=b"x" * 50)))
    await desk.clock.advance(1)
    await task
    assert desk.producer.sent[0][2] == b""


@pytest.mark.parametrize("moment", ["queued", "sending", "waiting"])
async def test_a_cancelled_write_leaves_nothing_behind(desk: Desk, moment: str) -> None:
    desk.producer.gate = asyncio.Event()
    others = [asyncio.create_task(desk.writer.write(letter(n))) for n in range(32 if moment == "queued" else 0)]
    task = asyncio.create_task(desk.writer.write(letter(99)))
    await settle()
    if moment == "waiting":
        desk.producer.failures_left = 1
        desk.producer.gate.set()
        await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    desk.producer.gate.set()
    await asyncio.gather(*others)
    await desk.clock.advance(LONGEST_WAIT_S)
    await asyncio.gather(*(asyncio.create_task(desk.writer.write(letter(n))) for n in range(100, 140)))
    assert desk.writer.status().waiting == 0
    assert desk.producer.most_under_way <= 32


async def test_an_error_that_nobody_expects_is_not_swallowed(desk: Desk) -> None:
    async def send(*_: object) -> None:
        raise RuntimeError("a bug")

    desk.producer.send = send  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        await desk.writer.write(letter())
    assert desk.writer.status().waiting == 0


async def test_the_status_tells_since_when_and_what_to_do(desk: Desk) -> None:
    began_s = desk.clock.now_s()
    desk.producer.failures_left = 5
    task = asyncio.create_task(desk.writer.write(letter()))
    await desk.clock.advance(1)
    status = desk.writer.status()
    assert status.failing_since_s == began_s
    assert status.reason == "dead_letter_write_failed"
    assert status.text == "the broker did not answer within 10 s"
    assert "failing" in repr(desk.writer)
    await desk.clock.advance(60)
    await task
    assert desk.writer.status().failing_since_s is None
    assert "writing, 0 waiting, 1 written" in repr(desk.writer)


async def test_a_letter_of_which_even_a_reference_is_too_large_keeps_no_other_waiting(desk: Desk) -> None:
    sent = desk.producer.send

    async def send(topic: str, key: bytes, value: bytes | None, headers: Sequence[tuple[str, bytes | None]], /) -> None:
        if key == b"t/0/7" and desk.producer.max_bytes < 1_000_000:
            raise TooLarge("the topic takes fewer bytes")
        await sent(topic, key, value, headers)

    desk.producer.send = send  # type: ignore[method-assign]
    desk.producer.max_bytes = 100
    with capture_logs() as logs:
        large = asyncio.create_task(desk.writer.write(letter(7)))
        for offset in range(20):
            await desk.writer.write(letter(100 + offset))
            await desk.clock.advance(3)
        assert not large.done()
        assert [line["event"] for line in logs] == ["dead_letter.too_large", "dead_letters.failing"]
        assert desk.writer.status().reason == "dead_letter_too_large"
        assert desk.counted("dead_letter_write_failures_total") < 15  # its own back-off, not theirs
        desk.producer.max_bytes = 1_000_000
        await desk.clock.advance(LONGEST_WAIT_S)
        await large
    assert logs[-1]["event"] == "dead_letters.recovered"
    assert desk.producer.sent[-1][2] == b"UID-of-somebody"  # whole, now that there is room
    assert desk.writer.status().reason == ""


async def test_a_tombstone_waits_for_a_topic_that_takes_nothing(desk: Desk) -> None:
    desk.producer.max_bytes = -1
    task = asyncio.create_task(desk.writer.withdraw(letter(3).record))
    await desk.clock.advance(100)
    assert not task.done()
    desk.producer.max_bytes = 10
    await desk.clock.advance(LONGEST_WAIT_S)
    await task
    assert desk.producer.sent == [("t.dead", b"t/0/3", None, ())]


async def test_a_write_that_fails_late_is_no_new_trouble_when_others_were_written_meanwhile(desk: Desk) -> None:
    desk.producer.gate, desk.producer.failures_left = asyncio.Event(), 1
    late = asyncio.create_task(desk.writer.write(letter(1)))
    await settle()
    gate, desk.producer.gate, desk.producer.failures_left = desk.producer.gate, None, 0
    await desk.writer.write(letter(2))
    desk.producer.failures_left = 1
    with capture_logs() as logs:
        gate.set()
        await late
    assert logs == []
    assert desk.writer.status().failing_since_s is None


async def test_one_of_two_partitions_that_takes_no_writes_is_told_though_the_other_does(desk: Desk) -> None:
    async def send(topic: str, key: bytes, value: bytes | None, headers: Sequence[tuple[str, bytes | None]], /) -> None:
        await desk.clock.sleep(1)
        if key == b"t/0/1":
            raise WriteFailed("its leader is away")

    desk.producer.send = send  # type: ignore[method-assign]
    bad = asyncio.create_task(desk.writer.write(letter(1)))
    with capture_logs() as logs:
        for offset in range(2, 30):
            task = asyncio.create_task(desk.writer.write(letter(offset)))
            await desk.clock.advance(5)
            await task
        assert desk.writer.status().text == "its leader is away"
    assert [line["event"] for line in logs] == ["dead_letters.failing"]
    bad.cancel()
    await asyncio.gather(bad, return_exceptions=True)
    assert desk.writer.status().failing_since_s is None  # its record was given back: nothing waits here any more

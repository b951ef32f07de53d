"""Writes dead letters until the broker has acknowledged them, however long that takes.

The offset of a record moves only after its letter is safe, so there is nothing to give up: a topic that refuses writes
for an hour holds the records for an hour. All writes share one back-off: after a failure nobody asks the broker again
before it has passed, and one success lets all go on. A letter of which even a reference is too large has a back-off of
its own: that is no reason for the others to wait. While one letter that has failed is not written, there is trouble.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import structlog
from structlog.typing import FilteringBoundLogger

from worker.clock import Clock, Timer
from worker.deadletters.record import DeadLetter, Message, as_reference, encode, key_of
from worker.errors import TooLarge, WriteFailed
from worker.metrics import Metrics
from worker.model import Record, place

log: FilteringBoundLogger = structlog.get_logger(__name__)

# Writes under way at once. The broker acknowledges in milliseconds, so this is above any rate that the flood guard
# lets through, and small enough that a failing topic does not get thousands of attempts at the same moment.
MAX_IN_FLIGHT = 32
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0


class Producer(Protocol):
    """Writes one message to Kafka."""

    async def send(
        self, topic: str, key: bytes, value: bytes | None, headers: Sequence[tuple[str, bytes | None]], /
    ) -> None:
        """Return when all in-sync replicas have the message.

        Called by many tasks at once, up to MAX_IN_FLIGHT. Raises WriteFailed when it is not known to be written (a
        time limit of its own included), TooLarge when the topic will never take it. The same message may be sent twice.
        """
        ...


@dataclass(frozen=True, slots=True)
class WriterStatus:
    """What the writer is at, for readiness and /status."""

    topic: str
    waiting: int  # letters handed over and not acknowledged
    written: int
    failing_since_s: float | None  # Unix time of the first failure of this trouble; None while all is well
    reason: str = ""
    text: str = ""
    remedy: str = ""


class DeadLetterWriter:
    """The one way into the dead-letter topic. Use one instance from one event loop."""

    def __init__(
        self,
        *,
        topic: str,
        producer: Producer,
        clock: Clock,
        rng: random.Random,
        metrics: Metrics,
        max_in_flight: int = MAX_IN_FLIGHT,
        run_id: str = "",
    ) -> None:
        """`run_id` of a backfill is part of its letters' keys: they replace neither those of `run` nor another's."""
        self._topic = topic
        self._run_id = run_id
        self._producer = producer
        self._clock = clock
        self._rng = rng
        self._metrics = metrics
        self._permits = asyncio.Semaphore(max_in_flight)
        self._may_try = asyncio.Event()
        self._may_try.set()
        self._timer: Timer | None = None
        self._failures = 0  # in a row, counted once for all writes that were under way together
        self._successes = 0
        self._failing: dict[bytes, WriteFailed | TooLarge] = {}  # by key: what has failed, and is not written since
        self._failing_since_s: float | None = None
        self._waiting = 0
        self._written = 0

    def __repr__(self) -> str:
        trouble = self._trouble
        state = "writing" if trouble is None else f"failing: {trouble.reason}"
        return f"<DeadLetterWriter [{self._topic}, {state}, {self._waiting} waiting, {self._written} written]>"

    def status(self) -> WriterStatus:
        """Return how it goes now."""
        trouble = self._trouble
        return WriterStatus(
            topic=self._topic,
            waiting=self._waiting,
            written=self._written,
            failing_since_s=self._failing_since_s,
            reason=trouble.reason if trouble else "",
            text=str(trouble) if trouble else "",
            remedy=self._remedy(trouble) if trouble else "",
        )

    @property
    def _trouble(self) -> WriteFailed | TooLarge | None:
        return next(reversed(self._failing.values()), None)

    async def write(self, letter: DeadLetter) -> None:
        """Return when the letter is acknowledged; never gives up.

        Cancelled at any moment it leaves nothing behind; the letter may have been written or not. Writing it again is
        harmless: it has the same key in a compacted topic.
        """
        if self._run_id:
            letter = replace(letter, run=self._run_id)
        async with self._turn(letter.key):
            await self._write_until_acknowledged(letter)
        self._written += 1
        self._metrics.dead_letters.labels(letter.record.topic, letter.reason).inc()

    async def withdraw(self, record: Record) -> None:
        """Return when a tombstone for the letter of this record is acknowledged; never gives up.

        There may be no such letter: then the tombstone does nothing, and compaction removes it.
        """
        key = key_of(record, self._run_id)
        async with self._turn(key):
            await self._withdraw_until_acknowledged(Message(key, None, ()))
        self._metrics.dead_letters_withdrawn.labels(record.topic).inc()
        log.info("dead_letter.withdrawn", topic=self._topic, record=place(record))

    async def put(self, key: bytes, value: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> None:
        """Return when a message of a replay is acknowledged; never gives up, but for what the topic will not take.

        Raises TooLarge for a message with a value: nobody here may cut it down.
        """
        message = Message(key, value, tuple(headers))
        async with self._turn(key):
            if value is None:
                await self._withdraw_until_acknowledged(message)
                return
            failures = 0
            while not await self._is_sent(message, failures):
                failures += 1

    @asynccontextmanager
    async def _turn(self, key: bytes) -> AsyncIterator[None]:
        self._waiting += 1
        try:
            async with self._permits:
                yield
        finally:
            self._waiting -= 1
            self._failing.pop(key, None)  # its record may have been given back
            if not self._failing:
                self._failing_since_s = None

    async def _write_until_acknowledged(self, letter: DeadLetter) -> None:
        failures = 0
        while True:
            try:
                if await self._is_sent(encode(letter), failures):
                    return
            except TooLarge as whole_is_too_large:
                reference = as_reference(letter)
                self._say_that_it_is_a_reference(reference, failures)
                try:
                    if await self._is_sent(encode(reference), failures):
                        return
                except TooLarge:
                    # And then as a whole again: whoever raises the limit may have made room for it.
                    await self._put_off(letter.key, whole_is_too_large, failures)
            failures += 1

    async def _withdraw_until_acknowledged(self, tombstone: Message) -> None:
        failures = 0
        while True:
            try:
                if await self._is_sent(tombstone, failures):
                    return
            except TooLarge as error:
                await self._put_off(tombstone.key, error, failures)
            failures += 1

    async def _is_sent(self, message: Message, failures_before: int) -> bool:
        """Send once, when the topic may be tried; say whether it was acknowledged. Raises TooLarge."""
        await self._may_try.wait()
        failures, successes = self._failures, self._successes
        try:
            await self._producer.send(self._topic, message.key, message.value, message.headers)
        except WriteFailed as error:
            self._metrics.dead_letter_write_failures.inc()
            if successes == self._successes or failures_before:
                self._failed(message.key, error, failures)
            # Else others were written meanwhile: it is tried again at once, before anybody is alarmed.
            return False
        self._succeeded(message.key)
        return True

    def _failed(self, key: bytes, error: WriteFailed, failures_before: int) -> None:
        self._note(key, error)
        if failures_before != self._failures:
            return  # another write that was under way with this one has already lengthened the wait
        self._failures += 1
        self._may_try.clear()
        self._timer = self._clock.call_later(self._pause_s(self._failures), self._may_try.set)

    async def _put_off(self, key: bytes, error: TooLarge, failures_before: int) -> None:
        self._metrics.dead_letter_write_failures.inc()
        self._note(key, error)
        await self._clock.sleep(self._pause_s(failures_before + 1))

    def _pause_s(self, failures: int) -> float:
        longest_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(failures - 1, 16))
        return longest_s * self._rng.uniform(0.5, 1.0)

    def _note(self, key: bytes, error: WriteFailed | TooLarge) -> None:
        is_first = not self._failing
        self._failing[key] = error
        if is_first:
            self._failing_since_s = self._clock.now_s()
            log.error(
                "dead_letters.failing",
                topic=self._topic,
                reason=error.reason,
                text=str(error),
                waiting=self._waiting,
                remedy=self._remedy(error),
            )

    def _succeeded(self, key: bytes) -> None:
        self._failures = 0
        self._successes += 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._may_try.set()
        was_failing = self._failing.pop(key, None) is not None
        if was_failing and not self._failing and self._failing_since_s is not None:
            seconds = round(self._clock.now_s() - self._failing_since_s, 1)
            log.info("dead_letters.recovered", topic=self._topic, seconds=seconds, waiting=self._waiting)
            self._failing_since_s = None

    def _say_that_it_is_a_reference(self, letter: DeadLetter, failures_before: int) -> None:
        # Once per letter, not per state: from here on the bytes exist only as long as the source topic keeps them.
        if failures_before:
            return
        reference = letter.reference
        log.warning(
            "dead_letter.too_large",
            topic=self._topic,
            record=place(letter.record),
            value_bytes=reference.value_bytes if reference else 0,
            remedy="raise max.message.bytes of the dead-letter topic; replay before the source topic's retention ends",
        )

    def _remedy(self, error: WriteFailed | TooLarge) -> str:
        if isinstance(error, TooLarge):
            return f"even a reference of 16 KB does not fit: raise max.message.bytes of {self._topic}; records wait"
        return f"see that the broker is up and lets the worker write to {self._topic}; records wait, nothing is lost"

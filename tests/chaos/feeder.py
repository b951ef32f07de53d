"""The load: events appended at a steady rate while a schedule does its worst, and where Kafka put each of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from aiokafka import AIOKafkaProducer

from tests.chaos.judge import Placed, Stretch
from tests.chaos.workload import Author, Event

STEP_S = 0.05
SEND_LIMIT_S = 60.0
MOST_AT_ONCE = 200  # calls: whoever was held up does not make good for more than so much at once


class Feeder:
    """Appends an author's events until it is stopped; pausing it lets go of the broker."""

    def __init__(self, bootstrap: str, topic: str, author: Author, *, calls_per_s: float) -> None:
        self.placed: list[Placed] = []
        self.offered: list[Stretch] = []  # when, and how many calls
        self.author = author
        self._bootstrap = bootstrap
        self._topic = topic
        self._calls_per_s = calls_per_s
        self._sent: list[tuple[Event, asyncio.Future[Any]]] = []
        self._producer: AIOKafkaProducer | None = None
        self._task: asyncio.Task[None] | None = None

    async def go(self) -> None:
        """Begin, or go on after a pause."""
        # Idempotent: a record that the producer repeats would be a call of its own, and look like the worker's fault.
        self._producer = AIOKafkaProducer(bootstrap_servers=self._bootstrap, enable_idempotence=True, linger_ms=5)
        await self._producer.start()
        self._task = asyncio.create_task(self._feed())

    async def pause(self) -> None:
        """Stop appending; returns when the broker has everything."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._let_go()

    async def append(self, events: Iterable[Event]) -> list[Placed]:
        """Append these events on top of the load; returns when the broker has them."""
        async with AIOKafkaProducer(
            bootstrap_servers=self._bootstrap, enable_idempotence=True, linger_ms=5
        ) as producer:
            sent = [
                (event, await producer.send(self._topic, event.value, event.key, event.partition)) for event in events
            ]
            await asyncio.wait_for(producer.flush(), SEND_LIMIT_S)
        placed = [_placed(event, future) for event, future in sent]
        self.placed += placed
        return placed

    async def _feed(self) -> None:
        assert self._producer is not None
        last_s = time.monotonic()
        due = 0.0
        stretch = Stretch(time.time())
        self.offered.append(stretch)
        while True:
            await asyncio.sleep(STEP_S)
            now_s = time.monotonic()
            due = min(due + (now_s - last_s) * self._calls_per_s, MOST_AT_ONCE)
            last_s = now_s
            stretch.end_s = time.time()
            while due >= 1:
                event = self.author.event()
                due -= len(event.calls)
                stretch.calls += len(event.calls)
                future = await self._producer.send(self._topic, event.value, event.key, event.partition)
                self._sent.append((event, future))

    async def _let_go(self) -> None:
        producer, self._producer = self._producer, None
        if producer is None:
            return
        await asyncio.wait_for(producer.flush(), SEND_LIMIT_S)
        await producer.stop()
        self.placed += [_placed(event, future) for event, future in self._sent]
        self._sent.clear()


def _placed(event: Event, sent: asyncio.Future[Any]) -> Placed:
    where = sent.result()
    return Placed(event, int(where.partition), int(where.offset))

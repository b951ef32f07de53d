"""Users who want calls made, one at a time each: load for a sender, against whatever its transport reaches."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter

from worker.delivery.sender import Delivery, Later, Sender
from worker.gigya.calls import NOTIFY_ACTION, Call
from worker.model import CallName, Outcome, TopicPartition


class Load:
    """A hundred users, one call at a time each, for as long as it runs."""

    def __init__(self, sender: Sender) -> None:
        self.outcomes: Counter[str] = Counter()
        self._sender = sender
        self._offsets = itertools.count()
        self._released: dict[int, asyncio.Event] = {}
        self._is_over = False
        sender.released = lambda delivery: self._released.setdefault(delivery.offset, asyncio.Event()).set()

    async def run(self, users: int) -> None:
        await asyncio.gather(*(self._user(f"user-{n}") for n in range(users)))

    def finish(self) -> None:
        """Let every user end the call that is underway."""
        self._is_over = True

    async def _user(self, uid: str) -> None:
        while not self._is_over:
            offset = next(self._offsets)
            params = {"UID": uid, "action": "watched", "context": f'{{"eventId":"é {offset}"}}'}
            call = Call(NOTIFY_ACTION, "main", uid, params, CallName(0, "rule"))
            outcome = await self._deliver(Delivery(call, TopicPartition("t", 0), offset, -1))
            self.outcomes[f"{outcome.kind.value} {outcome.reason}"] += 1

    async def _deliver(self, delivery: Delivery) -> Outcome:
        while True:
            result = await self._sender.attempt(delivery, await self._sender.admit())
            if isinstance(result, Outcome):
                return result
            await self._wait(delivery, result)

    async def _wait(self, delivery: Delivery, later: Later) -> None:
        if later.wait_s is not None:
            await asyncio.sleep(later.wait_s)
        else:
            await self._released.setdefault(delivery.offset, asyncio.Event()).wait()
            del self._released[delivery.offset]

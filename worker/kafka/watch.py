"""Notices that the brokers are not heard of any more, and finds out why."""

from __future__ import annotations

import asyncio

import structlog

from worker.clock import Clock
from worker.errors import StartFailed
from worker.kafka.login import check_login
from worker.kafka.settings import KafkaSettings

log = structlog.get_logger(__name__)

ASK_EVERY_S = 10.0


class Watch:
    """Why there is no connection. The library goes on trying without end, and keeps the reason in its log.

    Nobody would hear of it otherwise while there is nothing to read and nothing to commit.
    """

    def __init__(self, settings: KafkaSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._asking: asyncio.Task[None] | None = None
        self._ask_again_s = float("-inf")
        self.trouble = ""  # one line; empty while all is well

    def look(self, lease_valid_until_s: float) -> None:
        """Find out, now and then, when no heartbeat has been answered for a whole session."""
        now_s = self._clock.monotonic_s()
        if now_s < lease_valid_until_s:
            self._over()
        elif now_s >= self._ask_again_s and (self._asking is None or self._asking.done()):
            self._ask_again_s = now_s + ASK_EVERY_S
            self._asking = asyncio.create_task(self._ask(), name="why-no-broker")

    async def stop(self) -> None:
        """End a question that is under way."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self) -> None:
        try:
            await check_login(self._settings)
        except StartFailed as failed:
            if not self.trouble:
                log.error("source.disconnected", error=str(failed))  # noqa: TRY400  # no bug: a line, no traceback
            self.trouble = str(failed)
        else:
            self._over()

    def _over(self) -> None:
        if self.trouble:
            log.info("source.connected")
        self.trouble = ""

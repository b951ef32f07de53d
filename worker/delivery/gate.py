"""May an attempt start now? Joins pause, quota and site state, and wakes whoever waits for them.

Decisions are `Quota`'s and `SiteState`'s; this module only waits. Everything happens in one event loop.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from dataclasses import dataclass

from worker.clock import Clock, Timer
from worker.delivery.quota import Quota
from worker.delivery.site_state import SiteState

# Timers tick in milliseconds: asking for less would turn the loop without getting anywhere.
_SHORTEST_WAIT_S = 0.001


@dataclass(frozen=True, slots=True)
class Permit:
    """The right to start one attempt now. Use it at once or give it back."""

    serial: int
    probe: bool = False  # the site is in trouble, and this attempt shows whether it is back


class Gate:
    """The one way to a request. Questions to the site go before calls: calls wait for what they find out."""

    def __init__(self, quota: Quota, state: SiteState, clock: Clock) -> None:
        self.quota = quota
        self.state = state
        self._clock = clock
        self._calls: deque[asyncio.Future[Permit]] = deque()
        self._questions: deque[asyncio.Future[Permit]] = deque()
        self._timer: Timer | None = None
        self.is_paused = False  # by an operator: nobody is let in, calls and questions alike

    def pause(self) -> None:
        """Let nobody in until `go_on`; whoever is in stays in."""
        self.is_paused = True
        self.refresh()

    def go_on(self) -> None:
        """End a pause."""
        self.is_paused = False
        self.refresh()

    async def admit_call(self) -> Permit:
        """Wait until a call may be attempted: the site open or a probe due, and a permit of the quota."""
        if not self._calls and not self._questions and not self.is_paused:
            now_s = self._clock.monotonic_s()
            if self.state.call_due_s() <= now_s and self.quota.due_s(now_s) <= now_s:
                return self._take(now_s, waited=False, is_probe=self.state.trouble is not None)
        return await self._wait_in(self._calls)

    @property
    def has_calls_waiting(self) -> bool:
        """Return whether more permits would be used now; in a pause none would."""
        return bool(self._calls) and not self.is_paused

    async def admit_question(self) -> Permit:
        """Wait for a permit of the quota only: whether the site may be asked now is the caller's to know."""
        return await self._wait_in(self._questions)

    def written(self, permit: Permit) -> None:
        """Note that the attempt's first byte is being written now."""
        self.quota.written(permit.serial, self._clock.monotonic_s())

    def ended(self, permit: Permit, *, was_written: bool) -> None:
        """Note that the attempt is over."""
        if not was_written:
            self.quota.unsent(permit.serial)
        if permit.probe:
            self.state.probe_ended(self._clock.monotonic_s())
        if permit.probe or not was_written:
            self.refresh()

    def give_back(self, permit: Permit) -> None:
        """Return a permit that was not used: the next in line may have it at once."""
        self.quota.give_back(permit.serial)
        if permit.probe:
            self.state.probe_returned()
        self.refresh()

    def refresh(self) -> None:
        """Let in whoever may come in now. Call it when the site's state or the quota changed."""
        while not self.is_paused and (waiting := self._first_in_line()) is not None:
            is_call = waiting is self._calls
            now_s = self._clock.monotonic_s()
            due_s = self.quota.due_s(now_s)
            if is_call:
                due_s = max(due_s, self.state.call_due_s())
            if due_s > now_s:
                self._wake_at(due_s, now_s)
                return
            is_probe = is_call and self.state.trouble is not None
            waiting.popleft().set_result(self._take(now_s, waited=True, is_probe=is_probe))
        self._wake_at(math.inf, 0.0)

    def _take(self, now_s: float, *, waited: bool, is_probe: bool) -> Permit:
        if is_probe:
            self.state.probe_started()
        return Permit(self.quota.take(now_s, waited=waited), is_probe)

    async def _wait_in(self, line: deque[asyncio.Future[Permit]]) -> Permit:
        turn: asyncio.Future[Permit] = asyncio.get_running_loop().create_future()
        line.append(turn)
        self.refresh()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(turn.result())
            else:
                turn.cancel()
                self.refresh()
            raise

    def _first_in_line(self) -> deque[asyncio.Future[Permit]] | None:
        for line in (self._questions, self._calls):
            while line and line[0].done():  # cancelled while it waited
                line.popleft()
            if line:
                return line
        return None

    def _wake_at(self, due_s: float, now_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due_s < math.inf:
            self._timer = self._clock.call_later(max(_SHORTEST_WAIT_S, due_s - now_s), self._wake)

    def _wake(self) -> None:
        self._timer = None
        self.refresh()

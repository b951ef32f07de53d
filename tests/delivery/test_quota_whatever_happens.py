"""A quota against a sliding window, whatever is done with its permits and however the clocks jump."""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_left

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.delivery.fakes import OK, make_scene, reply
from worker.delivery.quota import Quota

RATES = st.sampled_from([0.5, 1.0, 3.0, 10.0, 33.3, 100.0])
# A connection may take so long from the permit to the first byte. One that hangs longer counts from when it is
# written, so that it may meet others: test_quota.py has that.
LATEST_WRITE_S = 0.3


class QuotaMachine(RuleBasedStateMachine):
    """Takes, writes, returns, is throttled, is given other shares, sleeps: what the site sees must keep the quota."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 5000.0
        self.quota = Quota(10.0, self.now_s)
        self.ceilings = [(-math.inf, 10.0)]  # since when which quota is in force
        self.pending: dict[int, float] = {}
        self.answered: list[int] = []
        self.written: list[float] = []

    @rule(seconds=st.one_of(st.floats(0.0, 0.2), st.sampled_from([0.001, 1.0, 60.0, 86_400.0])))
    def time_passes(self, seconds: float) -> None:
        """Or stands still, or jumps, as after a suspended machine."""
        self._pass_to(self.now_s + seconds)

    @rule(waits=st.booleans(), count=st.integers(1, 40), late_s=st.floats(0.0, 0.05))
    def take(self, waits: bool, count: int, late_s: float) -> None:
        for _ in range(count):
            if waits:
                for _ in range(3):  # it may be wise to ask again
                    if (due_s := self.quota.due_s(self.now_s)) > self.now_s:
                        assert due_s < self.now_s + 3600.0
                        self._pass_to(due_s + late_s)
            if self.quota.due_s(self.now_s) > self.now_s:
                return
            self.pending[self.quota.take(self.now_s, waited=waits)] = self.now_s

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), what=st.sampled_from(["write", "write", "write", "unsent", "give back"]))
    def report(self, data: st.DataObject, what: str) -> None:
        serial = data.draw(st.sampled_from(sorted(self.pending)))
        if what == "write":
            self._write(serial)
            return
        del self.pending[serial]
        (self.quota.unsent if what == "unsent" else self.quota.give_back)(serial)

    @rule()
    def write_all(self) -> None:
        for serial in list(self.pending):
            self._write(serial)

    @precondition(lambda self: self.answered)
    @rule(data=st.data(), throttled=st.booleans(), retry_after_s=st.one_of(st.none(), st.floats(0.0, 5.0)))
    def answer(self, data: st.DataObject, throttled: bool, retry_after_s: float | None) -> None:
        serial = data.draw(st.sampled_from(self.answered))
        self.answered.remove(serial)
        if throttled:
            self.quota.throttled(serial, self.now_s, retry_after_s)
        else:
            self.quota.accepted(serial, self.now_s)

    @rule(rate=RATES)
    def share(self, rate: float) -> None:
        self.quota.set_quota(rate, self.now_s)
        self.ceilings.append((self.now_s, rate))

    @invariant()
    def no_second_holds_more_than_the_quota(self) -> None:
        for index, begin_s in enumerate(self.written[-200:], max(0, len(self.written) - 200)):
            count = bisect_left(self.written, begin_s + 1.0) - index
            assert count <= math.ceil(self._greatest(begin_s - LATEST_WRITE_S, begin_s + 1.0))

    @invariant()
    def the_rate_is_within_the_quota(self) -> None:
        rate = self.quota.rate_per_s
        assert rate is not None
        assert 0.0 < rate <= self.ceilings[-1][1]

    def teardown(self) -> None:
        """However it was treated: when it is treated well again it goes at its full rate again."""
        self.write_all()
        for _ in range(20_000):
            if self.quota.rate_per_s == self.ceilings[-1][1]:
                return
            self._pass_to(max(self.now_s + 0.2, self.quota.due_s(self.now_s)))
            if self.quota.due_s(self.now_s) > self.now_s:
                continue
            serial = self.quota.take(self.now_s, waited=True)
            self.quota.written(serial, self.now_s)
            self.quota.accepted(serial, self.now_s)
        raise AssertionError(f"it never recovers: {self.quota.rate_per_s}")

    def _pass_to(self, then_s: float) -> None:
        for serial, taken_s in sorted(self.pending.items()):
            if then_s > taken_s + LATEST_WRITE_S:
                self.now_s = max(self.now_s, taken_s + LATEST_WRITE_S)
                self._write(serial)
        self.now_s = max(self.now_s, then_s)

    def _write(self, serial: int) -> None:
        del self.pending[serial]
        self.quota.written(serial, self.now_s)
        self.written.append(self.now_s)
        self.answered.append(serial)

    def _greatest(self, from_s: float, until_s: float) -> float:
        """Return the greatest quota in force at any time of a span."""
        ends = [since_s for since_s, _ in self.ceilings[1:]] + [math.inf]
        spans = zip(self.ceilings, ends, strict=True)
        return max(rate for (since_s, rate), end_s in spans if since_s <= until_s and end_s >= from_s)


TestQuotaWhateverHappens = QuotaMachine.TestCase
TestQuotaWhateverHappens.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-7200.0, 7200.0), st.integers(1, 20)), min_size=1, max_size=8),
    st.sampled_from([5.0, 20.0]),
)
def test_a_wall_clock_that_is_set_again_and_again_changes_nothing_of_the_pace(
    steps: list[tuple[float, int]], quota_per_s: float
) -> None:
    asyncio.run(_under_a_stepping_clock(steps, quota_per_s))


async def _under_a_stepping_clock(steps: list[tuple[float, int]], quota_per_s: float) -> None:
    scene = make_scene(OK, quota_per_s=quota_per_s)
    server_s = scene.clock.now_s() - scene.clock.monotonic_s()  # the site's own clock goes on evenly
    is_late = lambda sent: abs(server_s + scene.clock.monotonic_s() - sent) > 120  # noqa: E731
    scene.transport.answer = lambda request: reply(
        403002 if is_late(int(request.params["timestamp"])) else 0,
        date_s=float(int(server_s + scene.clock.monotonic_s())),
    )
    scene.start()
    scene.add(*(f"u{number}" for number in range(300)))
    for by_s, ticks in steps:
        scene.clock.step_wall_clock(by_s)
        await scene.advance(ticks * 0.05, step_s=0.01)
    began_s, before = scene.clock.monotonic_s(), len(scene.transport.requests)
    await scene.advance(3.0, step_s=0.01)
    arrived = [request.at_s for request in scene.transport.requests]
    await scene.stop()
    seconds = [bisect_left(arrived, at_s + 1.0) - index for index, at_s in enumerate(arrived)]
    assert max(seconds) <= quota_per_s
    assert len(arrived) - before >= 0.9 * quota_per_s * (scene.clock.monotonic_s() - began_s) - 1
    assert scene.sender.is_open

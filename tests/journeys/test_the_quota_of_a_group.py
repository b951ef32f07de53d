"""Three members keep one site's quota together: used nearly in full wherever the load is, and not exceeded.

The local Gigya enforces the quota in a sliding window and says when each request arrived: nothing here asks a worker.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import pytest

from tests.journeys.conftest import Begin
from tests.journeys.harness import Journey, gathered, tell
from tests.journeys.processes import WorkerProcess, until
from worker.sandbox.events import SampleEvent, stream

pytestmark = pytest.mark.broker

QUOTA, MEMBERS, PARTITIONS = 90, 3, 12
MOST_IN_A_SECOND = QUOTA + max(0.01 * QUOTA, 2 + MEMBERS)
MOST_REFUSED = 0.003
MOST_REFUSED_IN_A_CHANGE = 0.01  # processes that start and end on a busy machine hold up the others' loops
SETTLE_S = 30.0  # after a change of the load, before its use of the quota is measured
MEASURE_S = 20.0
PACED = {"site": {"quota_per_s": float(QUOTA)}, "delivery": {"drain_s": 5}}
GIGYA = {
    "latency": {"distribution": "lognormal", "ms": 20, "upper_ms": 100},
    "sites": {"main": {"quota": {"per_s": QUOTA, "window": "sliding"}}},
}


@dataclass(frozen=True, slots=True)
class Arrivals:
    """The calls that arrived at the site in some stretch of time, refused ones too."""

    times_s: Sequence[float]
    refused_s: Sequence[float]  # of these, the refused ones, since the beginning
    length_s: float

    @property
    def refused(self) -> int:
        return len(self.refused_s)

    @property
    def used(self) -> float:
        """Return the share of the quota that was used by what was accepted."""
        return (len(self.times_s) - self.refused) / (QUOTA * self.length_s)

    @property
    def refused_share(self) -> float:
        return self.refused / max(1, len(self.times_s))

    @property
    def most_in_a_second(self) -> int:
        first, most = 0, 0
        for last, at_s in enumerate(self.times_s):
            while self.times_s[first] <= at_s - 1.0:
                first += 1
            most = max(most, last - first + 1)
        return most

    def __str__(self) -> str:
        return (
            f"{len(self.times_s)} arrivals in {self.length_s:.0f} s, {self.used:.1%} of the quota used, at most "
            f"{self.most_in_a_second} in a second, {self.refused_share:.2%} refused with 403048"
            + (f" (at {', '.join(f'{at_s:.1f}' for at_s in self.refused_s)} s)" if self.refused_s else "")
        )


async def arrivals(journey: Journey, begin_s: float, end_s: float) -> Arrivals:
    """Return what arrived between two moments (Unix time)."""
    lines = await journey.gigya.control("GET", "arrivals")
    within = [line for line in lines if begin_s <= line["at_s"] < end_s]
    refused_s = [line["at_s"] - begin_s for line in within if line["code"] == 403048]
    return Arrivals([line["at_s"] for line in within], refused_s, end_s - begin_s)


def events(seed: int, count: int, *, partition: int | None = None) -> Iterable[SampleEvent]:
    """Return events that each lead to a call, spread over all partitions, or all of them in one."""
    made = stream(seed, count=count, users=600, share_matching=1.0, share_bad=0.0)
    return (replace(event, partition=partition) for event in made)


async def have_partitions(members: Sequence[WorkerProcess]) -> bool:
    await asyncio.sleep(0)
    last = [assigned[-1][1] for member in members if (assigned := member.assignments())]
    owned = sorted(partition for partitions in last for partition in partitions)
    return len(last) == len(members) and all(last) and owned == list(range(PARTITIONS))


def keeps_the_quota(seen: Arrivals, *, most_refused: float = MOST_REFUSED) -> None:
    assert seen.most_in_a_second <= MOST_IN_A_SECOND, str(seen)
    assert seen.refused_share < most_refused, str(seen)


@pytest.mark.timeout(300)
async def test_three_members_use_the_quota_together_and_keep_it(begin: Begin):
    async with begin(partitions=PARTITIONS, gigya=GIGYA) as journey:
        members = [journey.start(name, **PACED) for name in ("first", "second", "third")]
        await gathered(*(journey.ready(member) for member in members))
        await until("all partitions are dealt out", lambda: have_partitions(members))
        started_s = time.time()

        # A backlog in one partition only: its owner gets nearly all of the quota.
        await journey.append(events(1, 7_000, partition=5))
        changed_s = time.time()
        await asyncio.sleep(SETTLE_S + MEASURE_S)
        lopsided = await arrivals(journey, changed_s + SETTLE_S, changed_s + SETTLE_S + MEASURE_S)
        tell(f"backlog in one partition of {PARTITIONS}: {lopsided}")
        assert lopsided.used >= 0.95, str(lopsided)

        # And in all of them: everybody gives and takes until the shares are even.
        await journey.append(events(2, 9_000))
        changed_s = time.time()
        await asyncio.sleep(SETTLE_S + MEASURE_S)
        moving = await arrivals(journey, changed_s, changed_s + SETTLE_S)
        even = await arrivals(journey, changed_s + SETTLE_S, changed_s + SETTLE_S + MEASURE_S)
        tell(f"while the shares moved:          {moving}")
        tell(f"evenly spread:                   {even}")
        assert even.used >= 0.95, str(even)
        keeps_the_quota(even)
        keeps_the_quota(moving, most_refused=MOST_REFUSED_IN_A_CHANGE)

        # One goes and one comes, in full swing.
        changed_s = time.time()
        assert await members[2].stopped() == 0, members[2].tail()
        await until("two members have it all", lambda: have_partitions(members[:2]))
        await asyncio.sleep(5)
        members.append(journey.start("fourth", **PACED))
        await until("three members have it all", lambda: have_partitions([*members[:2], members[3]]))
        await asyncio.sleep(10)
        changing = await arrivals(journey, changed_s, time.time())
        tell(f"one member goes and one comes:   {changing}")
        keeps_the_quota(changing, most_refused=MOST_REFUSED_IN_A_CHANGE)

        whole = await arrivals(journey, started_s, time.time())
        tell(f"from the start to the end:       {whole}")
        keeps_the_quota(whole)
        journey.check_workers()
        await gathered(*(member.stopped() for member in members if member.is_running))

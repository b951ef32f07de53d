"""One call at a time per user, many users at once.

Why: Gigya refuses more than five requests at once for one UID (409030), and a total that never goes below zero makes
plus-then-minus differ from minus-then-plus. So the calls of one user wait in one queue, its lane; a lane that backs
off blocks nobody else.

What waits is plain data: only attempts in flight are tasks. An outage of any length then costs the memory of its
calls, which the engine bounds, and not a task for each of them.

A call behind its partition's horizon (`horizon.py`) is not ready yet: its lane stands aside until a commit has moved
the horizon.

One dispatcher per site takes a permit when a lane is ready, and only then picks the lane: a request never ages between
its permit and its signature, and while a site is in trouble each probe is another user's call.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from worker.clock import Clock
from worker.delivery.deliveries import Delivery, Later
from worker.delivery.gate import Permit
from worker.gigya.calls import Call
from worker.model import Outcome, TopicPartition
from worker.pipeline.horizon import Heads, Horizon
from worker.pipeline.parking import parked_outcome
from worker.pipeline.site_lanes import Behind, Job, Lane, LaneStatistics, SiteLanes, SiteSender, State, statistics_of
from worker.pipeline.tickets import Ticket

# How often a drain looks again at calls whose site has become unready meanwhile.
DRAIN_LOOK_S = 0.1


@dataclass(slots=True)
class _Partition:
    """What the lanes know of a partition whose calls keep to a horizon."""

    horizon: Horizon
    behind: list[Behind]  # by offset, ascending


class Lanes:
    """All users' queues, of all sites. `max_in_flight` is over all of them, and at least one for each.

    `ended` is called once per job that ended, from the event loop; a job that was dropped is not reported.
    """

    def __init__(
        self,
        senders: Mapping[str, SiteSender],
        *,
        max_in_flight: int,
        clock: Clock,
        ended: Callable[[Job, Outcome], None],
    ) -> None:
        self._sites = {name: SiteLanes(name, sender) for name, sender in senders.items()}
        self._places = max(max_in_flight, len(self._sites))
        self._clock = clock
        self._ended = ended
        self.attempts_ended = 0
        self.renew: Callable[[], None] = lambda: None  # asks for a commit that moves a horizon; set by who commits
        self._horizons: dict[TopicPartition, _Partition] = {}
        self._closing: set[TopicPartition] = set()
        self._jobs_of: dict[TopicPartition, int] = {}
        self._changed = asyncio.Event()
        self._running = asyncio.Event()
        self._running.set()
        for site in self._sites.values():
            site.sender.released = self._released

    async def run(self) -> None:
        """Dispatch until cancelled; what is in flight then is cancelled too."""
        async with asyncio.TaskGroup() as tasks:
            for site in self._sites.values():
                tasks.create_task(self._dispatch(site, tasks), name=f"dispatch-{site.name}")

    def join(self, job: Job) -> None:
        """Put a call at the end of its user's lane."""
        call = job.delivery.call
        site = self._sites[call.site]
        lane = site.lanes.get(call.uid)
        if lane is None:
            lane = site.lanes[call.uid] = Lane(call.uid)
            lane.jobs.append(job)
            self._make_ready(site, lane)
        else:
            lane.jobs.append(job)
        site.jobs += 1
        self._jobs_of[job.ticket.partition] = self._jobs_of.get(job.ticket.partition, 0) + 1

    def keep_to(self, partition: TopicPartition, horizon: Horizon) -> None:
        """Attempt no call of this partition that is not below its horizon. Without one there is no such limit."""
        self._horizons[partition] = _Partition(horizon, [])

    def heads(self) -> Callable[[TopicPartition], Heads]:
        """Return what tells of each partition, as it is now, which calls could be attempted but for place and horizon.

        To be asked before anything changes: those that are ready are looked for once, and only if somebody asks.
        """

        @cache
        def ready() -> Mapping[TopicPartition, Sequence[int]]:
            found: dict[TopicPartition, list[int]] = {}
            for site in self._sites.values():
                is_open = site.sender.is_open
                for ticket in site.ready_tickets():
                    offsets = found.setdefault(ticket.partition, [])
                    if is_open:
                        offsets.append(ticket.offset)
            return found

        def heads_of(partition: TopicPartition) -> Heads:
            known = self._horizons.get(partition)
            behind = [each.offset for each in known.behind] if known is not None else []
            return Heads(behind, lambda: ready().get(partition, ()), lambda: partition in ready())

        return heads_of

    def horizons_moved(self, partitions: Iterable[TopicPartition]) -> None:
        """Let the calls go on that are below a horizon now."""
        for partition in partitions:
            self._horizon_moved(partition)
        if any(map(self._is_short, self._sites.values())):
            # While a commit is under way a shortage counts for nothing. Without this look a site whose calls it has not
            # let through would sleep until something else of it ends.
            self._ran_short()

    def _horizon_moved(self, partition: TopicPartition) -> None:
        known = self._horizons.get(partition)
        if known is None or not known.behind:
            return
        count = bisect_left(known.behind, known.horizon.below, key=_offset_of)
        below, known.behind = known.behind[:count], known.behind[count:]
        for offset, site, lane in below:
            if lane in site.behind and lane.jobs[0].ticket.offset == offset:
                self._make_ready(site, lane)

    def hold(self) -> None:
        """Start no further attempt; what is in flight ends."""
        self._running.clear()

    def go_on(self) -> None:
        """Start attempts again after `hold`."""
        self._running.set()

    def withdraw(self, ticket: Ticket) -> list[Job]:
        """Take a parked record's calls out of their lanes and return them; those in flight follow when they return.

        They end with the outcome of their attempt, or as parked if it decided nothing.
        """
        withdrawn: list[Job] = []
        for call in ticket.calls:
            site = self._sites[call.site]
            if (lane := site.lanes.get(call.uid)) is not None:
                withdrawn += self._drop_jobs(site, lane, lambda job: job.ticket is ticket)
        for job in withdrawn:
            self._sites[job.delivery.call.site].sender.abandon(job.delivery)
        self._changed.set()
        return withdrawn

    async def drain(self, partitions: Collection[TopicPartition], *, until_s: float) -> None:
        """Let the calls of these partitions end, and drop those that cannot end now.

        Dropped at once: calls of a site that is not open, calls in back-off or held, and what stands behind them.
        Calls that only wait for a permit go on until `until_s` (monotonic). What is in flight is waited for in any
        case: an attempt has a time limit of its own.
        """
        self._closing |= set(partitions)
        try:
            while self._count(partitions):
                # While held nothing waits for a permit in earnest: there is no point in waiting with it.
                is_late = self._clock.monotonic_s() >= until_s or not self._running.is_set()
                for site in self._sites.values():
                    self._drop_waiting(site, partitions, all_of_them=is_late or not site.sender.is_open)
                if not self._count(partitions):
                    return
                self._changed.clear()
                await self._wait_changed(DRAIN_LOOK_S)
        finally:
            self._closing -= set(partitions)

    def forget(self, partitions: Collection[TopicPartition]) -> None:
        """Drop whatever is left of these partitions; an attempt in flight ends unheard."""
        for site in self._sites.values():
            self._drop_waiting(site, partitions, all_of_them=True)
            site.clear_ready()
        for partition in partitions:
            self._horizons.pop(partition, None)

    @property
    def in_flight(self) -> int:
        """Return how many attempts have been started and not answered."""
        return sum(site.in_flight for site in self._sites.values())

    def waits_for(self, call: Call) -> str:
        """Return `backoff` or `held` while a call's lane rightly waits for that; empty: it could be in flight."""
        lane = self._sites[call.site].lanes.get(call.uid)
        if lane is not None and lane.state is State.BACKOFF and self._clock.monotonic_s() < lane.due_s:
            return "backoff"
        return "held" if lane is not None and lane.state is State.HELD else ""

    def statistics(self) -> dict[str, LaneStatistics]:
        """Return how full the lanes are, by site."""
        return {name: statistics_of(site) for name, site in self._sites.items()}

    async def _dispatch(self, site: SiteLanes, tasks: asyncio.TaskGroup) -> None:
        while True:
            while not (site.has_ready and self._has_place(site)):
                if self._is_short(site):
                    self._ran_short()
                site.wake.clear()
                await site.wake.wait()
            site.places += 1  # kept before the wait for a permit, so that no other site takes it
            await self._running.wait()
            permit = await site.sender.admit()
            lane = self._take_ready(site) if self._running.is_set() else None
            if lane is None:
                site.sender.give_back(permit)
                self._leave_place(site)
                continue
            lane.state = State.IN_FLIGHT
            site.in_flight += 1
            self._has_begun(lane.jobs[0])
            tasks.create_task(self._attempt(site, lane, lane.jobs[0], permit))

    def _take_ready(self, site: SiteLanes) -> Lane | None:
        """Take the next lane that may go on. A horizon may have come down since a lane was made ready."""
        while (lane := site.take_ready()) is not None and self._stands_behind(site, lane):
            pass
        return lane

    def _make_ready(self, site: SiteLanes, lane: Lane) -> None:
        """Let a lane's first call wait for a permit; or first for the horizon, where it is behind it."""
        site.behind.discard(lane)
        ticket = lane.jobs[0].ticket
        known = self._horizons.get(ticket.partition)
        if known is not None and known.horizon.is_near(ticket.offset):
            self.renew()
        if self._stands_behind(site, lane):
            return
        lane.state = State.READY
        site.add_ready(lane)
        site.wake.set()

    def _stands_behind(self, site: SiteLanes, lane: Lane) -> bool:
        """Put a lane aside whose first call is behind the horizon; say whether it is."""
        ticket = lane.jobs[0].ticket
        known = self._horizons.get(ticket.partition)
        if known is None or ticket.offset < known.horizon.below:
            return False
        lane.state = State.BEHIND
        site.behind.add(lane)
        insort(known.behind, Behind(ticket.offset, site, lane), key=_offset_of)
        return True

    def _has_begun(self, job: Job) -> None:
        known = self._horizons.get(job.ticket.partition)
        if known is not None and known.horizon.has_begun(job.ticket.offset):
            self.renew()

    def _is_short(self, site: SiteLanes) -> bool:
        return bool(site.behind) and not site.has_ready and self._has_place(site)

    def _ran_short(self) -> None:
        """Note that calls wait for nothing but a commit."""
        for known in self._horizons.values():
            if known.behind:
                known.horizon.ran_short()
        self.renew()

    async def _attempt(self, site: SiteLanes, lane: Lane, job: Job, permit: Permit) -> None:
        lane.released_early = False
        result = await site.sender.attempt(job.delivery, permit)
        site.in_flight -= 1
        self.attempts_ended += 1
        self._leave_place(site)
        if job.ticket.is_void:
            if isinstance(result, Later) and result.wait_s is None:
                site.sender.forget(job.delivery)
            self._pop(site, lane)
        elif isinstance(result, Outcome):
            self._pop(site, lane)
            self._ended(job, result)
        elif job.ticket.parked is not None:
            site.sender.abandon(job.delivery)
            self._pop(site, lane)
            self._ended(job, parked_outcome(job.delivery, job.ticket.parked))
        else:
            self._put_off(site, lane, job, result)
        self._changed.set()

    def _put_off(self, site: SiteLanes, lane: Lane, job: Job, later: Later) -> None:
        job.ticket.last_reason = later.reason
        job.ticket.attempts = max(job.ticket.attempts, job.delivery.attempts)
        only_waits_for_a_permit = later.wait_s is not None and later.wait_s <= 0 and site.sender.is_open
        if job.ticket.partition in self._closing and not only_waits_for_a_permit:
            if later.wait_s is None:
                site.sender.forget(job.delivery)
            lane.state = State.BACKOFF
            self._drop_jobs(site, lane, lambda each: each.ticket.partition == job.ticket.partition)
        elif later.wait_s is None:
            lane.state = State.HELD
            if lane.released_early:
                self._make_ready(site, lane)
        elif later.wait_s <= 0:
            self._make_ready(site, lane)
        else:
            lane.state = State.BACKOFF
            lane.due_s = self._clock.monotonic_s() + later.wait_s
            lane.timer = self._clock.call_later(later.wait_s, lambda: self._backoff_over(site, lane))

    def _backoff_over(self, site: SiteLanes, lane: Lane) -> None:
        lane.timer = None
        if lane.state is State.BACKOFF and lane.jobs:
            self._make_ready(site, lane)

    def _released(self, delivery: Delivery) -> None:
        site = self._sites[delivery.call.site]
        lane = site.lanes.get(delivery.call.uid)
        if lane is None or lane.jobs[0].delivery is not delivery:
            return
        if lane.state is State.HELD:
            self._make_ready(site, lane)
        elif lane.state is State.IN_FLIGHT:
            # Released before `attempt` returned that it is held: the answer must not be lost.
            lane.released_early = True

    def _pop(self, site: SiteLanes, lane: Lane) -> None:
        """Take the first job off a lane whose attempt has ended, and let the next one follow."""
        self._uncount(site, lane.jobs.popleft())
        if lane.jobs:
            self._make_ready(site, lane)
        else:
            site.lanes.pop(lane.uid, None)

    def _drop_waiting(self, site: SiteLanes, partitions: Collection[TopicPartition], *, all_of_them: bool) -> None:
        for lane in list(site.lanes.values()):
            head = lane.jobs[0]
            is_put_off = lane.state in (State.BACKOFF, State.HELD) and head.ticket.partition in partitions
            if all_of_them or is_put_off:
                if lane.state is State.HELD and head.ticket.partition in partitions:
                    site.sender.forget(head.delivery)
                self._drop_jobs(site, lane, lambda job: job.ticket.partition in partitions)

    def _drop_jobs(self, site: SiteLanes, lane: Lane, is_chosen: Callable[[Job], bool]) -> list[Job]:
        """Drop a lane's chosen jobs and return them; never the one in flight: it is dropped when it returns."""
        head = lane.jobs[0]
        in_flight = head if lane.state is State.IN_FLIGHT else None
        dropped = [job for job in lane.jobs if job is not in_flight and is_chosen(job)]
        if not dropped:
            return dropped
        kept = deque(job for job in lane.jobs if job is in_flight or not is_chosen(job))
        for job in dropped:
            self._uncount(site, job)
        lane.jobs = kept
        if not kept:
            site.behind.discard(lane)
            lane.stop_timer()
            site.lanes.pop(lane.uid, None)
        elif kept[0] is not head:
            # The head was waiting for something of its own; the next one waits for nothing.
            lane.stop_timer()
            self._make_ready(site, lane)
        return dropped

    def _uncount(self, site: SiteLanes, job: Job) -> None:
        site.jobs -= 1
        left = self._jobs_of[job.ticket.partition] - 1
        if left:
            self._jobs_of[job.ticket.partition] = left
        else:
            del self._jobs_of[job.ticket.partition]

    def _count(self, partitions: Collection[TopicPartition]) -> int:
        return sum(self._jobs_of.get(partition, 0) for partition in partitions)

    def _has_place(self, site: SiteLanes) -> bool:
        """Return whether the site may start one more attempt. Of the places one is left for each site that has none.

        Else a site that admits nobody, or one without a quota, could keep the others from ever making a call.
        """
        others = [other for other in self._sites.values() if other is not site]
        kept = sum(max(1, other.places) for other in others)
        return site.places + kept < self._places

    def _leave_place(self, site: SiteLanes) -> None:
        site.places -= 1
        for each in self._sites.values():
            each.wake.set()

    async def _wait_changed(self, seconds: float) -> None:
        """Wait until a job ended, or for so long."""
        timer = self._clock.call_later(seconds, self._changed.set)
        try:
            await self._changed.wait()
        finally:
            timer.cancel()


def _offset_of(behind: Behind) -> int:
    return behind.offset

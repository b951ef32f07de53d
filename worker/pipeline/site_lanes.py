"""What waits at one site: the queue of each user, and which of them may go on. `lanes.py` moves it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from worker.clock import Timer
from worker.delivery.deliveries import Delivery, Later
from worker.delivery.gate import Permit
from worker.model import Outcome
from worker.pipeline.tickets import Ticket


class SiteSender(Protocol):
    """What the lanes need of a site's sender. Called from the event loop of the lanes only."""

    released: Callable[[Delivery], None]

    @property
    def is_open(self) -> bool:
        """Whether calls are being made: neither outage nor stopped."""
        ...

    async def admit(self) -> Permit:
        """Wait until one attempt may start. Cancelling it loses no permit."""
        ...

    def give_back(self, permit: Permit) -> None:
        """Return a permit that was not used."""
        ...

    async def attempt(self, delivery: Delivery, permit: Permit) -> Outcome | Later:
        """Make exactly one attempt. Does not raise for anything the API or the network does."""
        ...

    def forget(self, delivery: Delivery) -> None:
        """Drop what is remembered of a call that is held: it is not ours any more."""
        ...

    def abandon(self, delivery: Delivery) -> None:
        """Drop what is remembered of a call that an operator has ended."""
        ...


class State(Enum):
    READY = 1  # in the site's queue, waiting for room and a permit
    IN_FLIGHT = 2
    BACKOFF = 3  # a timer will make it ready
    HELD = 4  # the sender will release it
    BEHIND = 5  # a commit that moves the horizon will make it ready


class Job(NamedTuple):
    """One call in its lane, and where its outcome belongs."""

    delivery: Delivery
    ticket: Ticket
    call_index: int  # of the call in the ticket


class Lane:
    __slots__ = ("due_s", "jobs", "released_early", "state", "timer", "uid")

    def __init__(self, uid: str) -> None:
        self.uid = uid
        self.jobs: deque[Job] = deque()
        self.state = State.READY
        self.timer: Timer | None = None
        self.due_s = 0.0  # monotonic: when its back-off ends
        self.released_early = False

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Behind(NamedTuple):
    """A lane whose first call waits for the horizon. Stale once the lane has another first call."""

    offset: int
    site: SiteLanes
    lane: Lane


class SiteLanes:
    """The lanes of one site. A lane exists only while it has jobs."""

    def __init__(self, name: str, sender: SiteSender) -> None:
        self.name = name
        self.sender = sender
        self.lanes: dict[str, Lane] = {}
        self.ready: deque[Lane] = deque()  # may hold lanes that are not ready any more: looked at when taken
        self.ready_first: deque[Lane] = deque()  # with suspects: unsettled when we die, they are hard to tell
        self.wake = asyncio.Event()
        self.jobs = 0
        self.in_flight = 0
        self.places = 0  # in flight, or kept for the attempt that waits for its permit
        self.behind: set[Lane] = set()  # lanes that only a horizon keeps from being ready

    def take_ready(self) -> Lane | None:
        # In an outage calls go first: one of them shows that the site is back, a question to the log need not.
        for queue in (self.ready_first, self.ready)[:: 1 if self.sender.is_open else -1]:
            while queue:
                lane = queue.popleft()
                if lane.jobs and lane.state is State.READY:
                    return lane
        return None

    def add_ready(self, lane: Lane) -> None:
        (self.ready_first if lane.jobs[0].delivery.suspect else self.ready).append(lane)

    @property
    def has_ready(self) -> bool:
        return bool(self.ready_first or self.ready)

    def ready_tickets(self) -> Iterator[Ticket]:
        """Yield the records whose calls only wait for a place and a permit, in no order."""
        for lane in (*self.ready_first, *self.ready):
            if lane.jobs and lane.state is State.READY:
                yield lane.jobs[0].ticket

    def clear_ready(self) -> None:
        """Forget lanes that are gone. While a site admits nobody nothing takes them, and outages can be long."""
        for queue in (self.ready_first, self.ready):
            left = [lane for lane in queue if lane.jobs and lane.state is State.READY]
            queue.clear()
            queue.extend(left)


@dataclass(frozen=True, slots=True)
class LaneStatistics:
    """How full the lanes of one site are, for /status and metrics."""

    users: int
    waiting: int
    in_flight: int
    held: int
    in_backoff: int
    longest_lane: int


def statistics_of(site: SiteLanes) -> LaneStatistics:
    states = [lane.state for lane in site.lanes.values()]
    return LaneStatistics(
        users=len(states),
        waiting=site.jobs - site.in_flight,
        in_flight=site.in_flight,
        held=states.count(State.HELD),
        in_backoff=states.count(State.BACKOFF),
        longest_lane=max((len(lane.jobs) for lane in site.lanes.values()), default=0),
    )

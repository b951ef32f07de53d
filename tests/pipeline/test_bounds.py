"""What is held is bounded, whatever comes, for however long. Objects are counted here; megabytes a journey measures."""

from __future__ import annotations

import asyncio
import gc
import types
from collections import Counter
from collections.abc import Iterable

import pytest

from tests.delivery.fakes import OK, Request, Scene, make_scene, reply
from tests.pipeline.fakes import call
from tests.pipeline.test_parking import House, running
from worker.delivery import lookup
from worker.gigya.calls import Call
from worker.gigya.replies import NoReply, Reply
from worker.model import Event, KafkaRecord, Record, TopicPartition
from worker.pipeline.tickets import Ticket

P0 = TopicPartition("user-events", 0)
LOST = NoReply("timeout", may_have_arrived=True)
NOT_OURS = (type, types.ModuleType, types.FunctionType, types.CodeType, types.FrameType, asyncio.AbstractEventLoop)


@pytest.mark.parametrize("where", ["key", "value", "headers"])
def test_all_of_a_record_counts_for_the_memory_that_records_may_take(where: str) -> None:
    big = b"x" * 1_000_000
    parts = {"key": None, "value": b"{}", "headers": ()} | {where: (("h", big),) if where == "headers" else big}
    record = KafkaRecord("user-events", 0, 1, parts["value"], parts["key"], parts["headers"])  # type: ignore[arg-type]
    ticket = Ticket(record=record, partition=P0, epoch=1, number=1, started_s=0.0, calls=(), outcomes=[])
    assert ticket.size_bytes >= 1_000_000


class EachItsUser:
    """One call for each record, of the user that it names."""

    def calls(self, record: Record, event: Event) -> tuple[Call, ...]:
        return (call(str(event.payload["type"])),)


class Crowd(House):
    """A pipeline with little room, and as many users as are wanted, each seen once."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene, max_ratio=1)
        self.handler._mapper = EachItsUser()
        self.handler._room._max_bytes = 1_000_000
        self.users = 0

    async def take_what_has_room(self, *, users_at_most: int = 10**9) -> int:
        """Hand over new users' records until there is no room, or there have been so many; return how many."""
        before = self.users
        while self.handler.has_room(P0) and self.users < users_at_most:
            await self.take(*(f"user-{self.users + number}" for number in range(10)))
            self.users += 10
        return self.users - before

    async def pass_time(self, seconds: float, step_s: float = 1.0) -> None:
        """Let timers that are set meanwhile have their turn, too."""
        for _ in range(int(seconds / step_s)):
            await self.clock.advance(step_s)


def census(roots: Iterable[object]) -> Counter[str]:
    """Return how many objects of each type can be reached."""
    seen: set[int] = set()
    found: Counter[str] = Counter()
    left = list(roots)
    while left:
        one = left.pop()
        if id(one) in seen or isinstance(one, NOT_OURS):
            continue
        seen.add(id(one))
        found[type(one).__name__] += 1
        left += gc.get_referents(one)
    return found


def held(house: House, scene: Scene) -> Counter[str]:
    gc.collect()
    return census((house.lanes, house.handler, house.offsets, house.ledger, scene.sender, scene.metrics))


def grown(before: Counter[str], after: Counter[str]) -> dict[str, int]:
    return dict((after - before).most_common(12))


@pytest.mark.parametrize("trouble", ["outage", "stopped", "paused", "held", "backoff"])
async def test_in_a_trouble_of_any_length_what_is_held_stays_as_it_is(trouble: str) -> None:
    answers = {"outage": LOST, "stopped": reply(400093), "held": reply(403003), "backoff": reply(409030), "paused": OK}

    def answer(request: Request) -> Reply | NoReply:
        is_question = request.method == "gm.getActionConfig"
        return reply(403048) if is_question and trouble == "held" else answers[trouble]

    scene = make_scene(answer, attempts=1_000, give_up_after_s=86_400, ask_limit_s=3_600)
    scene.transport.log = None
    async with running(Crowd(scene)) as house:
        asking = asyncio.create_task(scene.sender.run())
        if trouble == "paused":
            scene.sender.pause()
        filled = await house.take_what_has_room()
        assert 100 < filled < 1000
        # First every call may have been a probe once, and have come into doubt by it.
        seconds = 60.0 if trouble == "backoff" else 3_000.0
        await house.pass_time(seconds)
        before = held(house, scene)
        scene.transport.requests.clear()
        await house.pass_time(seconds)
        scene.transport.requests.clear()
        after = held(house, scene)
        assert await house.take_what_has_room() == 0
        if trouble in ("outage", "stopped"):
            assert scene.sender.status().state.value == trouble
        assert sum(after.values()) - sum(before.values()) < 300, grown(before, after)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def test_users_who_have_been_served_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tenth call's answer is lost, so that the log is asked, too."""
    monkeypatch.setattr(lookup, "_USERS_KEPT", 20)

    def answer(request: Request) -> Reply | NoReply:
        if request.method == "gm.getActionsLog":
            return reply(0, actions=[])
        uid = request.params.get("UID", "")
        if not uid.endswith("7") or uid in lost:
            return OK
        lost.add(uid)
        return LOST

    lost: set[str] = set()
    scene = make_scene(answer)
    async with running(Crowd(scene)) as house:
        asking = asyncio.create_task(scene.sender.run())

        async def serve(users_at_most: int) -> Counter[str]:
            while house.users < users_at_most:
                await house.take_what_has_room(users_at_most=users_at_most)
                await house.pass_time(10.0, 0.25)
                scene.transport.requests.clear()
            lost.clear()
            await house.clock.advance(700.0)  # longer than own calls are remembered
            await house.take("last")
            await house.pass_time(10.0, 0.25)
            assert house.watermark == house.progress.position  # as each commit looks, every second
            return held(house, scene)

        before = await serve(600)
        after = await serve(4_000)
        assert sum(after.values()) - sum(before.values()) < 600, grown(before, after)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

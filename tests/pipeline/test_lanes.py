"""One call in flight per user, in order; other users go on; what waits is bounded apart from what is in flight."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random

import pytest

from tests.pipeline.fakes import ScriptedSender, call, delivered, job
from worker.clock import ManualClock, settle
from worker.delivery.deliveries import Delivery, Later
from worker.model import Outcome, TopicPartition
from worker.pipeline.horizon import Horizon
from worker.pipeline.lanes import Lanes
from worker.pipeline.site_lanes import Job

P0 = TopicPartition("user-events", 0)
P1 = TopicPartition("user-events", 1)


class House:
    """Lanes over one scripted sender, running."""

    def __init__(self, max_in_flight: int = 10) -> None:
        self.clock = ManualClock()
        self.sender = ScriptedSender()
        self.ended: list[tuple[str, int]] = []
        self.lanes = Lanes({"main": self.sender}, max_in_flight=max_in_flight, clock=self.clock, ended=self._note_end)

    def _note_end(self, ended: Job, outcome: Outcome) -> None:
        self.ended.append((ended.delivery.call.uid, ended.delivery.offset))

    def join(self, uid: str, offset: int, partition: TopicPartition = P0) -> Job:
        joined = job(uid, offset, partition)
        self.lanes.join(joined)
        return joined


@asynccontextmanager
async def running(house: House) -> AsyncIterator[House]:
    task = asyncio.create_task(house.lanes.run())
    try:
        yield house
        assert not task.done(), "the lanes died"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_calls_of_one_user_are_made_one_at_a_time_and_in_order() -> None:
    async with running(House()) as house:
        for offset in range(3):
            house.join("u1", offset)
        await settle()
        assert house.sender.in_flight == [("u1", 0)]
        house.sender.answer("u1", delivered())
        await settle()
        assert house.sender.in_flight == [("u1", 1)]
        house.sender.answer("u1", delivered())
        await settle()
        house.sender.answer("u1", delivered())
        await settle()
        assert house.ended == [("u1", 0), ("u1", 1), ("u1", 2)]
        assert house.lanes.statistics()["main"].users == 0


async def test_a_lane_in_backoff_blocks_nobody_else_and_goes_on_when_its_time_has_come() -> None:
    async with running(House()) as house:
        house.join("u1", 0)
        house.join("u1", 1)
        house.join("u2", 2)
        await settle()
        house.sender.answer("u1", Later("server_error", 5.0))
        house.sender.answer("u2", delivered())
        await settle()
        assert house.ended == [("u2", 2)]
        assert house.lanes.statistics()["main"].in_backoff == 1
        await house.clock.advance(4.9)
        assert house.sender.in_flight == []
        await house.clock.advance(0.2)
        assert house.sender.in_flight == [("u1", 0)]


async def test_no_more_than_max_in_flight_are_started() -> None:
    async with running(House(max_in_flight=3)) as house:
        for number in range(10):
            house.join(f"u{number}", number)
        await settle()
        assert len(house.sender.in_flight) == 3
        assert house.lanes.statistics()["main"].waiting == 7
        house.sender.answer("u1", delivered())
        await settle()
        assert len(house.sender.in_flight) == 3
        assert ("u3", 3) in house.sender.in_flight


async def test_suspects_come_before_all_others_and_in_order_among_themselves() -> None:
    """They are settled as soon as may be: what is not when this process dies, too, nobody can tell any more."""
    async with running(House(max_in_flight=1)) as house:
        for offset, uid in enumerate(("u1", "u2", "u3")):
            house.join(uid, offset)
        await settle()
        for offset, uid in enumerate(("u4", "u5"), 3):
            suspect = job(uid, offset, P0)
            suspect.delivery.suspect = True
            house.lanes.join(suspect)
        for uid in ("u1", "u4", "u5", "u2", "u3"):
            await settle()
            assert [who for who, _ in house.sender.in_flight] == [uid]
            house.sender.answer(uid, delivered())


async def test_while_the_site_is_not_open_calls_come_before_suspects() -> None:
    """A suspect's question to the log as the only probe would never show that calls can be made again."""
    async with running(House(max_in_flight=1)) as house:
        house.join("u1", 0)
        await settle()
        suspect = job("u2", 1, P0)
        suspect.delivery.suspect = True
        house.lanes.join(suspect)
        house.join("u3", 2)
        house.sender.is_open = False
        house.sender.answer("u1", delivered())
        await settle()
        assert house.sender.in_flight == [("u3", 2)]


async def test_a_held_call_waits_until_it_is_released() -> None:
    async with running(House()) as house:
        held = house.join("u1", 0)
        await settle()
        house.sender.answer("u1", Later("ask", None))
        await house.clock.advance(3600)
        assert house.sender.in_flight == []
        house.sender.released(held.delivery)
        await settle()
        assert house.sender.in_flight == [("u1", 0)]


async def test_a_release_that_comes_before_the_hold_is_not_lost() -> None:
    async with running(House()) as house:
        held = house.join("u1", 0)
        await settle()
        house.sender.released(held.delivery)
        house.sender.answer("u1", Later("ask", None))
        await settle()
        assert house.sender.in_flight == [("u1", 0)]


async def test_the_user_is_picked_after_the_permit() -> None:
    async with running(House()) as house:
        house.sender.close_gate()
        house.join("u1", 0)
        await settle()
        house.lanes.forget({P0})
        house.join("u2", 1, P1)
        house.sender.open_gate()
        await settle()
        assert house.sender.in_flight == [("u2", 1)]
        assert house.sender.given_back == 0


async def test_a_permit_is_given_back_when_nobody_is_ready_any_more() -> None:
    async with running(House()) as house:
        house.sender.close_gate()
        house.join("u1", 0)
        await settle()
        house.lanes.forget({P0})
        house.sender.open_gate()
        await settle()
        assert house.sender.in_flight == []
        assert house.sender.given_back == 1


async def test_a_drain_lets_what_waits_for_a_permit_end() -> None:
    async with running(House(max_in_flight=1)) as house:
        for number in range(3):
            house.join(f"u{number}", number)
        await settle()
        draining = asyncio.create_task(house.lanes.drain({P0}, until_s=house.clock.monotonic_s() + 20))
        for number in range(3):
            house.sender.answer(f"u{number}", delivered())
            await house.clock.advance(0.2)
        assert draining.done()
        assert len(house.ended) == 3


async def test_a_drain_drops_calls_in_backoff_and_what_stands_behind_them_at_once() -> None:
    async with running(House()) as house:
        house.join("u1", 0)
        house.join("u1", 1)
        await settle()
        house.sender.answer("u1", Later("server_error", 300.0))
        await settle()
        await house.lanes.drain({P0}, until_s=house.clock.monotonic_s() + 20)
        await house.clock.advance(400)
        assert house.sender.in_flight == []
        assert house.ended == []


async def test_a_drain_drops_everything_that_waits_for_a_site_that_is_not_open() -> None:
    async with running(House()) as house:
        house.sender.close_gate()
        house.sender.is_open = False
        for number in range(4):
            house.join(f"u{number}", number)
        await settle()
        await house.lanes.drain({P0}, until_s=house.clock.monotonic_s() + 20)
        assert house.lanes.statistics()["main"].waiting == 0


async def test_a_drain_waits_for_what_is_in_flight_even_when_its_time_is_over() -> None:
    async with running(House()) as house:
        house.join("u1", 0)
        house.join("u1", 1)
        await settle()
        draining = asyncio.create_task(house.lanes.drain({P0}, until_s=house.clock.monotonic_s() + 1))
        await house.clock.advance(5)
        assert not draining.done()
        house.sender.answer("u1", delivered())
        await house.clock.advance(0.2)
        assert draining.done()
        assert house.ended == [("u1", 0)]  # the one behind it was dropped, not made


async def test_while_draining_a_call_that_must_be_tried_again_is_dropped_not_put_off() -> None:
    async with running(House()) as house:
        house.join("u1", 0)
        await settle()
        draining = asyncio.create_task(house.lanes.drain({P0}, until_s=house.clock.monotonic_s() + 20))
        await settle()
        house.sender.answer("u1", Later("server_error", 0.5))
        await house.clock.advance(1)
        assert draining.done()
        assert house.sender.in_flight == []
        assert house.ended == []


async def test_while_draining_a_throttled_call_waits_for_its_permit_like_any_other() -> None:
    async with running(House()) as house:
        house.join("u1", 0)
        await settle()
        draining = asyncio.create_task(house.lanes.drain({P0}, until_s=house.clock.monotonic_s() + 20))
        await settle()
        house.sender.answer("u1", Later("rate_limited", 0.0))
        await settle()
        house.sender.answer("u1", delivered())
        await house.clock.advance(0.2)
        assert draining.done()
        assert house.ended == [("u1", 0)]


async def test_a_result_that_comes_after_revocation_is_not_reported() -> None:
    async with running(House()) as house:
        late = house.join("u1", 0)
        house.join("u1", 7, P1)
        await settle()
        late.ticket.is_void = True
        house.lanes.forget({P0})
        house.sender.answer("u1", delivered())
        await settle()
        assert house.ended == []
        assert house.sender.in_flight == [("u1", 7)]


async def test_the_pause_of_a_call_that_was_dropped_does_not_shorten_the_next_ones() -> None:
    async with running(House()) as house:
        first = house.join("u1", 0)
        house.join("u1", 1)
        await settle()
        house.sender.answer("u1", Later("server_error", 2.0))
        await house.clock.advance(1.0)
        house.lanes.withdraw(first.ticket)  # parked
        await settle()
        house.sender.answer("u1", Later("server_error", 10.0))
        await house.clock.advance(9.0)
        assert house.sender.in_flight == []
        await house.clock.advance(2.0)
        assert house.sender.in_flight == [("u1", 1)]


async def test_forgetting_one_partition_keeps_the_same_users_calls_of_another() -> None:
    async with running(House(max_in_flight=1)) as house:
        house.join("blocker", 0, P1)
        house.join("u1", 1, P0)
        house.join("u1", 2, P1)
        await settle()
        house.lanes.forget({P0})
        house.sender.answer("blocker", delivered())
        await settle()
        assert house.sender.in_flight == [("u1", 2)]


async def test_when_held_no_further_attempt_starts() -> None:
    async with running(House(max_in_flight=1)) as house:
        house.join("u1", 0)
        house.join("u2", 1)
        await settle()
        house.lanes.hold()
        house.sender.answer("u1", delivered())
        await settle()
        assert house.sender.in_flight == []
        await house.lanes.drain({P0}, until_s=house.clock.monotonic_s() + 20)
        assert house.lanes.statistics()["main"].waiting == 0


@pytest.mark.parametrize("seed", range(25))
async def test_any_order_of_answers_keeps_every_users_order_and_loses_none(seed: int) -> None:
    rng = Random(seed)
    async with running(House(max_in_flight=rng.randint(1, 8))) as house:
        expected: dict[str, list[int]] = {}
        offset = 0
        for _ in range(120):
            for _ in range(rng.randint(0, 3)):
                uid = f"u{rng.randint(0, 9)}"
                expected.setdefault(uid, []).append(offset)
                house.join(uid, offset)
                offset += 1
            await settle(4)
            _answer_some(house, rng)
        for _ in range(3000):
            if len(house.ended) == offset:
                break
            await house.clock.advance(1)
            _answer_some(house, rng)
        assert len(house.ended) == offset
        for uid, offsets in expected.items():
            assert [number for ended_uid, number in house.ended if ended_uid == uid] == offsets
        assert house.sender.most_per_user == 1
        assert house.lanes.in_flight == 0


def _answer_some(house: House, rng: Random) -> None:
    answers: list[Callable[[], Outcome | Later]] = [delivered, delivered, lambda: Later("server_error", rng.random())]
    for uid, _ in list(house.sender.in_flight):
        if rng.random() < 0.7:
            house.sender.answer(uid, rng.choice(answers)())


async def test_a_site_that_admits_nobody_takes_no_other_sites_last_place() -> None:
    stopped, other = ScriptedSender(), ScriptedSender()
    stopped.close_gate()
    ended: list[str] = []
    lanes = Lanes(
        {"stopped": stopped, "other": other},
        max_in_flight=1,
        clock=ManualClock(),
        ended=lambda job, outcome: ended.append(job.delivery.call.uid),
    )
    running = asyncio.create_task(lanes.run())
    waiting = job("u1", 0, P0)
    lanes.join(waiting._replace(delivery=Delivery(call("u1", site="stopped"), P0, 0, -1)))
    await settle()
    lanes.join(waiting._replace(delivery=Delivery(call("u2", site="other"), P0, 1, -1)))
    await settle()

    assert [uid for uid, _ in other.in_flight] == ["u2"]

    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_lanes_that_were_given_back_during_an_outage_are_not_remembered() -> None:
    async with running(House()) as house:
        house.sender.is_open = False
        house.sender.close_gate()
        for _ in range(20):  # rebalances, one after the other
            for number in range(50):
                house.join(f"u{number}", number)
            await house.lanes.drain([P0], until_s=0.0)
            house.lanes.forget([P0])

        assert len(house.lanes._sites["main"].ready) <= 50


async def test_a_call_that_is_held_after_its_partition_was_taken_is_forgotten_by_the_sender() -> None:
    async with running(House()) as house:
        late = house.join("u1", 0)
        await settle()
        late.ticket.is_void = True
        house.sender.answer("u1", Later("ask", None))
        await settle()

        assert house.sender.forgotten == [late.delivery]


async def test_a_call_that_waits_for_a_place_is_not_made_when_the_horizon_has_come_down_before_it() -> None:
    horizon = Horizon(below=100, position=0, now_s=0.0)
    async with running(House(max_in_flight=1)) as house:
        house.lanes.keep_to(P0, horizon)
        for offset in range(4):
            house.join(f"u{offset}", offset)
        await settle()
        assert sorted(house.lanes.heads()(P0).ready()) == [1, 2, 3]
        horizon.sent(2)
        horizon.acknowledged(2)
        house.lanes.horizons_moved([P0])
        for uid in ("u0", "u1"):
            house.sender.answer(uid, delivered())
            await settle()
        assert house.sender.in_flight == []
        assert list(house.lanes.heads()(P0).behind) == [2, 3]
        horizon.acknowledged(3)
        house.lanes.horizons_moved([P0])
        await settle()
        assert house.sender.in_flight == [("u2", 2)]

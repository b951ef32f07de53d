"""The watchdog barks when nothing moves and nothing is to blame for it, and at nothing else."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.pipeline.fakes import delivered
from tests.pipeline.test_parking import P0, House, running
from worker.clock import settle
from worker.delivery.deliveries import Later
from worker.delivery.quota import QuotaState
from worker.delivery.sender import SiteStatus
from worker.delivery.site_state import State
from worker.metrics import Metrics
from worker.stacks import stacks_of_tasks
from worker.watchdog import LOOK_EVERY_S, Patience, Watchdog

STUCK_AFTER_S = 300.0


def site(**changes: object) -> SiteStatus:
    facts = {"state": State.OPEN, "reason": "", "code": None, "since_s": None, "remedy": "", "held": 0}
    more = {"rate_per_s": None, "quota": QuotaState.STEADY, "clock_offset_s": 0.0}
    return SiteStatus(site="main", **{**facts, **more, **changes})  # type: ignore[arg-type]


class Kennel:
    """A pipeline, and a watchdog over it."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.engine = SimpleNamespace(
            trouble="", last_commit_error="", unfinished=lambda: {P0: len(house.progress.unfinished)}
        )
        self.status = site()
        self.may_write = True
        self.letters = SimpleNamespace(status=lambda: SimpleNamespace(failing_since_s=None))
        self.metrics = Metrics()
        self.dog = Watchdog(
            engine=self.engine,  # type: ignore[arg-type]
            handler=house.handler,
            lanes=house.lanes,
            offsets=house.offsets,
            ledger=house.ledger,
            letters=self.letters,  # type: ignore[arg-type]
            senders={"main": SimpleNamespace(status=lambda: self.status, may_write=lambda: self.may_write)},  # type: ignore[dict-item]
            clock=house.clock,
            metrics=self.metrics,
            stuck_after_s=STUCK_AFTER_S,
        )

    async def watch(self, seconds: float = 1000.0) -> str:
        """Return what the watchdog says after so long."""
        for _ in range(int(seconds / LOOK_EVERY_S)):
            await self.house.clock.advance(LOOK_EVERY_S)
            self.dog.look()
        return self.dog.trouble


async def test_a_dispatcher_that_has_died_is_found_and_told_once_with_the_stacks_of_all_tasks() -> None:
    async with running(House()) as house:
        house.lanes.hold()  # as a bug would: nobody has said so
        await house.take("u1")
        kennel = Kennel(house)
        assert await kennel.watch(290) == ""
        with capture_logs() as lines:
            trouble = await kennel.watch(300)
        assert "nothing has finished for 300 s" in trouble
        assert "user-events/0/0" in trouble
        (line,) = lines
        assert line["event"] == "watchdog.stuck"
        assert any("worker/pipeline/lanes.py" in stack and "_dispatch" in stack for stack in line["stacks"])
        assert kennel.metrics.stuck._value.get() == 1


async def test_it_takes_back_what_it_said_when_something_moves_again() -> None:
    async with running(House()) as house:
        house.lanes.hold()
        await house.take("u1")
        kennel = Kennel(house)
        assert await kennel.watch()
        house.lanes.go_on()
        await settle()
        house.sender.answer("u1", delivered())
        await settle()
        kennel.dog.look()
        assert kennel.dog.trouble == ""
        assert kennel.metrics.stuck._value.get() == 0


async def test_a_call_that_was_lost_from_its_lane_is_found_though_no_lane_waits() -> None:
    async with running(House()) as house:
        house.lanes.hold()
        await house.take("u1")
        house.lanes.forget([P0])
        assert "stuck" in await Kennel(house).watch()


async def test_a_call_that_is_held_while_its_site_holds_none_is_found() -> None:
    async with running(House()) as house:
        await house.take("u1")
        house.sender.answer("u1", Later("ask", None))
        await settle()
        kennel = Kennel(house)
        kennel.status = site(held=1)
        assert await kennel.watch() == ""
        kennel.status = site(held=0)
        assert "stuck" in await kennel.watch()


async def test_a_letter_that_nobody_writes_is_found_unless_the_topic_takes_none() -> None:
    async with running(House()) as house:
        house.letters.refuse()
        await house.take("bad")
        kennel = Kennel(house)
        kennel.letters.status = lambda: SimpleNamespace(failing_since_s=1.0)
        assert await kennel.watch() == ""
        kennel.letters.status = lambda: SimpleNamespace(failing_since_s=None)
        assert "stuck" in await kennel.watch()


@pytest.mark.parametrize(
    "status",
    [
        site(state=State.OUTAGE),
        site(state=State.STOPPED),
        site(is_paused=True),
        site(permit_in_s=600.0, quota=QuotaState.EXHAUSTED),
    ],
    ids=["outage", "stopped", "paused", "the day's limit"],
)
async def test_a_gate_that_is_closed_is_to_blame_and_time_counts_anew_when_it_opens(status: SiteStatus) -> None:
    async with running(House()) as house:
        house.lanes.hold()
        await house.take("u1")
        kennel = Kennel(house)
        kennel.status = status
        assert await kennel.watch(7200) == ""
        kennel.status = site()
        assert await kennel.watch(290) == ""
        assert "stuck" in await kennel.watch(30)


@pytest.mark.parametrize("trouble", ["trouble", "last_commit_error", "lease"])
async def test_a_broker_that_is_away_is_to_blame(trouble: str) -> None:
    async with running(House()) as house:
        house.lanes.hold()
        await house.take("u1")
        kennel = Kennel(house)
        if trouble == "lease":
            kennel.may_write = False
        else:
            setattr(kennel.engine, trouble, "no answer in time")
        assert await kennel.watch(7200) == ""


async def test_a_flood_that_is_held_is_nothing_to_bark_at() -> None:
    async with running(House(max_run=3)) as house:
        await house.take(*["bad"] * 9)
        assert house.handler.flood is not None
        assert await Kennel(house).watch(7200) == ""


async def test_an_empty_topic_is_nothing_to_bark_at() -> None:
    async with running(House()) as house:
        assert await Kennel(house).watch(86_400) == ""


async def test_a_backoff_longer_than_the_limit_is_nothing_to_bark_at_and_what_overslept_is_found() -> None:
    async with running(House()) as house:
        await house.take("u1")
        house.sender.answer("u1", Later("server_error", 900.0))
        await settle()
        kennel = Kennel(house)
        assert await kennel.watch(895) == ""
        house.lanes._sites["main"].lanes["u1"].stop_timer()  # as a bug would
        assert "stuck" in await kennel.watch(320)


async def test_calls_that_fail_again_and_again_are_progress() -> None:
    async with running(House()) as house:
        await house.take("u1")
        kennel = Kennel(house)
        for _ in range(20):
            await kennel.watch(100)
            house.sender.answer("u1", Later("server_error", 1.0))
            await settle()
        assert kennel.dog.trouble == ""


async def test_another_site_that_is_away_does_not_hide_one_that_is_stuck() -> None:
    async with running(House()) as house:
        house.lanes.hold()
        await house.take("u1")
        kennel = Kennel(house)
        kennel.dog._senders = {  # type: ignore[assignment]
            **kennel.dog._senders,
            "shop": SimpleNamespace(status=lambda: site(state=State.STOPPED), may_write=lambda: True),
        }
        assert "stuck" in await kennel.watch()


async def test_a_process_that_was_stopped_for_a_day_has_not_been_stuck_for_a_day() -> None:
    async with running(House()) as house:
        house.lanes.hold()
        await house.take("u1")
        kennel = Kennel(house)
        await kennel.watch(20)
        house.clock.step_monotonic(86_400)
        kennel.dog.look()
        assert kennel.dog.trouble == ""


async def test_a_record_among_many_that_wait_rightly_is_found() -> None:
    async with running(House()) as house:
        await house.take(*["u1"] * 6_000, "u2")
        house.sender.answer("u1", Later("server_error", 1e6))
        await settle()
        assert "stuck" in await Kennel(house).watch(700)  # u2's attempt never comes back


async def test_a_ledger_that_does_not_balance_is_one_error_in_the_log() -> None:
    async with running(House()) as house:
        kennel = Kennel(house)
        house.ledger.read(P0, 1)
        with capture_logs() as lines:
            await kennel.watch(60)
        assert [line["event"] for line in lines] == ["ledger.unbalanced"]
        house.ledger.filtered(P0, 1, "unwanted")


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans(), st.booleans()), max_size=60))
def test_patience_never_ends_before_its_time_and_always_begins_anew(steps: list[tuple[float, bool, bool]]) -> None:
    patience = Patience(50.0)
    now_s, finished, quiet_since_s = 0.0, 0, 0.0
    patience.look(now_s, finished=finished, is_excused=False)
    for elapsed_s, moves, is_excused in steps:
        now_s += elapsed_s
        finished += moves
        patience.look(now_s, finished=finished, is_excused=is_excused)
        if moves or is_excused:
            quiet_since_s = now_s
            assert patience.idle_s == 0.0
        assert not patience.is_over or now_s - quiet_since_s >= 50.0 - 1e-6


# --- stacks ----------------------------------------------------------------------------------------------------------


async def test_stacks_show_the_whole_way_down_and_no_locals() -> None:
    waiting = asyncio.Event()

    async def inner(uid: str) -> None:
        await waiting.wait()

    async def outer(uid: str) -> None:
        await inner(uid)

    tasks = [asyncio.create_task(outer("uid-4711"), name="site-main") for _ in range(3)]
    await settle()
    lines = stacks_of_tasks()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    (line,) = [line for line in lines if "site-main" in line]
    assert line.startswith("3 x site-main: ")
    assert line.index(" outer") < line.index(" inner") < line.index(" wait")
    assert "4711" not in line

"""A bounded run ends when only an operator could help it on, and for nothing else."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from tests.pipeline.test_engine import World
from tests.test_watchdog import site
from worker.clock import ManualClock
from worker.delivery.sender import SiteStatus
from worker.delivery.site_state import State
from worker.model import RecordEnd, TopicPartition
from worker.pipeline.engine import Ended
from worker.pipeline.ledger import Ledger
from worker.watchdog import LOOK_EVERY_S, Standstill

P0 = TopicPartition("user-events", 0)
LIMIT_S = 300.0
STOPPED = site(state=State.STOPPED, reason="credentials_refused", remedy="exchange the key")


class Bounded:
    """A bounded run, and what stands in its way."""

    def __init__(self, *statuses: SiteStatus) -> None:
        self.clock, self.ledger = ManualClock(), Ledger()
        self.ledger.assigned(P0, 1)
        self.records = {P0: 3}
        self.stops = 0
        self.letters = SimpleNamespace(failing_since_s=None, reason="dead_letter_write_failed", remedy="see the broker")
        self.standstill = Standstill(
            engine=SimpleNamespace(unfinished=lambda: self.records, give_up=self.stop),  # type: ignore[arg-type]
            senders={str(n): SimpleNamespace(status=lambda status=status: status) for n, status in enumerate(statuses)},
            letters=SimpleNamespace(status=lambda: self.letters),  # type: ignore[arg-type]
            ledger=self.ledger,
            clock=self.clock,
            limit_s=LIMIT_S,
        )

    def stop(self) -> None:
        self.stops += 1

    async def has_given_up(self, seconds: float) -> bool:
        for _ in range(int(seconds / LOOK_EVERY_S)):
            if self.standstill.look():
                return True
            await self.clock.advance(LOOK_EVERY_S)
        return False


async def test_a_stopped_site_ends_the_run_after_the_limit_and_is_named_with_what_to_do() -> None:
    run = Bounded(site(), STOPPED)
    assert not await run.has_given_up(LIMIT_S)
    with capture_logs() as lines:
        assert await run.has_given_up(2 * LOOK_EVERY_S)
    assert run.stops == 1
    (line,) = lines
    assert (line["event"], line["records_held"]) == ("run.cannot_go_on", 3)
    assert line["because"] == {"site:1": "credentials_refused: exchange the key"}


async def test_dead_letters_that_cannot_be_written_end_it_too() -> None:
    run = Bounded(site())
    run.letters.failing_since_s = 1.0
    assert await run.has_given_up(LIMIT_S + 2 * LOOK_EVERY_S)


@pytest.mark.parametrize("status", [site(), site(state=State.OUTAGE), site(is_paused=True)])
async def test_what_passes_by_itself_or_is_meant_is_waited_for(status: SiteStatus) -> None:
    assert not await Bounded(status).has_given_up(10 * LIMIT_S)


async def test_as_long_as_records_of_other_sites_end_it_goes_on() -> None:
    run = Bounded(STOPPED)
    for _ in range(10):
        assert not await run.has_given_up(LIMIT_S - LOOK_EVERY_S)
        run.ledger.ended(P0, RecordEnd.DONE)
    assert await run.has_given_up(LIMIT_S + 2 * LOOK_EVERY_S)


async def test_where_nothing_is_held_a_stopped_site_is_in_nobodys_way() -> None:
    run = Bounded(STOPPED)
    run.records = {P0: 0}
    assert not await run.has_given_up(10 * LIMIT_S)


async def test_an_engine_that_is_given_up_drains_and_says_that_it_could_not_go_on() -> None:
    world = World()
    world.append("u1", "blocked", "u2")
    world.site.blocked = {"blocked"}
    member = world.start(until_end=True)
    await world.until(lambda: len(world.site.executed) == 2)
    member.engine.give_up()
    assert await world.finish(member.task) is Ended.HELD
    assert world.committed() == 1
    assert member.is_balanced

"""The schedules: what goes wrong, for how long, with how many members. Each draws its moments from its seed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.chaos import hard_places, memberships
from tests.chaos.run import Run, Setup
from tests.chaos.soak import SOAK, soak
from tests.chaos.troubles import (
    inject_all,
    kill_and_replace,
    outage,
    refusing_letters,
    revoked_key,
    step_clocks,
    until_s,
    without_broker,
)

Act = Callable[[Run, float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Schedule:
    """One schedule. `long_s` is its part of `make chaos`."""

    name: str
    what: str
    act: Act
    setup: Setup = field(default_factory=Setup)
    long_s: float = 60.0
    own_broker: bool = False  # the broker itself is what goes wrong


# 1. kill -9


KILL_S = 12.0  # of which the group waits for the dead member's session to end
LONG_KILLS_S = 13 * KILL_S  # of each of the four: 52 in the long form, 50 are asked for


async def kills(run: Run, seconds: float) -> None:
    """Kill at random moments, again and again."""
    for _ in range(max(2, round(seconds / KILL_S))):
        await kill_and_replace(run)


async def kills_and_refusals(run: Run, seconds: float) -> None:
    """Refuse some calls while members are killed: 409030 burns the nonce, and says that nothing was executed."""
    await inject_all(run, {"code": {"code": 409030, "share": 0.02}})
    await kills(run, seconds)


def _nonces(retention_s: float | None, burnt: str = "after_refusals") -> dict[str, Any]:
    return {"nonces": {"retention_s": retention_s, "burnt": burnt}}


# 2. the API

SILENT = {"silent": {"kind": "timeout_after", "share": 0.005}}
ERROR_500 = {
    "made": {"kind": "code", "code": 500001, "executes": True, "share": 0.005},
    "not made": {"kind": "code", "code": 500001, "executes": False, "share": 0.005},
}
FOREIGN = {
    "made": {"kind": "html", "status": 502, "executes": True, "share": 0.002},
    "not made": {"kind": "html", "status": 502, "executes": False, "share": 0.002},
}
RESET_BEFORE = {"reset": {"kind": "reset_before_execution", "share": 0.01}}
RESET_AFTER = {"reset": {"kind": "reset_after_execution", "share": 0.01}}
ROUGH = {
    "silent": {"kind": "timeout_after", "share": 0.002},
    "500001 made": {"kind": "code", "code": 500001, "executes": True, "share": 0.002},
    "500001": {"kind": "code", "code": 500001, "share": 0.002},
    "html": {"kind": "html", "status": 502, "share": 0.001},
    "before": {"kind": "reset_before_execution", "share": 0.002},
    "after": {"kind": "reset_after_execution", "share": 0.002},
}


def faults(found: Mapping[str, Mapping[str, Any]]) -> Act:
    """Return what lets these faults meet calls all the time."""

    async def act(run: Run, seconds: float) -> None:
        await inject_all(run, found)
        await asyncio.sleep(seconds)

    return act


async def api_outage(run: Run, seconds: float) -> None:
    await asyncio.sleep(5)
    await outage(run, seconds)
    await asyncio.sleep(5)


async def api_revoked(run: Run, seconds: float) -> None:
    for code in (403003, 403005):
        await asyncio.sleep(5)
        await revoked_key(run, seconds / 2, code)


async def api_rough(run: Run, seconds: float) -> None:
    """All at low rates, a short outage and a short revocation among them."""
    await inject_all(run, ROUGH)
    await asyncio.sleep(seconds / 3)
    await outage(run, seconds / 12)
    await asyncio.sleep(seconds / 4)
    await revoked_key(run, seconds / 12, 403003)
    await asyncio.sleep(seconds / 4)


# 3. the clock

FIVE_MINUTES_S = 300.0
WRONG_CLOCK = Setup(wrong_clock=True)


async def clock_steps(run: Run, seconds: float) -> None:
    """Step by up to five minutes either way every few seconds, with lost answers: the log is asked by the clock."""
    await inject_all(run, SILENT)
    for left_s in until_s(seconds):
        await step_clocks(run, run.rng.choice((-FIVE_MINUTES_S, 0.0, FIVE_MINUTES_S, run.rng.uniform(-150, 150))))
        await asyncio.sleep(min(left_s, run.rng.uniform(10.0, 20.0)))


async def clock_drifts(run: Run, seconds: float) -> None:
    """Gain three seconds a minute, a thousand times what a bad quartz does, from five minutes behind."""
    await inject_all(run, SILENT)
    for left_s in until_s(seconds):
        run.set_clocks((seconds - left_s) * 0.05 - FIVE_MINUTES_S)
        await asyncio.sleep(min(left_s, 0.5))


async def clock_is_off(run: Run, seconds: float) -> None:
    await inject_all(run, SILENT)
    await asyncio.sleep(seconds)


# 4. the broker


async def broker_killed(run: Run, seconds: float) -> None:
    for _ in range(max(1, round(seconds / 30))):
        await asyncio.sleep(run.rng.uniform(3.0, 6.0))
        await without_broker(run, run.rng.uniform(0.0, 8.0), cleanly=False)
    await asyncio.sleep(5)


async def broker_stopped(run: Run, seconds: float) -> None:
    await asyncio.sleep(5)
    await without_broker(run, seconds, cleanly=True)
    await asyncio.sleep(10)


async def letters_refused(run: Run, seconds: float) -> None:
    await asyncio.sleep(3)
    await refusing_letters(run, seconds)
    await asyncio.sleep(3)


KEYS = {f"AKmember{number}": {"secrets": [f"{'c2VjcmV0' * 3}{number:04d}"]} for number in range(3)}

# Of a group: while the partitions of a dead or sleeping member wait, what the others make must be load enough.
MORE_CALLS_PER_S, MORE_QUOTA_PER_S = 330.0, 400.0


def _alone(retention_s: float | None) -> Setup:
    """Return one member that is killed: of what it then makes, the questions about suspects are a good part."""
    return Setup(gigya=_nonces(retention_s), calls_per_s=260, quota_per_s=360)


SCHEDULES: tuple[Schedule, ...] = (
    Schedule("kill-none", "kill -9, nonces are not remembered", kills, _alone(0), LONG_KILLS_S),
    Schedule(
        "kill-30s",
        "kill -9 of one of three, nonces for 30 s",
        kills,
        Setup(3, gigya=_nonces(30), calls_per_s=MORE_CALLS_PER_S, quota_per_s=MORE_QUOTA_PER_S),
        LONG_KILLS_S,
    ),
    Schedule("kill-unlimited", "kill -9, nonces for ever", kills, _alone(None), LONG_KILLS_S),
    Schedule(
        "kill-burnt",
        "kill -9 of one of three, refusals burn nonces",
        kills_and_refusals,
        Setup(
            3,
            gigya=_nonces(600, "before_refusals"),
            calls_per_s=MORE_CALLS_PER_S,
            quota_per_s=MORE_QUOTA_PER_S,
        ),
        LONG_KILLS_S,
    ),
    Schedule("api-silent", "executes and never answers", faults(SILENT)),
    Schedule("api-500001", "500001, executed and not", faults(ERROR_500)),
    Schedule("api-html", "HTML 502, executed and not", faults(FOREIGN)),
    Schedule("api-reset-before", "resets before the execution", faults(RESET_BEFORE)),
    Schedule("api-reset-after", "resets after the execution", faults(RESET_AFTER)),
    Schedule(
        "api-forgets", "executes and never answers, nonces are not remembered", faults(SILENT), Setup(gigya=_nonces(0))
    ),
    Schedule("api-outage", "an outage of 60 s", api_outage),
    Schedule("api-revoked", "the key revoked for 30 s, twice", api_revoked),
    Schedule("api-rough", "all of these at low rates", api_rough, Setup(3), 120),
    Schedule(
        "clock-off", "the clock five minutes off", clock_is_off, Setup(wrong_clock=True, clock_offset_s=FIVE_MINUTES_S)
    ),
    Schedule("clock-steps", "the clock steps by up to five minutes", clock_steps, WRONG_CLOCK),
    Schedule("clock-drifts", "the clock drifts by three seconds a minute", clock_drifts, WRONG_CLOCK),
    Schedule("broker-killed", "the broker is killed and restarted", broker_killed, long_s=90, own_broker=True),
    Schedule("broker-stopped", "the broker is stopped cleanly for 60 s", broker_stopped, own_broker=True),
    Schedule(
        "letters-refused",
        "the dead-letter topic refuses writes for 30 s",
        letters_refused,
        Setup(mixture=hard_places.MORE_BAD_ONES),
        30,
    ),
    Schedule(
        "rebalances",
        "a third member comes and goes",
        memberships.rebalances,
        Setup(2, calls_per_s=MORE_CALLS_PER_S, quota_per_s=MORE_QUOTA_PER_S),
        120,
    ),
    Schedule(
        "zombie",
        "a member sleeps past its session, and wakes",
        memberships.zombie,
        Setup(
            3,
            gigya={"nonces": {"scope": "site"}},
            site={"keys": KEYS},
            own_keys=True,
            calls_per_s=MORE_CALLS_PER_S,
            quota_per_s=MORE_QUOTA_PER_S,
        ),
        90,
    ),
    Schedule("busy-user", "one user has half of all events", hard_places.busy_user, hard_places.BUSY),
    Schedule("capped-user", "one user is always at his cap", hard_places.capped_user, hard_places.CAPPED),
    Schedule(
        "blocked-first",
        "5,000 finish behind a blocked record, then a restart",
        hard_places.blocked_first,
        hard_places.PATIENT,
        240,
    ),
    Schedule("fan-out", "99 of 100 calls of a record are made, then a restart", hard_places.fan_out, long_s=60),
    Schedule("flood", "every record is poison", hard_places.flood, hard_places.FLOOD, 40),
    Schedule("flood-thin", "one in a hundred matches, and is poison", hard_places.thin_flood, hard_places.FLOOD, 40),
    Schedule("soak", "all of it at low rates", soak, SOAK, 1800),
)
BY_NAME = {schedule.name: schedule for schedule in SCHEDULES}

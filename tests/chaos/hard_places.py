"""Schedules in which one user, one record or one deploy stands in the way of all the others."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

from tests.chaos.run import Run, Setup
from tests.chaos.troubles import MOST_LATE_S, inject_all
from tests.chaos.workload import (
    BAD_RULES,
    CAPPED_ACTION,
    CAPPED_USER,
    DAILY_CAP,
    RULES,
    Event,
    Mixture,
    uid_of,
)
from tests.journeys.processes import WorkerProcess, until

MORE_BAD_ONES = Mixture(bad=0.02)
BUSY = Setup(gigya={"latency": {"ms": 1}}, mixture=Mixture(busy=0.5))
# His calls are made one at a time, some ten a second, and each that is in doubt holds up the others for seconds.
CAPPED = Setup(mixture=Mixture(capped=0.03), site={"actions": {CAPPED_ACTION: {"daily_cap": DAILY_CAP}}})
LETTERS_OF_A_FLOOD = 50  # flood_guard.max_run
FLOOD = Setup(rules=BAD_RULES, letters_allowed=LETTERS_OF_A_FLOOD)
THIN = Mixture(matching=0.01, bad=0.0)
THIN_EVENTS = 20_000
BEHIND = 5_000
BLOCKED_USER = uid_of(9_000)
# Refused without a doubt, and tried again for up to an hour.
# Twelve attempts, the default, are over after two minutes or so, and the record would be a dead letter.
PATIENT = Setup(settings={"delivery": {"attempts": 1000}})
BLOCKED = {"blocked": {"kind": "code", "code": 409030, "uid": BLOCKED_USER}}


async def busy_user(run: Run, seconds: float) -> None:
    """Let half of all events be one user's for some time: he is served one call at a time, and the others all along."""
    await asyncio.sleep(seconds / 2)


async def capped_user(run: Run, seconds: float) -> None:
    """Keep a user at his daily cap, and lose the answers of some of the calls that used it up."""
    await inject_all(run, {"lost": {"kind": "reset_after_execution", "uid": CAPPED_USER, "share": 0.04}})
    await asyncio.sleep(seconds)
    await run.feeder.pause()
    calls = [call.mark for each in run.feeder.placed for call in each.event.calls if call.action == CAPPED_ACTION]
    run.capped |= set(calls)
    await run.journey.all_done(limit_s=180)
    times = await run.times_executed()
    executed, different = sum(times[mark] for mark in calls), sum(mark in times for mark in calls)
    (member,) = run.members
    capped = await _capped_calls(member)
    run.notes["cap"] = f"{len(calls)} calls of the user at his cap, {executed} executed, {capped:.0f} ended as capped"
    if executed != DAILY_CAP:
        run.faults.append(f"cap: {executed} calls were executed of the {DAILY_CAP} that the cap allows")
    if capped != len(calls) - different:
        run.faults.append(f"cap: {capped:.0f} calls ended as capped; {len(calls) - different} were not executed")


async def _capped_calls(member: WorkerProcess) -> float:
    _, text = await member.get("/metrics")
    found = re.findall(r'^gigya_worker_calls_ended_total\{[^}]*outcome="capped"[^}]*\} (\S+)$', text, re.MULTILINE)
    return sum(map(float, found))


async def blocked_first(run: Run, seconds: float) -> None:
    """Let 5,000 calls end behind a record that does not, then restart: cleanly, and by SIGKILL."""
    author, partition = run.feeder.author, 5
    await inject_all(run, BLOCKED)
    await run.feeder.pause()  # the 5,000 are load enough
    first = author.acted(BLOCKED_USER, partition=partition, action="blocked")
    others = [author.acted(uid_of(2_000 + number % 300), partition=partition) for number in range(BEHIND)]
    await run.feeder.append([first, *others])
    began_s = time.monotonic()
    await run.are_executed(others, limit_s=120)
    await run.feeder.go()
    await asyncio.sleep(seconds / 2)
    run.notes["blocked"] = f"for {time.monotonic() - began_s:.0f} s before the first restart"
    await _restart_twice(run)
    await _none_again(run, others)


async def fan_out(run: Run, seconds: float) -> None:
    """Let 99 of the 100 calls of one record be made, then restart: cleanly, and by SIGKILL."""
    await inject_all(run, BLOCKED)
    users = [uid_of(3_000 + number) for number in range(99)]
    users.insert(run.rng.randrange(100), BLOCKED_USER)
    fan = run.feeder.author.fanned(users, partition=7)
    await run.feeder.append([fan])
    await run.are_executed([fan], but=BLOCKED_USER, limit_s=60)
    await asyncio.sleep(seconds / 4)
    await _restart_twice(run)
    await _none_again(run, [fan])


async def _restart_twice(run: Run) -> None:
    (member,) = run.members
    await run.stop(member)
    await _follow(run)
    await run.kill(run.members[0])
    # It was blocked through both; its back-off (up to 30 s) would only hold up the end.
    await run.gigya.control("DELETE", "faults")
    await _follow(run)


async def _follow(run: Run) -> None:
    """Start the next member, and give it the time to make a mistake."""
    member = run.start_member()
    await run.journey.ready(member, limit_s=MOST_LATE_S)
    await run.calls_are_made(limit_s=MOST_LATE_S)
    await asyncio.sleep(4)


async def _none_again(run: Run, events: list[Event]) -> None:
    times = await run.times_executed()
    again = [call.mark for event in events for call in event.calls if times[call.mark] > 1]
    count = sum(len(event.calls) for event in events)
    run.notes["made again"] = f"{len(again)} of {count:,} that had been made before the restarts"
    if again:
        run.faults.append(f"twice: {len(again)} of {count:,} calls that had ended were made again by a restart")


async def flood(run: Run, seconds: float) -> None:
    """Feed the worker under rules that can map nothing; then restart it with good ones."""
    await run.feeder.go()
    await _held_then_good(run, seconds)


async def thin_flood(run: Run, seconds: float) -> None:
    """Append events of which one in a hundred matches, and is poison; then restart with good rules, under load."""
    author = run.feeder.author
    usual, author.mixture = author.mixture, THIN
    await run.feeder.append([author.event() for _ in range(THIN_EVENTS)])
    author.mixture = usual
    await _held_then_good(run, seconds)


async def _held_then_good(run: Run, seconds: float) -> None:
    (member,) = run.members
    await until("the flood guard holds", lambda: _is_held(member), limit_s=MOST_LATE_S)
    await asyncio.sleep(2)  # letters that were allowed before are still being written
    letters = len({letter.key for letter in await run.journey.dead_letters()})
    run.notes["flood"] = f"held after {letters} letters, {LETTERS_OF_A_FLOOD} are the limit"
    if not 0 < letters <= LETTERS_OF_A_FLOOD:
        run.faults.append(f"flood: {letters} letters were written, {LETTERS_OF_A_FLOOD} are the limit")
    if (await member.get("/livez"))[0] != 200:
        run.faults.append("flood: the worker that the guard holds is not alive")
    if executed := await run.gigya.executed_count():
        run.faults.append(f"flood: {executed} calls were made under rules that can make none")
    await run.stop(member)
    await run.feeder.pause()
    await run.journey.ready(run.start_member(rules=RULES), limit_s=MOST_LATE_S)
    await run.feeder.go()
    await asyncio.sleep(seconds / 2)


async def _is_held(member: WorkerProcess) -> bool:
    status, body = await member.readiness()
    part: dict[str, Any] = body.get("flood_guard", {})
    return status == 503 and part.get("state") == "held"

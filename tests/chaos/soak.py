"""The soak: at the quota for half an hour, with everything that the other schedules do at low rates.

A flood of poison is not among it: it would hold the worker, as it must. Bad records are, one in a thousand.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Awaitable, Callable, Sequence

from tests.chaos.flatness import Sample, flatness
from tests.chaos.hard_places import BLOCKED, BLOCKED_USER
from tests.chaos.run import SESSION_S, Run, Setup
from tests.chaos.troubles import (
    MOST_LATE_S,
    inject_all,
    kill_and_replace,
    outage,
    refusing_letters,
    revoked_key,
    sleepwalk,
    step_clocks,
    until_s,
    without_broker,
)
from tests.chaos.workload import CAPPED_ACTION, DAILY_CAP, Mixture
from tests.journeys.processes import WorkerProcess, resident_bytes

# What is offered takes nearly all of the quota; with what is asked and made again, and what waits while something is
# away, a backlog comes about, and calls are made at the quota. So that memory does not tell how long that is, members
# take few records ahead: what waits beyond that, waits in Kafka.
QUOTA_PER_S = 240.0
OFFERED_PER_S = 210.0
MOST_AHEAD = 300  # records of a partition
END_LIMIT_S = 600.0
SOAK = Setup(
    3,
    calls_per_s=OFFERED_PER_S,
    quota_per_s=QUOTA_PER_S,
    mixture=Mixture(bad=0.001, busy=0.01, capped=0.002),
    site={"actions": {CAPPED_ACTION: {"daily_cap": DAILY_CAP}}},
    settings={"delivery": {"max_ahead": MOST_AHEAD}},
    wrong_clock=True,
    end_limit_s=END_LIMIT_S,
)
RARE = 0.0004  # of all requests, of each kind
FAULTS = {
    "silent": {"kind": "timeout_after", "share": RARE},
    "500001": {"kind": "code", "code": 500001, "share": RARE},
    "500001 made": {"kind": "code", "code": 500001, "executes": True, "share": RARE},
    "html": {"kind": "html", "status": 502, "share": RARE},
    "before": {"kind": "reset_before_execution", "share": RARE},
    "after": {"kind": "reset_after_execution", "share": RARE},
    "refused": {"kind": "code", "code": 409030, "share": RARE},
}
SLOTS = 24  # troubles in the whole time
BLOCKED_S = 30.0
WEIGH_EVERY_S = 10.0

Trouble = Callable[[Run], Awaitable[None]]


async def soak(run: Run, seconds: float) -> None:
    """Let everything happen at low rates, and look at what the members that stay hold meanwhile."""
    stays = run.members[:2]
    await inject_all(run, FAULTS)
    samples: list[list[Sample]] = [[] for _ in stays]
    watch = asyncio.create_task(_weigh(stays, samples, min(WEIGH_EVERY_S, seconds / 40)))
    done: list[str] = []
    try:
        await _troubles(run, seconds, done)
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
    run.notes["troubles"] = f"{len(done)} of {len(set(done))} kinds: {', '.join(done)}"
    for member, taken in zip(stays, samples, strict=True):
        # Steps tell of what the troubles left behind, a line that goes up of a leak.
        rows = "".join(f"{json.dumps(each._asdict())}\n" for each in taken)
        (run.journey.folder / f"{member.name}-holds.jsonl").write_text(rows)
    for member, found in zip(stays, map(flatness, samples), strict=True):
        run.notes[f"{member.name} holds"] = found.figure
        run.faults += [f"soak: {member.name} {fault}" for fault in found.faults]
    await _cap_was_kept(run)


async def _troubles(run: Run, seconds: float, done: list[str]) -> None:
    """Let every kind of trouble have its turn before one has a second."""
    waiting: list[str] = []
    for left_s in until_s(seconds):
        waiting = waiting or run.rng.sample(list(TROUBLES), len(TROUBLES))
        await asyncio.sleep(min(left_s, seconds / SLOTS * run.rng.uniform(0.5, 1.0)))
        name = waiting.pop()
        await TROUBLES[name](run)
        done.append(name)


def _guest(run: Run) -> WorkerProcess:
    """Return the member that may go: the first two stay, so that something lasts."""
    return run.members[-1]


async def _guest_is_replaced(run: Run) -> None:
    await run.stop(_guest(run))
    await run.journey.ready(run.start_member(), limit_s=MOST_LATE_S)


async def _guest_is_killed(run: Run) -> None:
    await run.calls_are_made()  # the trouble before may have left the group without work: nothing would be in flight
    await kill_and_replace(run, _guest(run))


async def _guest_sleeps(run: Run) -> None:
    guest = _guest(run)
    await sleepwalk(run, guest, SESSION_S + run.rng.uniform(1.0, 4.0))
    await run.journey.ready(guest, limit_s=MOST_LATE_S)


async def _fourth_member(run: Run) -> None:
    fourth = run.start_member()
    await run.journey.ready(fourth, limit_s=MOST_LATE_S)
    await asyncio.sleep(run.rng.uniform(1.0, 4.0))
    await run.stop(fourth)


async def _clock_steps(run: Run) -> None:
    await step_clocks(run, run.rng.choice((-300.0, 0.0, 300.0, run.rng.uniform(-150.0, 150.0))))


async def _clock_drifts(run: Run) -> None:
    for _ in range(40):
        run.set_clocks(run.clock_offset_s + 0.025)
        await asyncio.sleep(0.5)


async def _record_is_blocked(run: Run) -> None:
    await inject_all(run, {"blocked": {**BLOCKED["blocked"], "duration_s": BLOCKED_S}})
    await run.feeder.append([run.feeder.author.acted(BLOCKED_USER)])


def _broker_goes(*, cleanly: bool) -> Trouble:
    async def trouble(run: Run) -> None:
        await without_broker(run, run.rng.uniform(0.0, 4.0), cleanly=cleanly)

    return trouble


TROUBLES: dict[str, Trouble] = {
    "outage": lambda run: outage(run, 3),
    "key revoked": lambda run: revoked_key(run, 3, 403003),
    "signature refused": lambda run: revoked_key(run, 3, 403005),
    "clock steps": _clock_steps,
    "clock drifts": _clock_drifts,
    "letters refused": lambda run: refusing_letters(run, 4),
    "broker killed": _broker_goes(cleanly=False),
    "broker stopped": _broker_goes(cleanly=True),
    "member stopped": _guest_is_replaced,
    "member killed": _guest_is_killed,
    "member asleep": _guest_sleeps,
    "a fourth member": _fourth_member,
    "record blocked": _record_is_blocked,
}


async def _cap_was_kept(run: Run) -> None:
    await run.feeder.pause()
    capped = {call.mark for each in run.feeder.placed for call in each.event.calls if call.action == CAPPED_ACTION}
    run.capped |= capped
    times = await run.times_executed()
    executed = sum(times[mark] for mark in capped)
    run.notes["cap"] = f"{executed} of {len(capped)} calls with a cap of {DAILY_CAP} were executed"
    if executed > DAILY_CAP:
        run.faults.append(f"cap: {executed} calls were executed, {DAILY_CAP} are allowed")


async def _weigh(members: Sequence[WorkerProcess], samples: Sequence[list[Sample]], every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        for member, into in zip(members, samples, strict=True):
            sample = await _sample(member)
            if sample is not None:
                into.append(sample)


async def _sample(member: WorkerProcess) -> Sample | None:
    """Return what a process holds now; None while its port does not answer in time."""
    try:
        _, text = await member.get("/metrics")
    except TimeoutError:
        return None
    found = re.search(r"^gigya_worker_tasks (\S+)$", text, re.MULTILINE)
    if found is None or not member.is_running:
        return None
    files = len(os.listdir(f"/proc/{member.pid}/fd"))
    return Sample(time.monotonic(), resident_bytes(member.pid) / 1e6, float(found.group(1)), float(files))

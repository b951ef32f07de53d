"""Schedules about who belongs to the group, and about what lasts: rebalances, zombies, the soak."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

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
from tests.chaos.workload import Mixture
from tests.journeys.processes import WorkerProcess, resident_bytes

SOAK_PER_S = 220.0
SOAK = Setup(3, calls_per_s=SOAK_PER_S * 0.96, quota_per_s=SOAK_PER_S, mixture=Mixture(bad=0.001), wrong_clock=True)
SOAK_FAULTS = {
    "silent": {"kind": "timeout_after", "share": 0.0005},
    "500001": {"kind": "code", "code": 500001, "share": 0.0005},
    "500001 made": {"kind": "code", "code": 500001, "executes": True, "share": 0.0005},
    "after": {"kind": "reset_after_execution", "share": 0.0005},
}
MAY_GROW_BYTES = 8 * 1024 * 1024
MAY_GROW_FILES = 15


async def rebalances(run: Run, seconds: float) -> None:
    """Let a third member come and go every few seconds, and now and then send SIGTERM to any of them."""
    changes = 0
    for _ in until_s(seconds):
        guest = run.start_member()
        await run.journey.ready(guest, limit_s=MOST_LATE_S)
        await asyncio.sleep(run.rng.uniform(0.5, 3.0))
        await run.stop(guest if run.rng.random() < 0.6 else run.rng.choice(run.members))
        await asyncio.sleep(run.rng.uniform(0.0, 2.0))
        changes += 2
    run.notes["rebalances"] = f"{changes} members came or went in {seconds:.0f} s"


class Nap(NamedTuple):
    member: WorkerProcess
    user_key: str
    woke_s: float


async def zombie(run: Run, seconds: float) -> None:
    """Stop a member for longer than its session, again and again: what wakes knows nothing of it, and must not act."""
    keys = list(run.setup.site["keys"])
    numbered = list(zip(run.members, keys, strict=True))
    naps = []
    for _ in range(max(1, round(seconds / 25))):
        await asyncio.sleep(run.rng.uniform(2.0, 5.0))
        member, key = run.rng.choice(numbered)
        woke_s = await sleepwalk(run, member, SESSION_S + run.rng.uniform(2.0, 6.0))
        naps.append(Nap(member, key, woke_s))
        await run.journey.ready(member, limit_s=MOST_LATE_S)
        await run.calls_are_made(limit_s=MOST_LATE_S)
    late = [await _sent_by_a_zombie(run, nap) for nap in naps]
    run.notes["zombies"] = f"{len(naps)} woke, and sent {sum(late)} requests before they had an assignment again"
    if any(late):
        run.faults.append(f"zombie: {sum(late)} requests arrived from members whose lease was over")


async def _sent_by_a_zombie(run: Run, nap: Nap) -> int:
    """Return how many calls a member sent between its waking and its next assignment; questions name no user."""
    assigned_s = min((at_s for at_s, _ in nap.member.assignments() if at_s > nap.woke_s), default=float("inf"))
    arrivals = await run.gigya.control("GET", "arrivals")
    return sum(
        line["user_key"] == nap.user_key and bool(line["uid"]) and nap.woke_s < line["at_s"] < assigned_s
        for line in arrivals
    )


class Size(NamedTuple):
    """What a process holds."""

    resident: int
    files: int
    threads: int


def size_of(pid: int) -> Size:
    proc = Path(f"/proc/{pid}")
    files = len(os.listdir(proc / "fd")) if proc.exists() else 0
    threads = len(os.listdir(proc / "task")) if proc.exists() else 0
    return Size(resident_bytes(pid), files, threads)


async def soak(run: Run, seconds: float) -> None:
    """Let everything happen at low rates, at the quota, and look at what the members that stay hold meanwhile."""
    stays = run.members[:2]
    await inject_all(run, SOAK_FAULTS)
    sizes: list[Sequence[Size]] = []
    watch = asyncio.create_task(_weigh(stays, sizes, seconds / 40))
    try:
        for left_s in until_s(seconds):
            await asyncio.sleep(min(left_s, seconds / 24))
            await _something(run, stays)
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
    for number, member in enumerate(stays):
        _is_flat(run, member.name, [row[number] for row in sizes])


async def _something(run: Run, stays: Sequence[WorkerProcess]) -> None:
    match run.rng.randrange(7):
        case 0:
            await outage(run, 3)
        case 1:
            await revoked_key(run, 3, run.rng.choice((403003, 403005)))
        case 2:
            await step_clocks(run, run.rng.uniform(-150, 150))
        case 3:
            await refusing_letters(run, 4)
        case 4:
            await without_broker(run, run.rng.uniform(0, 4), cleanly=run.rng.random() < 0.5)
        case 5:
            guest = next(member for member in run.members if member not in stays)
            await run.stop(guest)
            await run.journey.ready(run.start_member(), limit_s=MOST_LATE_S)
        case _:
            guest = next(member for member in run.members if member not in stays)
            await kill_and_replace(run, guest)


async def _weigh(members: Sequence[WorkerProcess], sizes: list[Sequence[Size]], every_s: float) -> None:
    while True:
        await asyncio.sleep(max(1.0, every_s))
        sizes.append([size_of(member.pid) for member in members])


def _is_flat(run: Run, name: str, sizes: Sequence[Size]) -> None:
    """Compare the second quarter of the time with the last: the first is for caches and connections to fill."""
    quarter = len(sizes) // 4
    if quarter < 2:
        run.faults.append(f"soak: too short to say whether {name} grows")
        return
    early, late = sizes[quarter : 2 * quarter], sizes[-quarter:]
    grown, files, threads = (
        mean(getattr(one, what) for one in late) - mean(getattr(one, what) for one in early) for what in Size._fields
    )
    run.notes[f"{name} grew by"] = f"{grown / 1e6:+.1f} MB, {files:+.1f} files, {threads:+.1f} threads"
    if grown > MAY_GROW_BYTES or files > MAY_GROW_FILES or threads > 2:
        run.faults.append(f"soak: {name} grew by {grown / 1e6:.1f} MB, {files:.0f} files, {threads:.0f} threads")

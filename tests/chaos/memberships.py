"""Schedules about who belongs to the group: rebalances, zombies."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from tests.chaos.run import SESSION_S, Run
from tests.chaos.troubles import MOST_LATE_S, sleepwalk, until_s
from tests.journeys.processes import WorkerProcess


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
    arrivals = await run.gigya.lines("arrivals")
    return sum(
        line["user_key"] == nap.user_key and bool(line["uid"]) and nap.woke_s < line["at_s"] < assigned_s
        for line in arrivals
    )

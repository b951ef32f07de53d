"""What is measured, and how each figure comes about. The aims are those of the issue that asked for the benchmarks."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from tests.benchmarks.figures import Bench, Figure, Result
from tests.benchmarks.letters import LETTERS
from tests.benchmarks.rig import Filled, Rig, Used, executed_at_least
from tests.benchmarks.troubles import TROUBLES, append_evenly, sent_at
from tests.benchmarks.workload import ALL, HALF, ONE_IN_A_HUNDRED

MB = 1_000_000
QUOTA_PER_S = 100
# Left out at both ends of a run under quota: the first permits, and the last calls.
SETTLING_S = 5.0
LATENCY_PER_S = 80


async def filtering(rig: Rig, quick: bool) -> Result:
    """One in a hundred matches: what an event costs that nobody wants."""
    filled = await rig.filled(ONE_IN_A_HUNDRED, 100_000 if quick else 500_000)
    used = await _drained(rig, filled)
    idle_s = await _start_cost_s(rig)
    return Result(
        [
            Figure("events per CPU second", filled.events / used.cpu_s, "/s", 120_000, more_is_better=True),
            Figure("  without start and stop", filled.events / (used.cpu_s - idle_s), "/s"),
            Figure("  peak memory", used.peak_rss_bytes / MB, "MB", 120),
        ],
        used.load,
    )


async def calling(rig: Rig, quick: bool) -> Result:
    """Half of the events match, the API answers at once: what a call costs."""
    filled = await rig.filled(HALF, 10_000 if quick else 40_000)
    used = await _drained(rig, filled)
    idle_s = await _start_cost_s(rig)
    thousands = filled.matching / 1000
    return Result(
        [
            Figure("CPU seconds per 1,000 calls", used.cpu_s / thousands, "s", 0.20),
            Figure("  without start and stop", (used.cpu_s - idle_s) / thousands, "s"),
            Figure("  calls per second", filled.matching / used.wall_s, "/s"),
            Figure("  peak memory", used.peak_rss_bytes / MB, "MB", 120),
        ],
        used.load,
    )


async def quota(rig: Rig, quick: bool) -> Result:
    """A quota of 100/s that the server enforces in any second: how much of it is used, how much refused."""
    steady_s = 10.0 if quick else 30.0
    filled = await rig.filled(ALL, int(QUOTA_PER_S * (steady_s + 2 * SETTLING_S)))
    async with rig.gigya(quota={"per_s": QUOTA_PER_S, "window": "sliding"}) as gigya:
        await gigya.control("PATCH", "config", {"ledger": {"arrivals_kept": 100_000}})
        async with rig.worker(filled.topic, gigya, quota_per_s=QUOTA_PER_S) as run:
            used = await run.ended()
            stats = await gigya.stats()
            await run.check_books(filled, executed=stats["executed"])
        arrivals = await gigya.control("GET", "arrivals")
    first_s = arrivals[0]["at_s"] + SETTLING_S
    steady = [each for each in arrivals if first_s <= each["at_s"] < first_s + steady_s]
    accepted = sum(each["code"] == 0 for each in steady)
    throttled = sum(each["code"] == 403048 for each in arrivals)
    return Result(
        [
            Figure("quota used", 100 * accepted / (QUOTA_PER_S * steady_s), "%", 99.5, more_is_better=True),
            Figure("  refused by the server (403048)", 100 * throttled / len(arrivals), "%", 0.3),
            Figure("  arrivals in the busiest second", stats["busiest_second"]["main"], "", QUOTA_PER_S),
        ],
        used.load,
    )


async def latency(rig: Rig, quick: bool) -> Result:
    """Events appended at 80/s, one by one: how long until the call arrives at the API."""
    count = LATENCY_PER_S * (5 if quick else 20)
    topic = await rig.topic()
    async with rig.gigya() as gigya:
        await gigya.control("PATCH", "config", {"ledger": {"executed_kept": 100_000}})
        async with rig.worker(topic, gigya, quota_per_s=QUOTA_PER_S, until_end=False) as run:
            await run.assigned()
            await append_evenly(rig.broker.bootstrap, topic, count, per_s=LATENCY_PER_S)
            await executed_at_least(gigya, count)
            used = await run.stopped()
            filled = Filled(topic, count, count, await rig.broker.ends(topic))
            executed = await gigya.control("GET", "ledger")
            await run.check_books(filled, executed=len(executed))
    took_ms = sorted(1000 * (each["arrived_s"] - sent_at(each)) for each in executed)
    return Result(
        [
            Figure("append to arrival, median", statistics.median(took_ms), "ms", 10),
            Figure("  99th percentile", took_ms[int(len(took_ms) * 0.99)], "ms", 30),
            Figure("  longest", took_ms[-1], "ms"),
        ],
        used.load,
    )


async def start(rig: Rig, quick: bool) -> Result:
    """From the start of the process to the first call, where events wait already."""
    filled = await rig.filled(ALL, 100)
    async with rig.gigya() as gigya:
        await gigya.control("PATCH", "config", {"ledger": {"arrivals_kept": 1000}})
        async with rig.worker(filled.topic, gigya, quota_per_s=QUOTA_PER_S) as run:
            used = await run.ended()
            await run.check_books(filled, executed=(await gigya.stats())["executed"])
        arrivals = await gigya.control("GET", "arrivals")
    return Result(
        [
            Figure("start to the first call", arrivals[0]["at_s"] - used.started_unix_s, "s", 1.0),
            Figure("  CPU seconds from start to end", used.cpu_s, "s"),
        ],
        used.load,
    )


BENCHES: Mapping[str, Bench] = {
    bench.name: bench
    for bench in (
        Bench("filtering", "1 KB events, one in a hundred matches, no quota, topic filled before", filtering),
        Bench("calling", "half of the events match, the API answers at once, no quota", calling),
        Bench("quota", f"every event matches, quota {QUOTA_PER_S}/s, enforced by the server in any second", quota),
        Bench("latency", f"{LATENCY_PER_S} events a second, evenly, quota {QUOTA_PER_S}/s", latency),
        Bench("start", "100 events wait", start),
        LETTERS,
        *TROUBLES,
    )
}


async def _drained(rig: Rig, filled: Filled) -> Used:
    """Run a worker without a quota to the end of a topic, and check the books."""
    async with rig.gigya() as gigya, rig.worker(filled.topic, gigya, quota_per_s=None) as run:
        used = await run.ended()
        await run.check_books(filled, executed=(await gigya.stats())["executed"])
    return used


async def _start_cost_s(rig: Rig) -> float:
    """Return the CPU seconds of a run that finds nothing to do: a worker starts once, and then runs for weeks."""
    if rig.profile is not None:
        return 0.0  # the profile is that of the run before
    topic = await rig.topic()
    async with rig.gigya() as gigya, rig.worker(topic, gigya, quota_per_s=None) as run:
        used = await run.ended()
        await run.check_books(Filled(topic, 0, 0, {}), executed=0)
    return used.cpu_s

"""What trouble costs: an outage, kill -9, a quota that the settings do not know, many calls for few users."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer

from tests.benchmarks.figures import Bench, Figure, Result
from tests.benchmarks.rig import QUICK_GIGYA, Filled, Rig, Run, Unbalanced, Used, executed_at_least
from tests.benchmarks.workload import ALL, Author
from tests.journeys.processes import GigyaProcess

QUOTA_PER_S = 100
LOAD_PER_S = 50
OUTAGE_S = 30.0
BEFORE_S = 5.0
# A call that arrives within so long of its event did not wait in a backlog.
AT_ONCE_S = 1.0
FULL_RATE = 0.95

KILLS = 4
KILL_QUOTA_PER_S = 200
CALLING_S = 3.0  # between the first call of a process and its end
# Who comes after a killed process waits for the end of its session; an attempt must fit into one.
SHORT_SESSIONS: Mapping[str, Mapping[str, Any]] = {
    "kafka": {"session_timeout_s": 6},
    "delivery": {"attempt_timeout_s": 3, "connect_timeout_s": 2},
}
# As slow as the API may be, so that calls are in flight when the process dies, and with a memory: what evidence is for.
SLOW_GIGYA: Mapping[str, Any] = {
    "latency": {"distribution": "lognormal", "ms": 80, "upper_ms": 300},
    "ledger": {"arrivals_kept": 0},
}
# Without evidence: the log is closed to our key, and no nonce is remembered. What may have been made is made again.
NO_EVIDENCE: Mapping[str, Any] = {**SLOW_GIGYA, "nonces": {"retention_s": 0}}

REAL_QUOTA_PER_S = 60
SETTLING_S = 5.0

KEYED_EVENTS = 10_000
# Users -> seconds in parallel-consumer's README: 10,000 messages of one partition, 0 to 5 ms each.
THEIRS = {1: 26.7, 2: 13.6, 5: 5.9, 10: 3.3, 20: 2.24, 100: 2.18, 1000: 2.06}
UP_TO_5_MS: Mapping[str, Any] = {
    **QUICK_GIGYA,
    "latency": {"distribution": "uniform", "ms": 0, "upper_ms": 5},
    "ledger": {"executed_kept": 0, "arrivals_kept": 20_000, "actions_log_per_user": 0},
}


async def recovery(rig: Rig, quick: bool) -> Result:
    """Events come evenly at half the quota while the API is away: how soon is it as if nothing had been?"""
    outage_s = OUTAGE_S / 3 if quick else OUTAGE_S
    catching_up_s = outage_s * LOAD_PER_S / (QUOTA_PER_S - LOAD_PER_S)
    count = int(LOAD_PER_S * (BEFORE_S + outage_s + catching_up_s + 10.0))
    topic = await rig.topic()
    async with rig.gigya() as gigya:
        await gigya.control("PATCH", "config", {"ledger": {"executed_kept": 100_000}})
        async with rig.worker(topic, gigya, quota_per_s=QUOTA_PER_S, until_end=False) as run:
            await run.assigned()
            appending = asyncio.create_task(append_evenly(rig.broker.bootstrap, topic, count, per_s=LOAD_PER_S))
            await asyncio.sleep(BEFORE_S)
            await gigya.control("POST", "outage", {"duration_s": outage_s})
            ended_s = time.time() + outage_s
            await appending
            await executed_at_least(gigya, count)
            used = await run.stopped()
            executed = await gigya.control("GET", "ledger")
            await run.check_books(Filled(topic, count, count, await rig.broker.ends(topic)), executed=len(executed))
    after = sorted(each["arrived_s"] for each in executed if each["arrived_s"] >= ended_s)
    late = [each["arrived_s"] for each in executed if each["arrived_s"] - sent_at(each) > AT_ONCE_S]
    return Result(
        [
            Figure("end of the outage to the first call", after[0] - ended_s, "s", beside=f"outage of {outage_s:g} s"),
            Figure(
                "  to the full rate", _full_rate_s(after) - ended_s, "s", beside=f"{FULL_RATE:.0%} of {QUOTA_PER_S}/s"
            ),
            Figure("  to the end of the backlog", max(late) - ended_s, "s", beside=f"{catching_up_s:g} s at the least"),
        ],
        used.load,
    )


def _full_rate_s(arrivals: Sequence[float]) -> float:
    """Return when the first second begins in which the quota is used."""
    for index, begin_s in enumerate(arrivals):
        if bisect_left(arrivals, begin_s + 1.0) - index >= FULL_RATE * QUOTA_PER_S:
            return begin_s
    raise Unbalanced("the full rate was never reached again")


async def kills(rig: Rig, quick: bool) -> Result:
    """The worker is killed again and again while it calls: what is executed twice, with evidence and without?"""
    times = KILLS // 2 if quick else KILLS
    ladder = await _killed(rig, times, SLOW_GIGYA)
    blind = await _killed(rig, times, NO_EVIDENCE)
    flying = (ladder.in_flight + blind.in_flight) / (2 * times)
    return Result(
        [
            Figure("executed twice per kill -9, as shipped", ladder.twice / times, "", 0.0),
            Figure("  sent again undecided, says the log", ladder.undecided / times, "", beside="bounds the one above"),
            Figure(
                "  executed twice without evidence", blind.twice / times, "", beside="no log to ask, no nonces kept"
            ),
            Figure("  sent again undecided then", blind.undecided / times, ""),
            Figure("  calls in flight at a kill", flying, "", beside=f"{KILL_QUOTA_PER_S} calls/s of some 80 ms"),
        ],
        ladder.used.load,
    )


@dataclass(frozen=True, slots=True)
class _Killed:
    """What came of a worker that was killed again and again."""

    twice: int  # executions too many
    undecided: int  # calls that were sent again though nothing could tell, as the log said beforehand
    in_flight: int  # at all kills
    used: Used  # by the last process


async def _killed(rig: Rig, times: int, config: Mapping[str, Any]) -> _Killed:
    """Kill so often, let the last process come to the end, and count. Raises Unbalanced."""
    filled = await rig.filled(ALL, int(KILL_QUOTA_PER_S * CALLING_S * (times + 2)))
    options: dict[str, Any] = {"quota_per_s": KILL_QUOTA_PER_S, "settings": SHORT_SESSIONS}
    in_flight, undecided, group = 0, 0, ""
    async with rig.gigya(config=config) as gigya:
        if config is NO_EVIDENCE:
            await gigya.inject("code", code=403007, method="gm.getActionsLog")
        for _ in range(times):
            before = (await gigya.stats())["executed"]
            async with rig.worker(filled.topic, gigya, group=group, until_end=False, **options) as run:
                group = run.group
                await executed_at_least(gigya, before + 1, limit_s=60.0)
                await asyncio.sleep(CALLING_S)
                in_flight += int((await gigya.stats())["in_flight"])
                run.process.kill()
                undecided += _undecided(run)
        async with rig.worker(filled.topic, gigya, group=group, **options) as run:
            used = await run.ended()
            executed = await _counts(gigya)
            await run.check_books(filled, executed=len(executed), is_first=False)
            undecided += _undecided(run)
    twice = executed.total() - len(executed)
    if twice > undecided:
        raise Unbalanced(f"{twice} executions too many, and the logs announced {undecided}")
    return _Killed(twice, undecided, in_flight, used)


def _undecided(run: Run) -> int:
    """Return how many calls it sent again that the action log had not cleared. A last line may be cut off by a kill."""
    whole = (text for text in run.process.stderr().splitlines() if text.endswith("}"))
    resent = (orjson.loads(text) for text in whole if '"call.resent_after_ambiguity"' in text)
    return sum(line["step"] != 1 for line in resent)


async def _counts(gigya: GigyaProcess) -> Counter[str]:
    ledger = await gigya.lines("ledger")
    return Counter(orjson.loads(each["params"]["context"])["eventId"] for each in ledger)


async def wrong_quota(rig: Rig, quick: bool) -> Result:
    """The site grants less than the settings say: how much of that is used?"""
    steady_s = 10.0 if quick else 30.0
    filled = await rig.filled(ALL, int(REAL_QUOTA_PER_S * (steady_s + 2 * SETTLING_S)))
    async with rig.gigya(quota={"per_s": REAL_QUOTA_PER_S, "window": "sliding"}) as gigya:
        await gigya.control("PATCH", "config", {"ledger": {"arrivals_kept": 100_000}})
        async with rig.worker(filled.topic, gigya, quota_per_s=QUOTA_PER_S) as run:
            used = await run.ended()
            await run.check_books(filled, executed=(await gigya.stats())["executed"])
        arrivals = await gigya.control("GET", "arrivals")
    first_s = arrivals[0]["at_s"] + SETTLING_S
    steady = [each for each in arrivals if first_s <= each["at_s"] < first_s + steady_s]
    accepted = sum(each["code"] == 0 for each in steady)
    refused = sum(each["code"] == 403048 for each in steady)
    return Result(
        [
            Figure("delivered share of the real quota", 100 * accepted / (REAL_QUOTA_PER_S * steady_s), "%"),
            Figure("  refused by the server (403048)", 100 * refused / len(steady), "%"),
        ],
        used.load,
    )


async def keys(rig: Rig, quick: bool) -> Result:
    """One partition, some users, each with one call at a time: parallel-consumer's table of key order."""
    count = KEYED_EVENTS // 10 if quick else KEYED_EVENTS
    figures: list[Figure] = []
    for users, theirs_s in THEIRS.items():
        filled = await rig.filled(ALL, count, users=users, partitions=1)
        async with rig.gigya(config=UP_TO_5_MS) as gigya, rig.worker(filled.topic, gigya, quota_per_s=None) as run:
            used = await run.ended()
            await run.check_books(filled, executed=(await gigya.stats())["executed"])
            arrivals = await gigya.lines("arrivals")
        took_s = max(each["at_s"] for each in arrivals) - min(each["at_s"] for each in arrivals)
        figures.append(
            Figure(
                f"{users:,} user{'s' * (users > 1)}",
                took_s,
                "s",
                beside=f"parallel-consumer: {theirs_s:g} s for 10,000",
            )
        )
    return Result(figures, f"{used.load} (with {users:,} users)")


TROUBLES = (
    Bench(
        "recovery", f"{LOAD_PER_S} events a second, quota {QUOTA_PER_S}/s, the API answers 503 for a while", recovery
    ),
    Bench("kills", f"{KILLS} kill -9 a run, each after {CALLING_S:g} s of calls at {KILL_QUOTA_PER_S}/s", kills),
    Bench("wrong-quota", f"the settings say {QUOTA_PER_S}/s, the site grants {REAL_QUOTA_PER_S}/s", wrong_quota),
    Bench("keys", f"{KEYED_EVENTS:,} events of one partition, API time 0 to 5 ms, from first to last arrival", keys),
)


async def append_evenly(bootstrap: str, topic: str, count: int, *, per_s: float) -> None:
    """Append events that all match, one by one, each with the time of its writing in it."""
    author = Author(ALL)
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        await producer.partitions_for(topic)
        begin_s = time.monotonic()
        sent = []
        for number in range(count):
            await asyncio.sleep(max(0.0, begin_s + number / per_s - time.monotonic()))
            key, value = author.event(matches=True, sent_at=time.time())
            sent.append(await producer.send(topic, value, key))
        await asyncio.gather(*sent)


def sent_at(executed: Mapping[str, Any]) -> float:
    """Return when the event of an executed call was written."""
    return float(orjson.loads(executed["params"]["context"])["sentAt"])

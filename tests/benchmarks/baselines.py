"""What the machine can do without a worker: reading alone, and posting alone. Machines differ; these figures say how.

    python tests/benchmarks/baselines.py reading BOOTSTRAP TOPIC COUNT
    python tests/benchmarks/baselines.py posting URL COUNT

Each prints its CPU seconds, start and imports left out.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.benchmarks.rig import Rig

PARTITIONS = 12
IN_FLIGHT = 200
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
BODY = b"UID=00000001-7c1d-4a52&action=watched_episode&actionAttributes=%7B%22tv-show%22%3A%22Glee%22%7D&points=10" * 4


async def reading(bootstrap: str, topic: str, count: int) -> float:
    """Read a topic with aiokafka and look at nothing."""
    from aiokafka import AIOKafkaConsumer, TopicPartition

    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False)
    await consumer.start()
    consumer.assign([TopicPartition(topic, number) for number in range(PARTITIONS)])
    begin_s, seen = time.process_time(), 0
    while seen < count:
        batches = await consumer.getmany(timeout_ms=200, max_records=2000)
        seen += sum(map(len, batches.values()))
    spent_s = time.process_time() - begin_s
    await consumer.stop()
    return spent_s


async def posting(url: str, count: int) -> float:
    """POST the same body again and again with aiohttp, many at a time."""
    import aiohttp

    left = count
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=IN_FLIGHT), cookie_jar=aiohttp.DummyCookieJar()
    ) as session:

        async def post() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                async with session.post(url, data=BODY, headers=FORM) as response:
                    await response.read()

        begin_s = time.process_time()
        await asyncio.gather(*(post() for _ in range(IN_FLIGHT)))
        return time.process_time() - begin_s


async def compared(rig: Rig, *, quick: bool) -> str:
    """Run both in processes of their own, on the events and the server of the benchmarks; return what they say."""
    from tests.benchmarks.workload import ONE_IN_A_HUNDRED

    filled = await rig.filled(ONE_IN_A_HUNDRED, 100_000 if quick else 500_000)
    calls = 5_000 if quick else 20_000
    read_s = await _spent_s("reading", rig.broker.bootstrap, filled.topic, str(filled.events))
    async with rig.gigya() as gigya:
        posted_s = await _spent_s("posting", f"{gigya.base_url}/gm.notifyAction", str(calls))
    return (
        f"this machine now, without a worker: reading alone {filled.events / read_s:,.0f} events per CPU second "
        f"(aiokafka), {1000 * posted_s / calls:.3f} CPU seconds per 1,000 requests (aiohttp)"
    )


async def _spent_s(*arguments: str) -> float:
    command = [sys.executable, __file__, *arguments]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=120, check=True)
    return float(done.stdout)


def main(kind: str, *arguments: str) -> None:
    *texts, count = arguments
    work = {"reading": reading, "posting": posting}[kind](*texts, int(count))  # type: ignore[operator]
    try:
        import uvloop
    except ImportError:
        factory = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        print(runner.run(work))


if __name__ == "__main__":
    main(*sys.argv[1:])

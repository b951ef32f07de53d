"""A million dead letters: how long `dead-letters groups` takes for them, and how much memory."""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from aiokafka import AIOKafkaProducer

from tests.benchmarks.figures import Bench, Figure, Result
from tests.benchmarks.rig import BATCH_BYTES, Rig, Unbalanced
from tests.reprocess.letters import letter_at
from tests.reprocess.topics import prepare, settings
from worker.deadletters.record import DeadLetter, encode
from worker.sandbox.broker import Topic, create_topics

MB = 1_000_000
LIMIT_S = 600.0
USERS = 100_000
PARTITIONS = 3
# (reason, code) of the groups, in equal parts.
CAUSES = (("user_unknown", 403005), ("missing_field", None), ("invalid_parameter_value", 400006), ("timeout", None))
RUNNER = """
import resource, sys
from worker.cli.main import app
try:
    app(["dead-letters", "groups", "-o", "jsonl"])
finally:
    used = resource.getrusage(resource.RUSAGE_SELF)
    peak = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    sys.stderr.write(f"{used.ru_utime + used.ru_stime} {peak[0].split()[1] if peak else used.ru_maxrss}\\n")
"""


async def groups(rig: Rig, quick: bool) -> Result:
    """Letters of 1 KB in four groups, some of them twice, some resolved."""
    count = 100_000 if quick else 1_000_000
    topic = f"bench-{uuid.uuid4().hex[:8]}.dead"
    await create_topics(rig.broker.bootstrap, [Topic(topic, PARTITIONS, settings={"cleanup.policy": "compact"})])
    try:
        standing = await _fill(rig.broker.bootstrap, topic, count)
        return await _measured(rig, topic, count, standing)
    finally:
        await rig.broker.delete_topics([topic])


async def _measured(rig: Rig, topic: str, count: int, standing: int) -> Result:
    folder = rig.folder / topic
    folder.mkdir()
    prepare(folder, settings(rig.broker.bootstrap, topic))
    began_s = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RUNNER, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)},
    )  # fmt: skip
    try:
        out, told = await asyncio.wait_for(process.communicate(), LIMIT_S)
    finally:
        if process.returncode is None:
            process.kill()
    took_s = time.monotonic() - began_s
    found = [json.loads(line) for line in out.splitlines()]
    if process.returncode or sum(group["records"] for group in found) != standing or len(found) != len(CAUSES):
        raise Unbalanced(f"{standing:,} letters stand in four groups, and groups says: {found} {told.decode()}")
    cpu_s, peak_kib = told.split()[-2:]
    return Result(
        [
            Figure(f"groups of {count:,} letters", took_s, "s", 60.0),
            Figure("  CPU seconds", float(cpu_s), "s"),
            Figure("  peak memory", int(peak_kib) * 1024 / MB, "MB", 500),
        ],
        f"command {float(cpu_s) / took_s:.0%}",
    )


async def _fill(bootstrap: str, topic: str, count: int) -> int:
    """Write letters by whole batches; return how many stand there in the end."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", max_batch_size=BATCH_BYTES) as producer:
        batches = [producer.create_batch() for _ in range(PARTITIONS)]
        for number, (key, value, headers) in enumerate(_messages(count)):
            at = number % count % PARTITIONS  # what comes again comes to the same partition
            for _ in range(2):
                added = batches[at].append(key=key, value=value, timestamp=1_763_800_000_000 + number, headers=headers)
                if added is not None:
                    break
                await producer.send_batch(batches[at], topic, partition=at)
                batches[at] = producer.create_batch()
        for at, batch in enumerate(batches):
            if batch.record_count():
                await producer.send_batch(batch, topic, partition=at)
        await producer.flush()
    return count - count // 50


def _messages(count: int) -> Iterator[tuple[bytes, bytes | None, list[tuple[str, bytes | None]]]]:
    """Yield letters, and tombstones for some of them. What letters have in common is encoded once: it would take longer
    than to read them all.
    """
    pad, alike = "x" * 800, math.lcm(len(CAUSES), PARTITIONS)
    samples = [list(encode(_letter(number)).headers) for number in range(alike)]
    names = [name for name, _ in samples[0]]
    place, key = names.index("dlq.offset"), names.index("dlq.key")
    for number in range(count + count // 50):
        offset = number % count
        name = f"user-events/{offset % PARTITIONS}/{offset}".encode()
        if number >= count:
            yield name, None, []
            continue
        uid = f"user-{offset % USERS:06d}"
        headers = list(samples[offset % alike])
        headers[place], headers[key] = ("dlq.offset", b"%d" % offset), ("dlq.key", uid.encode())
        yield name, f'{{"type": "watched", "user": {{"uid": "{uid}"}}, "pad": "{pad}"}}'.encode(), headers


def _letter(number: int) -> DeadLetter:
    reason, code = CAUSES[number % len(CAUSES)]
    return letter_at(number, partition=number % PARTITIONS, reason=reason, code=code)


LETTERS = Bench("letters", "`dead-letters groups` over 1 KB records in four groups, one in fifty resolved", groups)

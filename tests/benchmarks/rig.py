"""What the benchmarks run on: a real broker, the local Gigya as a process, and a worker that is measured.

No figure leaves here unless the books balance: the worker's ledger, what Gigya executed, and the offsets that the
broker holds must all say what the workload says.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

from tests.benchmarks.workload import RULES, USERS, Author, Shape
from tests.journeys.brokerview import BrokerView
from tests.journeys.processes import GigyaProcess, WorkerProcess, free_port
from worker.sandbox.broker import Topic, create_topics

PARTITIONS = 12
DEAD_LETTERS = "bench.dead"
BATCH_BYTES = 128 * 1024
RUN_LIMIT_S = 180.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_WATCH_EVERY_S = 0.05
# A server that does nothing but answer: no memory of nonces, parameters unread, few entries kept.
QUICK_GIGYA: Mapping[str, Any] = {
    "nonces": {"retention_s": 0},
    "check_parameters": False,
    "ledger": {"executed_kept": 0, "arrivals_kept": 0, "actions_log_per_user": 0},
}


class Unbalanced(Exception):
    """The books of a run do not balance: it has no figure."""


@dataclass(frozen=True, slots=True)
class Filled:
    """A topic with events in it."""

    topic: str
    events: int
    matching: int
    ends: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Used:
    """What one run of a worker used."""

    started_unix_s: float
    wall_s: float
    cpu_s: float  # user and system time of the worker process and no other
    peak_rss_bytes: int
    gigya_cpu_s: float
    machine_cpu_s: float  # of everything on this machine, meanwhile

    @property
    def load(self) -> str:
        """Return who was busy, in parts of one core."""
        parts = {"worker": self.cpu_s, "Gigya": self.gigya_cpu_s}
        others = max(0.0, self.machine_cpu_s - sum(parts.values()))
        shares = {**parts, "broker and others": others}
        return ", ".join(f"{name} {spent_s / self.wall_s:.0%}" for name, spent_s in shares.items())


class Rig:
    """A broker's address and a folder; topics are filled once and read by every run under a group of its own."""

    def __init__(self, bootstrap: str, folder: Path, *, profile: Path | None = None) -> None:
        self.broker = BrokerView(bootstrap)
        self.folder = folder
        self.profile = profile  # where the sampler writes, when one is wanted
        self._filled: dict[tuple[Shape, int, int, int], Filled] = {}
        self._runs = 0

    async def prepare(self) -> None:
        await create_topics(self.broker.bootstrap, [Topic.dead_letters(DEAD_LETTERS)])

    async def topic(self, partitions: int = PARTITIONS) -> str:
        """Return a new, empty topic."""
        name = f"bench-{uuid.uuid4().hex[:8]}"
        await create_topics(self.broker.bootstrap, [Topic(name, partitions)])
        return name

    async def filled(self, shape: Shape, count: int, *, users: int = USERS, partitions: int = PARTITIONS) -> Filled:
        """Return a topic with `count` events, which is filled once for all runs."""
        key = (shape, count, users, partitions)
        if key not in self._filled:
            topic = await self.topic(partitions)
            author = Author(shape, users)
            await _append(self.broker.bootstrap, topic, author.events(count), partitions)
            ends = await self.broker.ends(topic)
            if sum(ends.values()) != count:
                raise Unbalanced(f"{count} events appended, and the topic holds {sum(ends.values())}")
            self._filled[key] = Filled(topic, count, author.matching, ends)
        return self._filled[key]

    @asynccontextmanager
    async def gigya(self, *, config: Mapping[str, Any] = QUICK_GIGYA, **site: Any) -> AsyncIterator[GigyaProcess]:
        """Start a local Gigya: one that forgets at once, unless the configuration says otherwise."""
        process = GigyaProcess(self._new_folder("gigya"), dict(config))
        try:
            if site:
                await process.control("PATCH", "sites/main", site)
            yield process
        finally:
            process.close()

    @asynccontextmanager
    async def worker(
        self,
        topic: str,
        gigya: GigyaProcess,
        *,
        quota_per_s: float | None,
        until_end: bool = True,
        group: str = "",
        settings: Mapping[str, Mapping[str, Any]] = {},
    ) -> AsyncIterator[Run]:
        """Start a worker with the settings of `run`; it is killed if it still runs in the end.

        Without a `group` it is the first of a new one; `settings` are put over the others, section by section.
        """
        run = Run(
            self._new_folder("run"),
            self,
            topic,
            gigya,
            quota_per_s=quota_per_s,
            until_end=until_end,
            group=group or f"bench-{uuid.uuid4().hex[:8]}",
            settings=settings,
        )
        try:
            yield run
        finally:
            run.process.kill()

    def _new_folder(self, name: str) -> Path:
        self._runs += 1
        folder = self.folder / f"{self._runs:02d}-{name}"
        folder.mkdir()
        return folder


class Run:
    """One worker process from its start to its end."""

    def __init__(
        self,
        folder: Path,
        rig: Rig,
        topic: str,
        gigya: GigyaProcess,
        *,
        quota_per_s: float | None,
        until_end: bool,
        group: str,
        settings: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.group = group
        self._rig, self._topic, self._gigya = rig, topic, gigya
        port = free_port()
        (folder / "rules.yaml").write_text(RULES)
        chosen = self._settings(port, quota_per_s)
        chosen |= {name: {**chosen.get(name, {}), **section} for name, section in settings.items()}
        (folder / "worker.yaml").write_text(json.dumps(chosen))  # JSON is YAML
        arguments = ["run", "--config", "worker.yaml", *(["--until-end"] if until_end else [])]
        python: tuple[str, ...] = ("-m", "worker")
        if rig.profile is not None:
            python = (str(Path(__file__).with_name("sampler.py")), str(rig.profile))
        self._children_cpu_s = _children_cpu_s()
        self._gigya_cpu_s = _cpu_s(_pid(gigya))
        self._machine_cpu_s = _machine_cpu_s()
        self._peak_rss_bytes = 0
        self.started_unix_s, self._started_s = time.time(), time.monotonic()
        self.process = WorkerProcess("worker", arguments, folder, port, python=python)

    def _settings(self, admin_port: int, quota_per_s: float | None) -> dict[str, Any]:
        site = self._gigya.site
        auth = {"mode": "signed", "user_key": site["user_key"], "secret": site["secret"]}
        return {
            "kafka": {
                "bootstrap_servers": self._rig.broker.bootstrap,
                "group_id": self.group,
                "topics": [self._topic],
                "dead_letter_topic": DEAD_LETTERS,
            },
            "sites": {
                "main": {
                    "base_url": self._gigya.base_url,
                    "api_key": site["api_key"],
                    "auth": auth,
                    "quota_per_s": quota_per_s,
                }
            },
            "admin": {"port": admin_port},
            "rules": "rules.yaml",
        }

    async def assigned(self, limit_s: float = 30.0) -> None:
        """Wait until the group has given it partitions."""
        deadline_s = time.monotonic() + limit_s
        while not self.process.assignments():
            if not self.process.is_running or time.monotonic() > deadline_s:
                raise Unbalanced(f"the worker was assigned nothing:\n{self.process.tail()}")
            await asyncio.sleep(_WATCH_EVERY_S)

    async def stopped(self) -> Used:
        """Send SIGTERM, and return what it used when it has ended."""
        self.process.signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self, limit_s: float = RUN_LIMIT_S) -> Used:
        """Return what it used when it has ended by itself. Raises Unbalanced when that was no success."""
        deadline_s = time.monotonic() + limit_s
        while True:
            # Read while it runs: the peak that wait4 tells is also that of the process it was forked from.
            self._peak_rss_bytes = max(self._peak_rss_bytes, _peak_rss_bytes(self.process.pid))
            if not self.process.is_running:
                break
            if time.monotonic() > deadline_s:
                raise Unbalanced(f"the worker has not ended within {limit_s:g} s:\n{self.process.tail()}")
            await asyncio.sleep(_WATCH_EVERY_S)
        wall_s = time.monotonic() - self._started_s
        code = await self.process.ended()
        used = Used(
            started_unix_s=self.started_unix_s,
            wall_s=wall_s,
            cpu_s=_children_cpu_s() - self._children_cpu_s,  # nothing else that we started ended meanwhile
            peak_rss_bytes=self._peak_rss_bytes,
            gigya_cpu_s=_cpu_s(_pid(self._gigya)) - self._gigya_cpu_s,
            machine_cpu_s=_machine_cpu_s() - self._machine_cpu_s,
        )
        if code != 0:
            raise Unbalanced(f"the worker ended with exit code {code}:\n{self.process.tail()}")
        return used

    async def check_books(self, filled: Filled, *, executed: int, is_first: bool = True) -> None:
        """Raise Unbalanced unless ledger, Gigya and broker all say what the workload says.

        Of what others of the group had read before, only they could tell how much it was.
        """
        (line,) = self.process.lines("worker.stopped")
        ledger = str(line["ledger"])
        read = int(re.match(r"read ([\d,]+) ", ledger)[1].replace(",", ""))  # type: ignore[index]
        if not ledger.endswith("  balanced") or (is_first and read != filled.events):
            raise Unbalanced(f"{filled.events:,} events were there, and the ledger says: {ledger}")
        if executed != filled.matching:
            raise Unbalanced(f"{filled.matching:,} calls were due, and Gigya executed {executed:,}")
        committed = await self._rig.broker.committed(self.group)
        behind = {number: end for number, end in filled.ends.items() if committed.get(number, 0) != end}
        if behind:
            raise Unbalanced(f"committed offsets are not the ends of partitions {sorted(behind)}")


@asynccontextmanager
async def rig(bootstrap: str, *, profile: Path | None = None) -> AsyncIterator[Rig]:
    """Give a rig whose files are gone in the end."""
    with tempfile.TemporaryDirectory(prefix="gigya-worker-bench-") as name:
        made = Rig(bootstrap, Path(name), profile=profile)
        await made.prepare()
        yield made


async def executed_at_least(gigya: GigyaProcess, count: int, limit_s: float = 30.0) -> None:
    """Wait until the local Gigya has executed so many calls. Raises Unbalanced."""
    deadline_s = time.monotonic() + limit_s
    while (executed := (await gigya.stats())["executed"]) < count:
        if time.monotonic() > deadline_s:
            raise Unbalanced(f"{count:,} calls were due, and Gigya executed {executed:,} within {limit_s:g} s")
        await asyncio.sleep(0.2)


async def _append(bootstrap: str, topic: str, events: Iterable[tuple[bytes, bytes]], partitions: int) -> None:
    """Append by whole batches, which is several times as fast as event by event."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", max_batch_size=BATCH_BYTES) as producer:
        batches = [producer.create_batch() for _ in range(partitions)]
        now_ms = int(time.time() * 1000)
        for key, value in events:
            number = hash_of(key) % partitions
            if batches[number].append(key=key, value=value, timestamp=now_ms) is None:
                await producer.send_batch(batches[number], topic, partition=number)
                batches[number] = producer.create_batch()
                batches[number].append(key=key, value=value, timestamp=now_ms)
        for number, batch in enumerate(batches):
            if batch.record_count():
                await producer.send_batch(batch, topic, partition=number)
        await producer.flush()


def hash_of(key: bytes) -> int:
    """Return the same number for the same user, in every process."""
    return int(key[:8], 16)


def _pid(gigya: GigyaProcess) -> int:
    return gigya._process.pid


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _machine_cpu_s() -> float:
    user, nice, system, _, _, irq, soft_irq, *_ = map(int, Path("/proc/stat").read_text().split(None, 8)[1:8])
    return (user + nice + system + irq + soft_irq) / _TICKS_PER_S


def _peak_rss_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def machine() -> str:
    """Return what this was measured on."""
    import platform

    import aiohttp
    import aiokafka

    cpu = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    try:
        import uvloop

        loop = f"uvloop {uvloop.__version__}"
    except ImportError:
        loop = "asyncio's own loop"
    python = f"{platform.python_implementation()} {sys.version.split()[0]}"
    return (
        f"{os.cpu_count()} x {cpu}, {platform.system()} {platform.release()}; {python}, {loop}, "
        f"aiokafka {aiokafka.__version__}, aiohttp {aiohttp.__version__}; load average {os.getloadavg()[0]:.1f} now"
    )

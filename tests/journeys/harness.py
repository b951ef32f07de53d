"""A journey: the whole worker as processes, between a real broker and a local Gigya.

    async with Journey.begin(bootstrap, folder) as journey:
        await journey.append(stream(...))
        worker = journey.start("first")
        ...

A journey that ends well has also shown that no log and no admin answer of its workers holds a UID, a key, a payload or
a secret.
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.journeys.brokerview import BrokerView, Stored
from tests.journeys.oracle import Appended, Execution, Headers, expected_calls, found_in, words_to_hide
from tests.journeys.processes import GigyaProcess, WorkerProcess, free_port, until
from worker.sandbox.broker import Topic, create_topics
from worker.sandbox.events import DEMO_RULES, SampleEvent


class Journey:
    """Topics, settings, processes of one journey, and everything that was appended."""

    def __init__(self, bootstrap: str, folder: Path, gigya: GigyaProcess, *, partitions: int) -> None:
        name = uuid.uuid4().hex[:8]
        self.folder = folder
        self.gigya = gigya
        self.broker = BrokerView(bootstrap)
        self.topic, self.dead_topic = f"journey-{name}", f"journey-{name}.dead"
        self.group = f"journey-{name}"
        self.partitions = partitions
        self.appended: list[Appended] = []
        self.workers: list[WorkerProcess] = []
        self.secrets: set[str] = set()  # what no log may hold, beside the credentials that the local Gigya made

    @classmethod
    @asynccontextmanager
    async def begin(
        cls,
        bootstrap: str,
        folder: Path,
        *,
        partitions: int = 12,
        gigya: dict[str, Any] | None = None,
        tls: bool = False,
    ) -> AsyncIterator[Journey]:
        """Start the local Gigya and make the topics; end everything in the end, and look through the logs."""
        process = GigyaProcess(folder, gigya or {}, tls=tls)
        journey = cls(bootstrap, folder, process, partitions=partitions)
        topics = [Topic(journey.topic, partitions), Topic.dead_letters(journey.dead_topic)]
        try:
            await create_topics(bootstrap, topics)
            yield journey
            journey.check_logs()
        finally:
            for worker in journey.workers:
                worker.kill()
            process.close()
            await journey.broker.delete_topics([topic.name for topic in topics])

    # events

    async def append(self, events: Iterable[SampleEvent], *, timestamp_ms: int | None = None) -> list[Appended]:
        """Append events; bad ones get headers, because those must survive, too."""
        placed = await self.broker.append(
            self.topic,
            ((event, _headers(event) if event.is_bad else ()) for event in events),
            timestamp_ms=timestamp_ms,
        )
        self.appended += placed
        return placed

    # workers

    def settings(self, admin_port: int, **parts: dict[str, Any]) -> dict[str, Any]:
        """Return a worker's settings; `parts` adds to, or changes, what stands in the named sections."""
        site = self.gigya.site
        tree: dict[str, Any] = {
            "kafka": {
                "bootstrap_servers": self.broker.bootstrap,
                "group_id": self.group,
                "topics": [self.topic],
                "dead_letter_topic": self.dead_topic,
                "session_timeout_s": 9,
            },
            "sites": {
                "main": {
                    "base_url": self.gigya.base_url,
                    "api_key": site["api_key"],
                    "auth": {"mode": "signed", "user_key": site["user_key"], "secret": site["secret"]},
                    "quota_per_s": None,
                }
            },
            "delivery": {"attempt_timeout_s": 5, "connect_timeout_s": 5},
            "admin": {"port": admin_port},
            "rules": "rules.yaml",
        }
        for name, changes in parts.items():
            target = tree["sites"]["main"] if name == "site" else tree.setdefault(name, {})
            target.update(changes)
        return tree

    def start(
        self,
        name: str,
        *,
        until_end: bool = False,
        command: tuple[str, ...] = ("run",),
        rules: str = DEMO_RULES,
        python: tuple[str, ...] = ("-m", "worker"),
        **parts: dict[str, Any],
    ) -> WorkerProcess:
        """Start a worker; JSON is YAML, so that its settings file needs no writer. `python` as in WorkerProcess.

        `command`: what it is to do, and its options, in place of `run`.
        """
        folder = self.folder / name
        folder.mkdir()
        port = free_port()
        (folder / "rules.yaml").write_text(rules)
        (folder / "worker.yaml").write_text(json.dumps(self.settings(port, **parts), indent=1))
        verb, *options = command
        arguments = [verb, "--config", "worker.yaml", *options, *(["--until-end"] if until_end else [])]
        worker = WorkerProcess(name, arguments, folder, port, python=python)
        self.workers.append(worker)
        return worker

    async def ready(self, worker: WorkerProcess, *, limit_s: float = 30.0) -> None:
        """Wait until a worker says that it is ready."""

        async def is_ready() -> bool:
            assert worker.is_running, f"{worker.name} has ended:\n{worker.tail()}"
            return (await worker.readiness())[0] == 200

        await until(f"{worker.name} is ready", is_ready, limit_s=limit_s)

    # what happened

    async def executions(self) -> list[Execution]:
        """Return what Gigya executed, in its order."""
        return [Execution.of(line) for line in await self.gigya.control("GET", "ledger")]

    async def executed_at_least(self, count: int, *, limit_s: float = 60.0) -> None:
        """Wait until Gigya has executed so many calls, repetitions included."""

        async def is_enough() -> bool:
            self.check_workers()
            return await self.gigya.executed_count() >= count

        await until(f"{count} calls are executed", is_enough, limit_s=limit_s)

    async def has_in_flight(self, count: int) -> bool:
        """Return whether Gigya works on so many requests now."""
        return int((await self.gigya.stats())["in_flight"]) >= count

    async def all_done(self, *, limit_s: float = 60.0) -> None:
        """Wait until the group has committed the end of every partition."""
        ends = {partition: end for partition, end in (await self.broker.ends(self.topic)).items() if end}

        async def is_committed() -> bool:
            self.check_workers()
            committed = await self.broker.committed(self.group)
            return all(committed.get(partition) == end for partition, end in ends.items())

        await until("offsets are committed to the ends", is_committed, limit_s=limit_s, every_s=0.2)

    async def dead_letters(self) -> list[Stored]:
        return await self.broker.stored(self.dead_topic)

    def check_workers(self) -> None:
        """Fail at once if a worker has ended of a bug or a refusal, instead of waiting for what it will not do."""
        for worker in self.workers:
            assert worker.exit_code not in (1, 70), f"{worker.name} ended with {worker.exit_code}:\n{worker.tail(40)}"

    @property
    def expected(self) -> set[tuple[str, ...]]:
        return expected_calls(self.appended)

    def check_logs(self) -> None:
        """Fail if anything the workers wrote, or answered on their admin ports, holds what must not be read."""
        secrets = set(self.secrets)
        for site in self.gigya.sites.values():
            key_lines = [line for line in site.get("private_key", "").splitlines() if "-----" not in line]
            secrets |= {site["secret"], quote(site["secret"], "~"), site["user_key"], *key_lines} - {""}
        words = words_to_hide(self.appended, secrets)
        for worker in self.workers:
            for file in (worker.log_file, worker.out_file, worker.admin_file):
                leaked = found_in(file.read_bytes(), words)
                assert not leaked, f"{file} holds {leaked[:5]}"


def _headers(event: SampleEvent) -> Headers:
    """Return headers that are easily damaged: bytes, nothing, the same name twice, and one that looks like ours."""
    return (
        ("trace", b"\x00\xff\xfe" + event.uid.encode()),
        ("trace", None),
        ("empty", b""),
        ("dlq.reason", b"not ours"),
    )


def tell(figures: str) -> None:
    """Say what a journey measured: pytest shows it with -s, and where the journey fails."""
    sys.stdout.write(f"{figures}\n")


async def gathered(*work: Any) -> list[Any]:
    """Do several things at once; all of them end before an error of one is raised."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return list(results)

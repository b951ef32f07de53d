"""The processes of a journey: workers and a local Gigya. Each ends by its own id, within a time limit."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp

HOST = "127.0.0.1"
END_LIMIT_S = 40.0


async def until(
    what: str, condition: Callable[[], Awaitable[Any]], *, limit_s: float = 30.0, every_s: float = 0.05
) -> Any:
    """Return the first true answer of `condition`; fails with `what` and the last answer when it takes too long."""
    deadline_s = time.monotonic() + limit_s
    while not (answer := await condition()):
        assert time.monotonic() < deadline_s, f"not within {limit_s:g} s: {what} (last: {answer!r})"
        await asyncio.sleep(every_s)
    return answer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def resident_bytes(pid: int) -> int:
    """Return the memory of a process that is in RAM."""
    statm = Path(f"/proc/{pid}/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return int(subprocess.check_output(["ps", "-o", "rss=", "-p", str(pid)])) * 1024


class WorkerProcess:
    """`python -m worker ...` with its standard output and error in files."""

    def __init__(
        self,
        name: str,
        arguments: list[str],
        folder: Path,
        admin_port: int,
        *,
        python: tuple[str, ...] = ("-m", "worker"),
    ) -> None:
        """`python` is what the interpreter runs; benchmarks put a profiler there."""
        self.name = name
        self.admin_port = admin_port
        self.log_file = folder / f"{name}.log"
        self.out_file = folder / f"{name}.out"
        self.admin_file = folder / f"{name}.admin"  # everything its admin port has answered
        self.admin_file.touch()
        environment = {key: value for key, value in os.environ.items() if not key.startswith("WORKER_")}
        with self.log_file.open("wb") as log, self.out_file.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, *python, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                cwd=folder,
                env=environment,
                start_new_session=True,  # a Ctrl-C at the tests is not one at the worker
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    @property
    def is_running(self) -> bool:
        return self.exit_code is None

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def ended(self, *, limit_s: float = END_LIMIT_S) -> int:
        """Wait for the end by itself and return the exit code."""
        deadline_s = time.monotonic() + limit_s
        while (code := self._process.poll()) is None:
            assert time.monotonic() < deadline_s, f"{self.name} has not ended within {limit_s:g} s:\n{self.tail()}"
            await asyncio.sleep(0.02)
        return code

    async def stopped(self, *, limit_s: float = END_LIMIT_S) -> int:
        """Send SIGTERM and return the exit code."""
        self.signal(signal.SIGTERM)
        return await self.ended(limit_s=limit_s)

    def kill(self) -> None:
        """End it at once, however it stands; does nothing when it has ended."""
        if self.is_running:
            self._process.kill()
        self._process.wait(timeout=10)

    # what it says

    def stderr(self) -> str:
        return self.log_file.read_text(errors="replace")

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.stderr().splitlines()[-lines:])

    def lines(self, event: str = "") -> Iterator[dict[str, Any]]:
        """Yield the log's lines (JSON), only those of one event if it is named."""
        # Without a newline it is not a line yet: the process is writing it, or was killed over it.
        written, _, _ = self.stderr().rpartition("\n")
        for text in written.split("\n"):
            if text.startswith("{"):
                line = json.loads(text)
                if not event or line["event"] == event:
                    yield line

    def assignments(self) -> list[tuple[float, list[int]]]:
        """Return when it was given which partitions."""
        return [
            (unix_s(line["time"]), [int(name.rpartition("/")[2]) for name in line["partitions"]])
            for line in self.lines("partitions.assigned")
        ]

    async def get(self, path: str) -> tuple[int, str]:
        """Return status and body of an admin endpoint; (0, "") while it does not listen."""
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
                session.get(f"http://{HOST}:{self.admin_port}{path}") as response,
            ):
                text = await response.text()
                with self.admin_file.open("a") as kept:
                    kept.write(text)
                return response.status, text
        except aiohttp.ClientConnectionError:
            return 0, ""

    async def readiness(self) -> tuple[int, dict[str, Any]]:
        status, text = await self.get("/readyz")
        return status, json.loads(text) if text else {}

    async def metric(self, name: str) -> float:
        """Return the sum of a metric's samples over all labels."""
        _, text = await self.get("/metrics")
        samples = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        assert samples or f"# TYPE {name.removesuffix('_total')}" in text, f"there is no metric {name}"
        return sum(float(line.rpartition(" ")[2]) for line in samples)


def unix_s(stamp: str) -> float:
    """Return the Unix time of a log line's stamp."""
    return dt.datetime.fromisoformat(stamp).timestamp()


class GigyaProcess:
    """`python -m worker.sandbox.gigya`, and its control endpoint."""

    def __init__(self, folder: Path, config: dict[str, Any], *, tls: bool = False) -> None:
        file = folder / "gigya.json"
        file.write_text(json.dumps(config))
        self.log_file = folder / "gigya.err"
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "worker.sandbox.gigya", "--config", str(file), *(["--tls"] if tls else [])],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout is not None
        first = self._process.stdout.readline()
        assert first, f"the local Gigya did not start: {self.log_file.read_text()}"
        started = json.loads(first)
        self.base_url: str = started["base_url"]
        self._control_url: str = started["control_url"]
        self.sites: dict[str, dict[str, Any]] = started["sites"]
        self.site: dict[str, Any] = self.sites["main"]
        self.ca_file: str = started.get("ca_file", "")
        self._ssl: ssl.SSLContext | bool = ssl.create_default_context(cafile=self.ca_file) if tls else True

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=10)
        if self._process.stdout is not None:
            self._process.stdout.close()

    async def lines(self, path: str) -> list[dict[str, Any]]:
        """Return what it has noted, however long that takes to tell: ledger, arrivals, stalls."""
        return [dict(line) for line in await self.control("GET", path, limit_s=300)]

    async def control(
        self, verb: str, path: str, document: dict[str, Any] | None = None, *, limit_s: float = 30.0
    ) -> Any:
        """Tell or ask the local Gigya something."""
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=limit_s)) as session,
            session.request(verb, self._control_url + path, json=document, ssl=self._ssl) as response,
        ):
            text = await response.text()
            assert response.status == 200, f"{verb} {path}: {text}"
            return (
                [json.loads(line) for line in text.splitlines()]
                if "ndjson" in response.content_type
                else json.loads(text)
            )

    async def inject(self, kind: str, **fault: Any) -> int:
        answer = await self.control("POST", "faults", {"kind": kind, **fault})
        return int(answer["id"])

    async def stats(self) -> dict[str, Any]:
        answer = await self.control("GET", "stats")
        assert isinstance(answer, dict)
        return answer

    async def executed_count(self) -> int:
        return int((await self.stats())["executed"])

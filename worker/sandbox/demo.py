"""The demo: sample events travel from a real Kafka through the worker to the local Gigya, and what becomes of each.

`play` blocks until everything is over and cleaned up. The worker is a process like any other; what it did is told by
the two servers (`demo_evidence.py`) and compared with what the generator of the events expects (`demo_report.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aiokafka.errors import KafkaError

from worker.sandbox.broker import LocalKafka, Topic, create_topics
from worker.sandbox.demo_evidence import Appended, Evidence, Names, Witness, append, remove
from worker.sandbox.demo_report import Report, judge, settled, throttling
from worker.sandbox.demo_worker import RULES, WorkerProcess
from worker.sandbox.events import DEMO_RULES, DemoScript
from worker.sandbox.events import demo as written_script
from worker.sandbox.gigya import GigyaConfig, LocalGigya
from worker.sandbox.gigya_config import Key, Latency, Site, new_secret
from worker.sandbox.jars import KAFKA, BrokerUnavailable, cache_directory

WORKER_LIMIT_S = 60.0
LOOK_EVERY_S = 0.05
BROKER_LIMIT_S = 15.0  # of a broker elsewhere
TAIL_LINES = 8
SITE, API_KEY, USER_KEY = "main", "3_demo", "AKdemo"
_HANDLED = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Watcher(Protocol):
    """Who hears how the demo goes. Called from the thread of `play`; must return at once."""

    def begun(self, what: str) -> None:
        """Something starts that takes seconds."""

    def ready(self, kafka: str, gigya: str, script: DemoScript, names: Names) -> None:
        """Both servers are up; the events are about to be written."""

    def settled(self, count: int, total: int, note: str) -> None:
        """So many events have come to an end; called again and again, last with what is final."""


class BrokerElsewhere(BrokerUnavailable):
    """The broker of KAFKA_BOOTSTRAP cannot be used."""

    def __init__(self, bootstrap: str, why: str) -> None:
        Exception.__init__(
            self,
            f"no Kafka at {bootstrap} ({why}); correct KAFKA_BOOTSTRAP (host:port, no TLS, no login), "
            "or unset it to use a local one",
        )


@dataclass(frozen=True, slots=True)
class Played:
    """A demo that is over."""

    script: DemoScript
    names: Names
    appended: Sequence[Appended]
    evidence: Evidence
    exit_code: int | None  # of the worker; None: it had to be killed
    report: Report
    took_s: float  # from the start of the servers on
    log_tail: Sequence[str]  # the worker's last lines, if something differs
    folder: Path | None  # settings, rules and log, if they were kept


def play(seed: int, watcher: Watcher, *, keep: bool = False) -> Played:
    """Run the whole demo; KAFKA_BOOTSTRAP in the environment names a broker to use instead of a local one.

    Raises BrokerUnavailable, and KeyboardInterrupt on Ctrl-C, SIGTERM or SIGHUP; nothing of ours runs any more then.
    With `keep`, and where something differs, the worker's folder stays.
    """
    began_s = time.monotonic()
    elsewhere = os.environ.get("KAFKA_BOOTSTRAP", "").strip()
    script = written_script(seed)
    with _signals_as_ctrl_c():
        try:
            if elsewhere:
                names = Names.of_run(secrets.token_hex(4))
                return asyncio.run(_Stage(script, names, elsewhere, watcher, keep, began_s).play_elsewhere())
            is_fetched = (cache_directory() / f"kafka-{KAFKA}").is_dir()
            watcher.begun(f"starting Kafka {KAFKA}" + ("" if is_fetched else ", which is fetched first: 45 MB, once"))
            # Not in a thread of its own: Ctrl-C must end it, whatever it waits for.
            with LocalKafka() as kafka:
                stage = _Stage(script, Names(), kafka.bootstrap(), watcher, keep, began_s)
                return asyncio.run(stage.play())
        except (KafkaError, TimeoutError) as error:
            why = f"it failed during the demo: {type(error).__name__}"
            raise (BrokerElsewhere(elsewhere, why) if elsewhere else BrokerUnavailable(why)) from error


@contextlib.contextmanager
def _signals_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM and SIGHUP clean up as Ctrl-C does; restore what was there before."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in _HANDLED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Stage:
    """One run on a broker that is up."""

    def __init__(
        self, script: DemoScript, names: Names, bootstrap: str, watcher: Watcher, keep: bool, began_s: float
    ) -> None:
        self._script = script
        self._names = names
        self._bootstrap = bootstrap
        self._watcher = watcher
        self._keep = keep
        self._began_s = began_s

    async def play_elsewhere(self) -> Played:
        """Run on somebody else's broker: say clearly when it is not there, and leave nothing behind."""
        self._watcher.begun(f"connecting to Kafka at {self._bootstrap}")
        try:
            async with asyncio.timeout(BROKER_LIMIT_S):
                await self._create_topics()
        except TimeoutError:
            raise BrokerElsewhere(self._bootstrap, f"no answer for {BROKER_LIMIT_S:.0f} s") from None
        except (BrokerUnavailable, ValueError) as error:
            raise BrokerElsewhere(self._bootstrap, type(error.__cause__ or error).__name__) from error
        try:
            return await self._play(f"on {self._bootstrap}")
        finally:
            with contextlib.suppress(KafkaError, TimeoutError):  # the broker is gone: there is nothing to remove
                async with asyncio.timeout(BROKER_LIMIT_S):
                    await remove(self._bootstrap, self._names)

    async def play(self) -> Played:
        await self._create_topics()
        return await self._play(f"{KAFKA} on {self._bootstrap}")

    async def _create_topics(self) -> None:
        one_replica = {"min.insync.replicas": "1"}  # enough for a demo, on any cluster
        await create_topics(
            self._bootstrap,
            [
                Topic(self._names.topic, self._script.partitions, settings=one_replica),
                Topic(self._names.dead_letters, settings={"cleanup.policy": "compact", **one_replica}),
            ],
        )

    async def _play(self, kafka: str) -> Played:
        secret = new_secret()
        gigya = LocalGigya(gigya_config(self._script, secret))
        worker: WorkerProcess | None = None
        try:
            await gigya.start()
            for fault in self._script.faults:
                gigya.inject(fault)
            self._watcher.ready(kafka, gigya.base_url, self._script, self._names)
            appended = await append(self._bootstrap, self._names, self._script.events)
            worker = WorkerProcess(keep=self._keep)
            worker.start(settings_text(self._bootstrap, self._names, gigya.base_url, secret), DEMO_RULES)
            async with Witness(self._bootstrap, self._names, self._script.partitions, gigya.ledger) as witness:
                exit_code = await self._watch(worker, witness, appended)
                evidence = await witness.final()
            return self._conclude(worker, appended, evidence, exit_code)
        finally:
            if worker is not None:
                worker.close()
            await gigya.stop()

    async def _watch(self, worker: WorkerProcess, witness: Witness, appended: Sequence[Appended]) -> int | None:
        """Tell the watcher how far it is until the worker ends; return its exit code, None if it had to be killed."""
        deadline_s = time.monotonic() + WORKER_LIMIT_S
        while (exit_code := worker.exit_code()) is None:
            self._tell(appended, await witness.look())
            if time.monotonic() > deadline_s:
                worker.kill()
                return None
            await asyncio.sleep(LOOK_EVERY_S)
        return exit_code

    def _tell(self, appended: Sequence[Appended], evidence: Evidence) -> None:
        count = settled(self._names, appended, evidence)
        self._watcher.settled(count, len(appended), throttling(evidence))

    def _conclude(
        self, worker: WorkerProcess, appended: Sequence[Appended], evidence: Evidence, exit_code: int | None
    ) -> Played:
        self._tell(appended, evidence)
        report = judge(self._script, self._names, appended, evidence, exit_code)
        tail = worker.log_tail(TAIL_LINES) if report.differences else []
        return Played(
            script=self._script,
            names=self._names,
            appended=appended,
            evidence=evidence,
            exit_code=exit_code,
            report=report,
            took_s=time.monotonic() - self._began_s,
            log_tail=tail,
            folder=worker.save_folder() if report.differences or self._keep else None,
        )


def gigya_config(script: DemoScript, secret: str) -> GigyaConfig:
    """Return a local Gigya that knows the script's actions and networks, and accepts one key."""
    site = Site(
        api_key=API_KEY,
        keys={USER_KEY: Key(secrets=(secret,))},
        actions=script.actions,
        accept_any_action=False,
        providers=script.providers,
    )
    return GigyaConfig(sites={SITE: site}, latency=Latency(ms=20), unknown_parameters="refused")


def settings_text(bootstrap: str, names: Names, base_url: str, secret: str) -> str:
    """Return the worker's settings file."""
    return f"""\
kafka:
  bootstrap_servers: "{bootstrap}"
  group_id: {names.group}
  topics: [{names.topic}]
  dead_letter_topic: {names.dead_letters}
sites:
  {SITE}:
    base_url: "{base_url}"
    api_key: "{API_KEY}"
    auth: {{mode: signed, user_key: "{USER_KEY}", secret: "{secret}"}}
admin: {{port: 0}}
rules: {RULES}
"""

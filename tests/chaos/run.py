"""One run of a schedule: the broker, the local Gigya, the members as processes, the load, and what they leave behind.

    async with Run.begin(broker, folder, setup, seed=7) as run:
        await kills(run, seconds=60)
        judgement = await run.judged()

Members end by their own id. Whatever happens, everything that was started here is ended here.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.feeder import Feeder
from tests.chaos.judge import (
    LEAST_PER_S,
    RESENT,
    STEP_OF_THE_LOG,
    Arrival,
    Commit,
    Evidence,
    Execution,
    Judgement,
    Stall,
    Stretch,
    Undecided,
    judge,
)
from tests.chaos.workload import RULES, Author, Event, Mixture, mark_of
from tests.journeys.harness import Journey
from tests.journeys.processes import GigyaProcess, WorkerProcess, until
from worker.sandbox.broker import LocalKafka, Topic, create_topics

PARTITIONS = 12
CALLS_PER_S = 220.0
QUOTA_PER_S = 300.0
SESSION_S = 6.0
WATCH_EVERY_S = 1.5
START_LIMIT_S = 60.0  # three at once, beside whatever else a machine of two cores has to do
_WRONG_CLOCK = Path(__file__).parent / "wrong_clock.py"
GOOD_EXITS = (0, -signal.SIGKILL)
# UIDs and the marks of calls; nothing that looks like them has any business in a log.
_SECRETS = re.compile(rb"chaos-user-\d{4}|\bm\d+-\d{7}")


@dataclass(frozen=True, slots=True)
class Setup:
    """What a schedule starts with; the dicts add to the defaults of `Run`."""

    members: int = 1
    gigya: Mapping[str, Any] = field(default_factory=dict)
    site: Mapping[str, Any] = field(default_factory=dict)  # of the local Gigya
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of the workers
    mixture: Mixture = field(default_factory=Mixture)
    quota_per_s: float = QUOTA_PER_S
    wrong_clock: bool = False  # the workers' clocks are off by what `Run.set_clocks` says
    clock_offset_s: float = 0.0  # at the start
    own_keys: bool = False  # each member signs with the next one of `site.keys`: arrivals tell who sent them
    rules: str = RULES  # of the first members; with others than these no load is fed before the schedule says so
    calls_per_s: float = CALLS_PER_S
    letters_allowed: int = 0  # dead letters of good records that a flood may cost
    least_made_per_s: float = LEAST_PER_S  # in a typical second of the load
    end_limit_s: float = 240.0  # for what has been appended to come to its end


class ChaosJourney(Journey):
    """The processes of a run; its logs are searched by the run, once and by pattern."""

    def check_logs(self) -> None:
        return


class Run:
    """One run, from the first member to the judgement."""

    def __init__(self, journey: Journey, kafka: LocalKafka, setup: Setup, seed: int) -> None:
        self.journey = journey
        self.gigya: GigyaProcess = journey.gigya
        self.kafka = kafka
        self.setup = setup
        self.rng = random.Random(f"run/{seed}")
        self.members: list[WorkerProcess] = []
        self.most_members = 0  # at a time
        self.asleep: set[int] = set()  # pids of members that are stopped
        self.in_flight_at_kills: list[int] = []
        self.capped: set[str] = set()  # marks of calls that may end at the daily cap
        self.clock_steps_s: list[float] = []
        self.breaks_s: list[float] = []  # when a member began to go, or the broker went or came
        self.away: list[Stretch] = []  # when nobody could be served, by the schedule
        self.faults: list[str] = []  # found by the schedule itself
        self.notes: dict[str, str] = {}  # figures of the schedule itself
        self._imbalances: list[str] = []
        self.clock_file = journey.folder / "clock"
        self.clock_offset_s = 0.0
        self.set_clocks(setup.clock_offset_s)
        self._started = 0
        author = Author(seed, setup.mixture)
        self.feeder = Feeder(kafka.bootstrap(), journey.topic, author, calls_per_s=setup.calls_per_s)

    @classmethod
    @asynccontextmanager
    async def begin(cls, kafka: LocalKafka, folder: Path, setup: Setup, *, seed: int) -> AsyncIterator[Run]:
        """Start the local Gigya and the members, and feed them; end everything in the end."""
        process = GigyaProcess(folder, _gigya_config(setup, seed))
        journey = ChaosJourney(kafka.bootstrap(), folder, process, partitions=PARTITIONS)
        run = cls(journey, kafka, setup, seed)
        letters = Topic(journey.dead_topic, settings={"cleanup.policy": "compact"})
        watch: asyncio.Task[None] | None = None
        try:
            await create_topics(kafka.bootstrap(), [Topic(journey.topic, PARTITIONS), letters])
            for _ in range(setup.members):
                run.start_member(rules=setup.rules)
            await asyncio.gather(*(journey.ready(member, limit_s=START_LIMIT_S) for member in run.members))
            watch = asyncio.create_task(run._watch())
            if setup.rules == RULES:
                await run.feeder.go()
                await run.calls_are_made()
            yield run
        finally:
            if watch is not None:
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)
            for worker in journey.workers:
                worker.kill()
            process.close()

    # members

    def start_member(self, *, rules: str = RULES, **settings: Mapping[str, Any]) -> WorkerProcess:
        """Start one more member."""
        self._started += 1
        parts = self._settings()
        for name, changes in settings.items():
            parts[name] = {**parts.get(name, {}), **changes}
        if self.setup.own_keys:
            key, held = list(self.setup.site["keys"].items())[self._started - 1]
            parts["site"]["auth"] = {"mode": "signed", "user_key": key, "secret": held["secrets"][0]}
        python = (str(_WRONG_CLOCK), str(self.clock_file)) if self.setup.wrong_clock else ("-m", "worker")
        member = self.journey.start(f"m{self._started}", rules=rules, python=python, **parts)
        self.members.append(member)
        self.most_members = max(self.most_members, len(self.members))
        return member

    async def kill(self, member: WorkerProcess) -> None:
        """End a member by SIGKILL, and note how many calls were in flight just then."""
        self.in_flight_at_kills.append(int((await self.gigya.stats())["in_flight"]))
        self.breaks_s.append(time.time())
        member.kill()
        self.members.remove(member)

    async def stop(self, member: WorkerProcess) -> None:
        """End a member by SIGTERM; it drains and leaves."""
        self.members.remove(member)
        self.breaks_s.append(time.time())
        code = await member.stopped(limit_s=60)
        if code != 0:
            self.faults.append(f"{member.name} ended with {code} after SIGTERM: {member.tail(3)}")

    async def calls_are_made(self, count: int = 100, *, limit_s: float = 60.0) -> None:
        """Wait until so many more calls are executed."""
        await self.journey.executed_at_least(await self.gigya.executed_count() + count, limit_s=limit_s)

    async def ledger(self, *, after: int = 0) -> list[dict[str, Any]]:
        """Return what the local Gigya executed, in its order, after so many."""
        return await self.gigya.lines(f"ledger?after={after}")

    async def times_executed(self) -> Counter[str]:
        """Return how often each call was executed, by mark."""
        return Counter(mark_of(line["method"], line["params"]) for line in await self.ledger())

    async def are_executed(self, events: Collection[Event], *, but: str = "", limit_s: float) -> None:
        """Wait until all calls of these events are executed; those of one user may be missing."""
        marks = {call.mark for event in events for call in event.calls if call.uid != but}

        last = 0

        async def all_are() -> bool:
            nonlocal last
            for line in await self.ledger(after=last):  # only what is new: a long answer is a stall of the server
                marks.discard(mark_of(line["method"], line["params"]))
                last = line["order"]
            return not marks

        await until(f"{len(marks)} calls are executed", all_are, limit_s=limit_s, every_s=1.0)

    def _settings(self) -> dict[str, dict[str, Any]]:
        parts: dict[str, dict[str, Any]] = {
            "kafka": {"session_timeout_s": SESSION_S},
            "site": {"quota_per_s": self.setup.quota_per_s},
            "delivery": {"attempt_timeout_s": 3, "connect_timeout_s": 2, "drain_s": 3, "log_settle_s": 1},
        }
        for name, changes in self.setup.settings.items():
            parts[name] = {**parts.get(name, {}), **changes}
        return parts

    def set_clocks(self, offset_s: float) -> None:
        """Let the clocks of members with a wrong one be off by so much."""
        self.clock_offset_s = offset_s
        fresh = self.clock_file.with_suffix(".new")
        fresh.write_text(f"{offset_s:.3f}")
        fresh.replace(self.clock_file)

    # while it runs

    async def _watch(self) -> None:
        """Ask every member again and again whether its ledger balances."""
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            for member in list(self.members):
                if member.is_running and member.pid not in self.asleep:
                    await self._look_at(member)

    async def _look_at(self, member: WorkerProcess) -> None:
        try:
            status, text = await member.get("/status")
        except TimeoutError:  # it has just been stopped, or the machine is very busy
            return
        if status == 200 and not json.loads(text)["ledger"]["balanced"]:
            self._imbalances.append(f"{member.name}: {json.loads(text)['ledger']['line']}")

    # the end

    async def judged(self) -> Judgement:
        """Let everything come to its end, and judge it."""
        await self.feeder.pause()
        await self.gigya.control("DELETE", "faults")
        slow = ""
        try:
            await self.journey.all_done(limit_s=self.setup.end_limit_s)
        except AssertionError as error:
            slow = str(error).splitlines()[0]
        for member in list(self.members):
            await self.stop(member)
        ledger, arrivals, stalls = [await self.gigya.lines(name) for name in ("ledger", "arrivals", "stalls")]
        self._keep(ledger=ledger, arrivals=arrivals, stalls=stalls)
        found = judge(await self._evidence(ledger, arrivals, stalls))
        found.faults[:0] = self.faults
        if slow:
            found.faults.insert(0, f"it did not come to an end: {slow}")
        found.figures |= self.notes
        found.figures["made in all"] = _counted(await self.gigya.stats())
        found.faults += self._what_logs_say()
        return found

    def _keep(self, **lines: Collection[Mapping[str, Any]]) -> None:
        """Leave what the local Gigya noted beside the logs, for whoever asks how it came about."""
        for name, rows in lines.items():
            (self.journey.folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    async def _evidence(
        self,
        ledger: Iterable[Mapping[str, Any]],
        arrivals: Sequence[Mapping[str, Any]],
        stalls: Iterable[Mapping[str, Any]],
    ) -> Evidence:
        letters = {letter.key: letter.value for letter in await self.journey.dead_letters()}  # the last of each key
        stand = [key.decode().split("/") for key, value in letters.items() if key is not None and value is not None]
        commits = await self.journey.broker.commits(self.journey.group)
        return Evidence(
            placed=self.feeder.placed,
            executions=executions_of(ledger, arrivals),
            arrivals=[Arrival(line["at_s"], line["method"], line["code"], line["user_key"]) for line in arrivals],
            stalls=[Stall(**line) for line in stalls],
            letters=[(int(place[1]), int(place[2])) for place in stand],
            undecided=list(self._undecided()),
            assignments=[
                (at_s, partition)
                for worker in self.journey.workers
                for at_s, partitions in worker.assignments()
                for partition in partitions
            ],
            clock_steps_s=self.clock_steps_s,
            away=self.away,
            breaks_s=self.breaks_s,
            commits=[Commit(each.at_s, each.partition, each.offset) for each in commits],
            imbalances=self._imbalances + list(self._unbalanced_ends()),
            capped=self.capped,
            quota_per_s=self.setup.quota_per_s,
            members=self.most_members,
            offered=self.feeder.offered,
            letters_allowed=self.setup.letters_allowed,
            in_flight_at_kills=self.in_flight_at_kills,
            least_made_per_s=self.setup.least_made_per_s,
        )

    def _undecided(self) -> Iterator[Undecided]:
        for worker in self.journey.workers:
            for line in logged(worker, RESENT):
                if line.get("step") != STEP_OF_THE_LOG:
                    yield Undecided(int(line["partition"].rpartition("/")[2]), line["offset"], line["call"])

    def _unbalanced_ends(self) -> Iterator[str]:
        """Yield what members said of their ledger when they ended by themselves, unless it balanced."""
        for worker in self.journey.workers:
            last = [str(line["ledger"]) for line in logged(worker, frozenset({"worker.stopped"}))]
            if worker.exit_code == 0 and not last:
                yield f"{worker.name} ended without a word about its ledger"
            yield from (f"{worker.name}: {line}" for line in last if not line.endswith(" balanced"))

    def _what_logs_say(self) -> list[str]:
        found = []
        for worker in self.journey.workers:
            if worker.exit_code not in (*GOOD_EXITS, None):
                found.append(f"{worker.name} ended with {worker.exit_code}: {worker.tail(3)}")
            if "Traceback" in worker.stderr():
                found.append(f"{worker.name} logged a traceback, see {worker.log_file}")
            found += [
                f"{file} holds {leaked.group().decode()}, which no log may hold"
                for file in (worker.log_file, worker.out_file, worker.admin_file)
                if (leaked := _SECRETS.search(file.read_bytes()))
            ]
        return found


def executions_of(ledger: Iterable[Mapping[str, Any]], arrivals: Iterable[Mapping[str, Any]]) -> list[Execution]:
    """Return what was executed; whose client had gone before the answer is as if the answer had been lost."""
    heard = {line["number"] for line in arrivals if line["answer"] == "sent"}
    return [
        Execution(
            line["order"],
            mark_of(line["method"], line["params"]),
            line["at_s"],
            line["fault"] or (None if line["arrival"] in heard else "nobody listened"),
            line["arrived_s"],
        )
        for line in ledger
    ]


def logged(worker: WorkerProcess, events: frozenset[str]) -> Iterator[dict[str, Any]]:
    """Yield the lines of some events; the others are not parsed, of which there are many."""
    for text in worker.stderr().splitlines():
        if text.startswith("{") and any(event in text for event in events):
            line = json.loads(text)
            if line["event"] in events:
                yield line


async def lines_come(worker: WorkerProcess, event: str, *, limit_s: float) -> None:
    """Wait until a member has said something."""

    async def has_come() -> bool:
        await asyncio.sleep(0)
        return any(logged(worker, frozenset({event})))

    await until(f"{worker.name} says {event}", has_come, limit_s=limit_s, every_s=0.2)


def _gigya_config(setup: Setup, seed: int) -> dict[str, Any]:
    site: dict[str, Any] = {"quota": {"per_s": setup.quota_per_s, "window": "sliding"}, **setup.site}
    return {
        "latency": {"distribution": "lognormal", "ms": 80, "upper_ms": 300},
        "ledger": {"arrivals_kept": None},
        "seed": seed,
        **setup.gigya,
        "sites": {"main": site},
    }


def _counted(stats: Mapping[str, Any]) -> str:
    codes = ", ".join(f"{code}: {count}" for code, count in stats["codes"].get("main", {}).items() if code != "0")
    faults = ", ".join(f"{name}: {count}" for name, count in stats["faults"].get("main", {}).items())
    methods = ", ".join(
        f"{name.partition('.')[2]} {count:,}" for name, count in stats["methods"].get("main", {}).items()
    )
    return f"{methods}; refused {codes or 'none'}; faults {faults or 'none'}"

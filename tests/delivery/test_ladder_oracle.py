"""Random schedules of everything that can go wrong, judged by a server that knows what it has executed.

A process makes the calls of a few users who repeat themselves, dies at any moment, and another goes on from the last
commit; or it loses the partition, with a last commit or without, and may get it back from the one that had it
meanwhile. Whatever the server remembers of nonces: no call that counts as delivered is lost, and none is executed twice
but by resends that the log lines own up to.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import parse_qsl

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.delivery.fakes import TIMEOUT, Answer, reply
from worker.clock import ManualClock
from worker.delivery.schedule import DeliverySettings
from worker.delivery.sender import Delivery, Sender
from worker.gigya.calls import NOTIFY_ACTION, Call
from worker.gigya.signing import Credentials
from worker.gigya.sites import Site
from worker.metrics import Metrics
from worker.model import CallName, Outcome, OutcomeKind, TopicPartition

PARTITION = TopicPartition("t", 0)
CHANGES = ("dies", "gives_up", "is_cut_off")
TROUBLES = ("lost_before", "lost_after", "late", "error_before", "error_after", "throttled", "busy")


@dataclass
class Rough:
    """How rough the world is in one run."""

    retention_s: float | None  # of nonces; None: for ever
    burns_before_refusals: bool
    trouble: float  # share of requests
    changes_every_s: float  # of the partition's owner
    log_delay_s: float
    offset_s: float  # the server's clock minus ours
    others_write: bool = False
    calls: int = 40
    users: int = 3
    daily_cap: int = 1000
    changes: tuple[str, ...] = ("dies",)
    commits_every_s: float = 1.0  # more: the broker is slow, or away for a while


@dataclass
class Server:
    """The API: executes, remembers, forgets, and loses answers. Fulfils the contract of `Transport`."""

    clock: ManualClock
    rng: random.Random
    rough: Rough
    executed: Counter[int] = field(default_factory=Counter)  # by event
    log: dict[str, list[tuple[float, float, str, int]]] = field(default_factory=lambda: defaultdict(list))
    done: Counter[tuple[str, str]] = field(default_factory=Counter)
    nonces: dict[str, float] = field(default_factory=dict)
    owners: int = 1  # so far

    async def post(
        self, url: str, body: bytes, *, authorization: str = "", before_write: Callable[[], bool] | None = None
    ) -> Answer:
        assert before_write is None or before_write()
        params = dict(parse_qsl(body.decode()))
        trouble = self.rng.choice(TROUBLES) if self.rng.random() < self.rough.trouble else ""
        # What the server does goes on when its client is gone.
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        wait_s = self.rng.uniform(0.01, 0.2)
        serve = {"gm.getActionsLog": self._read, "gm.getActionConfig": self._config}.get(
            url.rsplit("/", 1)[-1], self._notify
        )
        self.clock.call_later(wait_s, lambda: serve(params, trouble, answer))
        return await answer

    def _now_s(self) -> float:
        return self.clock.now_s() + self.rough.offset_s

    def _tell(self, answer: asyncio.Future[Answer], told: Answer, after_s: float = 0.0) -> None:
        def tell() -> None:
            if not answer.done():
                answer.set_result(told)

        self.clock.call_later(after_s, tell)

    def _reply(self, code: int, **more: object) -> Answer:
        return reply(code, date_s=float(int(self._now_s())), **more)

    def _knows(self, nonce: str) -> bool:
        burnt_s = self.nonces.get(nonce)
        kept_s = self.rough.retention_s
        return burnt_s is not None and (kept_s is None or self.clock.monotonic_s() - burnt_s < kept_s)

    def _config(self, params: dict[str, str], trouble: str, answer: asyncio.Future[Answer]) -> None:
        self._tell(answer, TIMEOUT if trouble == "lost_before" else self._reply(0))

    def _notify(self, params: dict[str, str], trouble: str, answer: asyncio.Future[Answer]) -> None:
        if trouble == "lost_before":
            return self._tell(answer, TIMEOUT, 10.0)
        if self._knows(params["nonce"]):
            return self._tell(answer, self._reply(403004))
        if self.rough.burns_before_refusals:
            self.nonces[params["nonce"]] = self.clock.monotonic_s()
        if refusal := {"throttled": 403048, "busy": 409030, "error_before": 500001}.get(trouble):
            return self._tell(answer, self._reply(refusal))
        if self.done[params["UID"], params["action"]] >= self.rough.daily_cap:
            return self._tell(answer, self._reply(400124))
        if trouble == "late":
            self.clock.call_later(9.0, partial(self._execute_late, params, self.owners))
            return self._tell(answer, TIMEOUT, 10.0)
        self._execute(params)
        if trouble == "lost_after":
            return self._tell(answer, TIMEOUT, 10.0)
        return self._tell(answer, self._reply(500001 if trouble == "error_after" else 0))

    def _execute_late(self, params: dict[str, str], owners: int) -> None:
        """Execute long after the owner may have changed: then nobody can tell, unless the nonce keeps copies out."""
        if self.rough.retention_s == 0.0:
            return
        if owners == self.owners if self.rough.burns_before_refusals else not self._knows(params["nonce"]):
            self._execute(params)

    def _execute(self, params: dict[str, str]) -> None:
        self.nonces[params["nonce"]] = self.clock.monotonic_s()
        self.executed[orjson.loads(params["context"])["eventId"]] += 1
        self.write(params["UID"], params["action"], int(params.get("points", 5)))

    def write(self, uid: str, action: str, points: int) -> None:
        self.done[uid, action] += 1
        shown_s = self.clock.monotonic_s() + self.rough.log_delay_s
        self.log[uid].append((self._now_s(), shown_s, action, points))

    def _read(self, params: dict[str, str], trouble: str, answer: asyncio.Future[Answer]) -> None:
        if trouble in ("lost_before", "lost_after", "late"):
            return self._tell(answer, TIMEOUT, 10.0)
        if refusal := {"throttled": 403048, "error_before": 500001}.get(trouble):
            return self._tell(answer, self._reply(refusal))
        begin, end = int(params["startTime"]), int(params["endTime"])
        entries = [
            {"time": int(time_s), "actionID": action, "points": points, "challengeID": challenge}
            for time_s, shown_s, action, points in self.log[params["UID"]]
            if shown_s <= self.clock.monotonic_s() and begin <= int(time_s) <= end
            for challenge in ("_default", "weekly")
        ]
        return self._tell(answer, self._reply(0, actions=entries))


@dataclass
class Commit:
    done: frozenset[int] = frozenset()
    note: str = ""
    suspects_below: int = 0
    suspects: frozenset[int] | None = None  # what a drained owner named; None: all below


@dataclass
class Assignment:
    """One ownership of the partition."""

    ended: set[int]
    lanes: list[deque[Delivery]]
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    in_flight: int = 0
    is_over: bool = False  # nothing more is attempted
    is_lost: bool = False  # what ends now ends unheard


class Process:
    """A member of the group: what it remembers outlives its ownership of the partition, and ends with it."""

    def __init__(self, world: World) -> None:
        self._world = world
        clock, rng = world.clock, world.rng
        fresh = itertools.count(rng.randrange(10**12))
        self.sender = Sender(
            site=Site("main", "3_key", domain="d", quota_per_s=None, other_writers=world.rough.others_write),
            credentials=Credentials("3_key", "user", b"secret"),
            settings=DeliverySettings(),
            transport=world.server,
            clock=clock,
            rng=rng,
            nonce=lambda: f"fresh{next(fresh)}",
            metrics=Metrics(),
            mark=lambda uid: uid,
            group="g",
        )
        self.ended: set[int] = set()
        self._assignment = Assignment(self.ended, [])
        self._committing: asyncio.Task[None] | None = None
        self._asking = asyncio.ensure_future(self.sender.run())

    def take(self) -> None:
        """Become the owner, from the group's last commit on."""
        world, commit = self._world, self._world.commit
        self.sender.ladder.recall(
            PARTITION,
            commit.note,
            suspects_below=commit.suspects_below,
            ends_are_known=True,
            nothing_before=not world.has_begun,
            awaits_commits=True,
        )
        world.has_begun = True
        self.ended = set(commit.done)
        lanes: dict[str, deque[Delivery]] = defaultdict(deque)
        for call, offset, timestamp_ms in world.calls:
            if offset not in self.ended:
                is_suspect = offset < commit.suspects_below and (commit.suspects is None or offset in commit.suspects)
                lanes[call.uid].append(Delivery(call, PARTITION, offset, timestamp_ms, is_suspect))
        assignment = self._assignment = Assignment(self.ended, list(lanes.values()))
        assignment.tasks = [asyncio.ensure_future(self._run(assignment, lane)) for lane in assignment.lanes]
        self._committing = asyncio.ensure_future(self._commit())

    @property
    def has_ended(self) -> bool:
        return len(self.ended) == len(self._world.calls)

    async def _run(self, assignment: Assignment, lane: deque[Delivery]) -> None:
        clock = self._world.clock
        while lane:
            delivery = lane[0]
            await clock.sleep(max(0.0, self._world.due_s[delivery.offset] - clock.monotonic_s()))
            permit = await self.sender.admit()
            if assignment.is_over:
                self.sender.give_back(permit)
                return
            assignment.in_flight += 1
            result = await self.sender.attempt(delivery, permit)
            assignment.in_flight -= 1
            if assignment.is_lost:
                return
            if isinstance(result, Outcome):
                assignment.ended.add(delivery.offset)
                self._world.outcomes[delivery.offset].append(result)
                lane.popleft()
            else:
                assert result.wait_s is not None
                await clock.sleep(result.wait_s)

    async def lose(self, *, unheard_s: float | None = None) -> None:
        """Give the partition up: after a drain and a last commit; or so long after the last commit that arrived."""
        assignment, clock = self._assignment, self._world.clock
        assert self._committing is not None
        self._committing.cancel()
        if unheard_s is not None:
            await clock.advance(unheard_s)
            assignment.is_lost = True
        assignment.is_over = True
        while assignment.in_flight:
            await clock.advance(0.1)
        for task in assignment.tasks:
            task.cancel()
        if unheard_s is None:
            waiting = (delivery for lane in assignment.lanes for delivery in lane)
            self._tell(frozenset(each.offset for each in waiting if _may_be_executed(each)))

    def _tell(self, suspects: frozenset[int] | None = None) -> None:
        world = self._world
        # The horizon: beyond it no call is attempted before a commit; here all calls are below it.
        watermark = min((o for _, o, _ in world.calls if o not in self.ended), default=len(world.calls))
        ladder = self.sender.ladder
        note = ladder.left_behind(PARTITION, watermark, 3000)
        ladder.acknowledged(PARTITION, ladder.serial(PARTITION))
        below = len(world.calls) if suspects is None else max(suspects, default=-1) + 1
        world.commit = Commit(frozenset(self.ended), note, below, suspects)

    async def _commit(self) -> None:
        while True:
            self._tell()
            every_s = self._world.rough.commits_every_s
            await self._world.clock.sleep(every_s if every_s == 1.0 else self._world.rng.uniform(0.1, every_s))

    async def die(self) -> None:
        tasks = [self._asking, self._committing, *self._assignment.tasks]
        for task in filter(None, tasks):
            task.cancel()
        await asyncio.gather(*filter(None, tasks), return_exceptions=True)


def _may_be_executed(delivery: Delivery) -> bool:
    """Say whether the last commit of a drained owner names a call: as a ticket does."""
    return delivery.may_be_executed or (delivery.suspect and not delivery.attempts)


class World:
    def __init__(self, seed: int, rough: Rough) -> None:
        self.rng = random.Random(seed)
        self.rough = rough
        self.clock = ManualClock()
        self.server = Server(self.clock, self.rng, rough)
        self.commit = Commit()
        self.has_begun = False
        self.outcomes: dict[int, list[Outcome]] = defaultdict(list)
        self.calls: list[tuple[Call, int, int]] = []
        self.due_s: dict[int, float] = {}
        for offset in range(rough.calls):
            uid, action = f"u{self.rng.randrange(rough.users)}", self.rng.choice(("watched", "watched", "shared"))
            params = {"UID": uid, "action": action, "context": f'{{"eventId":{offset}}}'}
            if self.rng.random() < 0.3:
                params["points"] = self.rng.choice(("5", "20"))
            call = Call(NOTIFY_ACTION, "main", uid, params, CallName(0, "rule"))
            self.due_s[offset] = self.clock.monotonic_s() + offset * 0.3
            self.calls.append((call, offset, int((self.clock.now_s() + offset * 0.3) * 1000)))

    async def run(self) -> None:
        owner, others = Process(self), [Process(self)]
        owner.take()
        ends_s = self.clock.monotonic_s() + 3600.0
        next_change_s = self._next_change_s()
        changes = 0
        while not owner.has_ended:
            assert self.clock.monotonic_s() < ends_s, "no end"
            step_s = self.rng.uniform(0.05, 0.5)
            await self.clock.advance(step_s)
            if self.rough.others_write and self.rng.random() < 0.2:
                self.server.write(f"u{self.rng.randrange(self.rough.users)}", "watched", 5)
            if self.clock.monotonic_s() >= next_change_s and changes < 8:
                changes += 1
                owner, others = await self._change(owner, others)
                next_change_s = self._next_change_s()
        for process in (owner, *others):
            await process.die()
        await self.clock.advance(20.0)

    def _next_change_s(self) -> float:
        return self.rng.expovariate(1 / self.rough.changes_every_s) + self.clock.monotonic_s()

    async def _change(self, owner: Process, others: list[Process]) -> tuple[Process, list[Process]]:
        """Let the owner die, give the partition up, or lose it without knowing; return who has it then."""
        how = self.rng.choice(self.rough.changes)
        if how == "dies":
            await owner.die()
            await self.clock.advance(self.rng.uniform(0.3, 8.0))
            others.append(Process(self))
        elif how == "gives_up":
            await owner.lose()
            others.append(owner)
        else:
            await owner.lose(unheard_s=self.rng.uniform(0.0, 3.0))
            others.append(owner)
        following = others.pop(0)
        self.server.owners += 1
        following.take()
        return following, others


def judge(seed: int, rough: Rough) -> Counter[str]:
    """Run a world, assert what must hold, and return what happened."""

    async def live() -> World:
        world = World(seed, rough)
        await world.run()
        return world

    with capture_logs() as lines:
        world = asyncio.run(live())
    resent = Counter(
        line["offset"] for line in lines if line["event"] == "call.resent_after_ambiguity" and line["step"] > 1
    )
    counts: Counter[str] = Counter()
    for call, offset, _ in world.calls:
        times = world.server.executed[offset]
        kinds = {outcome.kind for outcome in world.outcomes[offset]}
        assert kinds, f"{offset} never ended"
        if OutcomeKind.DELIVERED in kinds:
            assert times, f"{offset} of {call.uid} is lost"
        else:
            assert kinds == {OutcomeKind.CAPPED}
        assert times <= 1 + resent[offset], (
            f"{offset} of {call.uid} {dict(call.params)}: {times} times, {resent[offset]}"
        )
        counts["twice"] += times > 1
    counts["resent"] = sum(resent.values())
    counts["cleared"] = sum(line.get("step") == 1 for line in lines)
    return counts


def roughness(draw: st.DrawFn) -> Rough:
    return Rough(
        retention_s=draw(st.sampled_from((0.0, 30.0, None))),
        burns_before_refusals=draw(st.booleans()),
        trouble=draw(st.sampled_from((0.0, 0.1, 0.3))),
        changes_every_s=draw(st.sampled_from((1.0, 4.0, 1e9))),
        log_delay_s=draw(st.sampled_from((0.0, 1.0, 1.8))),
        offset_s=draw(st.sampled_from((0.0, -300.0, 40.0))),
        others_write=draw(st.booleans()),
        daily_cap=draw(st.sampled_from((1000, 4))),
        commits_every_s=draw(st.sampled_from((1.0, 1.0, 8.0))),
        changes=draw(st.sampled_from((CHANGES[:1], CHANGES[1:], CHANGES))),
        users=(users := draw(st.sampled_from((2, 6, 20)))),
        calls=min(80, 15 * users),
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**9), st.composite(roughness)())
def test_nothing_is_lost_and_nothing_is_done_twice_unsaid(seed: int, rough: Rough) -> None:
    judge(seed, rough)


def test_the_log_decides_most_of_what_a_crash_leaves_open_even_where_no_nonce_is_remembered() -> None:
    """At one call a user in six seconds, a crash every five: what cannot be decided is the exception."""
    counts: Counter[str] = Counter()
    for seed in range(3):
        rough = Rough(0.0, False, 0.0, changes_every_s=5.0, log_delay_s=1.0, offset_s=0.0, users=20, calls=100)
        counts += judge(seed, rough)
    assert counts["cleared"] > 5 * counts["resent"]
    assert counts["twice"] <= counts["resent"]

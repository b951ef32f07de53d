"""A site that answers as the test says, and just enough of lanes to drive a sender."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from worker.clock import ManualClock, settle
from worker.delivery.schedule import DeliverySettings
from worker.delivery.sender import Delivery, Later, Sender
from worker.gigya.calls import NOTIFY_ACTION, Call, Method
from worker.gigya.replies import NoReply, Reply
from worker.gigya.signing import Credentials
from worker.gigya.sites import Site
from worker.metrics import Metrics
from worker.model import CallName, Outcome, OutcomeKind, TopicPartition

Answer = Reply | NoReply


def reply(code: int, *, status: int = 200, date_s: float | None = None, **more: object) -> Reply:
    """Return the answer that Gigya gives with this errorCode."""
    body = {"errorCode": code, "callId": f"c{code}", **more}
    return Reply(status=status, body=body, error_code=code, call_id=f"c{code}", server_time_s=date_s)  # type: ignore[arg-type]


OK = reply(0)
TIMEOUT = NoReply("timeout", may_have_arrived=True)
REFUSED_CONNECTION = NoReply("connect_refused", may_have_arrived=False)
BAD_GATEWAY = Reply(status=502, body=None, defect="html_body")


@dataclass
class Request:
    method: str
    params: Mapping[str, str]
    at_s: float
    authorization: str = ""

    @property
    def uid(self) -> str:
        return self.params.get("UID", "")


class ScriptedTransport:
    """Answers by a function of the request; keeps what was written. Fulfils the contract of `Transport`."""

    def __init__(self, clock: ManualClock, answer: Callable[[Request], Answer | Awaitable[Answer]]) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self.log: Callable[[Request], Answer] | None = lambda _: reply(0, actions=[])  # None: `answer` has that, too
        self.latency_s = 0.0
        self._clock = clock

    async def post(
        self, url: str, body: bytes, *, authorization: str = "", before_write: Callable[[], bool] | None = None
    ) -> Answer:
        params = dict(parse_qsl(body.decode()))
        request = Request(url.rsplit("/", 1)[-1], params, self._clock.monotonic_s(), authorization)
        is_look = request.method == "gm.getActionsLog" and self.log is not None
        answer = self.log(request) if is_look and self.log is not None else self.answer(request)
        if isinstance(answer, NoReply) and not answer.may_have_arrived:
            return answer
        if before_write is not None and not before_write():
            return NoReply("not_sent", may_have_arrived=False)
        self.requests.append(request)
        if self.latency_s:
            await self._clock.sleep(self.latency_s)
        return answer if isinstance(answer, Reply | NoReply) else await answer

    def calls(self, method: str = "gm.notifyAction") -> list[Request]:
        return [request for request in self.requests if request.method == method]

    @property
    def looks(self) -> list[Request]:
        return self.calls("gm.getActionsLog")

    @property
    def questions(self) -> list[Request]:
        return self.calls("gm.getActionConfig")


@dataclass
class Scene:
    """A sender with everything around it, on a clock that stands still."""

    transport: ScriptedTransport
    sender: Sender
    clock: ManualClock
    metrics: Metrics
    ended: dict[int, Outcome] = field(default_factory=dict)
    later: list[tuple[int, Later]] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _lanes: dict[str, deque[Delivery]] = field(default_factory=dict)
    _ready: deque[str] = field(default_factory=deque)
    _held: dict[int, str] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def delivery(
        self, uid: str = "u1", *, method: Method = NOTIFY_ACTION, stale_at_s: float | None = None, suspect: bool = False
    ) -> Delivery:
        number = next(self._numbers)
        call = Call(method, "main", uid, {"UID": uid, "action": "watched"}, CallName(0, "rule"), stale_at_s)
        return Delivery(call, TopicPartition("t", 0), number, 0, suspect)

    async def once(self, delivery: Delivery) -> Outcome | Later:
        """Make one attempt by hand."""
        return await self.sender.attempt(delivery, await self.sender.admit())

    # --- lanes, in little: one call per user at a time, ready users in turn --------------------------------------

    def start(self) -> None:
        self.sender.released = self._released
        for work in (self._dispatch(), self.sender.run()):
            self._spawn(work)

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def add(self, *uids: str, method: Method = NOTIFY_ACTION) -> None:
        for uid in uids:
            lane = self._lanes.setdefault(uid, deque())
            lane.append(self.delivery(uid, method=method))
            if len(lane) == 1:
                self._make_ready(uid)

    async def advance(self, seconds: float, *, step_s: float = 0.05) -> None:
        end_s = self.clock.monotonic_s() + seconds
        while (left_s := end_s - self.clock.monotonic_s()) > 1e-9:
            await self.clock.advance(min(step_s, left_s))

    def kinds(self) -> dict[OutcomeKind, int]:
        kinds = [outcome.kind for outcome in self.ended.values()]
        return {kind: kinds.count(kind) for kind in set(kinds)}

    @property
    def waiting(self) -> int:
        return sum(len(lane) for lane in self._lanes.values())

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _make_ready(self, uid: str) -> None:
        self._ready.append(uid)
        self._wake.set()

    async def _dispatch(self) -> None:
        while True:
            while not self._ready:
                self._wake.clear()
                await self._wake.wait()
            permit = await self.sender.admit()
            if not self._ready:
                self.sender.give_back(permit)
                continue
            uid = self._ready.popleft()
            self._spawn(self._attempt(uid, permit))

    async def _attempt(self, uid: str, permit: object) -> None:
        lane = self._lanes[uid]
        delivery = lane[0]
        result = await self.sender.attempt(delivery, permit)  # type: ignore[arg-type]
        if isinstance(result, Outcome):
            assert delivery.offset not in self.ended
            self.ended[delivery.offset] = result
            lane.popleft()
            if lane:
                self._make_ready(uid)
            return
        self.later.append((delivery.offset, result))
        if result.wait_s is None:
            self._held[delivery.offset] = uid
        elif result.wait_s <= 0:
            self._make_ready(uid)
        else:
            self.clock.call_later(result.wait_s, lambda: self._make_ready(uid))

    def _released(self, delivery: Delivery) -> None:
        uid = self._held.pop(delivery.offset)
        self._make_ready(uid)


_nonces = itertools.count()  # no two scenes draw the same, as no two processes do


def make_scene(
    answer: Answer | Callable[[Request], Answer | Awaitable[Answer]] = OK,
    *,
    quota_per_s: float | None = None,
    seed: int = 1,
    verdicts: Mapping[int, object] | None = None,
    may_write: Callable[[], bool] = lambda: True,
    other_writers: bool = False,
    **settings: object,
) -> Scene:
    clock = ManualClock()
    transport = ScriptedTransport(clock, answer if callable(answer) else lambda _: answer)
    metrics = Metrics()
    sender = Sender(
        site=Site(
            "main",
            "3_key",
            domain="eu1.gigya.com",
            quota_per_s=quota_per_s,
            verdicts=verdicts or {},  # type: ignore[arg-type]
            other_writers=other_writers,
        ),
        credentials=Credentials("3_key", "user", b"secret"),
        settings=DeliverySettings(**settings),  # type: ignore[arg-type]
        transport=transport,
        clock=clock,
        rng=random.Random(seed),
        nonce=lambda: f"n{next(_nonces)}",
        metrics=metrics,
        mark=lambda uid: f"mark-{len(uid)}",
        may_write=may_write,
    )
    return Scene(transport, sender, clock, metrics)


def sequence(*answers: Answer) -> Callable[[Request], Answer]:
    """Answer with these in turn, and with the last one from then on."""
    left = deque(answers)
    return lambda _: left.popleft() if len(left) > 1 else left[0]


__all__ = ["settle"]

"""A replay: what is written before a call, after it, and when it stops or dies between two of its steps."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pipeline.fakes import call, delivered, failed
from tests.reprocess.letters import letter_at
from worker.clock import SystemClock
from worker.deadletters.ends import CallEnd
from worker.deadletters.record import DeadLetter, decode, encode
from worker.deadletters.replays import (
    Begun,
    Headers,
    decode_mark,
    encode_mark,
    letter_key,
    made_in,
    mark_key,
)
from worker.delivery.deliveries import Delivery, Later
from worker.delivery.gate import Permit
from worker.errors import TooLarge, Unmappable
from worker.gigya.calls import Call
from worker.model import CallName, Outcome, OutcomeKind, Record
from worker.pipeline.lanes import Lanes
from worker.reprocess.plan import Terms, decide
from worker.reprocess.replayer import Ended, Given, Replayer, window_of

Answer = Callable[[Delivery], Outcome | Later]


class Died(Exception):
    """The process is gone."""


class Topic:
    """A compacted topic; it can die with the process after so many writes."""

    def __init__(self, letters: Sequence[DeadLetter]) -> None:
        self.held: dict[bytes, tuple[bytes, Headers]] = {}
        self.tombstones: dict[bytes, Headers] = {}
        self.writes_left = 10**9
        self.too_large: set[bytes] = set()
        for letter in letters:
            key, value, headers = encode(letter)
            self.held[key] = (value, headers)

    async def put(self, key: bytes, value: bytes | None, headers: Headers) -> None:
        if self.writes_left <= 0:
            raise Died
        self.writes_left -= 1
        await asyncio.sleep(0)
        if value is not None and key in self.too_large:
            raise TooLarge("too large")
        if value is None:
            self.held.pop(key, None)
            self.tombstones[key] = headers
        else:
            self.held[key] = (value, headers)

    def letters(self) -> list[DeadLetter]:
        return [decode(key, *held) for key, held in self.held.items() if letter_key(key) is None]

    def mark_of(self, letter: DeadLetter) -> Begun | None:
        held = self.held.get(mark_key(letter.key))
        return decode_mark(held[0]) if held is not None else None

    def is_suspect(self, letter: DeadLetter) -> bool:
        mark = self.mark_of(letter)
        return mark is not None and mark.generation == letter.generation


class Site:
    """A sender that answers by a function, and looks whether the topic says what it must before an attempt."""

    def __init__(self, topic: Topic, answer: Answer) -> None:
        self.released: Callable[[Delivery], None] = lambda delivery: None
        self.is_open = True
        self.made: list[tuple[str, int, str]] = []
        self.runs: set[str] = set()
        self.suspects: list[int] = []
        self.unmarked: list[int] = []
        self.began = asyncio.Event()
        self.hold = asyncio.Event()
        self.hold.set()
        self._topic, self._answer = topic, answer

    async def admit(self) -> Permit:
        await asyncio.sleep(0)
        return Permit(serial=0)

    def give_back(self, permit: Permit) -> None: ...

    async def attempt(self, delivery: Delivery, permit: Permit) -> Outcome | Later:
        marked = {letter_key(key) for key in self._topic.held}
        if f"{delivery.partition}/{delivery.offset}".encode() not in marked:
            self.unmarked.append(delivery.offset)
        self.began.set()
        await self.hold.wait()
        await asyncio.sleep(0)
        delivery.attempts += 1
        self.runs.add(delivery.run)
        if delivery.suspect:
            self.suspects.append(delivery.offset)
        answer = self._answer(delivery)
        if isinstance(answer, Outcome) and answer.kind is OutcomeKind.DELIVERED:
            self.made.append((delivery.call.uid, delivery.offset, delivery.call.name.rule))
        return answer

    def forget(self, delivery: Delivery) -> None: ...
    def abandon(self, delivery: Delivery) -> None: ...


def calls_by_uid(*rules: str) -> Callable[[Record], tuple[Call, ...]]:
    def calls_of(record: Record) -> tuple[Call, ...]:
        uid = json.loads(record.value or b"{}")["user"]["uid"]
        return tuple(call(uid, rule) for rule in rules)

    return calls_of


class Scene:
    """A topic with letters and a replay of all of them."""

    def __init__(
        self,
        letters: Sequence[DeadLetter],
        *,
        answer: Answer = lambda delivery: delivered(),
        calls_of: Callable[[Record], tuple[Call, ...]] | None = None,
        terms: Terms | None = None,
        max_failing: int | None = None,
        window: int = 50,
    ) -> None:
        self.topic = Topic(letters)
        self.order = [letter.key for letter in letters]
        self.site = Site(self.topic, answer)
        self.calls_of, self.terms = calls_of or calls_by_uid("watched"), terms or Terms(5)
        self.max_failing, self.window = max_failing, window
        self.is_ours = True

    def decided(self) -> list[Given]:
        standing = {letter.key: letter for letter in self.topic.letters()}
        return [
            Given(decide(standing[key], self.calls_of, self.terms), self.topic.is_suspect(standing[key]))
            for key in self.order
            if key in standing
        ]

    def replayer(self) -> Replayer:
        clock = SystemClock()
        replayer = Replayer(
            store=self.topic,
            clock=clock,
            rules_digest="r",
            begun=lambda letter: Begun(letter.generation, clock.now_s(), "rest", clock.now_s(), None),
            site_now_s=lambda site: clock.now_s(),
            is_ours=lambda: self.is_ours,
            by="anna",
            window=self.window,
            max_failing=self.max_failing,
        )
        replayer.lanes = Lanes({"main": self.site}, max_in_flight=20, clock=clock, ended=replayer.call_ended)
        return replayer

    async def replayed(self) -> tuple[Ended, Replayer]:
        replayer = self.replayer()
        async with asyncio.timeout(20):
            return await replayer.run(given_one_by_one(self.decided()), drain_s=1.0), replayer


async def given_one_by_one(decided: Sequence[Given]) -> AsyncIterator[Given]:
    for each in decided:
        yield each


def failed_call(rule: str = "watched", *, maybe: bool = False) -> CallEnd:
    return CallEnd(CallName(0, rule), Outcome(OutcomeKind.FAILED, "timeout", maybe_executed=maybe))


def done_call(rule: str = "watched") -> CallEnd:
    return CallEnd(CallName(0, rule), delivered())


async def test_what_is_delivered_is_resolved_and_the_tombstone_tells_who_and_what() -> None:
    scene = Scene([letter_at(offset, uid=f"u{offset}") for offset in range(5)])
    ended, replayer = await scene.replayed()
    assert (ended, replayer.result.resolved, replayer.result.left) == (Ended.DONE, 5, 0)
    assert scene.topic.held == {}
    assert scene.site.unmarked == []
    assert scene.site.runs == {"replay/1"}
    headers = scene.topic.tombstones[b"user-events/0/3"]
    assert (dict(headers)["dlq.resolved"], dict(headers)["dlq.resolved_by"]) == (b"replay", b"anna")
    (made,) = made_in(headers) or ()
    assert made.is_certain
    assert made.from_s <= made.until_s


async def test_what_fails_again_is_the_next_generation_under_the_same_key() -> None:
    scene = Scene([letter_at(1, generation=2)], answer=lambda delivery: failed())
    _, replayer = await scene.replayed()
    (letter,) = scene.topic.letters()
    assert (letter.key, letter.generation, letter.reason) == (b"user-events/0/1", 3, "invalid_parameter_value")
    assert letter.record.value == letter_at(1).record.value
    assert scene.site.runs == {"replay/3"}
    assert list(scene.topic.held) == [letter.key]
    assert (replayer.result.died_again, replayer.result.resolved) == (1, 0)


async def test_of_a_fan_out_only_what_failed_is_made_again() -> None:
    scene = Scene([letter_at(1, calls=[done_call("a"), failed_call("b")])], calls_of=calls_by_uid("a", "b"))
    await scene.replayed()
    assert scene.site.made == [("u1", 1, "b")]
    assert scene.topic.held == {}


async def test_what_may_have_been_executed_stays_out_and_stays_told() -> None:
    letter = letter_at(1, calls=[failed_call("a", maybe=True), failed_call("b")])
    scene = Scene([letter], calls_of=calls_by_uid("a", "b"))
    _, replayer = await scene.replayed()
    assert scene.site.made == [("u1", 1, "b")]
    (left,) = scene.topic.letters()
    assert [(end.name.rule, end.outcome.kind.value, end.outcome.maybe_executed) for end in left.calls] == [
        ("a", "failed", True), ("b", "delivered", False),
    ]  # fmt: skip
    assert replayer.result.maybe_executed == ["user-events/0/1"]
    scene.terms = Terms(5, include_maybe_executed=True)
    await scene.replayed()
    assert scene.site.made == [("u1", 1, "b"), ("u1", 1, "a")]
    assert scene.topic.held == {}


async def test_a_backfills_letter_has_nonces_of_its_own() -> None:
    scene = Scene([letter_at(1, run="r7")])
    await scene.replayed()
    assert scene.site.runs == {"r7/replay/1"}
    assert scene.topic.held == {}


async def test_what_still_cannot_be_mapped_tells_its_new_reason_and_is_no_generation_older() -> None:
    def calls_of(record: Record) -> tuple[Call, ...]:
        raise Unmappable("missing_field", "event.x is missing", rule="watched", parameter="UID")

    scene = Scene([letter_at(1)], calls_of=calls_of)
    await scene.replayed()
    (letter,) = scene.topic.letters()
    assert (letter.reason, letter.parameter, letter.code, letter.generation) == ("missing_field", "UID", None, 0)
    again = dict(scene.topic.held)
    await scene.replayed()
    assert scene.topic.held == again


async def test_too_many_failures_in_a_row_end_it() -> None:
    letters = [letter_at(offset, uid=f"u{offset}") for offset in range(200)]
    scene = Scene(letters, answer=lambda delivery: failed(), max_failing=10, window=5)
    ended, replayer = await scene.replayed()
    assert ended is Ended.FAILING
    assert 10 <= replayer.result.died_again < 20
    assert not [key for key in scene.topic.held if letter_key(key)]


async def test_a_letter_that_the_topic_does_not_take_any_more_stays_with_its_mark() -> None:
    scene = Scene([letter_at(1)], answer=lambda delivery: failed())
    scene.topic.too_large = {b"user-events/0/1"}
    _, replayer = await scene.replayed()
    (letter,) = scene.topic.letters()
    assert letter.generation == 0
    assert scene.topic.is_suspect(letter)
    assert replayer.result.left == 1


async def test_whoever_was_replaced_writes_no_more() -> None:
    scene = Scene([letter_at(1)])
    scene.is_ours = False
    await scene.replayed()
    (letter,) = scene.topic.letters()
    assert scene.topic.is_suspect(letter)


async def test_a_stop_leaves_no_mark_of_what_was_not_made_and_keeps_what_was() -> None:
    letters = [
        letter_at(n, uid="u1" if n < 4 else f"u{n}", calls=[failed_call("a"), failed_call("b")]) for n in range(8)
    ]
    scene = Scene(letters, calls_of=calls_by_uid("a", "b"))
    scene.site.hold.clear()
    replayer = scene.replayer()
    running = asyncio.create_task(replayer.run(given_one_by_one(scene.decided()), drain_s=0.0))
    await scene.site.began.wait()
    replayer.stop()
    for _ in range(50):  # what waits behind the attempts in flight is dropped
        await asyncio.sleep(0)
    scene.site.hold.set()
    async with asyncio.timeout(10):
        assert await running is Ended.STOPPED
    half_done = [letter for letter in scene.topic.letters() if letter.calls[0].outcome == delivered()]
    assert half_done
    assert {letter.generation for letter in half_done} == {0}
    assert not [key for key in scene.topic.held if letter_key(key)]
    assert len(scene.topic.letters()) > 0
    await scene.replayed()
    assert scene.topic.held == {}
    assert len(scene.site.made) == len(set(scene.site.made)) == 16
    assert scene.site.suspects == []


@given(st.integers(0, 60), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_wherever_it_dies_what_was_made_is_resolved_or_marked(writes: int, users: int) -> None:
    letters = [letter_at(n, uid=f"u{n % users}", calls=[failed_call("a"), failed_call("b")]) for n in range(8)]
    scene = Scene(letters, calls_of=calls_by_uid("a", "b"), window=4)
    scene.topic.writes_left = writes

    async def dies() -> None:
        try:
            await scene.replayed()
        except BaseExceptionGroup as group:
            assert group.split(Died)[1] is None  # noqa: PT017  # nothing else went wrong
        except Died:
            pass

    asyncio.run(dies())
    made = {offset for _, offset, _ in scene.site.made}
    for letter in scene.topic.letters():
        if letter.record.offset in made:
            assert scene.topic.is_suspect(letter)
    assert scene.site.unmarked == []


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=25),
    st.integers(0, 999),
    st.integers(1, 10),
)
@settings(max_examples=40, deadline=None)
def test_the_calls_of_a_user_are_made_in_the_order_of_the_records(users: list[int], seed: int, window: int) -> None:
    rng = random.Random(seed)

    def answer(delivery: Delivery) -> Outcome | Later:
        return Later("busy", 0.0) if rng.random() < 0.3 else delivered()

    scene = Scene([letter_at(n, uid=f"u{user}") for n, user in enumerate(users)], answer=answer, window=window)
    asyncio.run(scene.replayed())
    for uid in {uid for uid, *_ in scene.site.made}:
        offsets = [offset for user, offset, _ in scene.site.made if user == uid]
        assert offsets == sorted(offsets)
    assert len(scene.site.made) == len(users)


def test_a_suspect_is_asked_about_and_not_marked_anew() -> None:
    letter = letter_at(1)
    scene = Scene([letter])
    before = Begun(0, 17.0, "rest", 10.0, 0.5)
    scene.topic.held[mark_key(letter.key)] = (encode_mark(before), ())
    asyncio.run(scene.replayed())
    assert scene.site.suspects == [1]
    assert scene.topic.held == {}


def test_a_mark_of_another_generation_suspects_nobody() -> None:
    letter = letter_at(1, generation=1)
    scene = Scene([letter])
    scene.topic.held[mark_key(letter.key)] = (encode_mark(Begun(0, 17.0, "", 10.0, None)), ())
    asyncio.run(scene.replayed())
    assert scene.site.suspects == []


@pytest.mark.parametrize(
    ("rates", "window"), [([20.0], 200), ([300.0], 600), ([None], 1_000), ([5_000.0], 1_000), ([20.0, None], 1_000)]
)
def test_a_few_seconds_worth_is_under_way(rates: list[float | None], window: int) -> None:
    assert window_of(rates) == window


def test_a_mark_survives_its_way_and_rubbish_is_none() -> None:
    begun = Begun(3, 17.25, "abc", 10.5, -0.25)
    assert decode_mark(encode_mark(begun)) == begun
    assert decode_mark(b"{") is None
    assert decode_mark(b"[1]") is None
    assert decode_mark(b'{"generation": "x"}') is None
    assert letter_key(mark_key(b"t/0/1")) == b"t/0/1"
    assert letter_key(b"t/0/1") is None

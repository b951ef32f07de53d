"""Sample events, and what must come of each: computed here, from the facts the event is made of, never by the worker.

Pure: everything follows from the seed. `demo` writes a handful with one of each fate and says how the local Gigya has
to be set up for it; `stream` goes on as long as it is asked, for journeys, chaos and benchmarks. Both fit DEMO_RULES.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeAlias

import orjson

from worker.sandbox.gigya_config import Action, Fault, Json, ProviderResult, Providers

NOTIFY_ACTION = "gm.notifyAction"
PUBLISH_USER_ACTION = "socialize.publishUserAction"
QUIZ_DAILY_CAP = 1
DEMO_USERS = 6

Facts: TypeAlias = dict[str, Json]

# The same text as deploy/examples/demo.rules.yaml (a test keeps them equal): an installed worker has no deploy folder.
DEMO_RULES = """\
# What a streaming service might tell Gigya: episodes that were watched, quizzes that were won, shows that were shared.
# `make demo` and the sandbox use these rules. README, "Rules in five minutes", goes through them.
version: 1
rules:
  - name: episode-watched
    on: [episode.watched]
    when: event.progress >= 0.9
    notifyAction:
      UID: ${ event.user.uid }
      action: watched_episode
      actionAttributes:
        tv-show: ${ event.episode.show }
        genre: ${ first(event.episode.genres, 2) }
      points: '${ event.user.premium ? 20 : 10 }'
      context:
        eventId: ${ event.id }
        seq: ${ event.seq }
    max_age: 24h
    examples:
      - name: a premium viewer finishes an episode
        event:
          type: episode.watched
          id: e-1
          seq: 1
          progress: 0.97
          user: {uid: u1, premium: true}
          episode: {show: Glee, genres: [comedy, music, drama]}
        calls:
          - UID: u1
            action: watched_episode
            actionAttributes: {tv-show: Glee, genre: [comedy, music]}
            points: 20
            context: {eventId: e-1, seq: 1}
      - name: a viewer stops after a fifth
        event:
          type: episode.watched
          id: e-2
          seq: 2
          progress: 0.2
          user: {uid: u1, premium: false}
          episode: {show: Glee, genres: []}
        calls: []

  - name: quiz-won
    on: [quiz.won]
    notifyAction:
      UID: ${ event.user.uid }
      action: quiz_won
      actionAttributes:
        quiz: ${ event.quiz.name }
      points: ${ event.quiz.score }
      context:
        eventId: ${ event.id }
        seq: ${ event.seq }
    on_cap: skip
    examples:
      - event:
          type: quiz.won
          id: e-3
          seq: 3
          user: {uid: u2, premium: false}
          quiz: {name: theme songs, score: 40}
        calls:
          - UID: u2
            action: quiz_won
            actionAttributes: {quiz: theme songs}
            points: 40
            context: {eventId: e-3, seq: 3}

  - name: show-shared
    on: [show.shared]
    publishUserAction:
      UID: ${ event.user.uid }
      userAction:
        title: ${ event.show.title }
        userMessage: I am watching ${ event.show.title }
        linkBack: https://tv.example/shows/${ event.show.slug }
      actionAttributes:
        tv-show: ${ event.show.title }
      enabledProviders: facebook,twitter
    examples:
      - event:
          type: show.shared
          id: e-4
          user: {uid: u3, premium: true}
          show: {title: Glee, slug: glee}
        calls:
          - UID: u3
            userAction:
              title: Glee
              userMessage: I am watching Glee
              linkBack: https://tv.example/shows/glee
            actionAttributes: {tv-show: Glee}
            enabledProviders: facebook,twitter
"""

SHOWS = (
    ("Glee", "glee", ("comedy", "music", "drama")),
    ("Lost & Found", "lost-found", ("drama",)),
    ("T\u00fcr an T\u00fcr", "tuer-an-tuer", ("comedy", "family")),
    ("\u6df1\u591c\u98df\u5802", "shinya", ("drama", "food", "night")),
    ("100% +more=fun", "more-fun", ()),
    ("Caf\u00e9 \U0001f600", "cafe", ("comedy",)),
)
QUIZZES = ("theme songs", "who said it?", "caf\u00e9 quiz")


class Fate(StrEnum):
    """What must become of an event."""

    DELIVERED = "delivered"
    CAPPED = "capped"
    FILTERED = "filtered"
    DEAD_LETTER = "dead_letter"


@dataclass(frozen=True, slots=True)
class ExpectedCall:
    """The call that an event must lead to, in the API's words.

    A publish carries no context, so that its `event_id` and `seq` cannot be seen at the API: they are None, and the
    title stands in.
    """

    method: str
    uid: str
    action: str = ""
    attributes: Mapping[str, Json] = field(default_factory=dict)
    points: int | None = None
    event_id: str | None = None
    seq: int | None = None
    title: str = ""

    @property
    def identity(self) -> tuple[str, ...]:
        """Return what two equal calls share, for sets and counters."""
        attributes = orjson.dumps(self.attributes, option=orjson.OPT_SORT_KEYS).decode()
        return (self.method, str(self.event_id), self.uid, self.action, attributes, str(self.points), self.title)

    def as_dict(self) -> dict[str, Json]:
        """Return it as the journeys' tables want it."""
        return {
            "eventId": self.event_id,
            "UID": self.uid,
            "action": self.action,
            "attributes": dict(self.attributes),
            "points": self.points,
            "seq": self.seq,
        }


@dataclass(frozen=True, slots=True)
class SampleEvent:
    """One record to append, and what must come of it."""

    key: bytes
    value: bytes
    uid: str  # whose event it is, also where the event itself does not say so
    title: str  # for tables
    fate: Fate
    why: str = ""  # no_rule, when_false, undecodable, unmappable, daily_cap
    call: ExpectedCall | None = None  # of every event that must lead to one, capped ones included
    partition: int | None = None  # None: by key

    @property
    def is_bad(self) -> bool:
        return self.fate is Fate.DEAD_LETTER


def seen_call(method: str, params: Mapping[str, str]) -> ExpectedCall:
    """Return what arrived at the local Gigya in the same words, from the parameters of its ledger."""
    context: Facts = orjson.loads(params.get("context") or "{}")
    user_action: Facts = orjson.loads(params.get("userAction") or "{}")
    seq, event_id = context.get("seq"), context.get("eventId")
    return ExpectedCall(
        method=method,
        uid=params.get("UID", ""),
        action=params.get("action", ""),
        attributes=orjson.loads(params.get("actionAttributes") or "{}"),
        points=int(params["points"]) if params.get("points") else None,
        event_id=None if event_id is None else str(event_id),
        seq=seq if isinstance(seq, int) else None,
        title=str(user_action.get("title", "")),
    )


# --- one event ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Person:
    uid: str
    is_premium: bool
    partition: int | None = None


class _Author:
    """Writes events of people, one after the other, and keeps each person's sequence number."""

    def __init__(self, seed: int, *, size_bytes: int = 0) -> None:
        self.rng = random.Random(f"events/{seed}")
        self._seed = seed
        self._size_bytes = size_bytes
        self._written = 0
        self._seq: defaultdict[str, int] = defaultdict(int)

    def _facts(self, kind: str, person: _Person) -> Facts:
        self._written += 1
        self._seq[person.uid] += 1
        return {
            "type": kind,
            "id": f"e{self._seed}-{self._written:07d}",
            "seq": self._seq[person.uid],
            "user": {"uid": person.uid, "premium": person.is_premium},
        }

    def _event(
        self,
        person: _Person,
        facts: Facts,
        title: str,
        fate: Fate = Fate.DELIVERED,
        why: str = "",
        call: ExpectedCall | None = None,
    ) -> SampleEvent:
        value = orjson.dumps(facts)
        if (missing := self._size_bytes - len(value) - len(',"pad":""')) > 0:
            value = orjson.dumps({**facts, "pad": "x" * missing})
        return SampleEvent(person.uid.encode(), value, person.uid, title, fate, why, call, person.partition)

    def watched(self, person: _Person) -> SampleEvent:
        show, _, genres = self.rng.choice(SHOWS)
        facts = self._facts("episode.watched", person)
        facts |= {
            "progress": self.rng.randint(91, 99) / 100,
            "episode": {"show": show, "number": self.rng.randint(1, 12), "genres": list(genres)},
        }
        attributes: dict[str, Json] = {"tv-show": show}
        if genres:  # an empty list is left out of the call
            attributes["genre"] = list(genres[:2])
        call = self._call(facts, person, "watched_episode", attributes, 20 if person.is_premium else 10)
        return self._event(person, facts, f"episode.watched  {show}", call=call)

    def won(self, person: _Person) -> SampleEvent:
        quiz, score = self.rng.choice(QUIZZES), self.rng.randint(1, 50)
        facts = self._facts("quiz.won", person)
        facts["quiz"] = {"name": quiz, "score": score}
        call = self._call(facts, person, "quiz_won", {"quiz": quiz}, score)
        return self._event(person, facts, f"quiz.won  {quiz}", call=call)

    def shared(self, person: _Person) -> SampleEvent:
        title, slug, _ = self.rng.choice(SHOWS)
        facts = self._facts("show.shared", person)
        facts["show"] = {"title": title, "slug": slug}
        call = ExpectedCall(PUBLISH_USER_ACTION, person.uid, attributes={"tv-show": title}, title=title)
        return self._event(person, facts, f"show.shared  {title}", call=call)

    def stopped_early(self, person: _Person) -> SampleEvent:
        show, _, genres = self.rng.choice(SHOWS)
        progress = self.rng.randint(1, 89)
        facts = self._facts("episode.watched", person)
        facts |= {"progress": progress / 100, "episode": {"show": show, "genres": list(genres)}}
        title = f"episode.watched  {progress} %"
        return self._event(person, facts, title, Fate.FILTERED, "when_false")

    def viewed_a_page(self, person: _Person) -> SampleEvent:
        facts = self._facts("page.viewed", person)
        facts["page"] = f"/shows/{self.rng.choice(SHOWS)[1]}"
        return self._event(person, facts, f"page.viewed  {facts['page']}", Fate.FILTERED, "no_rule")

    def undecodable(self, person: _Person, kind: int) -> SampleEvent:
        good = self.watched(person)
        value = (
            good.value[: self.rng.randint(10, 25)],  # cut in the middle
            good.value.replace(b'"type":"', b'"type":"\xff', 1),  # not UTF-8
            b"<event>" + good.value + b"</event>",  # not JSON at all
        )[kind % 3]
        title = value[:20].decode("utf-8", "replace")
        return self._bad(person, value, title, "undecodable")

    def unmappable(self, person: _Person, kind: int) -> SampleEvent:
        watched: Facts = orjson.loads(self.watched(person).value)
        quiz: Facts = orjson.loads(self.won(person).value)
        no_user = {name: value for name, value in watched.items() if name != "user"}
        no_episode = {name: value for name, value in watched.items() if name != "episode"}
        facts, what = (
            (no_user, "no user"),
            (no_episode, "no episode"),
            (watched | {"user": {"uid": 17, "premium": False}}, "UID is a number"),
            (watched | {"progress": "0.97"}, "progress is text"),
            (quiz | {"quiz": {"name": "theme songs", "score": 1.5}}, "half a point"),
        )[kind % 5]
        return self._bad(person, orjson.dumps(facts), f"{facts['type']}  ({what})", "unmappable")

    def _bad(self, person: _Person, value: bytes, title: str, why: str) -> SampleEvent:
        return SampleEvent(
            person.uid.encode(), value, person.uid, title, Fate.DEAD_LETTER, why, partition=person.partition
        )

    def _call(
        self, facts: Facts, person: _Person, action: str, attributes: Mapping[str, Json], points: int
    ) -> ExpectedCall:
        seq = self._seq[person.uid]
        return ExpectedCall(NOTIFY_ACTION, person.uid, action, attributes, points, str(facts["id"]), seq)


# --- the demo ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DemoScript:
    """The demo's events in the order they are appended, and how the local Gigya has to be set up for them."""

    events: tuple[SampleEvent, ...]
    users: tuple[str, ...]
    partitions: int
    actions: Mapping[str, Action]
    providers: Providers
    faults: tuple[Fault, ...]
    throttled_uid: str  # whose first call is answered 403048 once
    failing_uid: str  # whose publish one provider refuses

    def expected_ledger(self) -> dict[str, int]:
        """Return the line of counts that the worker has to arrive at."""
        fates = Counter(event.fate for event in self.events)
        return {
            "read": len(self.events),
            "filtered": fates[Fate.FILTERED],
            "done": fates[Fate.DELIVERED] + fates[Fate.CAPPED],
            "stale": 0,
            "dead_lettered": fates[Fate.DEAD_LETTER],
            "unfinished": 0,
        }


def demo(seed: int = 0, *, partitions: int = 4) -> DemoScript:
    """Return 16 events of six users, one of each fate at least, in another order for every seed."""
    author = _Author(seed)
    names = author.rng.sample(["ada", "bo", "cleo", "dan", "eve", "finn", "gus", "hana"], DEMO_USERS)
    people = [
        _Person(f"{name}-{author.rng.randint(100, 999)}", author.rng.random() < 0.5, number % partitions)
        for number, name in enumerate(names)
    ]
    viewer, throttled, reader, quizzer, sharer, capped = people
    acts: list[tuple[Callable[[_Person], SampleEvent], _Person]] = [
        (author.watched, viewer),
        (author.viewed_a_page, viewer),
        (author.shared, viewer),
        (author.watched, throttled),
        (author.stopped_early, throttled),
        (author.watched, reader),
        (author.viewed_a_page, reader),
        (lambda person: author.undecodable(person, 0), reader),
        (author.won, quizzer),
        (author.stopped_early, quizzer),
        (lambda person: author.unmappable(person, 0), quizzer),
        (author.shared, sharer),
        (author.watched, sharer),
        (author.won, capped),
        (author.won, capped),
        (author.watched, capped),
    ]
    author.rng.shuffle(acts)
    duplicate = ProviderResult(
        provider="twitter",
        code=403024,
        message="Provider limit reached",
        details="Limit reached: Status is a duplicate.",
        uid=sharer.uid,
    )
    return DemoScript(
        events=tuple(_with_caps(act(person) for act, person in acts)),
        users=tuple(person.uid for person in people),
        partitions=partitions,
        actions={
            "watched_episode": Action(points=10, title="Watched an episode"),
            "quiz_won": Action(points=50, title="Won a quiz", daily_cap=QUIZ_DAILY_CAP),
        },
        providers=Providers(connected=("facebook", "twitter"), results=(duplicate,)),
        faults=(Fault(kind="code", code=403048, uid=throttled.uid, count=1),),
        throttled_uid=throttled.uid,
        failing_uid=sharer.uid,
    )


def _with_caps(events: Iterator[SampleEvent]) -> Iterator[SampleEvent]:
    """Turn a user's quizzes above the daily cap into capped ones; in the order in which they will be called."""
    won: Counter[str] = Counter()
    for event in events:
        if event.call is not None and event.call.action == "quiz_won":
            won[event.uid] += 1
            if won[event.uid] > QUIZ_DAILY_CAP:
                yield replace(event, fate=Fate.CAPPED, why="daily_cap")
                continue
        yield event


# --- the stream --------------------------------------------------------------------------------------------------


def stream(
    seed: int,
    *,
    count: int,
    users: int,
    share_matching: float = 1 / 3,
    share_bad: float = 0.01,
    busy_share: float = 0.0,
    size_bytes: int = 0,
) -> Iterator[SampleEvent]:
    """Yield `count` events of `users` people, keyed by user.

    Of all events `share_bad` are bad and `share_matching` lead to a call (notifyAction; needs no caps at the local
    Gigya); the rest is filtered. The first user has `busy_share` of them on top of his part. Good events are padded to
    `size_bytes`. Calls of one user carry an ascending `seq`.
    """
    if not 0 <= share_bad + share_matching <= 1 or users < 1:
        raise ValueError("share_matching and share_bad are parts of one whole, and somebody has to be there")
    author = _Author(seed, size_bytes=size_bytes)
    rng = author.rng
    people = [_Person(f"u-{number:05d}", rng.random() < 0.3) for number in range(users)]
    bad = 0
    for _ in range(count):
        person = people[0] if rng.random() < busy_share else rng.choice(people)
        lot = rng.random()
        if lot < share_bad:
            bad += 1
            yield author.undecodable(person, bad // 2) if bad % 2 else author.unmappable(person, bad // 2)
        elif lot < share_bad + share_matching:
            yield author.won(person) if rng.random() < 0.25 else author.watched(person)
        else:
            yield author.viewed_a_page(person) if rng.random() < 0.75 else author.stopped_early(person)


def calls_of(events: Sequence[SampleEvent]) -> list[ExpectedCall]:
    """Return the calls that must be executed, in the order of the events; capped ones are not."""
    return [event.call for event in events if event.call is not None and event.fate is Fate.DELIVERED]

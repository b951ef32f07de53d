"""The load of the chaos schedules: events, the rules for them, and the calls that each must lead to. Pure.

Everything follows from the seed. What a call is recognised by at the API (its *mark*) stands where Gigya's action log
does not show it: to the worker, a call that repeats an earlier one of its user is the same call made twice.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

RULES = """\
version: 1
rules:
  - name: acted
    on: [acted]
    notifyAction:
      UID: ${ event.user }
      action: ${ event.action }
      actionAttributes: {show: "${ event.show }"}
      points: ${ event.points }
      context: {eventId: "${ event.id }"}
    on_cap: skip
  - name: shared
    on: [shared]
    publishUserAction:
      UID: ${ event.user }
      userAction: {title: "${ event.id }", userMessage: "I am watching ${ event.show }"}
  - name: fanned
    on: [fanned]
    each: event.users
    notifyAction:
      UID: ${ item }
      action: ${ event.action }
      context: {eventId: "${ event.id }/${ item }"}
"""
# The fault of a deploy: no event has a customer, so that every record that a rule wants is unmappable.
BAD_RULES = RULES.replace("event.user }", "event.customer }")

USERS = 300
# Of the calls: repeats of one of the user's last few, marks apart. At least a fifth is asked for, short runs included.
SHARE_IDENTICAL = 0.33
SHARE_PUBLISHED = 0.04
# Actions that many calls have: two different ones of a user are one and the same action in Gigya's log.
COMMON_ACTIONS = tuple(f"common_{number}" for number in range(12))
SHARE_COMMON = 0.25
CAPPED_USER, CAPPED_ACTION, DAILY_CAP = "chaos-user-0001", "capped", 60
SHOWS = ("Glee", "Lost & Found", "Tür an Tür", "深夜食堂", "100% +more=fun")
RECENT = 4


@dataclass(frozen=True, slots=True)
class Call:
    """A call that must be made: who for, what it is recognised by, what it looks like in Gigya's action log."""

    mark: str
    uid: str
    action: str  # empty for a publish, which the action log does not show
    content: str  # all that is sent, but for the mark
    rule: str
    item: int = 0

    @property
    def name(self) -> str:
        """Return the worker's name for it, as its log lines have it."""
        return f"0/{self.rule}/{self.item}"


@dataclass(frozen=True, slots=True)
class Event:
    """A record to append, and the calls it must lead to; a bad one must become a dead letter."""

    key: bytes
    value: bytes
    calls: tuple[Call, ...] = ()
    is_bad: bool = False
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class Mixture:
    """What the load of a schedule is made of."""

    matching: float = 0.9  # of all events; the rest is of a type that no rule names
    bad: float = 0.004
    busy: float = 0.0  # of all events: those of the first user, on top of his part
    capped: float = 0.0  # of all events: those of the second user with the one action that has a daily cap
    users: int = USERS


@dataclass(slots=True)
class Author:
    """Writes the events of a run, one after the other."""

    seed: int
    mixture: Mixture = field(default_factory=Mixture)
    _rng: random.Random = field(init=False)
    _written: int = field(init=False, default=0)
    _unheard: list[int] = field(init=False)  # users of whom there is no event yet: each gets one, early on
    _recent: defaultdict[str, list[Mapping[str, Any]]] = field(init=False)

    def __post_init__(self) -> None:
        self._rng = random.Random(f"chaos/{self.seed}")
        self._recent = defaultdict(list)
        self._unheard = self._rng.sample(range(self.mixture.users), self.mixture.users)

    def event(self) -> Event:
        """Return the next event."""
        rng, mixture = self._rng, self.mixture
        if self._unheard and mixture.matching > 0.5:
            return self.acted(uid_of(self._unheard.pop()))
        if rng.random() < mixture.capped:
            return self.acted(CAPPED_USER, action=CAPPED_ACTION)
        number = 0 if rng.random() < mixture.busy else rng.randrange(mixture.users)
        uid = uid_of(number)
        lot = rng.random()
        if lot < mixture.bad:
            return self._bad(uid)
        if lot < mixture.bad + mixture.matching:
            return self.acted(uid)
        return Event(uid.encode(), orjson.dumps({"type": "page.viewed", "id": self._mark(), "user": uid}))

    def acted(self, uid: str, *, partition: int | None = None, action: str = "") -> Event:
        """Return an event that leads to one call: of a given action, a repeat, a common one, or one of its own."""
        rng, mark = self._rng, self._mark()
        if not action and rng.random() < SHARE_PUBLISHED:
            facts = {"type": "shared", "id": mark, "user": uid, "show": rng.choice(SHOWS)}
            call = Call(mark, uid, "", str(facts["show"]), "shared")
            return Event(uid.encode(), orjson.dumps(facts), (call,), partition=partition)
        recent = self._recent[uid]
        if not action and recent and rng.random() < SHARE_IDENTICAL / (1 - SHARE_PUBLISHED):
            content = rng.choice(recent)
        else:
            own = action or (rng.choice(COMMON_ACTIONS) if rng.random() < SHARE_COMMON else f"only_{mark}")
            content = {"action": own, "show": rng.choice(SHOWS), "points": rng.randint(1, 50)}
            recent.append(content)
            del recent[:-RECENT]
        facts = {"type": "acted", "id": mark, "user": uid, **content}
        call = Call(mark, uid, str(content["action"]), content_of(content), "acted")
        return Event(uid.encode(), orjson.dumps(facts), (call,), partition=partition)

    def fanned(self, uids: Sequence[str], *, partition: int) -> Event:
        """Return one event that leads to a call for each of these users."""
        mark = self._mark()
        facts = {"type": "fanned", "id": mark, "action": f"fan_{mark}", "users": list(uids)}
        calls = tuple(
            Call(f"{mark}/{uid}", uid, f"fan_{mark}", "", "fanned", number) for number, uid in enumerate(uids)
        )
        return Event(mark.encode(), orjson.dumps(facts), calls, partition=partition)

    def _bad(self, uid: str) -> Event:
        facts = {"type": "acted", "id": self._mark(), "user": uid, "action": "bad"}  # without points
        value = orjson.dumps(facts) if self._rng.random() < 0.5 else b'{"type": "acted", "id'
        return Event(uid.encode(), value, is_bad=True)

    def _mark(self) -> str:
        self._written += 1
        return f"m{self.seed}-{self._written:07d}"


def uid_of(number: int) -> str:
    return f"chaos-user-{number:04d}"


def content_of(facts: Mapping[str, Any]) -> str:
    """Return what makes two calls of one user identical."""
    return f"{facts['action']}|{facts['show']}|{facts['points']}"


def mark_of(method: str, params: Mapping[str, str]) -> str:
    """Return what an executed call is recognised by, from the parameters in the local Gigya's ledger."""
    if method == "socialize.publishUserAction":
        return str(orjson.loads(params.get("userAction") or "{}").get("title", ""))
    return str(orjson.loads(params.get("context") or "{}").get("eventId", ""))

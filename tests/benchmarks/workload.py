"""The events and rules of the benchmarks. Pure: everything follows from the seed.

An event is about 1 KB of JSON as a web tracker sends it: nested objects, short texts, some numbers. Nothing in it is
padding, which a JSON parser would pass over at the speed of a copy.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

SEED = 20_261_122
USERS = 2_000
# What a site's stream holds beside the one type that rules name.
OTHER_TYPES = (
    "page.viewed", "page.scrolled", "search.made", "episode.started", "episode.paused", "episode.resumed",
    "ad.shown", "ad.skipped", "list.added", "list.removed", "app.opened", "app.closed", "login.done", "show.opened",
)  # fmt: skip
SHOWS = (("Glee", ["comedy", "music"]), ("Lost & Found", ["drama"]), ("Tür an Tür", ["comedy", "family"]))
AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36"

# Three rules, of which the stream wakes one: an operator's file is no shorter.
RULES = """\
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
      context: {eventId: "${ event.id }", sentAt: "${ event.sent_at }"}
  - name: quiz-won
    on: [quiz.won]
    notifyAction:
      UID: ${ event.user.uid }
      action: quiz_won
      points: ${ event.quiz.score }
  - name: show-shared
    on: [show.shared]
    publishUserAction:
      UID: ${ event.user.uid }
      userAction: {title: "${ event.show.title }"}
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """How a stream is made up: of all events `matching` make a call; as many are of the same type and do not."""

    name: str
    matching: float
    near_misses: float = 0.0


ONE_IN_A_HUNDRED = Shape("one in a hundred matches", 0.01, near_misses=0.01)
HALF = Shape("half of the events match", 0.5)
ALL = Shape("every event matches", 1.0)


class Author:
    """Writes events, one after the other; says how many of them must become calls."""

    def __init__(self, shape: Shape, users: int = USERS) -> None:
        self._shape = shape
        self._users = users
        self._rng = random.Random(f"{SEED}/{shape.name}")
        self.written = 0
        self.matching = 0

    def events(self, count: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield key and value of `count` events; the share that matches is exact to one event."""
        for number in range(1, count + 1):
            matches = int(number * self._shape.matching) > int((number - 1) * self._shape.matching)
            yield self.event(matches=matches)

    def event(self, *, matches: bool, sent_at: float = 0.0) -> tuple[bytes, bytes]:
        """Return key and value of one event."""
        rng = self._rng
        self.written += 1
        self.matching += matches
        is_near_miss = not matches and rng.random() < self._shape.near_misses
        kind = "episode.watched" if matches or is_near_miss else rng.choice(OTHER_TYPES)
        progress = rng.randint(90, 100) if matches else rng.randint(0, 89)
        uid = f"{rng.randrange(self._users):08x}-7c1d-4a52"
        return uid.encode(), orjson.dumps(self._facts(kind, uid, progress / 100, sent_at))

    def _facts(self, kind: str, uid: str, progress: float, sent_at: float) -> dict[str, Any]:
        rng = self._rng
        show, genres = rng.choice(SHOWS)
        return {
            "id": f"{rng.getrandbits(64):016x}-{self.written:08x}",
            "type": kind,
            "time": f"2026-11-22T10:{rng.randrange(60):02d}:{rng.randrange(60):02d}.{rng.randrange(1000):03d}Z",
            "sent_at": sent_at,
            "user": {"uid": uid, "premium": rng.random() < 0.3, "since": 2019},
            "episode": {"show": show, "season": rng.randint(1, 9), "number": rng.randint(1, 12), "genres": genres},
            "progress": progress,
            "page": {
                "url": f"https://tv.example/shows/{rng.getrandbits(96):024x}?utm_source=newsletter&utm_medium=email",
                "referrer": f"https://search.example/?q={rng.getrandbits(64):016x}",
                "title": f"{show} - watch online, season {rng.randint(1, 9)} - TV Example",
            },
            "device": {"kind": "desktop", "agent": AGENT, "screen": "2560x1440"},
            "place": {"country": "DE", "timezone": "Europe/Berlin"},
            "session": {"id": f"{rng.getrandbits(128):032x}", "number": rng.randint(1, 40)},
            "anonymous_id": f"{rng.getrandbits(128):032x}",
            "consent": f"CQ{rng.getrandbits(480):0120x}",  # as long as a real consent string
            "tracker": "web/4.18.2 (build 20261120; schema 7)",
        }

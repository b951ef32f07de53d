"""What a process leaves behind for the next owner of a partition: which calls it has made in the last seconds. Pure.

A call may have been made by the process that is gone. The action log shows what was executed, not by which request; so
the next owner must know which entries of the user come from calls that are *done*, and from when on none is missing.
Of each call there are 42 bits, five characters of a hash of user and action and two of the points, and of what was
executed three characters on when, in the commit's metadata:

    r2.<until>.<from>.<first>.<kinds of calls that were executed>.<of those that may have been>.<of those in doubt>.<s>

`until`: when it was written; `from`: all calls since then are listed; `first`: nothing that was unfinished at `until`
was attempted earlier. Milliseconds, site time, base 36; 0 for not known. A call in doubt at `until` may have been
executed more than once by now; it is the first of its user that the next owner finds unfinished. Of suspects, too, only
those in doubt may have been made again when the log did not say that they were not executed. `s`: there were suspects
of which that is not so, and any of them may have been made again.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

from worker.delivery.evidence import SLACK_S, Made
from worker.delivery.own_calls import points_of
from worker.gigya.calls import Call

VERSION = "r2"
KIND_CHARACTERS = 7
_USER_CHARACTERS = 5
_POINTS_CHARACTERS = KIND_CHARACTERS - _USER_CHARACTERS
_NO_POINTS = "__"
# An attempt that ended at a moment was executed at most this long before; attempts time out sooner by default.
LONGEST_S = 30.0
# Times of calls, before the note's own, are told in these steps, by three of 64 letters each: how long ago (17 minutes,
# more than is remembered), and how long it took. A call whose time is not known could be any call in doubt.
_STEP_S = 0.5
_MOST_AGO, _MOST_TOOK = 2**11 - 1, 2**7 - 1
_TIME_CHARACTERS = 3
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
# So much of the past is needed that no clock error moves an entry of an unfinished call out of what is known.
REACH_S = 2 * SLACK_S
_TIME = r"\.([0-9a-z]{1,12})"
_NOTE = re.compile(rf"{VERSION}{_TIME * 3}\.([\w-]*)\.([\w-]*)\.([\w-]*)\.(s?)", re.ASCII)
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


class Left(NamedTuple):
    """A call that was executed between two times."""

    kind: str
    from_s: float
    until_s: float


@dataclass(frozen=True, slots=True)
class Recent:
    """What was left behind. Times are Unix seconds by the site's clock."""

    until_s: float
    known_from_s: float | None
    first_s: float | None
    executed: tuple[Left, ...] = ()  # by `until_s`
    possible: tuple[str, ...] = ()  # each once, and nobody knows how often
    in_doubt: tuple[str, ...] = ()
    copies_untold: bool = False


# What is left where nobody was before: all is known, from the beginning of time.
NOTHING = Recent(until_s=1.0, known_from_s=1.0, first_s=None)


@dataclass(frozen=True, slots=True)
class Earlier:
    """What is known of the time before a partition was ours."""

    since_s: float  # monotonic: nobody else makes its calls since
    suspects_below: int = 0  # offset: what lies below may have been made by the earlier owner
    recent: Recent | None = None
    # Whether it is known which calls of unfinished records had ended: else one of `executed` may be the suspect itself.
    ends_are_known: bool = False

    @property
    def known_from_s(self) -> float | None:
        return self.recent.known_from_s if self.recent is not None else None

    @property
    def first_s(self) -> float | None:
        return self.recent.first_s if self.recent is not None else None

    def made_like(self, call: Call, *, is_head: bool = False) -> Iterator[Made]:
        """Yield what entries could come from that fit this call; `is_head`: it is the one that was in doubt."""
        recent = self.recent
        if recent is None or recent.known_from_s is None:
            return
        wanted = kind_of(call.uid, call.params["action"], points_of(call))
        for kind, from_s, until_s in recent.executed:
            if fits(kind, wanted):
                is_certain = self.ends_are_known and (kind == wanted or wanted.endswith(_NO_POINTS))
                yield Made(from_s, until_s, is_certain)
        for kind in recent.possible if is_head and self.ends_are_known else recent.possible + recent.in_doubt:
            if fits(kind, wanted):
                yield Made(-math.inf, math.inf, is_certain=False, is_many=True)


def kind_of(user: str, action: str, points: int | None) -> str:
    """Return seven characters for user, action and points of a call."""
    who = _hash(f"{len(user)}:{user}{action}")[:_USER_CHARACTERS]
    return who + (_NO_POINTS if points is None else _hash(str(points))[:_POINTS_CHARACTERS])


def fits(kind: str, wanted: str) -> bool:
    """Say whether calls of both kinds can leave the same entries."""
    if kind[:_USER_CHARACTERS] != wanted[:_USER_CHARACTERS]:
        return False
    return kind == wanted or kind.endswith(_NO_POINTS) or wanted.endswith(_NO_POINTS)


def encode(recent: Recent, limit_characters: int) -> str:
    """Return the note. What does not fit is left out, the oldest first: then less of the past is known."""
    executed, start = recent.executed, recent.known_from_s
    frame = len(f"{VERSION}.{_number(recent.until_s)}.{_number(recent.until_s)}.{_number(recent.first_s)}....s")
    always = KIND_CHARACTERS * (len(recent.possible) + len(recent.in_doubt))
    room = (limit_characters - frame - always) // (KIND_CHARACTERS + _TIME_CHARACTERS)
    if room < 0:
        # That there was something is said in any case: nothing at all would mean that there was nothing.
        bare = f"{VERSION}.{_number(recent.until_s)}.0.0....s"
        return bare if len(bare) <= limit_characters else ""
    if (dropped := len(executed) - room) > 0:
        start = executed[dropped - 1].until_s
        executed = executed[dropped:]
    times = ".".join(_number(each) for each in (recent.until_s, start, recent.first_s))
    written = "".join(left.kind + _span(left, recent.until_s) for left in executed)
    flags = "s" if recent.copies_untold else ""
    return f"{VERSION}.{times}.{written}.{''.join(recent.possible)}.{''.join(recent.in_doubt)}.{flags}"


def decode(text: str) -> Recent | None:
    """Return what was left behind; None for what is damaged, foreign or of another version."""
    found = _NOTE.fullmatch(text)
    if found is None:
        return None
    until_s, known_from_s, first_s = (_seconds(digits) for digits in found.groups()[:3])
    executed, possible, in_doubt, flags = found.groups()[3:]
    per_executed = KIND_CHARACTERS + _TIME_CHARACTERS
    if until_s is None or len(executed) % per_executed or len(possible + in_doubt) % KIND_CHARACTERS:
        return None
    oldest_s = -math.inf if known_from_s is None else known_from_s - LONGEST_S
    left = tuple(_left(each, until_s, oldest_s) for each in _cut(executed, per_executed))
    lists = (_cut(possible, KIND_CHARACTERS), _cut(in_doubt, KIND_CHARACTERS))
    return Recent(until_s, known_from_s, first_s, left, *lists, copies_untold=flags == "s")


def _cut(text: str, characters: int) -> tuple[str, ...]:
    return tuple(text[at : at + characters] for at in range(0, len(text), characters))


def _span(left: Left, until_s: float) -> str:
    """Return three letters: how long ago it ended at least, and how long it took at most."""
    ago = min(_MOST_AGO, max(0, math.floor((until_s - left.until_s) / _STEP_S)))
    took = min(_MOST_TOOK, max(0, math.ceil((until_s - ago * _STEP_S - left.from_s) / _STEP_S)))
    number = ago * (_MOST_TOOK + 1) + took
    return "".join(_LETTERS[number >> shift & 63] for shift in (12, 6, 0))


def _left(text: str, until_s: float, oldest_s: float) -> Left:
    number = 0
    for letter in text[KIND_CHARACTERS:]:
        number = number << 6 | _LETTERS.index(letter)
    ago, took = divmod(number, _MOST_TOOK + 1)
    end_s = until_s - ago * _STEP_S
    is_long = took == _MOST_TOOK  # and nobody knows how long
    return Left(text[:KIND_CHARACTERS], oldest_s if is_long else end_s - took * _STEP_S, end_s)


def _hash(text: str) -> str:
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).digest()
    return base64.urlsafe_b64encode(digest).decode("ascii")


def _number(seconds: float | None) -> str:
    if seconds is None:
        return "0"
    number, digits = max(1, round(seconds * 1000)), ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits


def _seconds(digits: str) -> float | None:
    return int(digits, 36) / 1000 or None
